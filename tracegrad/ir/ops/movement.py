"""Movement: the same elements in another order, shape or surrounding.

The first five are views: they cost nothing where NumPy's cost nothing. Params count axes from the
front and are tuples with one entry for each axis, unless said otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.errors import DtypeError, ShapeError
from tracegrad.ir.families import Shape, anything, broadcast_shapes, fill, general, unbroadcast
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Array, Op, Sample
from tracegrad.ir.types import TensorType


def _infer_reshape(x: TensorType, *, shape: Shape) -> TensorType:
    if math.prod(shape) != x.size:
        raise ShapeError(f"reshape: shape '{list(shape)}' is invalid for input of size {x.size}")
    return TensorType(x.dtype, shape)


reshape: Op = general(
    "reshape",
    family="movement",
    infer=_infer_reshape,
    evaluate=lambda x, shape: x.reshape(shape),
    vjp=lambda g, y, x, shape: reshape(g, shape=x.shape),
    samples=[
        Sample(((3, 4),), {"shape": (2, 6)}),
        Sample(((2, 3, 4),), {"shape": (6, 1, 4)}),
        Sample(((1,),), {"shape": ()}),
        Sample(((0, 2),), {"shape": (0,)}),
    ],
    sample_dtypes=anything,
    grad_name="ViewBackward0",
)


def _inverse(axes: Shape) -> Shape:
    return tuple(int(i) for i in np.argsort(axes))


transpose: Op = general(
    "transpose",
    family="movement",
    infer=lambda x, axes: TensorType(x.dtype, tuple(x.shape[i] for i in axes)),
    evaluate=lambda x, axes: np.transpose(x, axes),
    vjp=lambda g, y, x, axes: transpose(g, axes=_inverse(axes)),
    samples=[
        Sample(((3, 4),), {"axes": (1, 0)}),
        Sample(((2, 3, 4),), {"axes": (2, 0, 1)}),
        Sample(((),), {"axes": ()}),
    ],
    sample_dtypes=anything,
    grad_name="PermuteBackward0",
)


def _infer_broadcast(x: TensorType, *, shape: Shape) -> TensorType:
    if broadcast_shapes(x.shape, shape, op="broadcast_to") != shape:
        raise ShapeError(f"broadcast_to: shape {x.shape} does not broadcast to {shape}")
    return TensorType(x.dtype, shape)


broadcast_to = general(
    "broadcast_to",
    family="movement",
    infer=_infer_broadcast,
    evaluate=lambda x, shape: np.broadcast_to(x, shape),
    vjp=lambda g, y, x, shape: unbroadcast(g, x.shape),
    samples=[
        Sample(((3, 1),), {"shape": (2, 3, 4)}),
        Sample(((),), {"shape": (2,)}),
        Sample(((1,),), {"shape": (0,)}),
    ],
    sample_dtypes=anything,
    grad_name="ExpandBackward0",
)

_Slices = tuple[Shape, Shape, Shape]


def _infer_slice(x: TensorType, *, starts: Shape, limits: Shape, strides: Shape) -> TensorType:
    if not len(starts) == len(limits) == len(strides) == x.ndim:
        raise ShapeError(f"slice: {x.ndim} starts, limits and strides are needed")
    for size, start, limit, stride in zip(x.shape, starts, limits, strides, strict=True):
        if not (0 <= start <= limit <= size and stride > 0):
            raise ShapeError(f"slice: {start}:{limit}:{stride} is not within size {size}")
    shape = tuple(
        -(-(limit - start) // stride)
        for start, limit, stride in zip(starts, limits, strides, strict=True)
    )
    return TensorType(x.dtype, shape)


def window(starts: Shape, limits: Shape, strides: Shape) -> tuple[Any, ...]:
    """Python's slices for the params of `slice` and `update_slice`."""
    return tuple(map(slice, starts, limits, strides))


def _slice_vjp(g: Node, y: Node, x: Node, starts: Shape, limits: Shape, strides: Shape) -> Node:
    # An empty axis has no place of its own within x.
    low = tuple(start if n else 0 for start, n in zip(starts, y.shape, strict=True))
    reach = (max((n - 1) * stride + 1, 0) for n, stride in zip(y.shape, strides, strict=True))
    high = tuple(size - a - used for size, a, used in zip(x.shape, low, reach, strict=True))
    return pad(g, low=low, high=high, interior=tuple(s - 1 for s in strides), value=0)


# Elements `start`, `start + stride`, ... below `limit` on each axis. Strides are positive: `flip`
# turns an axis.
slice_ = general(
    "slice",
    family="movement",
    infer=_infer_slice,
    evaluate=lambda x, starts, limits, strides: x[(*window(starts, limits, strides), ...)],
    vjp=_slice_vjp,
    samples=[
        Sample(((3, 4),), {"starts": (1, 0), "limits": (3, 3), "strides": (1, 1)}),
        Sample(((5, 7),), {"starts": (0, 1), "limits": (5, 6), "strides": (2, 3)}),
        Sample(((3, 4),), {"starts": (2, 0), "limits": (2, 4), "strides": (2, 1)}),
        Sample(((),), {"starts": (), "limits": (), "strides": ()}),
    ],
    sample_dtypes=anything,
)

flip: Op = general(
    "flip",
    family="movement",
    infer=lambda x, axes: x,
    evaluate=lambda x, axes: np.flip(x, axes),
    vjp=lambda g, y, x, axes: flip(g, axes=axes),
    samples=[
        Sample(((3, 4),), {"axes": (1,)}),
        Sample(((2, 3, 4),), {"axes": (0, 2)}),
        Sample(((0, 2),), {"axes": (0, 1)}),
    ],
    sample_dtypes=anything,
)


