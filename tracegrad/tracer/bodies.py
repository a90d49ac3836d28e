"""The functions given to loops and branches, as graphs: what `while_loop` and `cond` run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from tracegrad.errors import GradError, TraceError
from tracegrad.ir.graph import Builder, Graph, Node, reachable
from tracegrad.ir.op import OPS
from tracegrad.tracer.body_draws import BodyDraws
from tracegrad.tracer.body_graphs import Body, body_of
from tracegrad.tracer.body_paths import Returned, Way, explored, parting
from tracegrad.tracer.carries import Tree
from tracegrad.tracer.control import apply_whole
from tracegrad.tracer.device import owned
from tracegrad.tracer.dispatch import constant
from tracegrad.tracer.location import locate
from tracegrad.tracer.state import state
from tracegrad.tracer.tape import Node as TapeNode
from tracegrad.tracer.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder
    from tracegrad.tracer.recording import Ref, Value
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


def trace_body(
    function: Callable[[list[Tensor]], tuple[Sequence[Tensor], list[Tree]]],
    likes: Sequence[Tensor],
    names: Sequence[str],
    form: str,
    *,
    carries_fault: bool = False,
    trips: int | None = None,
    reverse: bool = False,
) -> Body:
    """Run `function` on stand-ins with the values of `likes`, once for each way through it, and
    keep what it does as a graph.

    It returns tensors, and the trees whose leaves the last of them are. A recorder is active.
    `form` is how the user's program calls this, for errors. `carries_fault`: see `body_of`.
    `trips`: it is the body of a loop that runs so often, `reverse` perhaps, and that gives it the
    position first; then it may draw random numbers.
    TraceError where the function asks for a number or changes what it did not make.
    """
    recorder = cast("Recorder", state.recorder)
    draws: list[BodyDraws] = []

    def once(scope: Scope) -> Returned:
        scope.shared = lambda value: computed_outside(recorder, scope, value)
        stand_ins = []
        for like, name in zip(likes, names, strict=True):
            tensor = _stand_in(like)
            recorder.enter(tensor, name, tensor._requires_grad)
            stand_ins.append(tensor)
        if trips is not None:
            draws.append(BodyDraws(recorder, scope, stand_ins[0], trips, reverse))
        results, trees = function(stand_ins)
        return Returned([recorder.result_of(x) for x in results], trees)

    ways = explored(recorder, "body", form, once)
    body = body_of(ways, len(likes), carries_fault=carries_fault, by_one=False)
    around: dict[Hashable, Tensor] = {}
    if any(item.inputs for item in draws):
        body.drawn = _drawn_by(ways)
        values = [*recorder.counters(), constant(np.int64(body.drawn))]
        for item in draws:
            keys = [value.scope.inputs[value.position].key for value in item.inputs]
            around |= zip(keys, values, strict=False)
    body.operands = [
        (node, around[key] if item.tensor is None else item.tensor)
        for key, (node, item) in body.found.items()
    ]
    return body


def _drawn_by(ways: Sequence[Way]) -> int:
    """How many random numbers each run draws."""
    ways = [way for way in ways if way.raised is None]
    for way in ways[1:]:
        if way.drawn != ways[0].drawn:
            loc, holds = parting(ways[0], way)
            first, second = (ways[0], way) if holds else (way, ways[0])
            raise locate(
                TraceError(
                    f"a function given to {way.scope.form} draws {first.drawn} random numbers "
                    f"where the condition at {loc} holds, and {second.drawn} where it does not: in "
                    "compiled code each run of it has to draw as many. Draw them before the "
                    "condition"
                )
            )
    return ways[0].drawn


def computed_outside(recorder: Recorder, scope: Scope, value: Value) -> Tensor | None:
    """A value that a body computes from what was there before it, computed outside; None for one
    that depends on the body's own inputs.
    """
    with Builder("outside") as builder:
        made: dict[Ref, Node] = {}
        around: list[Tensor] = []
        node = _copied(scope, value, builder, made, around)
    if node is None:
        return None
    graph = Graph("outside", tuple(builder.inputs), tuple(builder.nodes), (node,))
    with recorder.outside(scope):
        return apply_whole(graph, around)[0]


def _copied(
    scope: Scope, value: Value, builder: Builder, made: dict[Ref, Node], around: list[Tensor]
) -> Node | None:
    """The node of a value computed from `around` alone; None if it depends on the body's own."""
    known = made.get(value.ref)
    if known is not None:
        return known
    if value.segment < 0:
        item = scope.inputs[value.position]
        if item.tensor is None:
            return None
        around.append(item.tensor)
        made[value.ref] = builder.input(item.type, item.name)
        return made[value.ref]
    assert value.node is not None
    segment = scope.segments[value.segment]
    needed = reachable([value.node])
    copies: dict[Node, Node] = {}
    for node, source in zip(segment.builder.inputs, segment.sources, strict=True):
        if node in needed:
            copy = _copied(scope, source, builder, made, around)
            if copy is None:
                return None
            copies[node] = copy
    for node in segment.builder.nodes:
        if node in needed:
            if not node.op.pure or node.op.name == "carried":
                return None
            copies[node] = builder.adopt(node, [copies[x] for x in node.inputs])
    made[value.ref] = copies[value.node]
    return copies[value.node]


def _stand_in(like: Tensor) -> Tensor:
    """A tensor with memory of its own, in the middle of a tape."""
    tensor = wrap(owned(like._values))
    tensor._weak = like._weak
    if state.grad_enabled and tensor.dtype.is_floating_point:
        tensor._grad_fn = BodyInput((), (tensor._type,))
        tensor._requires_grad = True
    return tensor


def and_not(go: Node, fault: Node) -> Node:
    """bool[]: `go`, unless something is wrong already. Appends to the current builder."""
    return OPS["bitwise_and"](go, OPS["logical_not"](fault))
