"""A function of one row, traced and applied to many: the work of `vmap`.

The function runs once, on stand-ins with the shapes of one row and the values of the first. What it
does is recorded as the body of a loop is, and the graph of that becomes the graph for the batch
(`ir.batching`), which is then applied to the tensors like any other operations.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tracegrad.errors import TraceError
from tracegrad.ir.batching import batch
from tracegrad.ir.graph import Graph, Node, reachable
from tracegrad.ir.op import CONSTANT, OPS, Op
from tracegrad.ir.ops.control import is_control, item
from tracegrad.ir.types import StackType, TupleType
from tracegrad.runtime.random import default_generator
from tracegrad.tracer.bodies import BodyInput, computed_outside
from tracegrad.tracer.bounds import Requirement, error_of
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.control import apply_control, apply_whole
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.inplace import assign
from tracegrad.tracer.location import locate
from tracegrad.tracer.randomness import draw
from tracegrad.tracer.recorder import Recorder
from tracegrad.tracer.recording import Value
from tracegrad.tracer.scopes import Scope
from tracegrad.tracer.state import state
from tracegrad.tracer.tape import mark
from tracegrad.tracer.tensor import Tensor, wrap

FORM = "tg.vmap"

Randomness = Literal["error", "same", "different"]


def over_rows(
    function: Callable[[list[Tensor]], Sequence[Tensor]],
    tensors: Sequence[Tensor],
    size: int,
    randomness: Randomness,
) -> tuple[list[Tensor], list[bool]]:
    """The results of `function` for each row of `tensors`, which are `size` along their first axis.

    A flag says of each result whether it has the axis of rows in front, or is the same for all.
    What the function writes into its arguments is written into `tensors`.
    """
    since = mark()
    with _recording() as recorder:
        row = _traced(recorder, function, tensors, randomness)
    own = randomness == "different"
    values = [*tensors, *(x for _, x in row.operands), *row.drawn(size, own)]
    batched = (*(True for _ in tensors), *(False for _ in row.operands), *(own for _ in row.draws))
    graph, flags = _batched(row.graph(), batched, size)
    found = iter(zip(_applied(graph, values), flags, strict=True))
    results = [next(found) for _ in row.outputs]
    for requirement in row.requirements:
        _require(next(found)[0], requirement)
    for number in row.written:
        value, flag = next(found)
        target = tensors[number]
        if not flag:
            value = apply(OPS["broadcast_to"], [value], {"shape": target._array.shape})
        assign(target, value, "vmap", since=since)
    return [x for x, _ in results], [flag for _, flag in results]


# ------------------------------------------------------------------------------------ trace


@dataclass
class _Draw:
    """Random numbers that the function drew."""

    node: Node
    name: str


@dataclass
class _Row:
    """The function for one row.

    inputs        the nodes of its arguments.
    operands      the tensors from around that it reads, each with its node.
    draws         the random numbers that it draws.
    outputs       the nodes of its results.
    requirements  what has to hold for each row.
    written       numbers of the arguments that it writes to, with their new values.
    """

    scope: Scope
    inputs: list[Node]
    outputs: list[Node]
    draws: list[_Draw]
    written: dict[int, Node] = field(default_factory=dict)

    @property
    def operands(self) -> list[tuple[Node, Tensor]]:
        return self.scope.operands

    @property
    def requirements(self) -> list[Requirement]:
        return self.scope.requirements

    def graph(self) -> Graph:
        """The function as a graph: arguments, operands and draws to results, what has to hold, and
        what is written.
        """
        required = [requirement.node for requirement in self.requirements]
        outputs = (*self.outputs, *required, *self.written.values())
        nodes = self.scope.builder.nodes
        live = reachable((*outputs, *(node for node in nodes if not node.op.pure)))
        inputs = (*self.inputs, *(x for x, _ in self.operands), *(x.node for x in self.draws))
        return Graph("row", inputs, tuple(node for node in nodes if node in live), outputs)

    def drawn(self, size: int, own: bool) -> list[Tensor]:
        """The random numbers, anew: for each of `size` rows its `own`, or the same for all."""
        return [
            draw(x.name, (size, *x.node.shape) if own else x.node.shape, x.node.dtype)
            for x in self.draws
        ]


@contextmanager
def _recording() -> Iterator[Recorder]:
    """The active recorder; in eager code one that lasts as long as this."""
    if isinstance(state.recorder, Recorder):
        yield state.recorder
        return
    recorder = Recorder((), Survey(None), aliases=False, script=())
    state.record_by(recorder)
    try:
        yield recorder
    finally:
        state.record_by(None)
        recorder.close()


def _traced(
    recorder: Recorder,
    function: Callable[[list[Tensor]], Sequence[Tensor]],
    tensors: Sequence[Tensor],
    randomness: Randomness,
) -> _Row:
    before = state.grad_enabled, state.weak_numbers
    generator = default_generator.get_state()
    draws: list[_Draw] = []
    with recorder.body("row", FORM) as scope:
        try:
            stand_ins = [_stand_in(x) for x in tensors]
            inputs = [recorder.enter(x, f"x{i}", x._requires_grad) for i, x in enumerate(stand_ins)]

            def drawn(
                op: Op, counters: Sequence[Tensor], params: dict[str, Any], output: Tensor
            ) -> Value:
                _check_draw(counters, output, randomness)
                value = scope.input(output._type, "random", False)
                assert value.node is not None
                draws.append(_Draw(value.node, op.name))
                return value

            scope.draw = drawn
            scope.shared = lambda value: computed_outside(recorder, scope, value)
            outputs = [recorder.node_of(x) for x in function(stand_ins)]
            row = _Row(scope, inputs, outputs, draws)
            for number, x in enumerate(stand_ins):
                if recorder.was_written(x):
                    row.written[number] = recorder.node_of(x)
        finally:
            state.set_grad(before[0])
            state.weak_numbers = before[1]
            # The numbers of all rows are drawn once the function is known.
            default_generator.go_back(generator)
    return row


def _stand_in(x: Tensor) -> Tensor:
    """One row, with memory of its own, and in the middle of a tape where `x` is."""
    array = x._array
    tensor = wrap(np.array(array[0]) if len(array) else np.zeros(array.shape[1:], array.dtype))
    if state.grad_enabled and x.requires_grad:
        tensor._grad_fn = BodyInput((), (tensor._type,))
        tensor._requires_grad = True
    return tensor


def _check_draw(counters: Sequence[Tensor], output: Tensor, randomness: Randomness) -> None:
    """TraceError for random numbers that are not allowed, or that cannot be drawn once more."""
    if randomness == "error":
        raise locate(
            TraceError(
                "a function given to tg.vmap draws random numbers: say randomness='different' if "
                "each row is to have its own, or randomness='same' if all rows share them"
            )
        )
    seed, offset = (int(x._array) for x in counters)
    if default_generator.get_state() != (seed, offset + output._array.size):
        raise locate(
            TraceError(
                "a function given to tg.vmap drew random numbers from a Generator of its own. Draw "
                "them outside and pass them as an argument, or use the default generator"
            )
        )


# -------------------------------------------------------------------------------- application

_KEPT = 512
_LARGE = 4096
_batches: OrderedDict[Hashable, tuple[Graph, tuple[bool, ...]]] = OrderedDict()
_lock = threading.Lock()


def _batched(graph: Graph, batched: tuple[bool, ...], size: int) -> tuple[Graph, tuple[bool, ...]]:
    """`ir.batching.batch`, kept for graphs of equal structure.

    What holds large constants is not kept: they are part of the structure.
    """
    if any(x.op is CONSTANT and x.params["value"].array.nbytes > _LARGE for x in graph.nodes):
        return batch(graph, batched, size)
    key = graph.key, batched, size
    with _lock:
        found = _batches.get(key)
        if found is None:
            found = _batches[key] = batch(graph, batched, size)
            if len(_batches) > _KEPT:
                _batches.popitem(last=False)
        else:
            _batches.move_to_end(key)
    return found


def _applied(graph: Graph, values: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a graph on tensors, as any operations on the tape and in the recording."""
    nodes = graph.nodes
    plain = state.recorder is None and not (
        state.grad_enabled and any(x.requires_grad for x in values)
    )
    if plain or any(_has_stack(node) for node in nodes):
        return apply_whole(graph, values)
    found: dict[Node, Any] = dict(zip(graph.inputs, values, strict=True))
    for node in nodes:
        inputs = [found[x] for x in node.inputs]
        if node.op is CONSTANT:
            found[node] = constant(node.params["value"].array)
        elif is_control(node):
            found[node] = apply_control(node.op, inputs, dict(node.params))
        elif node.op is item:
            found[node] = inputs[0][node.params["index"]]
        else:
            found[node] = apply(node.op, inputs, dict(node.params))
    return [found[x] for x in graph.outputs]


def _has_stack(node: Node) -> bool:
    elements = node.type.elements if isinstance(node.type, TupleType) else (node.type,)
    return any(isinstance(x, StackType) for x in elements)


def _require(x: Tensor, requirement: Requirement) -> None:
    """What has to hold for the row holds for each row."""
    limits = requirement.limits
    recorder = state.recorder
    if recorder is None or not recorder.in_body:
        found = limits.first_outside(x._array)
        if found is not None:
            raise error_of(requirement, None if x._array.dtype.kind == "b" else found)
    if recorder is not None and x._array.size:
        if x._array.dtype.kind == "b" and x.ndim:
            x = apply(OPS["any"], [x], {"axes": tuple(range(x.ndim)), "keepdims": False})
        recorder.require(x, limits)
