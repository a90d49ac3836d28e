"""Composites of two or three operands that PyTorch has as one op."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.families import composite, elementwise, floating, unbroadcast
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Array, Domain, Sample
from tracegrad.ir.ops.arithmetic import abs_, eq, nonzero
from tracegrad.ir.ops.contraction import matmul, swap
from tracegrad.ir.ops.exponential import exp, log, log1p, sigmoid
from tracegrad.ir.ops.selection import maximum, where

_THREE = (
    Sample(((3, 4), (3, 4), (3, 4)), {}),
    Sample(((3, 4), (4,), ()), {}),
    Sample(((0, 4), (4,), (1, 4)), {}),
)

# The point between `a` and `b` at the fraction `w` of the way.
lerp = composite(
    "lerp",
    expand=lambda a, b, w: a + w * (b - a),
    arity=3,
    samples=_THREE,
    grad_name="LerpBackward1",
)

addcmul = composite(
    "addcmul",
    expand=lambda x, a, b, value: x + value * (a * b),
    arity=3,
    samples=[Sample(s.shapes, {"value": 0.5}) for s in _THREE],
)

addcdiv = composite(
    "addcdiv",
    expand=lambda x, a, b, value: x + value * (a / b),
    arity=3,
    samples=[Sample(s.shapes, {"value": 0.5}, (Domain(), Domain(), nonzero)) for s in _THREE],
)


def _addmm(x: Node, a: Node, b: Node, *, beta: float, alpha: float) -> Node:
    product = matmul(a, b)
    if alpha != 1:
        product = alpha * product
    if beta == 0:
        return product
    return (x if beta == 1 else beta * x) + product


addmm = composite(
    "addmm",
    expand=_addmm,
    arity=3,
    samples=[
        Sample(((5,), (3, 4), (4, 5)), {"beta": 1, "alpha": 1}),
        Sample(((3, 5), (3, 4), (4, 5)), {"beta": 0.5, "alpha": 2.0}),
        Sample(((), (2, 3, 4), (4, 5)), {"beta": 1, "alpha": 1}),
        Sample(((5,), (3, 0), (0, 5)), {"beta": 0, "alpha": 1}),
    ],
)


def _linear(x: Node, weight: Node, *bias: Node) -> Node:
    y = matmul(x, swap(weight))
    return y + bias[0] if bias else y


# x @ weight.T + bias for x of two or more dimensions.
linear = composite(
    "linear",
    expand=_linear,
    arity=None,
    samples=[
        Sample(((3, 4), (5, 4)), {}),
        Sample(((3, 4), (5, 4), (5,)), {}),
        Sample(((2, 3, 4), (5, 4), (5,)), {}),
    ],
    grad_name="AddmmBackward0",
)


def _logaddexp(a: Node, b: Node) -> Node:
    top = maximum(a, b)
    # Equal infinities have no difference.
    distance = where(eq(a, b), 0, abs_(a - b))
    return top + log1p(exp(-distance))


logaddexp = composite(
    "logaddexp",
    expand=_logaddexp,
    evaluate=np.logaddexp,
    vjp=(
        lambda g, y, a, b: unbroadcast(g * sigmoid(where(eq(a, b), 0, a - b)), a.shape),
        lambda g, y, a, b: unbroadcast(g * sigmoid(where(eq(a, b), 0, b - a)), b.shape),
    ),
    arity=2,
    samples=[Sample(((3, 4), (3, 4)), {}), Sample(((3, 1), (4,)), {}), Sample(((), ()), {})],
)


def _evaluate_xlogy(x: Array, y: Array) -> Any:
    return np.where((x == 0) & ~np.isnan(y), 0, x * np.log(y))


# x * log(y), which is 0 where x is.
xlogy = elementwise(
    "xlogy",
    types=floating,
    evaluate=_evaluate_xlogy,
    vjp=(
        lambda g, out, x, y: g * log(where(eq(x, 0) & (y <= 0), 1, y)),
        lambda g, out, x, y: g * (x / y),
    ),
    scalar="0.0 if {x0} == 0.0 and {x1} == {x1} else {x0} * log({x1})",
    sample=(Domain(), Domain(0.3, 2.0)),
)
