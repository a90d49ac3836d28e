"""`tracegrad.linalg`: norms and products of matrices."""

from __future__ import annotations

import math

from tracegrad.errors import ArgumentError, DimError
from tracegrad.ir.types import DType
from tracegrad.tracer.functions.contraction import matmul
from tracegrad.tracer.functions.operands import in_dtype
from tracegrad.tracer.functions.reductions import Dims, amax, amin, sum_
from tracegrad.tracer.functions.statistics import vector_norm_of
from tracegrad.tracer.functions.table import Decorator, register
from tracegrad.tracer.movement import axes_of
from tracegrad.tracer.tensor import Tensor


def _linalg(*names: str) -> Decorator:
    return register(*names, function=False, method=False, linalg=True)


@_linalg()
def vector_norm(
    x: Tensor,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """The p-norm, p = `ord`, of all elements or of the vectors along `dim`."""
    return vector_norm_of(in_dtype(x, dtype), float(ord), dim, keepdim, "linalg.vector_norm")


@_linalg()
def matrix_norm(
    A: Tensor,
    ord: float | str = "fro",
    dim: tuple[int, int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """The norm of matrices: "fro", or the largest or smallest sum of sizes of rows (inf, -inf) or
    columns (1, -1).
    """
    x = in_dtype(A, dtype)
    rows, columns = axes_of(dim, x.ndim)
    if ord == "fro":
        return vector_norm_of(x, 2.0, (rows, columns), keepdim, "linalg.matrix_norm")
    if ord not in (1, -1, math.inf, -math.inf):
        raise ArgumentError(f"linalg.matrix_norm: order {ord!r} is not available")
    summed, kept = (rows, columns) if abs(float(ord)) == 1 else (columns, rows)
    sizes = vector_norm_of(x, 1.0, summed, True, "linalg.matrix_norm")
    extreme = amax if float(ord) > 0 else amin
    found = extreme(sizes, kept, True)
    if keepdim:
        return found
    return sum_(found, (rows, columns))


@_linalg()
def norm(
    A: Tensor,
    ord: float | str | None = None,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """The 2-norm of all elements, or with `ord` that of a vector or a matrix."""
    x = in_dtype(A, dtype)
    if ord is None:
        return vector_norm_of(x, 2.0, dim, keepdim, "linalg.norm")
    if dim is None and x.ndim == 2:
        return matrix_norm(x, ord, (-2, -1), keepdim)
    if isinstance(dim, (tuple, list)) and len(dim) == 2:
        return matrix_norm(x, ord, (dim[0], dim[1]), keepdim)
    if dim is None and x.ndim != 1:
        raise DimError(
            "linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. "
            f"Got {x.ndim}D."
        )
    return vector_norm(x, float(ord), dim, keepdim)


@_linalg()
def multi_dot(tensors: list[Tensor]) -> Tensor:
    """The product of several matrices, from left to right."""
    product = tensors[0]
    for other in tensors[1:]:
        product = matmul(product, other)
    return product
