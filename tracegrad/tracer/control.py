"""Ops with several results, and whole graphs, on tensors: one tape node, one piece of a recording.

A loop or a branch is one op whose results are tensors. Its derivative is a graph in which stacks go
from one loop to the other; a stack is no tensor, so such a graph is evaluated, recorded and put on
the tape as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from tracegrad.errors import GradError, TracegradError
from tracegrad.ir.dependence import dependence
from tracegrad.ir.differentiate import joint_graph
from tracegrad.ir.graph import Builder, Graph, Literal, Node
from tracegrad.ir.interpret import interpret, watching
from tracegrad.ir.op import CONSTANT, Array, Op
from tracegrad.ir.ops.control import items, while_loop
from tracegrad.ir.params import frozen_params
from tracegrad.ir.passes import eliminate
from tracegrad.ir.types import TensorType
from tracegrad.runtime.cuda import availability
from tracegrad.runtime.cuda.arrays import DeviceArray
from tracegrad.tracer.bounds import Requirement, require_none, watched
from tracegrad.tracer.device import cuda, device_among, owned
from tracegrad.tracer.location import Place, locate, user_place
from tracegrad.tracer.program import executable_for, program_for
from tracegrad.tracer.pullback import X
from tracegrad.tracer.state import state
from tracegrad.tracer.tape import FREED, OpNode, Saved, edge_of
from tracegrad.tracer.tensor import Tensor, wrap
from tracegrad.tracer.tree import has_odd_strides, layout_of


def apply_control(
    op: Op,
    inputs: Sequence[Tensor],
    params: dict[str, Any],
    *,
    values: Sequence[Array] | None = None,
) -> list[Tensor]:
    """The results of a `while_loop` or `cond` without `saves`, on tensors.

    `values`: the arrays of the results, where they are known already; they become the tensors'
    memory. Raises what `op.infer` raises, with the user's line.
    """
    try:
        graph, operands = control_graph(op, inputs, params)
    except TracegradError as error:
        locate(error)
        raise
    return apply_whole(graph, operands, values=values, grad_name=op.grad_name)


def control_graph(
    op: Op, inputs: Sequence[Tensor], params: dict[str, Any]
) -> tuple[Graph, list[Tensor]]:
    """One call of an op as a graph whose outputs are its results, and the graph's inputs.

    Constants of shape () among `inputs` are within the graph. A stack among the results is no
    output. Equal calls get the same graph.
    """
    literals = _literals(inputs)
    key = op, tuple([x._type for x in inputs]), literals, frozen_params(params)
    found = _graphs.get(key)
    if found is None:
        found, _ = _control_graph(op, inputs, params)
        if len(_graphs) >= _KEPT:
            _graphs.clear()
        _graphs[key] = found
    return found, [x for x in inputs if x._literal is None]


def _literals(inputs: Sequence[Tensor]) -> tuple[Literal | None, ...]:
    return tuple(None if x._literal is None else Literal(x._values) for x in inputs)


def _control_graph(
    op: Op, inputs: Sequence[Tensor], params: dict[str, Any]
) -> tuple[Graph, list[Tensor]]:
    """As `control_graph`: one for this call alone."""
    with Builder(op.name) as builder:
        nodes = [
            builder.input(x._type, name)
            if literal is None
            else builder.append(CONSTANT, (), {"value": literal})
            for x, literal, name in zip(inputs, _literals(inputs), _names(op, params), strict=True)
        ]
        results = items(op(*nodes, **params))
        outputs = [x for x in results if isinstance(x.type, TensorType)]
        graph = builder.finish(outputs, op.name)
    return graph, [x for x in inputs if x._literal is None]


def _names(op: Op, params: dict[str, Any]) -> list[str]:
    """What the inputs of a loop or a branch are called inside of it."""
    inside = params["branches"][0] if "branches" in params else params["body"]
    names = [x.params["name"] for x in inside.inputs]
    if op is while_loop:
        return ["limit", "go", *names[1:]]
    return ["index", *names] if "branches" in params else names


_graphs: dict[Any, Graph] = {}
_KEPT = 1024


def apply_with_fault(
    op: Op,
    inputs: Sequence[Tensor],
    params: dict[str, Any],
    fault: int,
    requirements: Sequence[Requirement],
) -> list[Tensor]:
    """`apply_control` where the result number `fault` says that one of `requirements`, which stand
    in a body, does not hold: then its error is raised, now and on each replay.

    Returns the other results.
    """
    try:
        # Not one that an equal call made: its requirements have other lines and messages.
        graph, operands = _control_graph(op, inputs, params)
    except TracegradError as error:
        locate(error)
        raise
    results = apply_whole(graph, operands, grad_name=op.grad_name)

    def again() -> None:
        watched(graph, [x._values for x in operands])

    require_none(results.pop(fault), requirements, again)
    return results


def apply_whole(
    graph: Graph,
    inputs: Sequence[Tensor],
    *,
    values: Sequence[Array] | None = None,
    grad_name: str = "GraphBackward",
) -> list[Tensor]:
    """The outputs of `graph` on tensors. It is one node on the tape, and is recorded as it is."""
    if values is None:
        values = _example(graph, inputs) or results_of(graph, inputs)
    outputs = [
        wrap(np.asanyarray(value, node.dtype.numpy))
        for value, node in zip(values, graph.outputs, strict=True)
    ]
    if state.recorder is not None:
        state.recorder.record_graph(graph, inputs, outputs)
    if state.grad_enabled:
        needs = tuple(
            x.requires_grad and node.dtype.is_floating_point
            for x, node in zip(inputs, graph.inputs, strict=True)
        )
        tracked = tracked_outputs(graph, needs)
        if any(tracked):
            tape = _node_class(grad_name)(graph, inputs, needs, tracked, user_place())
            for number, (output, flag) in enumerate(zip(outputs, tracked, strict=True)):
                if flag:
                    output._grad_fn = tape
                    output._output_nr = number
                    output._requires_grad = True
    return outputs


def _example(graph: Graph, inputs: Sequence[Tensor]) -> list[Array] | None:
    """Stand-ins for the outputs within a body, where nobody can see them; None elsewhere."""
    recorder = state.recorder
    if recorder is None or not recorder.in_body:
        return None
    if all(recorder.is_constant(x) for x in inputs):
        return None
    return [np.zeros(x.shape, x.dtype.numpy) for x in graph.outputs]


# About so many values of scalars are interpreted before compiling pays.
_INTERPRETED = 20_000
# An interpreted value costs as much as so many elements of an array.
_ELEMENTS = 2_000


class _LongError(Exception):
    """The interpreter would take too long."""


def results_of(graph: Graph, inputs: Sequence[Tensor]) -> Sequence[Array]:
    """The outputs of `graph` on tensors, with memory of their own."""
    arrays = [x._array for x in inputs]

    def run() -> list[Array]:
        return _own(evaluated(graph, arrays), arrays)

    if state.deferrals is None:
        return run()
    return state.deferrals.run_graph(run, arrays, [x.type for x in graph.outputs])


def evaluated(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    """The outputs of `graph` on arrays; compiled where its loops are long, or on a device."""
    if availability.used and device_among(arrays) is cuda:
        return list(executable_for(graph, tuple(map(layout_of, arrays)), cuda)(arrays))
    left = float(_INTERPRETED)

    def see(graph: Graph, node: Node, value: Array) -> None:
        nonlocal left
        left -= 1 + node.type.size / _ELEMENTS
        if left < 0:
            raise _LongError

    try:
        with watching(see):
            return state.quietly(interpret, graph, arrays)  # type: ignore[no-any-return]
    except _LongError:
        return _compiled(graph, arrays)


def _compiled(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    whole = [np.ascontiguousarray(x) if has_odd_strides(x) else x for x in arrays]
    flags = (False,) * len(arrays), (False,) * len(graph.outputs)
    program = program_for(graph, *flags, tuple(map(layout_of, whole)))
    found: list[Array] = program.forward(whole)
    return found


def tracked_outputs(graph: Graph, needs: Sequence[bool]) -> tuple[bool, ...]:
    """Which outputs a gradient flows from to the inputs that `needs` flags."""
    wanted = sum(1 << i for i, need in enumerate(needs) if need)
    return tuple(bool(found & wanted) for found in dependence(graph)) if wanted else ()


def _own(results: Sequence[Array], arrays: Sequence[Array]) -> list[Array]:
    """The results with memory of their own: a loop may hand on what it was given."""
    taken = set(map(id, arrays))
    found = []
    for result in results:
        is_new = isinstance(result, DeviceArray) or (
            isinstance(result, np.ndarray) and result.base is None
        )
        if not is_new or id(result) in taken:
            result = owned(result)
        taken.add(id(result))
        found.append(result)
    return found


class GraphNode(OpNode):
    """The tape node of a graph that was applied as a whole.

    needs    flags the inputs whose cotangents are wanted; `tracked` the outputs that depend on
             them.
    """

    __slots__ = ("graph", "needs", "tracked")

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Tensor],
        needs: tuple[bool, ...],
        tracked: tuple[bool, ...],
        place: Place | None,
    ) -> None:
        edges = [edge_of(x) if need else (None, 0) for x, need in zip(inputs, needs, strict=True)]
        super(OpNode, self).__init__(tuple(edges), tuple(x.type for x in graph.outputs))
        self.graph = graph
        self.needs = needs
        self.tracked = tracked
        self.place = place
        self.call = None
        self.takes_mask = False
        self.saved: tuple[Saved, ...] | None = tuple(map(Saved, inputs))

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The cotangents of the inputs, from those of the outputs."""
        if self.saved is None:
            raise GradError(FREED)
        given = tuple(g is not None for g in grads)
        if not any(given):
            return [None] * len(self.edges)
        inputs = []
        for i, item in enumerate(self.saved):
            storage = item.tensor._storage
            if storage.version != item.version:
                raise self.changed(storage, item.tensor, X + i, item.version)
            inputs.append(item.tensor)
        graph, present = _backward(self.graph, self.needs, given, state.memory_budget)
        values = [*inputs, *(g for g in grads if g is not None)]
        if state.recorder is None and not state.grad_enabled:
            arrays = evaluated(graph, [value._values for value in values])
            outputs = iter([wrap(array) for array in arrays])
        else:
            outputs = iter(apply_whole(graph, values))
        return [next(outputs) if there else None for there in present]


@cache
def _node_class(name: str) -> type[GraphNode]:
    return type(name, (GraphNode,), {"__slots__": (), "__module__": "tracegrad.autograd"})


@lru_cache(maxsize=1024)
def _backward(
    graph: Graph, needs: tuple[bool, ...], given: tuple[bool, ...], memory_budget: int | None
) -> tuple[Graph, tuple[bool, ...]]:
    """The vector-Jacobian product of a graph, and which of its inputs get a cotangent.

    It takes the inputs of `graph`, then a cotangent for each output in `given`.
    """
    joint, present = joint_graph(graph, needs, given, memory_budget=memory_budget)
    cotangents = joint.outputs[len(graph.outputs) :]
    only = Graph(joint.name, joint.inputs, joint.nodes, cotangents, "gradient")
    flags = iter(present)
    return eliminate(only), tuple(need and next(flags) for need in needs)
