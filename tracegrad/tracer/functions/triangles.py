"""Triangles and diagonals of matrices."""

from __future__ import annotations

from tracegrad.errors import DimError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import DType, int64
from tracegrad.tracer.conversion import clone
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.functions.contraction import permuted
from tracegrad.tracer.functions.gathering import true_places
from tracegrad.tracer.functions.operands import as_tensor
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.movement import axis_of
from tracegrad.tracer.promotion import promote
from tracegrad.tracer.tensor import Tensor


def _triangle(name: str, x: Tensor, diagonal: int) -> Tensor:
    if as_tensor(x, name).ndim < 2:
        raise ShapeError(f"{name}: input tensor must have at least 2 dimensions")
    return apply(OPS[name], [x], {"diagonal": int(diagonal)})


@register(out=True)
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The part of matrices on and below a diagonal, zeros elsewhere."""
    return _triangle("tril", input, diagonal)


@register(out=True)
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The part of matrices on and above a diagonal, zeros elsewhere."""
    return _triangle("triu", input, diagonal)


@register(linalg=True)
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A view of a diagonal of the matrices in two axes, as a new last axis."""
    axis1, axis2 = axis_of(dim1, input.ndim), axis_of(dim2, input.ndim)
    if axis1 == axis2 or input.ndim < 2:
        raise DimError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    params = {"offset": int(offset), "axis1": axis1, "axis2": axis2}
    return apply(OPS["diagonal"], [input], params)


@register()
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices with the last axis of `input` on a diagonal."""
    ndim = input.ndim + 1
    axis1, axis2 = axis_of(dim1, ndim), axis_of(dim2, ndim)
    if axis1 == axis2:
        raise DimError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    *lead, size = input._array.shape
    side = size + abs(offset)
    zeros = apply(
        OPS["broadcast_to"],
        [constant(0, input._array.dtype)],
        {"shape": (*lead, side, side)},
    )
    params = {"offset": int(offset), "axis1": ndim - 2, "axis2": ndim - 1}
    made = apply(OPS["update_diagonal"], [zeros, input], params, grad_name="DiagEmbedBackward0")
    order = list(range(ndim - 2))
    for axis, source in sorted(((axis1, ndim - 2), (axis2, ndim - 1))):
        order.insert(axis, source)
    return permuted(made, tuple(order))


@register(out=True)
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix with a vector on a diagonal, or a copy of a diagonal of a matrix."""
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim != 2:
        raise ShapeError(f"diag(): Supports 1D or 2D tensors. Got {input.ndim}D")
    params = {"offset": int(diagonal), "axis1": 0, "axis2": 1}
    return clone(apply(OPS["diagonal"], [input], params))


def _triangle_indices(name: str, row: int, col: int, offset: int, dtype: DType | None) -> Tensor:
    ones = apply(OPS["broadcast_to"], [constant(True)], {"shape": (row, col)})
    table = true_places(apply(OPS[name], [ones], {"diagonal": int(offset)}))
    made = permuted(table, (1, 0))
    return made if dtype is None or dtype is int64 else apply(OPS["cast"], [made], {"dtype": dtype})


@register(method=False)
def tril_indices(row: int, col: int, offset: int = 0, *, dtype: DType | None = None) -> Tensor:
    """The indices of the lower triangle of a row x col matrix, as two rows."""
    return _triangle_indices("tril", row, col, offset, dtype)


@register(method=False)
def triu_indices(row: int, col: int, offset: int = 0, *, dtype: DType | None = None) -> Tensor:
    """The indices of the upper triangle of a row x col matrix, as two rows."""
    return _triangle_indices("triu", row, col, offset, dtype)


@register(method=False)
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The matrix of powers of the elements of a vector, highest first unless `increasing`."""
    from tracegrad.tracer.functions.contraction import reshaped
    from tracegrad.tracer.functions.joining import flip
    from tracegrad.tracer.functions.reductions import index_grid

    count = x._array.size if N is None else N
    powers = index_grid((1, count), 1)
    table = apply(OPS["pow"], promote(reshaped(x, (x._array.size, 1)), powers))
    return table if increasing else flip(table, 1)
