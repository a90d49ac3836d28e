"""Values that must lie within limits: indices, classes. Checked in eager code and in compiled code.

Eager code looks at once. Compiled code computes one flag more, whether any element lies outside,
and looks at it before anything is written back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tracegrad.errors import BoundsError, TracegradError
from tracegrad.ir.graph import Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import OPS
from tracegrad.tracer.location import Place
from tracegrad.tracer.state import state

if TYPE_CHECKING:
    from tracegrad.tracer.recording import Segment
    from tracegrad.tracer.tensor import Tensor

Array = np.ndarray[Any, Any]


class Limits(NamedTuple):
    """Each element has to be at least `low` and at most `high`, or equal to `spared`.

    `message` says what is wrong otherwise; its `{}` stands for the first element that is.
    """

    low: float
    high: float
    message: str
    spared: int | None = None
    error: type[TracegradError] = BoundsError

    def first_outside(self, array: Array) -> str | None:
        """The first element out of the limits, as text; None if there is none."""
        if not array.size or (array.min() >= self.low and array.max() <= self.high):
            return None
        bad = ~((array >= self.low) & (array <= self.high))
        if self.spared is not None:
            bad &= array != self.spared
        return str(array[bad].flat[0]) if bad.any() else None

    def outside(self, x: Node) -> Node:
        """bool[]: whether any element is out of the limits. Appends to the current builder."""
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
    found = limits.first_outside(x._array)
    if found is not None:
        raise limits.error(limits.message.format(found))
    if state.recorder is not None and x._array.size:
        state.recorder.require(x, limits)


def refuse(segment: Segment, requirement: Requirement, arguments: Sequence[Any]) -> None:
    """Raise the error of a requirement that does not hold for the segment's `arguments`."""
    # Which element it is was not computed: the interpreter finds it.
    graph = segment.builder.finish([requirement.node])
    arrays = [
        np.asarray(value, node.dtype.numpy)
        for value, node in zip(arguments, graph.inputs, strict=True)
    ]
    limits = requirement.limits
    found = limits.first_outside(state.quietly(interpret, graph, arrays)[0])
    # Where compiled code rounds differently, the interpreter may find none.
    error = limits.error(limits.message.format("of some element" if found is None else found))
    if requirement.place is not None:
        error.args = (f"{error}, at {requirement.place}",)
        error.located = True  # type: ignore[attr-defined]
    raise error
