"""Ops along one axis that keep its length: cumulative sums and products, sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.families import anything, general, in_single, iota, numeric, permuted
from tracegrad.ir.graph import Node
from tracegrad.ir.op import NONDIFFERENTIABLE, OPS, Array, Op, Sample
from tracegrad.ir.ops.reductions import products_before, shifted
from tracegrad.ir.types import TensorType, int64

_SAMPLES = (
    Sample(((3, 4),), {"axis": 1}),
    Sample(((3, 4),), {"axis": 0}),
    Sample(((2, 3, 4),), {"axis": 1}),
    Sample(((1,),), {"axis": 0}),
    Sample(((0, 3),), {"axis": 0}),
)


def _reversed(x: Node, axis: int) -> Node:
    return OPS["flip"](x, axes=(axis,))


cumsum: Op = general(
    "cumsum",
    family="scan",
    infer=lambda x, axis: x,
    evaluate=in_single(lambda x, axis: np.cumsum(x, axis, dtype=x.dtype)),
    vjp=lambda g, y, x, axis: _reversed(cumsum(_reversed(g, axis), axis=axis), axis),
    scalar={"identity": "0", "combine": "{a} + {x}"},
    samples=_SAMPLES,
    sample_dtypes=numeric,
)


def _last(x: Node, axis: int) -> Node:
    """`x` with `axis` and the last axis exchanged."""
    order = list(range(x.ndim))
    order[axis], order[-1] = order[-1], order[axis]
    return permuted(x, tuple(order))


def _cumprod_vjp(g: Node, y: Node, x: Node, axis: int) -> Node:
    # The cotangent of x[i] is (product of x before i) * s[i], s[i] = g[i] + x[i + 1] * s[i + 1].
    # The recurrence runs by doubling: no division, so zeros need no special case at any order.
    moved = _last(x, axis)
    s = _last(g, axis)
    factor = shifted(moved, -1, 0)
    distance = 1
    while distance < moved.shape[-1]:
        s = s + factor * shifted(s, -distance, 0)
        factor = factor * shifted(factor, -distance, 0)
        distance *= 2
    return _last(products_before(moved, 1) * s, axis)


cumprod = general(
    "cumprod",
    family="scan",
    infer=lambda x, axis: x,
    evaluate=in_single(lambda x, axis: np.cumprod(x, axis, dtype=x.dtype)),
    vjp=_cumprod_vjp,
    scalar={"identity": "1", "combine": "{a} * {x}"},
    samples=_SAMPLES,
    sample_dtypes=numeric,
)


def _order(x: Array, axis: int, descending: bool) -> Any:
    if not descending:
        return np.argsort(x, axis, kind="stable")
    # Flipped before and after: equal elements keep their order, and NaN comes first.
    backwards = np.argsort(np.flip(x, axis), axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(backwards, axis)


def _evaluate_sort(x: Array, axis: int, descending: bool = False, stable: bool = True) -> Any:
    ascending = np.sort(x, axis)
    return np.flip(ascending, axis).copy() if descending else ascending


def _sort_vjp(
    g: Node, y: Node, x: Node, axis: int, descending: bool = False, stable: bool = True
) -> Node:
    order = argsort(x, axis=axis, descending=descending, stable=True)
    # The inverse permutation sends each cotangent back to where its value came from.
    inverse = argsort(order, axis=axis, descending=False, stable=True)
    return take_along(g, inverse, axis)


def take_along(x: Node, index: Node, axis: int) -> Node:
    """`x` at `index` along `axis` and at the same place along the others (`take_along_axis`)."""
    places = [index if i == axis else iota(index.shape, i) for i in range(x.ndim)]
    return OPS["gather"](x, *places)


_SORT_SAMPLES = tuple(
    Sample(((3, 4) if axis < 2 else (2, 3, 4),), {"axis": axis, "descending": d, "stable": True})
    for axis in (0, 1, 2)
    for d in (False, True)
)

# NaN counts as larger than every number. Equal elements keep their order with and without `stable`.
sort = general(
    "sort",
    family="sort",
    infer=lambda x, axis, descending=False, stable=True: x,
    evaluate=_evaluate_sort,
    vjp=_sort_vjp,
    samples=_SORT_SAMPLES,
    sample_dtypes=anything,
)

argsort = general(
    "argsort",
    family="sort",
    infer=lambda x, axis, descending=False, stable=True: TensorType(int64, x.shape),
    evaluate=lambda x, axis, descending=False, stable=True: _order(x, axis, descending),
    vjp=NONDIFFERENTIABLE,
    samples=_SORT_SAMPLES,
    sample_dtypes=anything,
)
