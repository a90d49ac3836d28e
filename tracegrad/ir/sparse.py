"""Arrays that are zero but in a few places, as the cotangents of parts of arrays are, and how to
add them to others without touching the rest.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Hashable, Sequence
from typing import Any

from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.loop_reduction import uniform_value
from tracegrad.ir.op import OPS
from tracegrad.ir.params import frozen_params
from tracegrad.ir.types import int64

# An update of a slice reads and writes it besides the sum: it must be so many times smaller.
_SMALL = 4


def is_zero(x: Node) -> bool:
    """Whether `x` is a constant that is zero everywhere."""
    value = uniform_value(x)
    return value is not None and not value.array.any()


def uses_of(graph: Graph) -> Tally[Node]:
    """How often each value of a graph is read."""
    uses = Tally(x for node in graph.nodes for x in node.inputs)
    uses.update(graph.outputs)
    return uses


def is_sparse(x: Node, uses: Tally[Node]) -> bool:
    """Whether `x` is zero but in a few places, and read once."""
    while x.op.name == "scatter_add" and uses[x] == 1:
        x = x.inputs[0]
        if is_zero(x):
            return True
    if uses[x] != 1:
        return False
    if x.op.name == "scatter":
        return is_zero(x.inputs[0]) and not any(index.shape for index in x.inputs[2:])
    if x.op.name == "transpose":
        (y,) = x.inputs
        return (
            y.op.name == "scatter_add"
            and uses[y] == 1
            and is_zero(y.inputs[0])
            and not any(index.shape for index in y.inputs[2:])
        )
    return (
        x.op.name == "pad"
        and x.params["value"] == 0
        and x.inputs[0].type.size * _SMALL <= x.type.size
    )


def added(total: Node, x: Node) -> Node:
    """`total` plus a sparse `x`, in place."""
    name = x.op.name
    if name == "pad":
        return _added_to_slice(total, x)
    if name == "transpose":
        _, value, *indices = x.inputs[0].inputs
        return OPS["scatter_add"](total, value, *_across(value, indices, x.params["axes"]))
    base, value, *indices = x.inputs
    if not is_zero(base):
        total = added(total, base)
    return OPS["scatter_add"](total, value, *indices)


def _across(value: Node, indices: Sequence[Node], axes: tuple[int, ...]) -> list[Node]:
    """One index for each axis of a transposed tensor, where `indices` are for the first axes of the
    tensor itself and `value` covers the others.
    """
    found = []
    for axis in axes:
        if axis < len(indices):
            found.append(indices[axis])
            continue
        axis -= len(indices)
        thin = tuple(n if i == axis else 1 for i, n in enumerate(value.shape))
        found.append(OPS["iota"](shape=thin, axis=axis, dtype=int64))
    return found


def _window(x: Node) -> dict[str, Any]:
    """Where the elements of its operand are in a `pad`, as parameters of `slice`."""
    (value,) = x.inputs
    low, interior = x.params["low"], x.params["interior"]
    strides = tuple(gap + 1 for gap in interior)
    limits = tuple(
        start + max((n - 1) * stride + 1, 0)
        for start, n, stride in zip(low, value.shape, strides, strict=True)
    )
    return {"starts": low, "limits": limits, "strides": strides}


def place_of(x: Node) -> Hashable:
    """The only place where `x` is not zero, if it is of that kind."""
    if x.op.name == "pad" and x.params["value"] == 0:
        return frozen_params(_window(x))
    if x.op.name == "scatter_add" and is_zero(x.inputs[0]):
        return x.inputs[2:]
    return None


def in_a_row(pads: Sequence[Node]) -> tuple[int, list[Node]] | None:
    """The axis along which zero-padded values lie side by side, and the pads in that order; None if
    they leave gaps or overlap.
    """
    shape = pads[0].shape
    along = {
        axis
        for x in pads
        for axis, (size, n) in enumerate(zip(shape, x.inputs[0].shape, strict=True))
        if size != n
    }
    if len(along) != 1 or any(any(x.params["interior"]) or x.params["value"] for x in pads):
        return None
    (axis,) = along
    ordered = sorted(pads, key=lambda x: x.params["low"][axis])
    at = 0
    for x in ordered:
        if x.params["low"][axis] != at:
            return None
        at += x.inputs[0].shape[axis]
    return (axis, ordered) if at == shape[axis] else None


def zeroed_place(x: Node) -> Hashable:
    """The place where `x` was set to zero, if that is what it is."""
    if x.op.name == "update_slice" and is_zero(x.inputs[1]):
        return x.frozen_params
    if x.op.name == "scatter" and is_zero(x.inputs[1]):
        indices = x.inputs[2:]
        return None if any(index.shape for index in indices) else indices
    return None


def _added_to_slice(total: Node, x: Node) -> Node:
    (value,) = x.inputs
    where = _window(x)
    return OPS["update_slice"](total, OPS["slice"](total, **where) + value, **where)
