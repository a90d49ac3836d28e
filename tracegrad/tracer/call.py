"""The end of a compiled call: results wrapped, inputs written back, one node on the tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.runtime.random import default_generator
from tracegrad.tracer.call_backward import CompiledFunctionBackward, FreedNode
from tracegrad.tracer.device import owned
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.location import user_place
from tracegrad.tracer.recording import Ref, Result
from tracegrad.tracer.structure import TENSOR
from tracegrad.tracer.tensor import Tensor, wrap
from tracegrad.tracer.tree import Path, Run, Tree

Array = np.ndarray[Any, Any]


def finish(tree: Tree, path: Path, run: Run, inputs: Sequence[Any], leaves: Sequence[Any]) -> Any:
    """Commit a call whose values are known: the writes, the tape node, the results."""
    if path.plain is not None:
        values = run.values
        return path.build([wrap(values[row][column]) for row, column in path.plain])
    node: CompiledFunctionBackward | None = None
    if path.differentiable:
        node = CompiledFunctionBackward(tree, path, run, inputs)
        computed = node.saving.results
        if computed is not None:
            return _on_tape(path, node, computed, run)
    if path.has_effects:
        commit(tree, path, run, inputs, node)
    results = path.end.results
    if len(results) == 1 and path.end.structure is TENSOR and not path.end.stores:
        return _result(tree, path, run, inputs, leaves, node, 0, results[0])
    made = [
        _result(tree, path, run, inputs, leaves, node, i, result)
        for i, result in enumerate(results)
    ]
    for i, first in path.twins:
        made[i] = made[first] if first >= 0 else _twin(made[-first - 1], made[i])
    for i, gradient in path.end.gradients:
        made[i]._grad = made[gradient]
    stores = path.end.stores
    if not stores:
        return path.build(made)
    returned = path.build(made)
    start = len(made) - sum([store.count for store in stores])
    # What is changed is found before anything is: a store can exchange the way to another one.
    targets = [store.target(leaves) for store in stores]
    for store, target in zip(stores, targets, strict=True):
        store.apply(target, leaves, made[start : start + store.count])
        start += store.count
    return returned


def _on_tape(
    path: Path,
    node: CompiledFunctionBackward,
    computed: Sequence[tuple[Ref, int, bool]],
    run: Run,
) -> Any:
    """The results of a path that only computes tensors."""
    made = []
    for ref, number, watched in computed:
        tensor = wrap(run.value(ref))
        if number >= 0:
            tensor._grad_fn = node
            tensor._requires_grad = True
            tensor._output_nr = number
        if watched:
            node.versions.append((tensor._storage, 0, -1))
        made.append(tensor)
    return path.build(made)


def _result(
    tree: Tree,
    path: Path,
    run: Run,
    inputs: Sequence[Any],
    leaves: Sequence[Any],
    node: CompiledFunctionBackward | None,
    number: int,
    result: Result,
) -> Any:
    kind = result.kind
    if kind == "value":
        where, position = path.refs[number]
        array = run.values[where + 1][position]
        if where < 0:
            array = np.array(array, result_dtype(tree, position))
        if result.weak:
            return array.item()
        if result.copied:
            array = array.copy()
        tensor = wrap(array)
        if result.differentiable:
            assert node is not None
            tensor._grad_fn = node
            tensor._output_nr = path.output_number[number]
            tensor._requires_grad = True
            node.keep_result(tensor, array)
        elif result.freed:
            tensor._grad_fn = FreedNode(tree.name, tensor._type)
            tensor._requires_grad = True
        elif result.leaf:
            tensor._requires_grad = True
        return tensor
    if kind == "reached":
        return result.constant.read(leaves)
    if kind == "constant":
        value = result.constant
        return value.copy() if isinstance(value, np.ndarray) else value
    found = inputs[result.ref[1]]
    if kind == "input":
        return found
    if not isinstance(found, Tensor):
        found = wrap(np.asarray(found))
    elif result.detached:
        found = found.detach()
    for op, params in result.steps:
        found = apply(op, [found], dict(params))
    if result.leaf:
        found._requires_grad = True
    return found


def _twin(first: Tensor, own: Tensor) -> Tensor:
    """A tensor on the memory of `first` with the tape of `own`."""
    twin = first._twin()
    twin._grad_fn = own._grad_fn
    twin._output_nr = own._output_nr
    twin._requires_grad = own._requires_grad
    return twin


def result_dtype(tree: Tree, number: int) -> Any:
    """The dtype of an input of the trace."""
    return tree.inputs[number].type.dtype.numpy


def commit(
    tree: Tree,
    path: Path,
    run: Run,
    inputs: Sequence[Any],
    node: CompiledFunctionBackward | None,
) -> None:
    """Write back what the function changed. Nothing here can fail halfway."""
    end = path.end
    by = f"the compiled function {tree.name}"
    place = user_place() if end.writes else None
    # Everything is read before anything is written: a value may be the old value of an input.
    values = [run.value(ref) for ref in path.write_refs]
    values = [
        owned(value) if ref[0] < 0 else value
        for value, ref in zip(values, path.write_refs, strict=True)
    ]
    gradients = [
        None
        if ref is None
        else wrap(owned(run.value(ref)) if ref[0] < 0 or item.copied else run.value(ref))
        for ref, item in zip(path.grad_refs, end.grad_writes, strict=True)
    ]
    for i, (write, value) in enumerate(zip(end.writes, values, strict=True)):
        target = inputs[write.input]
        if isinstance(target, np.ndarray):
            np.copyto(target, value)
            continue
        np.copyto(target._array, value)
        storage = target._storage
        storage.version += 1
        storage.written_by = by
        storage.written_at = place
        if write.differentiable:
            assert node is not None
            target._grad_fn = node
            target._output_nr = path.write_number[i]
            target._requires_grad = True
    for grad_write, gradient in zip(end.grad_writes, gradients, strict=True):
        target = inputs[grad_write.input]
        target._grad = gradient if grad_write.same_as is None else inputs[grad_write.same_as]
    for flag in end.flags:
        inputs[flag.input]._requires_grad = flag.value
    drawn = end.drawn
    if drawn.chosen is not None:
        default_generator.set_state(drawn.chosen)
    if drawn.count:
        default_generator.advance(drawn.count)
    if path.drawn_ref is not None:
        default_generator.advance(int(run.value(path.drawn_ref)))
