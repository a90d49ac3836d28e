"""Movement: the same elements in another order or shape."""

from __future__ import annotations

import math

import numpy as np

from tracegrad.errors import ShapeError
from tracegrad.ir.families import Shape, anything, broadcast_shapes, general, unbroadcast
from tracegrad.ir.op import Sample
from tracegrad.ir.types import TensorType


def _infer_reshape(x: TensorType, *, shape: Shape) -> TensorType:
    if math.prod(shape) != x.size:
        raise ShapeError(f"reshape: shape '{list(shape)}' is invalid for input of size {x.size}")
    return TensorType(x.dtype, shape)


reshape = general(
    "reshape",
    family="movement",
    infer=_infer_reshape,
    evaluate=lambda x, shape: x.reshape(shape),
    vjp=lambda g, y, x, shape: reshape(g, shape=x.shape),
    samples=[
        Sample(((3, 4),), {"shape": (2, 6)}),
        Sample(((1,),), {"shape": ()}),
        Sample(((0, 2),), {"shape": (0,)}),
    ],
    sample_dtypes=anything,
    grad_name="ViewBackward0",
)


def _inverse(axes: Shape) -> Shape:
    return tuple(int(i) for i in np.argsort(axes))


transpose = general(
    "transpose",
    family="movement",
    infer=lambda x, axes: TensorType(x.dtype, tuple(x.shape[i] for i in axes)),
    evaluate=lambda x, axes: np.transpose(x, axes),
    vjp=lambda g, y, x, axes: transpose(g, axes=_inverse(axes)),
    samples=[Sample(((3, 4),), {"axes": (1, 0)}), Sample(((2, 3, 4),), {"axes": (2, 0, 1)})],
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
    samples=[Sample(((3, 1),), {"shape": (2, 3, 4)}), Sample(((),), {"shape": (2,)})],
    sample_dtypes=anything,
    grad_name="ExpandBackward0",
)
