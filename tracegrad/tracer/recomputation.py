"""`checkpoint`: a function of which nothing is saved for backward but what it was given.

In eager code the function runs once more when backward comes to it. While a function is compiled,
its operations become one node of the graph, which says so to the compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tracegrad.errors import GradError
from tracegrad.ir.ops.control import checkpoint as checkpoint_op
from tracegrad.ir.types import TensorType
from tracegrad.runtime.random import default_generator
from tracegrad.tracer import engine
from tracegrad.tracer.bodies import trace_body
from tracegrad.tracer.carries import tree_of
from tracegrad.tracer.control import apply_control, apply_with_fault
from tracegrad.tracer.dispatch import constant
from tracegrad.tracer.location import located, user_place
from tracegrad.tracer.state import state
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.structure import Description, flatten, unflatten
from tracegrad.tracer.tape import FREED, AccumulateGrad, Edge, Node, edge_of, mark
from tracegrad.tracer.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder

Function = Callable[..., Any]

_FORM = "tg.checkpoint"


def checkpoint(f: Function) -> Function:
    """A function that computes what `f` does, and saves nothing of it for backward but its
    arguments and the tensors that it captures: backward computes the rest once more.

    For less memory and more time, as around a layer of a deep network. It may be used in compiled
    functions and in eager code, and within `grad`, `vmap` and the like. `f` draws the same random
    numbers when it is computed again. It must not change tensors in place that it did not make:
    GradError or TraceError.
    """

    @functools.wraps(f, assigned=("__name__", "__qualname__", "__doc__", "__module__"))
    @located
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if state.recorder is not None:
            return _traced(f, args, kwargs)
        return _computed(f, args, kwargs) if state.grad_enabled else f(*args, **kwargs)

    return wrapper


# --------------------------------------------------------------------------------------- traced


def _traced(f: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operations of `f` as one node of the graph that is being recorded."""

    def run(given: list[Tensor]) -> tuple[Sequence[Tensor], list[Any]]:
        tree = tree_of(f(*args, **kwargs))
        return tree.leaves, [tree]

    # As a loop of one iteration, whose body may draw random numbers.
    first = constant(np.int64(0))
    body = trace_body(run, [first], ["position"], _FORM, trips=1)
    inputs = [first, *(tensor for _, tensor in body.operands)]
    nodes = [body.inputs[0], *(node for node, _ in body.operands)]
    outputs = list(body.outputs)
    if body.fault is None:
        params = {"body": body.graph("checkpoint", nodes, outputs)}
        results = apply_control(checkpoint_op, inputs, params)
    else:
        params = {"body": body.graph("checkpoint", nodes, [*outputs, body.fault])}
        fault = len(outputs)
        results = apply_with_fault(checkpoint_op, inputs, params, fault, body.requirements)
    if body.drawn:
        cast("Recorder", state.recorder).drawn(body.drawn)
    (tree,) = body.trees
    return tree.build(results)


# ---------------------------------------------------------------------------------------- eager


def _computed(f: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The results of `f`, with one node on the tape in place of all that it put there."""
    generator = default_generator.get_state()
    run = _Run(f, args, kwargs)
    if not run.outputs:
        return run.returned
    node = CheckpointBackward(run, generator)
    made: dict[int, Tensor] = {}
    for number, output in enumerate(run.outputs):
        # A view would lead to the tape of what it shows.
        result = wrap(output._values.copy()) if output._base is not None else output._twin()
        result._alias = None
        result._grad_fn = node
        result._output_nr = number
        result._requires_grad = True
        made[id(output)] = result
    leaves = [made.get(id(leaf), leaf) for leaf in run.leaves]
    return unflatten(run.structure, leaves)


class _Run:
    """One run of a function with a tape of its own.

    returned   What it returned: `structure` with `leaves`.
    outputs    The tensors among the leaves that the run put on the tape, each once.
    edges      Where the tape of the run leads to.
    watched    The memory that backward reads again, with the versions that it had.
    """

    def __init__(self, f: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.call = f, args, kwargs
        given: list[Any] = []
        flatten((list(args), kwargs), given)
        storages = [x._storage for x in given if isinstance(x, Tensor)]
        since = mark()
        before = state.protected
        state.protected = before | frozenset(map(id, storages))
        try:
            self.returned = f(*args, **kwargs)
        finally:
            state.protected = before
        self.leaves: list[Any] = []
        self.structure: Description = flatten(self.returned, self.leaves)
        outputs = {
            id(x): x for x in self.leaves if isinstance(x, Tensor) and _is_inner(x.grad_fn, since)
        }
        self.outputs = list(outputs.values())
        self.edges = _edges_out(self.outputs, since)
        for node, _ in self.edges:
            if isinstance(node, AccumulateGrad):
                storages.append(node.variable._storage)
        self.watched: list[tuple[Storage, int]] = [
            (storage, storage.version) for storage in dict.fromkeys(storages)
        ]


def _is_inner(node: Node | None, since: int) -> bool:
    """Whether a node was put on the tape after a point in time, and is no leaf's."""
    return node is not None and node.sequence > since and not isinstance(node, AccumulateGrad)


def _edges_out(outputs: Sequence[Tensor], since: int) -> list[Edge]:
    """The edges from what is newer than a point in time to what is older, and to leaves."""
    found: dict[Edge, None] = {}
    seen: set[Node] = set()
    work = [x.grad_fn for x in reversed(outputs)]
    while work:
        node = work.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, number in node.edges:
            if following is None:
                continue
            if _is_inner(following, since):
                work.append(following)
            else:
                found[following, number] = None
    return list(found)


class CheckpointBackward(Node):
    """The tape node of a function that is computed again for its backward."""

    __slots__ = ("_call", "_generator", "_place", "_structure", "_watched")

    def __init__(self, run: _Run, generator: tuple[int, int]) -> None:
        types: tuple[TensorType, ...] = tuple(x._type for x in run.outputs)
        super().__init__(tuple(run.edges), types)
        self._call: Any = run.call
        self._generator = generator
        self._place = user_place()
        self._structure = run.structure
        self._watched = run.watched

    def release(self) -> None:
        """Drop the arguments."""
        self._call = None
        self._watched = []

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The cotangents of what the function read, by the tape of another run of it."""
        if self._call is None:
            raise GradError(FREED)
        for storage, version in self._watched:
            if storage.version != version:
                raise self._changed(storage)
        again = self._again()
        same = again.structure == self._structure and len(again.outputs) == len(grads)
        if not same or not set(again.edges) <= set(self.edges):
            raise GradError(
                f"the function given to tg.checkpoint at {self._place} did something else when it "
                "was computed again for backward. It depends on something that has changed since: "
                "pass that as an argument"
            )
        roots = [
            (edge_of(x), g) for x, g in zip(again.outputs, grads, strict=True) if g is not None
        ]
        create_graph = state.grad_enabled
        return engine.run(
            roots,
            keep=create_graph,
            create_graph=create_graph,
            targets=self.edges,
            accumulate=False,
            bounded=True,
        )

    def _again(self) -> _Run:
        before, now = state.grad_enabled, default_generator.get_state()
        state.set_grad(True)
        default_generator.go_back(self._generator)
        try:
            return _Run(*self._call)
        finally:
            default_generator.go_back(now)
            state.set_grad(before)

    def _changed(self, storage: Storage) -> GradError:
        return GradError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: an argument of the function given to tg.checkpoint at {self._place}. It "
            f"was changed by {storage.last_write()}. Use the out-of-place form there, or pass a "
            "clone()"
        )
