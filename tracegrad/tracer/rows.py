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
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tracegrad.config import config
from tracegrad.errors import TraceError
from tracegrad.ir.batching import batch
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.op import CONSTANT, OPS, Op
from tracegrad.ir.ops.control import is_control, item
from tracegrad.ir.types import StackType, TupleType
from tracegrad.runtime.random import default_generator
from tracegrad.tracer.bodies import BodyInput, computed_outside
from tracegrad.tracer.body_graphs import Body, body_of
from tracegrad.tracer.body_paths import Returned, explored
from tracegrad.tracer.bounds import Requirement, error_of
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.carries import Tree
from tracegrad.tracer.control import apply_control, apply_whole
from tracegrad.tracer.device import owned
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.inplace import assign
from tracegrad.tracer.location import locate
from tracegrad.tracer.loop_records import KnownLoops
from tracegrad.tracer.promotion import cast, get_default_dtype
from tracegrad.tracer.randomness import draw
from tracegrad.tracer.range_names import counting
from tracegrad.tracer.recorder import Recorder
from tracegrad.tracer.recording import Value
from tracegrad.tracer.rolling import Rolling
from tracegrad.tracer.scopes import Scope
from tracegrad.tracer.state import state
from tracegrad.tracer.stores import Places
from tracegrad.tracer.tape import mark
from tracegrad.tracer.tensor import Tensor, wrap

FORM = "tg.vmap"

Randomness = Literal["error", "same", "different"]


def over_rows(
    function: Callable[[list[Tensor]], Tree],
    tensors: Sequence[Tensor],
    size: int,
    randomness: Randomness,
    subject: Any = None,
) -> tuple[Tree, list[bool]]:
    """The results of `function` for each row of `tensors`, which are `size` along their first axis.

    A flag says of each result whether it has the axis of rows in front, or is the same for all.
    What the function writes into its arguments is written into `tensors`. `subject`: the user's
    function that it calls.
    """
    since = mark()
    eager = state.recorder is None
    with _recording() as recorder:
        try:
            row = _traced(recorder, function, tensors, randomness)
        except TraceError as error:
            # A loop of Python that cannot be traced as it stands may be rolled. Looking for that is
            # dear in eager code, and mostly for nothing.
            if not (getattr(error, "unrolled", False) and eager and config.roll):
                raise
            with _rolling(recorder, subject):
                row = _traced(recorder, function, tensors, randomness)
    own = randomness == "different"
    operands = row.body.operands
    values = [*tensors, *(x for _, x in operands), *row.drawn(size, own)]
    batched = (*(True for _ in tensors), *(False for _ in operands), *(own for _ in row.draws))
    graph, flags = _batched(row.graph(), batched, size)
    found = iter(zip(_applied(graph, values), flags, strict=True))
    results = [next(found) for _ in row.results]
    for requirement in row.body.requirements:
        _require(next(found)[0], requirement)
    for number in row.written:
        value, flag = next(found)
        target = tensors[number]
        if not flag:
            value = apply(OPS["broadcast_to"], [value], {"shape": target._array.shape})
        assign(target, value, "vmap", since=since)
    (tree,) = row.body.trees
    leaves = [
        _in_default(x) if weak else x for (x, _), weak in zip(results, tree.weak, strict=True)
    ]
    return tree.having(leaves), [flag for _, flag in results]


def _in_default(x: Tensor) -> Tensor:
    """A result that was a Python number, in the dtype that such a number has as a tensor."""
    return cast(x, get_default_dtype()) if x.dtype.is_floating_point else x


# ------------------------------------------------------------------------------------ trace


@dataclass
class _Draw:
    """Random numbers that the function drew."""

    node: Node
    name: str


@dataclass
class _Row:
    """The function for one row.

    draws    the random numbers that it draws.
    written  numbers of the arguments that it writes to: their new values are the first outputs.
    """

    body: Body
    draws: list[_Draw]
    written: list[int]

    @property
    def results(self) -> list[Node]:
        return self.body.outputs[len(self.written) :]

    def graph(self) -> Graph:
        """The function as a graph: arguments, operands and draws to results, what has to hold, and
        what is written.
        """
        body = self.body
        required = [requirement.node for requirement in body.requirements]
        outputs = (*self.results, *required, *body.outputs[: len(self.written)])
        inputs = (*body.inputs, *(x for x, _ in body.operands), *(x.node for x in self.draws))
        return body.graph("row", inputs, outputs)

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


@contextmanager
def _rolling(recorder: Recorder, subject: Any) -> Iterator[None]:
    """The loops of the user's function are rolled, in eager code."""
    survey = Survey(subject)
    places = Places(survey, (), {}, (), ())
    recorder.outermost.rolling = Rolling(recorder, places, KnownLoops(), {})
    with counting(survey.functions):
        yield


def _traced(
    recorder: Recorder,
    function: Callable[[list[Tensor]], Tree],
    tensors: Sequence[Tensor],
    randomness: Randomness,
) -> _Row:
    draws: dict[Hashable, str] = {}
    written: list[int] = []
    seen = -1

    def once(scope: Scope) -> Returned:
        stand_ins = [_stand_in(x) for x in tensors]
        for i, x in enumerate(stand_ins):
            recorder.enter(x, f"x{i}", x._requires_grad)

        def drawn(
            op: Op, counters: Sequence[Tensor], params: dict[str, Any], output: Tensor
        ) -> Value:
            _check_draw(counters, output, randomness)
            value = scope.input(output._type, "random", False)
            draws[scope.inputs[value.position].key] = op.name
            return value

        scope.draw = drawn
        scope.shared = lambda value: computed_outside(recorder, scope, value)
        tree = function(stand_ins)
        results = [recorder.result_of(x) for x in tree.leaves]
        written.extend(
            i for i, x in enumerate(stand_ins) if i not in written and recorder.was_written(x)
        )
        news = [recorder.result_of(stand_ins[i]) for i in written]
        return Returned([*news, *results], [tree])

    while len(written) > seen:
        # What one way writes to is a result of all of them.
        seen = len(written)
        ways = explored(recorder, "row", FORM, once)
        if len(ways) == 1:
            break
    body = body_of(ways, len(tensors), carries_fault=False, by_one=True)
    drawn: list[_Draw] = []
    for key, (node, read) in body.found.items():
        if read.tensor is not None:
            body.operands.append((node, read.tensor))
        else:
            drawn.append(_Draw(node, draws[key]))
    return _Row(body, drawn, written)


def _stand_in(x: Tensor) -> Tensor:
    """One row, with memory of its own, and in the middle of a tape where `x` is."""
    array = x._values
    tensor = wrap(owned(array[0]) if len(array) else np.zeros(array.shape[1:], array.dtype))
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
    seed, offset = (int(x._values) for x in counters)
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
        found = limits.first_outside(x._values)
        if found is not None:
            raise error_of(requirement, None if x._array.dtype.kind == "b" else found)
    if recorder is not None and x._array.size:
        if x._array.dtype.kind == "b" and x.ndim:
            x = apply(OPS["any"], [x], {"axes": tuple(range(x.ndim)), "keepdims": False})
        recorder.require(x, limits)