def _infer_pad(
    x: TensorType, *, low: Shape, high: Shape, interior: Shape, value: float
) -> TensorType:
    if not len(low) == len(high) == len(interior) == x.ndim:
        raise ShapeError(f"pad: {x.ndim} widths are needed on each side")
    if any(n < 0 for n in (*low, *high, *interior)):
        raise ShapeError("pad: widths must not be negative")
    shape = tuple(
        before + n + max(n - 1, 0) * gap + after
        for before, n, gap, after in zip(low, x.shape, interior, high, strict=True)
    )
    return TensorType(x.dtype, shape)


def _inside(shape: Shape, low: Shape, interior: Shape) -> _Slices:
    """Where the elements of a tensor of `shape` lie after padding, as params of `slice`."""
    strides = tuple(gap + 1 for gap in interior)
    limits = tuple(
        start + max((n - 1) * stride + 1, 0)
        for start, n, stride in zip(low, shape, strides, strict=True)
    )
    return low, limits, strides


def _evaluate_pad(x: Array, low: Shape, high: Shape, interior: Shape, value: float) -> Any:
    shape = tuple(
        before + n + max(n - 1, 0) * gap + after
        for before, n, gap, after in zip(low, x.shape, interior, high, strict=True)
    )
    result = np.full(shape, value, x.dtype)
    result[(*window(*_inside(x.shape, low, interior)), ...)] = x
    return result


def _pad_vjp(
    g: Node, y: Node, x: Node, low: Shape, high: Shape, interior: Shape, value: float
) -> Node:
    starts, limits, strides = _inside(x.shape, low, interior)
    return slice_(g, starts=starts, limits=limits, strides=strides)


# `low` and `high` elements of `value` around each axis, and `interior` between any two.
pad = general(
    "pad",
    family="movement",
    infer=_infer_pad,
    evaluate=_evaluate_pad,
    vjp=_pad_vjp,
    samples=[
        Sample(((2, 3),), {"low": (1, 0), "high": (0, 2), "interior": (0, 0), "value": 0}),
        Sample(((3, 2),), {"low": (0, 1), "high": (1, 0), "interior": (2, 1), "value": 1}),
        Sample(((0, 2),), {"low": (1, 0), "high": (2, 0), "interior": (1, 0), "value": 0}),
        Sample(((),), {"low": (), "high": (), "interior": (), "value": 0}),
    ],
    sample_dtypes=anything,
    grad_name="ConstantPadNdBackward0",
)


def _infer_concatenate(*xs: TensorType, axis: int) -> TensorType:
    if not xs:
        raise ShapeError("concatenate: expected a non-empty list of tensors")
    first = xs[0]
    for x in xs[1:]:
        if x.dtype is not first.dtype:
            raise DtypeError(f"concatenate: dtypes {first.dtype.name} and {x.dtype.name} differ")
        same = x.ndim == first.ndim and all(
            a == b for i, (a, b) in enumerate(zip(x.shape, first.shape, strict=True)) if i != axis
        )
        if not same:
            raise ShapeError(
                f"concatenate: sizes must match except in dimension {axis}: "
                f"{first.shape} and {x.shape} differ"
            )
    size = sum(x.shape[axis] for x in xs)
    return TensorType(first.dtype, (*first.shape[:axis], size, *first.shape[axis + 1 :]))


def _concatenate_vjp(i: int, g: Node, y: Node, *xs: Node, axis: int) -> Node:
    start = sum(x.shape[axis] for x in xs[:i])
    starts = tuple(start if k == axis else 0 for k in range(g.ndim))
    limits = tuple(a + n for a, n in zip(starts, xs[i].shape, strict=True))
    return slice_(g, starts=starts, limits=limits, strides=(1,) * g.ndim)


concatenate = general(
    "concatenate",
    family="movement",
    infer=_infer_concatenate,
    evaluate=lambda *xs, axis: np.concatenate(xs, axis),
    vjp=_concatenate_vjp,
    arity=None,
    samples=[
        Sample(((2, 3), (4, 3)), {"axis": 0}),
        Sample(((2, 3), (2, 1), (2, 2)), {"axis": 1}),
        Sample(((2, 0), (2, 1)), {"axis": 1}),
        Sample(((3,),), {"axis": 0}),
    ],
    sample_dtypes=anything,
    grad_name="CatBackward0",
)


def _infer_update(
    base: TensorType, value: TensorType, *, starts: Shape, limits: Shape, strides: Shape
) -> TensorType:
    inside = _infer_slice(base, starts=starts, limits=limits, strides=strides)
    if value != inside:
        raise ShapeError(f"update_slice: {value} does not fill {inside}")
    return base


def _evaluate_update(
    base: Array, value: Array, starts: Shape, limits: Shape, strides: Shape
) -> Any:
    result = base.copy()
    result[(*window(starts, limits, strides), ...)] = value
    return result


# `base` with `value` in place of slice(base, starts, limits, strides).
update_slice: Op = general(
    "update_slice",
    family="movement",
    infer=_infer_update,
    evaluate=_evaluate_update,
    vjp=(
        lambda g, y, base, value, **where: update_slice(g, fill(0, value.type), **where),
        lambda g, y, base, value, **where: slice_(g, **where),
    ),
    arity=2,
    samples=[
        Sample(((3, 4), (2, 3)), {"starts": (1, 0), "limits": (3, 3), "strides": (1, 1)}),
        Sample(((5, 7), (3, 2)), {"starts": (0, 1), "limits": (5, 6), "strides": (2, 3)}),
        Sample(((3, 4), (0, 4)), {"starts": (1, 0), "limits": (1, 4), "strides": (1, 1)}),
        Sample(((), ()), {"starts": (), "limits": (), "strides": ()}),
    ],
    sample_dtypes=anything,
    grad_name="CopySlices",
)
