"""Values that must lie within limits: indices, classes. Checked in eager code and in compiled code.

Eager code looks at once. Compiled code computes one flag more, whether any element lies outside,
and looks at it before anything is written back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from tracegrad.errors import BoundsError, TracegradError
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.interpret import interpret, watching
from tracegrad.ir.op import OPS
from tracegrad.ir.types import bool_
from tracegrad.tracer.device import cpu, moved
from tracegrad.tracer.location import Place, is_internal
from tracegrad.tracer.state import state

if TYPE_CHECKING:
    from tracegrad.tracer.recording import Segment
    from tracegrad.tracer.tensor import Tensor

Array = np.ndarray[Any, Any]


class Limits(NamedTuple):
    """Each element has to be at least `low` and at most `high`, or equal to `spared`.

    `message` says what is wrong otherwise; its `{}` stands for the first element that is.
    `exception` is what is raised instead, where the user's program does.
    """

    low: float
    high: float
    message: str
    spared: int | None = None
    error: type[TracegradError] = BoundsError
    exception: Exception | None = None

    @classmethod
    def of_exception(cls, error: Exception, form: str) -> Limits:
        """For a flag that says that the user's program raises, in a function given to `form`."""
        place = raised_at(error)
        if place is not None and not getattr(error, "located", False):
            error.add_note(f"raised in a function given to {form}, at {place}")
        # Frames would keep everything alive that was traced.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return cls(0, 0, "", exception=error)

    def first_outside(self, array: Array) -> str | None:
        """The first element out of the limits, as text; None if there is none."""
        array = moved(array, cpu)
        if not array.size or (array.min() >= self.low and array.max() <= self.high):
            return None
        bad = ~((array >= self.low) & (array <= self.high))
        if self.spared is not None:
            bad &= array != self.spared
        return str(array[bad].flat[0]) if bad.any() else None

    def outside(self, x: Node) -> Node:
        """bool[]: whether any element is out of the limits. Appends to the current builder.

        A bool is such a flag itself.
        """
        if x.dtype is bool_:
            return x
        # Negated, so that NaN is outside.
        bad = OPS["logical_not"](OPS["bitwise_and"](x >= self.low, x <= self.high))
        if self.spared is not None:
            bad = OPS["bitwise_and"](bad, OPS["ne"](x, self.spared))
        return OPS["any"](bad, axes=tuple(range(x.ndim)), keepdims=False) if x.ndim else bad


@dataclass(frozen=True, eq=False)
class Requirement:
    """A recorded value that must lie within limits.

    position  of the flag among the nodes of the segment; `node` is the value itself.
    place     where the user's program asks for it.
    """

    position: int
    node: Node
    limits: Limits
    place: Place | None


def require(x: Tensor, limits: Limits) -> None:
    """Raise `limits.error` if an element of `x` is out of the limits, now and on each replay."""
    recorder = state.recorder
    if recorder is None or not recorder.in_body:
        found = limits.first_outside(x._values)
        if found is not None:
            raise limits.error(limits.message.format(found))
    if recorder is not None and x._array.size:
        recorder.require(x, limits)


def raised_at(error: Exception) -> Place | None:
    """Where in the user's program an exception was raised."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not is_internal(code):
            found = Place(code, trace.tb_lasti)
        trace = trace.tb_next
    return found


def refuse(segment: Segment, requirement: Requirement, arguments: Sequence[Any]) -> None:
    """Raise the error of a requirement that does not hold for the segment's `arguments`."""
    # Which element it is was not computed: the interpreter finds it.
    graph = segment.builder.finish([requirement.node])
    arrays = [
        moved(np.asanyarray(value, node.dtype.numpy), cpu)
        for value, node in zip(arguments, graph.inputs, strict=True)
    ]
    (value,) = watched(graph, arrays)
    limits = requirement.limits
    # Where compiled code rounds differently, the interpreter may find none.
    found = limits.first_outside(value) if value.dtype.kind != "b" else None
    raise error_of(requirement, found)


def error_of(requirement: Requirement, found: str | None) -> Exception:
    """The error of a requirement that does not hold for the element `found`, if that is known."""
    limits = requirement.limits
    if limits.exception is not None:
        return _again(limits.exception)
    error = limits.error(limits.message.format("of some element" if found is None else found))
    if requirement.place is not None:
        error.args = (f"{error}, at {requirement.place}",)
        error.located = True  # type: ignore[attr-defined]
    return error


def _again(error: Exception) -> Exception:
    """An exception like one that was raised; itself if it cannot be copied."""
    try:
        return copy.copy(error)
    except Exception:
        return error.with_traceback(None)


_in_bodies: WeakKeyDictionary[Graph, tuple[Requirement, ...]] = WeakKeyDictionary()


def remember(body: Graph, requirements: Sequence[Requirement]) -> None:
    """These requirements stand in the body of a loop or a branch, each with its node there."""
    _in_bodies[body] = tuple(requirements)


def watched(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    """The outputs of `graph`; or the error of the first requirement in a body that does not
    hold.
    """

    def see(graph: Graph, node: Node, value: Array) -> None:
        for requirement in _in_bodies.get(graph, ()):
            if requirement.node is node:
                found = requirement.limits.first_outside(value)
                if found is not None:
                    raise error_of(requirement, found)

    with watching(see):
        outputs: list[Array] = state.quietly(interpret, graph, [moved(x, cpu) for x in arrays])
    return outputs


def any_outside(flags: Sequence[Node]) -> Node:
    """bool[]: whether any of the flags is set. Appends to the current builder."""
    total = flags[0]
    for flag in flags[1:]:
        total = OPS["bitwise_or"](total, flag)
    return total


def require_none(
    fault: Tensor, requirements: Sequence[Requirement], again: Callable[[], Any]
) -> None:
    """`fault` was computed by a loop or a branch: it is true where one of `requirements`, which
    stand in its body, did not hold.

    Raises the error of the one that failed, now and on each replay. `again` runs the loop or the
    branch once more by `watched`, which tells which one it was.
    """
    recorder = state.recorder
    if (recorder is None or not recorder.in_body) and fault._values:
        again()
    first = requirements[0].limits
    message = first.message.format("of some element")
    require(fault, first._replace(low=0, high=0, message=message, spared=None))
