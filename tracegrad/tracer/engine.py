"""The backward engine: walks the tape from the roots, newest node first, in linear time and without
recursion.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import numpy as np

from tracegrad.errors import GradError
from tracegrad.ir.op import OPS
from tracegrad.tracer.device import Device, device_of, moved
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.state import state
from tracegrad.tracer.tape import AccumulateGrad, Edge, Node, OpNode
from tracegrad.tracer.tensor import Tensor, wrap


def reachable(roots: Sequence[Node], stops: Collection[Node] = ()) -> list[Node]:
    """Every node that the roots lead to, not by way of `stops`, newest first; the ends
    (`AccumulateGrad`) come last.
    """
    seen = set(roots)
    work = list(seen)
    leaves = []
    inner = []
    while work:
        node = work.pop()
        if isinstance(node, AccumulateGrad):
            leaves.append(node)
        else:
            inner.append(node)
        if node in stops:
            continue
        for following, _ in node.edges:
            if following is not None and following not in seen:
                seen.add(following)
                work.append(following)
    # A node leads only to older ones, so this order is topological.
    inner.sort(key=_sequence, reverse=True)
    return [*inner, *leaves]


def _sequence(node: Node) -> int:
    return node.sequence


def unmasked(cotangent: Tensor) -> Tensor:
    """The cotangent with its mask applied: what leaves the engine."""
    mask = cotangent._mask
    if mask is None:
        return cotangent
    zero = constant(0, cotangent._array.dtype)
    return apply(OPS["where"], [mask, cotangent, zero])


def add(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two cotangents."""
    if a._mask is not b._mask:
        a = unmasked(a)
        b = unmasked(b)
    total = _add(a, b)
    total._mask = a._mask
    return total


def _add(a: Tensor, b: Tensor) -> Tensor:
    if state.recorder is None and not state.grad_enabled:
        # NumPy's sum of 0-d arrays is a scalar, which nobody could write to.
        return wrap(np.asanyarray(np.add(a._values, b._values)))
    return apply(OPS["add"], [a, b])


def run(
    roots: Sequence[tuple[Edge, Tensor]],
    *,
    keep: bool,
    create_graph: bool,
    targets: Sequence[Edge] | None = None,
    accumulate: bool = True,
    bounded: bool = False,
) -> list[Tensor | None]:
    """Backward from `roots` (edges with their cotangents).

    `targets`: the edges to stop at; the cotangents that arrive there are returned. With
    `accumulate` they, or without targets all leaves that are reached, also get them added to
    `.grad`. `keep`: saved values stay for another backward. `bounded`: no way goes on behind a
    target, not to another target either.
    """
    before = state.grad_enabled
    state.set_grad(create_graph)
    try:
        return _run(roots, keep, targets, accumulate, bounded)
    finally:
        state.set_grad(before)


def run_on_ends(tensor: Tensor, keep: bool) -> bool:
    """Backward from a result of a compiled call that leads to leaves only, with the cotangent 1:
    the general walk without its bookkeeping, and without tape nodes for the leaves. False, and
    nothing done, where somebody would see a difference.
    """
    node = tensor._grad_fn
    if node is None or state.recorder is not None:
        return False
    leaves = node.ends
    if leaves is None or tensor._base is not None or tensor._array.size != 1:
        return False
    if node.hooks is not None or node.tensor_hooks is not None or node.prehooks is not None:
        return False
    if node.retained is not None:
        return False
    for leaf in leaves:
        if leaf._hooks is not None or leaf._post_hooks is not None:
            return False
        if leaf._accumulator is not None and leaf._accumulator() is not None:
            return False
    array = tensor._array
    found = node.run_alone(tensor._output_nr, _one(array.dtype, array.shape, device_of(array)))
    if not keep:
        node.release()
    for leaf, gradient in zip(leaves, found, strict=True):
        if gradient is None or not leaf._requires_grad:
            continue
        old = leaf._grad
        if old is None:
            if gradient._fresh:
                gradient._fresh = False
            leaf._grad = gradient
        else:
            np.add(old._array, gradient._values, out=old._array)
            old._storage.version += 1
    return True


@cache
def _one(dtype: np.dtype[Any], shape: tuple[int, ...], where: Device) -> Tensor:
    """The cotangent of what is differentiated itself. Nobody sees it."""
    return wrap(moved(np.ones(shape, dtype), where))


def _run(
    roots: Sequence[tuple[Edge, Tensor]],
    keep: bool,
    targets: Sequence[Edge] | None,
    accumulate: bool,
    bounded: bool,
) -> list[Tensor | None]:
    if targets is None and len(roots) == 1 and _run_on_leaves(*roots[0], keep):
        return []
    waiting: dict[Node, list[Tensor | None]] = {}
    for (root, number), cotangent in roots:
        assert root is not None
        _deliver(waiting, root, number, cotangent)
    wanted: dict[Edge, Tensor | None] = dict.fromkeys(targets or ())
    stops = {node for node, _ in wanted if node is not None}
    order = reachable(list(waiting), stops if bounded else ())
    needed = None if targets is None else _leading_to(order, targets)
    for node in order:
        grads = waiting.pop(node, None)
        if grads is None:
            continue
        if node in stops or not (isinstance(node, OpNode) and node.passes_mask):
            grads = [None if g is None else unmasked(g) for g in grads]
        _before(node, grads)
        if node in stops:
            for number, arrived in enumerate(grads):
                if (node, number) in wanted:
                    wanted[node, number] = arrived
        if (needed is not None and node not in needed) or (bounded and node in stops):
            continue
        if isinstance(node, AccumulateGrad) and not (targets is None or accumulate):
            continue
        outputs = _call(node, grads)
        if not keep:
            node.release()
        for (following, number), output in zip(node.edges, outputs, strict=True):
            if (
                following is not None
                and output is not None
                and (needed is None or following in needed or following in stops)
            ):
                _deliver(waiting, following, number, output)
    return [wanted[edge] for edge in targets or ()]


