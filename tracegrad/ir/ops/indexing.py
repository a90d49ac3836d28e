"""Indexing by arrays, and the index arrays themselves.

`gather`, `scatter` and `scatter_add` take k int64 index arrays that broadcast together and address
the first k axes: entry j of the result's leading shape is x[i0[j], ..., ik[j]]. An index outside of
[0, size) is clamped to it, so that compiled code never leaves the buffer; negative indices and the
error for bad ones are the front end's. Where `scatter` gets an index twice, the last value in
row-major order stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.errors import BoundsError, DtypeError, ShapeError
from tracegrad.ir.families import Shape, anything, broadcast_shapes, fill, general, numeric
from tracegrad.ir.graph import Node
from tracegrad.ir.op import NONDIFFERENTIABLE, Array, Sample
from tracegrad.ir.types import DType, TensorType, bool_, float32, int64


def _leading_shape(op: str, x: TensorType, indices: tuple[TensorType, ...]) -> Shape:
    """The shape of the index arrays together; errors for indices that cannot address `x`."""
    if not 1 <= len(indices) <= x.ndim:
        raise ShapeError(f"{op}: {len(indices)} indices for a tensor of {x.ndim} dimensions")
    for index in indices:
        if index.dtype is not int64:
            raise DtypeError(f"{op}: indices must be int64, not {index.dtype.name}")
    lead = broadcast_shapes(*(index.shape for index in indices), op=op)
    if 0 in x.shape[: len(indices)] and 0 not in lead:
        raise BoundsError(f"{op}: index out of range: the indexed tensor has shape {x.shape}")
    return lead


def _clamped(x: Array, indices: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(
        np.clip(index, 0, max(size - 1, 0)) for index, size in zip(indices, x.shape, strict=False)
    )


def _infer_gather(x: TensorType, *indices: TensorType) -> TensorType:
    return TensorType(x.dtype, (*_leading_shape("gather", x, indices), *x.shape[len(indices) :]))


def _gather_vjp(i: int, g: Node, y: Node, x: Node, *indices: Node) -> Node | None:
    return scatter_add(fill(0, x.type), g, *indices) if i == 0 else None


def _indexed(*shapes: Shape, sizes: Shape, leads: tuple[Shape, ...], repeat: bool = True) -> Sample:
    """A sample of data of `shapes` and one index array of each of `leads` into axes of `sizes`."""

    def make(rng: np.random.Generator, dtype: DType) -> list[Array]:
        arrays: list[Array] = []
        for shape in shapes:
            values = rng.uniform(-2, 2, shape)
            arrays.append(
                np.asarray(values > 0 if dtype.kind == "b" else values).astype(dtype.numpy)
            )
        for lead, size in zip(leads, sizes, strict=True):
            if repeat:
                index = rng.integers(0, size, lead)
            else:
                index = rng.permutation(size)[: int(np.prod(lead))].reshape(lead)
            arrays.append(np.asarray(index, np.int64))
        return arrays

    return Sample((*shapes, *leads), {}, None, make)


gather = general(
    "gather",
    family="indexing",
    infer=_infer_gather,
    evaluate=lambda x, *indices: x[_clamped(x, indices)],
    vjp=_gather_vjp,
    arity=None,
    samples=[
        _indexed((5, 3), sizes=(5,), leads=((4,),)),
        _indexed((5, 3), sizes=(5, 3), leads=((2, 1), (4,))),
        _indexed((5, 3, 2), sizes=(5, 3), leads=((3,), (3,))),
        _indexed((5,), sizes=(5,), leads=((),)),
        _indexed((5, 3), sizes=(5,), leads=((0,),)),
    ],
    sample_dtypes=anything,
    grad_name="IndexBackward0",
)


def _infer_scatter(base: TensorType, value: TensorType, *indices: TensorType) -> TensorType:
    place = TensorType(
        base.dtype, (*_leading_shape("scatter", base, indices), *base.shape[len(indices) :])
    )
    if value != place:
        raise ShapeError(f"scatter: a value of type {value} for a place of type {place}")
    return base


def _evaluate_scatter(base: Array, value: Array, *indices: Array) -> Any:
    result = base.copy()
    result[_clamped(base, indices)] = value
    return result


def _scatter_vjp(i: int, g: Node, y: Node, base: Node, value: Node, *indices: Node) -> Node | None:
    if i == 0:
        return scatter(g, fill(0, value.type), *indices)
    return gather(g, *indices) if i == 1 else None


_SCATTERS = (
    _indexed((5, 3), (4, 3), sizes=(5,), leads=((4,),), repeat=False),
    _indexed((5, 3), (2,), sizes=(5, 3), leads=((2,), (1,)), repeat=False),
    _indexed((5,), (), sizes=(5,), leads=((),)),
    _indexed((5, 3), (0, 3), sizes=(5,), leads=((0,),)),
)

# `base` with `value` at the indices.
scatter = general(
    "scatter",
    family="indexing",
    infer=_infer_scatter,
    evaluate=_evaluate_scatter,
    vjp=_scatter_vjp,
    arity=None,
    samples=_SCATTERS,
    sample_dtypes=anything,
    grad_name="IndexPutBackward0",
)


def _evaluate_scatter_add(base: Array, value: Array, *indices: Array) -> Any:
    result = base.copy()
    np.add.at(result, _clamped(base, indices), value)
    return result


def _scatter_add_vjp(
    i: int, g: Node, y: Node, base: Node, value: Node, *indices: Node
) -> Node | None:
    if i == 0:
        return g
    return gather(g, *indices) if i == 1 else None


# `base` plus every one of `value` at its indices.
scatter_add = general(
    "scatter_add",
    family="indexing",
    infer=_infer_scatter,
    evaluate=_evaluate_scatter_add,
    vjp=_scatter_add_vjp,
    arity=None,
    samples=[*_SCATTERS, _indexed((3, 2), (7, 2), sizes=(3,), leads=((7,),))],
    sample_dtypes=numeric,
    grad_name="IndexPutBackward0",
)


def _evaluate_nonzero(mask: Array, count: int) -> Any:
    found = np.argwhere(mask)[:count]
    result = np.zeros((count, mask.ndim), np.int64)
    result[: len(found)] = found
    return result


def _mask_of(true: int) -> Callable[[np.random.Generator, DType], list[Array]]:
    def make(rng: np.random.Generator, dtype: DType) -> list[Array]:
        flat = np.zeros(12, bool)
        flat[rng.permutation(12)[:true]] = True
        return [flat.reshape(3, 4)]

    return make


# The indices of the first `count` true elements in row-major order, i64[count, ndim]; zeros past
# the last.
nonzero = general(
    "nonzero",
    family="indexing",
    infer=lambda mask, count: TensorType(int64, (count, mask.ndim)),
    evaluate=_evaluate_nonzero,
    vjp=NONDIFFERENTIABLE,
    samples=[
        Sample(((3, 4),), {"count": 5}, None, _mask_of(5)),
        Sample(((3, 4),), {"count": 0}, None, _mask_of(0)),
        Sample(((3, 4),), {"count": 4}, None, _mask_of(2)),
    ],
    sample_dtypes=(bool_,),
)


def _evaluate_iota(*, shape: Shape, axis: int, dtype: DType) -> Any:
    thin = [1] * len(shape)
    thin[axis] = shape[axis]
    return np.broadcast_to(np.arange(shape[axis], dtype=dtype.numpy).reshape(thin), shape)


# The index along `axis` at every element of `shape`.
iota = general(
    "iota",
    family="indexing",
    infer=lambda *, shape, axis, dtype: TensorType(dtype, shape),
    evaluate=_evaluate_iota,
    vjp=NONDIFFERENTIABLE,
    arity=0,
    samples=[
        Sample((), {"shape": (5,), "axis": 0, "dtype": int64}),
        Sample((), {"shape": (2, 3), "axis": 1, "dtype": float32}),
        Sample((), {"shape": (0, 3), "axis": 1, "dtype": int64}),
    ],
    sample_dtypes=(int64,),
)
