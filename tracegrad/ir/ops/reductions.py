"""Reductions over any axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.errors import ShapeError
from tracegrad.ir.families import (
    Shape,
    anything,
    broadcast,
    general,
    numeric,
    permuted,
    reduced_shape,
    reduction,
)
from tracegrad.ir.graph import Node
from tracegrad.ir.op import NONDIFFERENTIABLE, OPS, Array, Op, Sample
from tracegrad.ir.ops.arithmetic import cast, eq
from tracegrad.ir.ops.selection import where
from tracegrad.ir.types import TensorType, bool_, int64

sum_ = reduction(
    "sum",
    types=numeric,
    evaluate=np.sum,
    vjp=lambda g, y, x, axes: broadcast(g, x.shape),
    scalar={"identity": "0", "combine": "{a} + {x}"},
)


def shifted(x: Node, distance: int, fill: float) -> Node:
    """`x` moved along its last axis, to higher indices for a positive `distance`; `fill` behind."""
    size = x.shape[-1]
    keep = max(size - abs(distance), 0)
    start = max(-distance, 0) if keep else 0
    lead = (0,) * (x.ndim - 1)
    part = OPS["slice"](
        x, starts=(*lead, start), limits=(*x.shape[:-1], start + keep), strides=(1,) * x.ndim
    )
    gap = size - keep
    low, high = (gap, 0) if distance > 0 else (0, gap)
    return OPS["pad"](
        part, low=(*lead, low), high=(*lead, high), interior=(0,) * x.ndim, value=fill
    )


def products_before(x: Node, direction: int) -> Node:
    """For each element the product of all before it on the last axis, or after for `direction` -1.

    By doubling, in log2(n) multiplications of whole arrays: no division, so that zeros need no
    special case in the gradient of a product, nor in the gradient of that gradient.
    """
    result = shifted(x, direction, 1)
    distance = 1
    while distance < x.shape[-1]:
        result = result * shifted(result, direction * distance, 1)
        distance *= 2
    return result


def _prod_vjp(g: Node, y: Node, x: Node, axes: Shape) -> Node:
    if not axes:
        return broadcast(g, x.shape)
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    order = (*kept, *axes)
    moved = permuted(x, order)
    lead = tuple(x.shape[i] for i in kept)
    flat = OPS["reshape"](moved, shape=(*lead, math.prod(x.shape[i] for i in axes)))
    others = products_before(flat, 1) * products_before(flat, -1)
    inverse = tuple(int(i) for i in np.argsort(order))
    return g * permuted(OPS["reshape"](others, shape=moved.shape), inverse)


prod = reduction(
    "prod",
    types=numeric,
    evaluate=np.prod,
    vjp=_prod_vjp,
    scalar={"identity": "1", "combine": "{a} * {x}"},
)


def _extremum_vjp(g: Node, y: Node, x: Node, axes: Shape) -> Node:
    # Equal extremes share the cotangent evenly.
    chosen = eq(x, y)
    count = sum_(cast(chosen, dtype=x.dtype), axes=axes, keepdims=True)
    return where(chosen, broadcast(g / count, x.shape), 0)


amax = reduction(
    "amax",
    types=anything,
    evaluate=np.amax,
    vjp=_extremum_vjp,
    scalar={"identity": "-inf", "combine": "maximum({a}, {x})"},
    empty=False,
    grad_name="AmaxBackward0",
)

amin = reduction(
    "amin",
    types=anything,
    evaluate=np.amin,
    vjp=_extremum_vjp,
    scalar={"identity": "+inf", "combine": "minimum({a}, {x})"},
    empty=False,
    grad_name="AminBackward0",
)

any_ = reduction(
    "any",
    types=(bool_,),
    evaluate=np.any,
    vjp=NONDIFFERENTIABLE,
    scalar={"identity": "False", "combine": "{a} or {x}"},
)

all_ = reduction(
    "all",
    types=(bool_,),
    evaluate=np.all,
    vjp=NONDIFFERENTIABLE,
    scalar={"identity": "True", "combine": "{a} and {x}"},
)


def _arg_reduction(name: str, evaluate: Callable[..., Any], better: str) -> Op:
    """The int64 position of the extreme value, counted in row-major order over the reduced axes.

    The first of equal values wins; NaN beats every number. `scalar["better"]` says when a value {x}
    replaces the best so far {a}, in ascending order of positions.
    """

    def infer(x: TensorType, *, axes: Shape, keepdims: bool = False) -> TensorType:
        result = reduced_shape(x.shape, axes, keepdims)
        if 0 not in result and any(x.shape[i] == 0 for i in axes):
            raise ShapeError(f"{name}: cannot reduce zero elements of shape {x.shape}")
        return TensorType(int64, result)

    def run(x: Array, *, axes: Shape, keepdims: bool = False) -> Any:
        result = reduced_shape(x.shape, axes, keepdims)
        if 0 in result:
            return np.zeros(result, np.int64)
        if not axes:
            return np.zeros(x.shape, np.int64)
        moved = np.moveaxis(x, axes, range(-len(axes), 0))
        flat = moved.reshape(*moved.shape[: x.ndim - len(axes)], -1)
        return evaluate(flat, axis=-1).reshape(result)

    return general(
        name,
        family="reduction",
        infer=infer,
        evaluate=run,
        vjp=NONDIFFERENTIABLE,
        scalar={"better": better},
        samples=[
            Sample(((3, 4),), {"axes": (1,), "keepdims": False}),
            Sample(((3, 4),), {"axes": (0,), "keepdims": True}),
            Sample(((3, 4),), {"axes": (0, 1), "keepdims": False}),
            Sample(((2, 3, 4),), {"axes": (0, 2), "keepdims": False}),
            Sample(((),), {"axes": (), "keepdims": False}),
            Sample(((0, 3),), {"axes": (1,), "keepdims": False}),
        ],
        sample_dtypes=anything,
    )


argmax = _arg_reduction("argmax", np.argmax, "{x} > {a} or ({x} != {x} and {a} == {a})")
argmin = _arg_reduction("argmin", np.argmin, "{x} < {a} or ({x} != {x} and {a} == {a})")
