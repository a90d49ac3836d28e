"""Indices whose values are known only when compiled code runs: `x[i, j]`, `x[i, 1:]` and
`x[i : i + 3]` with integers that are tensors. Python is not asked for their values.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from typing import cast as cast_type

import numpy as np

from tracegrad.ir import types
from tracegrad.ir.graph import Node, scalar_value
from tracegrad.ir.op import INPUT, OPS
from tracegrad.tracer.bounds import Limits, require
from tracegrad.tracer.conversion import to_bool
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.promotion import cast
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder
    from tracegrad.tracer.recording import Value

Shape = tuple[int, ...]


@dataclass
class Moving:
    """One axis that is addressed by values of a running program.

    index   int64, counted from the front: of shape () for an integer, (length,) for a slice.
    length  of a slice; None for an integer, whose axis is dropped.
    """

    axis: int
    index: Tensor
    length: int | None = None


@dataclass
class Block:
    """The part of a tensor that moving indices address: a gather from it, or a scatter into it.

    order    the addressed axes, then the rest, which bring the tensor into the order of `indices`.
    indices  one for each addressed axis; they broadcast to `lead`.
    back     brings what is gathered into the order that its axes have in the tensor.
    """

    order: Shape
    indices: list[Tensor]
    lead: Shape
    back: Shape


def is_moving(part: Any) -> bool:
    """Whether a part of an index is an integer that only the running program knows."""
    return (
        state.recorder is not None
        and isinstance(part, Tensor)
        and part.ndim == 0
        and part._literal is None
        and part._array.dtype.kind in "iu"
    )


def block_of(ndim: int, moving: list[Moving]) -> Block:
    """How to reach the elements that `moving` addresses in a tensor of `ndim` axes."""
    axes = tuple(item.axis for item in moving)
    rest = tuple(axis for axis in range(ndim) if axis not in axes)
    lead = tuple(item.length for item in moving if item.length is not None)
    indices = []
    place = 0
    for item in moving:
        index = item.index
        if item.length is not None:
            place += 1
            shape = (item.length, *(1,) * (len(lead) - place))
            if len(shape) > 1:
                index = apply(OPS["reshape"], [index], {"shape": shape})
        indices.append(index)
    kept = (*(item.axis for item in moving if item.length is not None), *rest)
    back = tuple(kept.index(axis) for axis in sorted(kept))
    return Block((*axes, *rest), indices, lead, back)


def moving_slice(part: slice, size: int, axis: int) -> Moving | None:
    """A slice between bounds of which one is a constant more than the other.

    None for any other slice, and where the bounds are not within the tensor: NumPy cuts such a
    slice off, so its length is another.
    """
    start, stop = part.start, part.stop
    if not (is_moving(start) and is_moving(stop)):
        return None
    if isinstance(part.step, Tensor):
        return None
    step = 1 if part.step is None else part.step.__index__()
    distance = _distance(start, stop)
    if distance is None or step <= 0:
        return None
    length = max(-(-distance // step), 0)
    reach = (length - 1) * step + 1
    if not 0 < reach <= size:
        return None
    first = cast(start, types.int64)
    recorder = state.recorder
    assert recorder is not None
    if recorder.in_body:
        message = (
            f"a slice of {reach} elements from index {{}} is out of bounds for dimension {axis} "
            f"with size {size}, and keeps its length in a loop or branch"
        )
        require(first, Limits(0, size - reach, message))
    elif not _within(first, size - reach):
        return None
    return Moving(axis, positions(first, length, step), length)


def positions(first: Tensor, length: int, step: int = 1) -> Tensor:
    """int64[length]: `first`, `first + step` and so on."""
    params = {"shape": (length,), "axis": 0, "dtype": types.int64}
    offsets = apply(OPS["iota"], [], params)
    if step != 1:
        offsets = apply(OPS["mul"], [offsets, constant(np.int64(step))])
    return apply(OPS["add"], [first, offsets])


def _within(first: Tensor, last: int) -> bool:
    """Whether a slice begins between 0 and `last`: another answer is another trace."""
    low = apply(OPS["ge"], [first, constant(np.int64(0))])
    high = apply(OPS["le"], [first, constant(np.int64(last))])
    return to_bool(apply(OPS["bitwise_and"], [low, high]))


def _distance(start: Tensor, stop: Tensor) -> int | None:
    """`stop - start` if that is a constant."""
    recorder = cast_type("Recorder", state.recorder)
    low, before = _linear(recorder, recorder.value_of(start))
    high, after = _linear(recorder, recorder.value_of(stop))
    return after - before if low == high else None


def _linear(recorder: Recorder, value: Value) -> tuple[Hashable, int]:
    """A value, by its place in the trace, and a number whose sum is `value`."""
    total = 0
    segment, node = value.segment, value.node
    while node is not None:
        if node.op is INPUT:
            # Computed in an earlier segment, or an input of the trace or of a body.
            inputs = recorder.segments[segment].builder.inputs
            source = recorder.segments[segment].sources[inputs.index(node)]
            if source.node is node or source.node is None:
                return source.ref, total
            segment, node = source.segment, source.node
            continue
        term, number = _term(node)
        if term is None:
            break
        node, total = term, total + number
    return (segment, node) if node is not None else value.ref, total


def _term(node: Node) -> tuple[Node | None, int]:
    """The operand of a node that adds a number to it, and the number; None for other nodes."""
    if node.op.name == "cast":
        x = node.inputs[0]
        return (x if x.dtype is node.dtype else None), 0
    if node.op.name not in ("add", "sub"):
        return None, 0
    a, b = node.inputs
    sign = 1 if node.op.name == "add" else -1
    right = scalar_value(b)
    if right is not None:
        return a, sign * int(right)
    left = scalar_value(a)
    return (b, int(left)) if left is not None and sign > 0 else (None, 0)
