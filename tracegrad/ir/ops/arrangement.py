"""Composites that arrange elements: rolled, stacked, repeated, and parts of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.families import Shape, anything, broadcast, composite, iota, permuted
from tracegrad.ir.graph import Builder, Node
from tracegrad.ir.op import Array, Sample
from tracegrad.ir.ops.movement import concatenate, reshape, slice_, update_slice
from tracegrad.ir.ops.selection import where
from tracegrad.ir.types import int64


def narrowed(x: Node, axis: int, start: int, limit: int, stride: int = 1) -> Node:
    """`x` from `start` to below `limit` on one axis."""
    starts = tuple(start if i == axis else 0 for i in range(x.ndim))
    limits = tuple(limit if i == axis else size for i, size in enumerate(x.shape))
    strides = tuple(stride if i == axis else 1 for i in range(x.ndim))
    return slice_(x, starts=starts, limits=limits, strides=strides)


def _roll(x: Node, *, shifts: tuple[int, ...], axes: Shape) -> Node:
    for shift, axis in zip(shifts, axes, strict=True):
        size = x.shape[axis]
        split = -shift % size if size else 0
        if split:
            x = concatenate(narrowed(x, axis, split, size), narrowed(x, axis, 0, split), axis=axis)
    return x


# Elements moved by `shifts` along `axes`; what leaves at one end comes in at the other.
roll = composite(
    "roll",
    expand=_roll,
    evaluate=lambda x, shifts, axes: np.roll(x, shifts, axes),
    arity=1,
    samples=[
        Sample(((3, 4),), {"shifts": (1,), "axes": (0,)}),
        Sample(((3, 4),), {"shifts": (-1, 6), "axes": (0, 1)}),
        Sample(((0, 4),), {"shifts": (2,), "axes": (0,)}),
    ],
    sample_dtypes=anything,
)


def _stack(*xs: Node, axis: int) -> Node:
    shape = (*xs[0].shape[:axis], 1, *xs[0].shape[axis:])
    return concatenate(*(reshape(x, shape=shape) for x in xs), axis=axis)


def _stack_vjp(i: int, g: Node, y: Node, *xs: Node, axis: int) -> Node:
    # Said here, since the expansion as a whole would be differentiated once for each input.
    starts = tuple(i if k == axis else 0 for k in range(g.ndim))
    limits = tuple(i + 1 if k == axis else n for k, n in enumerate(g.shape))
    part = slice_(g, starts=starts, limits=limits, strides=(1,) * g.ndim)
    return reshape(part, shape=xs[i].shape)


stack = composite(
    "stack",
    expand=_stack,
    vjp=_stack_vjp,
    evaluate=lambda *xs, axis: np.stack(xs, axis),
    arity=None,
    samples=[
        Sample(((2, 3), (2, 3)), {"axis": 1}),
        Sample(((), (), ()), {"axis": 0}),
        Sample(((0, 2), (0, 2)), {"axis": 2}),
    ],
    sample_dtypes=anything,
)


def _tile(x: Node, *, repeats: Shape) -> Node:
    shape = (1,) * (len(repeats) - x.ndim) + x.shape
    paired = tuple(size for n in shape for size in (1, n))
    wide = tuple(size for pair in zip(repeats, shape, strict=True) for size in pair)
    whole = tuple(count * n for count, n in zip(repeats, shape, strict=True))
    return reshape(broadcast(reshape(x, shape=paired), wide), shape=whole)


# The whole of `x` repeated `repeats` times on each axis; there may be more repeats than axes.
tile = composite(
    "tile",
    expand=_tile,
    evaluate=lambda x, repeats: np.tile(x, repeats),
    arity=1,
    samples=[
        Sample(((2, 3),), {"repeats": (2, 1)}),
        Sample(((2,),), {"repeats": (3, 2)}),
        Sample(((2,),), {"repeats": (0,)}),
        Sample(((),), {"repeats": ()}),
    ],
    sample_dtypes=anything,
    grad_name="RepeatBackward0",
)


def _below(x: Node, diagonal: int) -> Node:
    """Where the elements of the last two axes lie on or below a diagonal."""
    rows, columns = iota(x.shape, x.ndim - 2), iota(x.shape, x.ndim - 1)
    return columns <= rows + Builder.current().constant(diagonal, int64)


_TRIANGLES = (
    Sample(((3, 4),), {"diagonal": 0}),
    Sample(((2, 3, 3),), {"diagonal": 1}),
    Sample(((4, 2),), {"diagonal": -2}),
    Sample(((0, 2),), {"diagonal": 0}),
)

tril = composite(
    "tril",
    expand=lambda x, diagonal: where(_below(x, diagonal), x, 0),
    evaluate=lambda x, diagonal: np.tril(x, diagonal),
    arity=1,
    samples=_TRIANGLES,
    sample_dtypes=anything,
)

triu = composite(
    "triu",
    expand=lambda x, diagonal: where(_below(x, diagonal - 1), 0, x),
    evaluate=lambda x, diagonal: np.triu(x, diagonal),
    arity=1,
    samples=_TRIANGLES,
    sample_dtypes=anything,
)


def _on_diagonal(rows: int, columns: int, offset: int) -> tuple[int, int, int]:
    """Start, limit and stride of a diagonal in the row-major elements of a matrix."""
    start = offset if offset >= 0 else -offset * columns
    count = min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns)
    if count <= 0:
        return 0, 0, columns + 1
    return start, start + (count - 1) * (columns + 1) + 1, columns + 1


def _flattened(x: Node, axis1: int, axis2: int) -> tuple[Node, Shape]:
    """`x` with the two axes last and flattened to one, and the order of axes that was used."""
    order = (*(i for i in range(x.ndim) if i not in (axis1, axis2)), axis1, axis2)
    moved = permuted(x, order)
    lead = moved.shape[:-2]
    return reshape(moved, shape=(*lead, moved.shape[-2] * moved.shape[-1])), order


def _diagonal(x: Node, *, offset: int, axis1: int, axis2: int) -> Node:
    flat, _ = _flattened(x, axis1, axis2)
    place = _on_diagonal(x.shape[axis1], x.shape[axis2], offset)
    return narrowed(flat, flat.ndim - 1, *place)


_DIAGONALS = (
    ((3, 4), {"offset": 0, "axis1": 0, "axis2": 1}),
    ((3, 4), {"offset": 2, "axis1": 1, "axis2": 0}),
    ((2, 3, 4), {"offset": -1, "axis1": 0, "axis2": 2}),
    ((3, 2), {"offset": 5, "axis1": 0, "axis2": 1}),
    ((0, 2), {"offset": 0, "axis1": 0, "axis2": 1}),
)

# The elements of a diagonal of the matrices in two axes, as a new last axis.
diagonal = composite(
    "diagonal",
    expand=_diagonal,
    evaluate=lambda x, offset, axis1, axis2: np.diagonal(x, offset, axis1, axis2),
    arity=1,
    samples=[Sample((shape,), params) for shape, params in _DIAGONALS],
    sample_dtypes=anything,
)


def _update_diagonal(base: Node, value: Node, *, offset: int, axis1: int, axis2: int) -> Node:
    flat, order = _flattened(base, axis1, axis2)
    start, limit, stride = _on_diagonal(base.shape[axis1], base.shape[axis2], offset)
    lead = (0,) * (flat.ndim - 1)
    written = update_slice(
        flat,
        value,
        starts=(*lead, start),
        limits=(*flat.shape[:-1], limit),
        strides=(1,) * len(lead) + (stride,),
    )
    moved = reshape(written, shape=tuple(base.shape[i] for i in order))
    return permuted(moved, tuple(int(i) for i in np.argsort(order)))


def _evaluate_update_diagonal(
    base: Array, value: Array, offset: int, axis1: int, axis2: int
) -> Any:
    result = base.copy()
    view = np.diagonal(result, offset, axis1, axis2)
    view.flags.writeable = True
    view[...] = value
    return result


# `base` with `value` in place of its diagonal.
update_diagonal = composite(
    "update_diagonal",
    expand=_update_diagonal,
    evaluate=_evaluate_update_diagonal,
    arity=2,
    samples=[
        Sample((shape, np.diagonal(np.empty(shape), *params.values()).shape), params)
        for shape, params in _DIAGONALS
    ],
    sample_dtypes=anything,
    grad_name="CopySlices",
)