def _run_on_leaves(edge: Edge, cotangent: Tensor, keep: bool) -> bool:
    """Backward from a node that leads to leaves only, each once, such as a compiled call on
    parameters: the general walk without its bookkeeping. False, and nothing done, for other nodes.
    """
    node, number = edge
    assert node is not None
    ends = [end for end, _ in node.edges if end is not None]
    for end in ends:
        if type(end) is not AccumulateGrad:
            return False
    if len(set(ends)) != len(ends) or not ends:
        return False
    grads: list[Tensor | None] = [None] * len(node.output_types)
    grads[number] = unmasked(cotangent)
    _before(node, grads)
    outputs = _call(node, grads)
    if not keep:
        node.release()
    for (following, _), output in zip(node.edges, outputs, strict=True):
        if following is not None and output is not None:
            arriving: list[Tensor | None] = [unmasked(output)]
            _before(following, arriving)
            _call(following, arriving)
    return True


def _leading_to(order: Sequence[Node], targets: Sequence[Edge]) -> set[Node]:
    """The nodes that must run: those through which a target is reached, and targets that are
    leaves.
    """
    ends = {node for node, _ in targets if node is not None}
    needed: set[Node] = {node for node in ends if isinstance(node, AccumulateGrad)}
    for node in reversed(order):
        for following, _ in node.edges:
            if following in needed or following in ends:
                needed.add(node)
                break
    return needed


def _deliver(
    waiting: dict[Node, list[Tensor | None]], node: Node, number: int, cotangent: Tensor
) -> None:
    grads = waiting.get(node)
    if grads is None:
        grads = waiting[node] = [None] * len(node.output_types)
    present = grads[number]
    grads[number] = cotangent if present is None else add(present, cotangent)


def _before(node: Node, grads: list[Tensor | None]) -> None:
    """Tensor hooks, kept gradients and prehooks, in this order."""
    if isinstance(node, AccumulateGrad):
        if node.variable._hooks is not None:
            grads[0] = _hooked(node.variable._hooks, grads[0])
    elif node.tensor_hooks is not None:
        for number, hooks in node.tensor_hooks.items():
            grads[number] = _hooked(hooks, grads[number])
    if node.retained is not None:
        for number, reference in node.retained.items():
            tensor = reference()
            cotangent = grads[number]
            if tensor is not None and cotangent is not None:
                cotangent._fresh = False
                accumulate_grad(tensor, cotangent)
    if node.prehooks is not None:
        _share(grads)
        for hook in node.prehooks:
            new = hook(tuple(grads))
            if new is not None:
                grads[:] = new if isinstance(new, tuple) else (new,)


def _hooked(hooks: Any, cotangent: Tensor | None) -> Tensor | None:
    """The cotangent after the hooks, each of which may replace it."""
    if cotangent is None:
        return None
    # The hook may keep what it sees.
    cotangent._fresh = False
    for hook in hooks:
        new = hook(cotangent)
        if new is not None:
            if not isinstance(new, Tensor):
                raise TypeError(f"expected Variable, but hook returned '{type(new).__name__}'")
            if new.shape != cotangent.shape:
                raise GradError("hook has changed the size of value")
            cotangent = new
    return cotangent


def _call(node: Node, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
    outputs = node.run(grads)
    if node.hooks is not None:
        results = tuple(outputs)
        _share(results)
        _share(grads)
        for hook in node.hooks:
            new = hook(results, tuple(grads))
            if new is not None:
                results = new if isinstance(new, tuple) else (new,)
        outputs = results
    return outputs


def _share(cotangents: Sequence[Tensor | None]) -> None:
    """Cotangents that a hook sees may be kept by it."""
    for cotangent in cotangents:
        if cotangent is not None:
            cotangent._fresh = False


def accumulate_grad(tensor: Tensor, new: Tensor) -> None:
    """Add `new` to `tensor.grad`; in place where that is not part of a graph, as PyTorch does."""
    if not tensor._requires_grad:
        # It was taken off the tape since the graph was made.
        return
    recorder = state.recorder
    old = tensor._grad
    if recorder is not None:
        recorder.read_grad(tensor)
    if old is None:
        if not (new._fresh or state.grad_enabled):
            # Another cotangent, a view or the caller may hold this very memory.
            if recorder is None:
                new = wrap(new._values.copy())
            else:
                new = apply(OPS["cast"], [new], {"dtype": new.dtype})
        new._fresh = False
        tensor._set_grad(new)
    elif state.grad_enabled or recorder is not None:
        tensor._set_grad(apply(OPS["add"], [old, new]))
    else:
        np.add(old._array, new._values, out=old._array)
        old._storage.version += 1
    if tensor._post_hooks is not None:
        for hook in tensor._post_hooks:
            hook(tensor)


# `AccumulateGrad` is on the tape, below this engine: it finds the function on its variable.
Tensor._accumulate = accumulate_grad
