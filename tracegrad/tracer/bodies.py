"""The functions given to loops and branches, as graphs: what `while_loop` and `cond` run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from tracegrad.errors import GradError
from tracegrad.ir.graph import Graph, Node, reachable
from tracegrad.ir.op import INPUT, OPS
from tracegrad.ir.ops.control import FLAG
from tracegrad.tracer.body_draws import BodyDraws
from tracegrad.tracer.bounds import Requirement, any_outside, remember
from tracegrad.tracer.control import apply_whole
from tracegrad.tracer.state import state
from tracegrad.tracer.tape import Node as TapeNode
from tracegrad.tracer.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder
    from tracegrad.tracer.recording import Value
    from tracegrad.tracer.scopes import Scope


class BodyInput(TapeNode):
    """Where the tape of a body begins: what it is differentiated for is not known inside of it."""

    __slots__ = ()

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """GradError: the way on does not exist."""
        raise GradError(
            "backward() in a function given to a loop or a branch came to what the function was "
            "given: use tg.grad there"
        )


@dataclass(eq=False)
class Body:
    """A function of tensors, traced.

    inputs    the nodes of its arguments.
    operands  the tensors from around that it reads, each with its node.
    outputs   the nodes of its results, which are `results`.
    fault     the node of a flag, true where one of `requirements` does not hold; None if it has
              none.
    drawn     how many random numbers a run draws.
    """

    nodes: tuple[Node, ...]
    inputs: list[Node]
    operands: list[tuple[Node, Tensor]]
    outputs: list[Node]
    results: list[Tensor]
    requirements: list[Requirement]
    fault: Node | None
    drawn: int = 0

    def graph(self, name: str, inputs: Sequence[Node], outputs: Sequence[Node]) -> Graph:
        """The body as a graph, its inputs and outputs in the order of the op that runs it."""
        live = reachable((*outputs, *(node for node in self.nodes if not node.op.pure)))
        made = Graph(
            name, tuple(inputs), tuple(node for node in self.nodes if node in live), tuple(outputs)
        )
        if self.requirements:
            remember(made, self.requirements)
        return made


def trace_body(
    function: Callable[[list[Tensor]], Sequence[Tensor]],
    likes: Sequence[Tensor],
    names: Sequence[str],
    form: str,
    *,
    carries_fault: bool = False,
    trips: int | None = None,
    reverse: bool = False,
) -> Body:
    """Run `function` on stand-ins with the values of `likes` and keep what it does as a graph.

    A recorder is active. `form` is how the user's program calls this, for errors. With
    `carries_fault` the fault is that of all runs: then the last of `inputs` is its value before.
    `trips`: it is the body of a loop that runs so often, `reverse` perhaps, and that gives it the
    position first; then it may draw random numbers.
    TraceError where the function asks for a value or changes what it did not make.
    """
    recorder = cast("Recorder", state.recorder)
    before = state.grad_enabled, state.weak_numbers
    with recorder.body("body", form) as scope:
        try:
            scope.shared = lambda value: computed_outside(recorder, scope, value)
            stand_ins = []
            inputs = []
            for like, name in zip(likes, names, strict=True):
                tensor = _stand_in(like)
                inputs.append(recorder.enter(tensor, name, tensor._requires_grad))
                stand_ins.append(tensor)
            draws = None
            if trips is not None:
                draws = BodyDraws(recorder, scope, stand_ins[0], trips, reverse)
            results = list(function(stand_ins))
            outputs = [recorder.node_of(x) for x in results]
        finally:
            state.set_grad(before[0])
            state.weak_numbers = before[1]
        builder = scope.builder
        fault = None
        if scope.requirements:
            flags = [builder.nodes[item.position] for item in scope.requirements]
            if carries_fault:
                earlier = builder.input(FLAG, "fault")
                inputs.append(earlier)
                flags.insert(0, earlier)
            with builder:
                fault = any_outside(flags)
    drawn, counters = (0, []) if draws is None else draws.finish()
    return Body(
        tuple(builder.nodes),
        inputs,
        [*scope.operands, *counters],
        outputs,
        results,
        list(scope.requirements),
        fault,
        drawn,
    )


def computed_outside(recorder: Recorder, scope: Scope, value: Value) -> Tensor | None:
    """A value that a body computes from what was there before it, computed outside; None for one
    that depends on the body's own inputs.
    """
    assert value.node is not None
    needed = reachable([value.node])
    around = {node: x for node, x in scope.operands if node in needed}
    if any(not node.op.pure or (node.op is INPUT and node not in around) for node in needed):
        return None
    nodes = tuple(node for node in scope.builder.nodes if node in needed)
    graph = Graph("outside", tuple(around), nodes, (value.node,))
    with recorder.outside(scope):
        return apply_whole(graph, list(around.values()))[0]


def _stand_in(like: Tensor) -> Tensor:
    """A tensor with memory of its own, in the middle of a tape."""
    tensor = wrap(np.array(like._array))
    tensor._weak = like._weak
    if state.grad_enabled and tensor.dtype.is_floating_point:
        tensor._grad_fn = BodyInput((), (tensor._type,))
        tensor._requires_grad = True
    return tensor


def and_not(go: Node, fault: Node) -> Node:
    """bool[]: `go`, unless something is wrong already. Appends to the current builder."""
    return OPS["bitwise_and"](go, OPS["logical_not"](fault))
