"""Contraction: sums of products over shared axes."""

from __future__ import annotations

import numpy as np

from tracegrad.errors import DtypeError, ShapeError
from tracegrad.ir.families import broadcast_shapes, general, in_single, numeric, unbroadcast
from tracegrad.ir.graph import Node
from tracegrad.ir.op import OPS, Op, Sample
from tracegrad.ir.types import TensorType


def _infer_matmul(a: TensorType, b: TensorType) -> TensorType:
    if a.dtype is not b.dtype:
        raise DtypeError(f"matmul: dtypes {a.dtype.name} and {b.dtype.name} differ")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"matmul: {a.shape} @ {b.shape}: inner sizes {a.shape[-1]} and {b.shape[-2]} differ"
        )
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2], op="matmul")
    return TensorType(a.dtype, (*batch, a.shape[-2], b.shape[-1]))


def swap(x: Node) -> Node:
    """`x` with its last two axes exchanged."""
    return OPS["transpose"](x, axes=swapped(x.ndim))


def swapped(rank: int) -> tuple[int, ...]:
    """All axes, the last two exchanged."""
    return (*range(rank - 2), rank - 1, rank - 2)


matmul: Op = general(
    "matmul",
    family="contraction",
    infer=_infer_matmul,
    evaluate=in_single(np.matmul),
    vjp=(
        lambda g, y, a, b: unbroadcast(matmul(g, swap(b)), a.shape),
        lambda g, y, a, b: unbroadcast(matmul(swap(a), g), b.shape),
    ),
    arity=2,
    samples=[
        Sample(((3, 4), (4, 5)), {}),
        Sample(((2, 3, 4), (4, 5)), {}),
        Sample(((2, 1, 3, 4), (3, 4, 2)), {}),
        Sample(((3, 0), (0, 2)), {}),
    ],
    sample_dtypes=numeric,
    grad_name="MmBackward0",
)
