"""Composites over axes: means and spreads, norms, and the softmax family."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.ir.families import Shape, composite, fill, in_single, reduced_shape, restore_axes
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Array, Domain, Sample
from tracegrad.ir.ops.arithmetic import abs_, cast, detach, eq, nonzero, pow_
from tracegrad.ir.ops.comparison import isfinite, ne
from tracegrad.ir.ops.exponential import exp, log, sqrt
from tracegrad.ir.ops.movement import reshape
from tracegrad.ir.ops.reductions import amax, amin, sum_
from tracegrad.ir.ops.selection import maximum, where
from tracegrad.ir.types import TensorType

_REDUCED = (
    ((3, 4), (1,), False),
    ((3, 4), (0,), True),
    ((2, 3, 4), (0, 2), False),
    ((5,), (0,), False),
)


def _count(x: Node, axes: Shape) -> int:
    return math.prod(x.shape[i] for i in axes)


def mean_of(x: Node, axes: Shape, keepdims: bool = True) -> Node:
    """The mean over `axes`."""
    return sum_(x, axes=axes, keepdims=keepdims) / float(_count(x, axes))


def _evaluate_mean(x: Array, axes: Shape, keepdims: bool = False) -> Any:
    # Not np.mean, which warns of an empty slice in words of its own.
    total = np.sum(x, axis=axes, keepdims=keepdims)
    return total / math.prod(x.shape[i] for i in axes)


mean = composite(
    "mean",
    expand=lambda x, axes, keepdims=False: mean_of(x, axes, keepdims),
    evaluate=in_single(_evaluate_mean),
    arity=1,
    samples=[
        *(Sample((shape,), {"axes": a, "keepdims": k}) for shape, a, k in _REDUCED),
        Sample(((),), {"axes": (), "keepdims": False}),
    ],
)


def _var(x: Node, *, axes: Shape, correction: float, keepdims: bool = False) -> Node:
    distance = x - mean_of(x, axes)
    total = sum_(distance * distance, axes=axes, keepdims=keepdims)
    return total / max(_count(x, axes) - correction, 0.0)


def _var_vjp(
    g: Node, y: Node, x: Node, *, axes: Shape, correction: float, keepdims: bool = False
) -> Node:
    # The part that goes through the mean is zero, because distances from the mean add up to zero.
    scale = restore_axes(g, x.shape, axes, keepdims) * 2.0
    return (scale / max(_count(x, axes) - correction, 0.0)) * (x - mean_of(x, axes))


_SPREADS = tuple(
    Sample((shape,), {"axes": axes, "correction": correction, "keepdims": keepdims})
    for (shape, axes, keepdims), correction in zip(_REDUCED, (1, 0, 2, 0.5), strict=True)
)

var = composite("var", expand=_var, vjp=_var_vjp, arity=1, samples=_SPREADS)


def sqrt_flat(x: Node) -> Node:
    """The square root with gradient 0 at 0, where that of `sqrt` is infinite."""
    zero = eq(x, 0)
    return where(zero, 0, sqrt(where(zero, 1, x)))


def _std(x: Node, *, axes: Shape, correction: float, keepdims: bool = False) -> Node:
    return sqrt_flat(_var(x, axes=axes, correction=correction, keepdims=keepdims))


def _std_vjp(
    g: Node, y: Node, x: Node, *, axes: Shape, correction: float, keepdims: bool = False
) -> Node:
    zero = eq(y, 0)
    inner = where(zero, 0, g / (2.0 * where(zero, 1, y)))
    return _var_vjp(inner, y, x, axes=axes, correction=correction, keepdims=keepdims)


std = composite("std", expand=_std, vjp=_std_vjp, arity=1, samples=_SPREADS)


def _norm(x: Node, *, p: float, axes: Shape, keepdims: bool = False) -> Node:
    def total(values: Node) -> Node:
        return sum_(values, axes=axes, keepdims=keepdims)

    if p == 2:
        return sqrt_flat(total(x * x))
    if p == 0:
        return total(cast(ne(x, 0), dtype=x.dtype))
    size = abs_(x)
    if p == 1:
        return total(size)
    if p == math.inf:
        return amax(size, axes=axes, keepdims=keepdims)
    if p == -math.inf:
        return amin(size, axes=axes, keepdims=keepdims)
    if p < 0:
        return pow_(total(pow_(size, p)), 1 / p)
    # Powers below 1 have an infinite slope at 0; the norm's convention there is 0.
    zero = eq(x, 0)
    powers = total(where(zero, 0, pow_(where(zero, 1, size), p)))
    none = eq(powers, 0)
    return where(none, 0, pow_(where(none, 1, powers), 1 / p))


# The vector norm (sum of |x|**p)**(1/p) over axes, with gradient 0 at 0.
norm = composite(
    "norm",
    expand=_norm,
    arity=1,
    samples=[
        Sample((shape,), {"p": p, "axes": axes, "keepdims": keepdims}, (nonzero,))
        for (shape, axes, keepdims), p in zip(
            (*_REDUCED, *_REDUCED), (2, 1, 3, 0.5, math.inf, -math.inf, -1, 0), strict=True
        )
    ],
    grad_name="LinalgVectorNormBackward0",
)


def _shift(x: Node, axes: Shape) -> Node:
    """The maximum over axes, which keeps `exp` in range; 0 where it is not finite."""
    top = detach(amax(x, axes=axes, keepdims=True))
    return where(isfinite(top), top, 0)


def _logsumexp(x: Node, *, axes: Shape, keepdims: bool = False) -> Node:
    shape = reduced_shape(x.shape, axes, keepdims)
    if _count(x, axes) == 0:
        return fill(-math.inf, TensorType(x.dtype, shape))
    shift = _shift(x, axes)
    total = log(sum_(exp(x - shift), axes=axes, keepdims=True)) + shift
    return total if total.shape == shape else reshape(total, shape=shape)


def _logsumexp_vjp(g: Node, y: Node, x: Node, *, axes: Shape, keepdims: bool = False) -> Node:
    g = restore_axes(g, x.shape, axes, keepdims)
    y = restore_axes(y, x.shape, axes, keepdims)
    # Where every term is exp(-inf), none has a share.
    return g * exp(x - where(eq(y, -math.inf), 0, y))


logsumexp = composite(
    "logsumexp",
    expand=_logsumexp,
    vjp=_logsumexp_vjp,
    arity=1,
    samples=[
        *(Sample((shape,), {"axes": a, "keepdims": k}) for shape, a, k in _REDUCED),
        Sample(((3, 0),), {"axes": (1,), "keepdims": False}),
        Sample(((),), {"axes": (), "keepdims": False}),
    ],
)


def _softmax(x: Node, *, axes: Shape) -> Node:
    if _count(x, axes) == 0:
        return x
    terms = exp(x - detach(amax(x, axes=axes, keepdims=True)))
    return terms / sum_(terms, axes=axes, keepdims=True)


def _softmax_vjp(g: Node, y: Node, x: Node, *, axes: Shape) -> Node:
    weighted = g * y
    return weighted - y * sum_(weighted, axes=axes, keepdims=True)


_SOFT = (
    Sample(((3, 4),), {"axes": (1,)}),
    Sample(((3, 4),), {"axes": (0,)}),
    Sample(((2, 3, 4),), {"axes": (1,)}),
    Sample(((),), {"axes": ()}),
    Sample(((3, 0),), {"axes": (1,)}),
)

softmax = composite("softmax", expand=_softmax, vjp=_softmax_vjp, arity=1, samples=_SOFT)


def _log_softmax(x: Node, *, axes: Shape) -> Node:
    if _count(x, axes) == 0:
        return x
    shifted = x - detach(amax(x, axes=axes, keepdims=True))
    return shifted - log(sum_(exp(shifted), axes=axes, keepdims=True))


log_softmax = composite(
    "log_softmax",
    expand=_log_softmax,
    vjp=lambda g, y, x, axes: g - exp(y) * sum_(g, axes=axes, keepdims=True),
    arity=1,
    samples=_SOFT,
)


def _normalized(x: Node, y: Node, axis: int, eps: float) -> tuple[Node, Node]:
    """Both vectors divided by their norms, which count as `eps` at least."""
    parts = (part / maximum(_norm(part, p=2, axes=(axis,), keepdims=True), eps) for part in (x, y))
    first, second = parts
    return first, second


def _cosine_similarity(x: Node, y: Node, *, axis: int, eps: float) -> Node:
    first, second = _normalized(x, y, axis, eps)
    return sum_(first * second, axes=(axis,), keepdims=False)


cosine_similarity = composite(
    "cosine_similarity",
    expand=_cosine_similarity,
    arity=2,
    samples=[
        Sample(((3, 4), (3, 4)), {"axis": 1, "eps": 1e-8}, (Domain(0.5, 2), Domain(0.5, 2))),
        Sample(((3, 4), (1, 4)), {"axis": 1, "eps": 1e-8}, (Domain(0.5, 2), Domain(0.5, 2))),
    ],
    grad_name="SumBackward1",
)
