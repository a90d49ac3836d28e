"""Loss functions. `reduction` is "mean", "sum" or "none"."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.families import composite, iota
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Array, Domain, Sample
from tracegrad.ir.ops.arithmetic import abs_, cast, eq
from tracegrad.ir.ops.comparison import ne
from tracegrad.ir.ops.exponential import exp, log, log1p, softplus
from tracegrad.ir.ops.movement import reshape
from tracegrad.ir.ops.reductions import sum_
from tracegrad.ir.ops.selection import maximum, where
from tracegrad.ir.ops.statistics import mean_of
from tracegrad.ir.types import DType

REDUCTIONS = ("mean", "sum", "none")


def _reduced(values: Node, reduction: str) -> Node:
    axes = tuple(range(values.ndim))
    if reduction == "none":
        return values
    if reduction == "sum":
        return sum_(values, axes=axes, keepdims=False)
    return mean_of(values, axes, keepdims=False)


def _pairs(domains: tuple[Domain, ...] = (Domain(), Domain()), **params: Any) -> list[Sample]:
    shapes: tuple[tuple[int, ...], ...] = ((3, 4), (3, 4), (3, 4), ())
    return [
        Sample((shape,) * len(domains), {**params, "reduction": reduction}, domains)
        for shape, reduction in zip(shapes, (*REDUCTIONS, "mean"), strict=True)
    ]


def _mse_loss(x: Node, target: Node, *, reduction: str) -> Node:
    error = x - target
    return _reduced(error * error, reduction)


mse_loss = composite("mse_loss", expand=_mse_loss, arity=2, samples=_pairs())

_apart = (Domain(-2.0, -1.0), Domain(0.0, 2.0))

l1_loss = composite(
    "l1_loss",
    expand=lambda x, target, reduction: _reduced(abs_(x - target), reduction),
    arity=2,
    samples=_pairs(_apart),
)


def _huber_loss(x: Node, target: Node, *, delta: float, reduction: str) -> Node:
    error = abs_(x - target)
    return _reduced(
        where(error <= delta, 0.5 * error * error, delta * (error - 0.5 * delta)), reduction
    )


huber_loss = composite("huber_loss", expand=_huber_loss, arity=2, samples=_pairs(_apart, delta=0.9))


def _smooth_l1_loss(x: Node, target: Node, *, beta: float, reduction: str) -> Node:
    error = abs_(x - target)
    if beta == 0:
        return _reduced(error, reduction)
    return _reduced(
        where(error < beta, (0.5 / beta) * error * error, error - 0.5 * beta), reduction
    )


smooth_l1_loss = composite(
    "smooth_l1_loss", expand=_smooth_l1_loss, arity=2, samples=_pairs(_apart, beta=0.9)
)

_probability = Domain(0.1, 0.9)


def _binary_cross_entropy(x: Node, target: Node, *weight: Node, reduction: str) -> Node:
    # A logarithm counts as -100 at least: one sure and wrong answer is not an infinite loss.
    certain = maximum(log(x), -100)
    doubtful = maximum(log1p(-x), -100)
    loss = -(target * certain + (1 - target) * doubtful)
    return _reduced(loss * weight[0] if weight else loss, reduction)


def _binary_cross_entropy_vjp(
    i: int, g: Node, y: Node, x: Node, target: Node, *weight: Node, reduction: str
) -> Node | None:
    if i == 2:
        return g * _binary_cross_entropy(x, target, reduction="none") * _share(x, reduction)
    g = g * _share(x, reduction)
    if weight:
        g = g * weight[0]
    if i == 1:
        return g * (maximum(log1p(-x), -100) - maximum(log(x), -100))
    return g * (x - target) / maximum((1 - x) * x, 1e-12)


def _share(x: Node, reduction: str) -> float:
    """The weight of one element in the loss."""
    return 1.0 / max(x.type.size, 1) if reduction == "mean" else 1.0


binary_cross_entropy = composite(
    "binary_cross_entropy",
    expand=_binary_cross_entropy,
    vjp=_binary_cross_entropy_vjp,
    arity=None,
    samples=[*_pairs((_probability,) * 2), *_pairs((_probability,) * 3)],
)


def _binary_cross_entropy_with_logits(
    x: Node, target: Node, *weights: Node, weighted: bool, reduction: str
) -> Node:
    positive = weights[weighted:]
    factor = 1 + (positive[0] - 1) * target if positive else None
    tail = softplus(-x)
    loss = (1 - target) * x + (tail if factor is None else factor * tail)
    return _reduced(loss * weights[0] if weighted else loss, reduction)


# Inputs: x, target, the weight of each element if `weighted`, then that of positives if given.
binary_cross_entropy_with_logits = composite(
    "binary_cross_entropy_with_logits",
    expand=_binary_cross_entropy_with_logits,
    arity=None,
    samples=[
        *_pairs((Domain(), _probability), weighted=False),
        *_pairs((Domain(), _probability, _probability), weighted=True),
        *_pairs((Domain(), _probability, _probability), weighted=False),
        *_pairs((Domain(), _probability, _probability, _probability), weighted=True),
    ],
)


def _kl_div(x: Node, target: Node, *, log_target: bool, reduction: str) -> Node:
    if log_target:
        return _reduced(exp(target) * (target - x), reduction)
    # target * log(target) is 0 at 0.
    zero = eq(target, 0)
    entropy = where(zero, 0, target * log(where(zero, 1, target)))
    return _reduced(entropy - target * x, reduction)


kl_div = composite(
    "kl_div",
    expand=_kl_div,
    arity=2,
    samples=[
        *_pairs((Domain(-2, -0.1), _probability), log_target=False),
        *_pairs((Domain(-2, -0.1), Domain(-2, -0.1)), log_target=True),
    ],
)


def _nll_loss(
    x: Node, target: Node, *weight: Node, axis: int, ignore_index: int, reduction: str
) -> Node:
    places = reshape(target, shape=(*target.shape[:axis], 1, *target.shape[axis:]))
    # A comparison in place of a gather: it fuses with the softmax around it, forward and backward.
    chosen = eq(iota(x.shape, axis), places)

    def pick(values: Node) -> Node:
        return sum_(where(chosen, values, 0), axes=(axis,), keepdims=False)

    counted = ne(target, ignore_index)
    if weight:
        wide = tuple(size if i == axis else 1 for i, size in enumerate(x.shape))
        share = where(counted, pick(reshape(weight[0], shape=wide)), 0)
    else:
        share = cast(counted, dtype=x.dtype)
    loss = where(counted, -(pick(x) * share), 0)
    if reduction == "none":
        return loss
    axes = tuple(range(loss.ndim))
    total = sum_(loss, axes=axes, keepdims=False)
    if reduction == "sum":
        return total
    return total / sum_(share, axes=axes, keepdims=False)


def _evaluate_nll_loss(
    x: Array, target: Array, *weight: Array, axis: int, ignore_index: int, reduction: str
) -> Any:
    counted = target != ignore_index
    there = counted & (target >= 0) & (target < x.shape[axis])
    safe = np.where(there, target, 0)
    if x.shape[axis]:
        places = np.reshape(safe, (*target.shape[:axis], 1, *target.shape[axis:]))
        picked = np.take_along_axis(x, places, axis).reshape(target.shape)
    else:
        picked = np.zeros(target.shape, x.dtype)
    picked = np.where(there, picked, 0)
    share = np.where(there, weight[0][safe], 0) if weight else np.ones_like(picked)
    share = np.where(counted, share, 0)
    loss = np.where(counted, -(picked * share), 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / share.sum()


def _classified(shape: tuple[int, ...], axis: int, weighted: bool, **params: Any) -> Sample:
    rest = (*shape[:axis], *shape[axis + 1 :])

    def make(rng: np.random.Generator, dtype: DType) -> list[Array]:
        arrays = [rng.uniform(-3, 0, shape).astype(dtype.numpy)]
        arrays.append(np.asarray(rng.integers(0, shape[axis], rest), np.int64))
        if weighted:
            arrays.append(rng.uniform(0.5, 2, shape[axis]).astype(dtype.numpy))
        return arrays

    shapes = (shape, rest, (shape[axis],)) if weighted else (shape, rest)
    return Sample(shapes, {"axis": axis, **params}, None, make)


# The negative of `x` at the class of each target, an index along `axis`; classes may be weighted.
nll_loss = composite(
    "nll_loss",
    expand=_nll_loss,
    evaluate=_evaluate_nll_loss,
    arity=None,
    samples=[
        _classified((5, 3), 1, False, ignore_index=-100, reduction="mean"),
        _classified((5, 3), 1, True, ignore_index=1, reduction="mean"),
        _classified((2, 3, 4), 1, True, ignore_index=0, reduction="sum"),
        _classified((2, 3, 4), 1, False, ignore_index=0, reduction="none"),
        _classified((3,), 0, False, ignore_index=-100, reduction="mean"),
    ],
)
