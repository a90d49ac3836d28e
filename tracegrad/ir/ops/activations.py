"""Activation functions of neural networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.ir.families import composite, elementwise, floating, in_single, numeric
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Array, Domain, Sample
from tracegrad.ir.ops.arithmetic import abs_, nonzero
from tracegrad.ir.ops.exponential import erf, evaluate_sigmoid, expm1, sigmoid, softplus
from tracegrad.ir.ops.selection import where
from tracegrad.ir.ops.trigonometric import tanh

# Of NaN the gradient is that of a positive number, so that it is not hidden.
relu = elementwise(
    "relu",
    types=numeric,
    evaluate=lambda x: np.maximum(x, 0),
    vjp=lambda g, y, x: where(y <= 0, 0, g),
    scalar="maximum({x}, 0)",
    sample=nonzero,
)


def _samples(domain: Domain = nonzero, **params: Any) -> list[Sample]:
    return [Sample((shape,), params, (domain,)) for shape in ((3, 4), (), (0, 2))]


def _activation(name: str, formula: Any, domain: Domain = nonzero, **params: Any) -> Any:
    return composite(name, expand=formula, arity=1, samples=_samples(domain, **params))


@in_single
def _evaluate_silu(x: Array) -> Any:
    return x * evaluate_sigmoid(x)


silu = elementwise(
    "silu",
    types=floating,
    evaluate=_evaluate_silu,
    vjp=lambda g, y, x: g * _silu_slope(x),
    scalar="{x} * sigmoid({x})",
)


def _silu_slope(x: Node) -> Node:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def _gelu(x: Node, *, tanh_form: bool) -> Node:
    if tanh_form:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
        return 0.5 * x * (1 + tanh(inner))
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


# x times the normal distribution function, exact or with tanh in place of erf.
gelu = composite(
    "gelu",
    expand=_gelu,
    arity=1,
    samples=[*_samples(tanh_form=False), *_samples(tanh_form=True)],
)

log_sigmoid = _activation("log_sigmoid", lambda x: -softplus(-x))

leaky_relu = _activation("leaky_relu", lambda x, slope: where(x > 0, x, slope * x), slope=0.1)


def _elu(x: Node, *, alpha: float, scale: float, rate: float) -> Node:
    # The exponential sees no positive argument, so that it cannot overflow.
    negative = (scale * alpha) * expm1(rate * where(x > 0, 0, x))
    return where(x > 0, scale * x, negative)


# scale * x above 0, scale * alpha * (exp(rate * x) - 1) below: elu, selu and celu.
elu = _activation("elu", _elu, alpha=1.5, scale=1.1, rate=0.9)

softsign = _activation("softsign", lambda x: x / (1 + abs_(x)))

mish = _activation("mish", lambda x: x * tanh(softplus(x)))

_edges = Domain(-4, 4, avoid=(-3.0, -1.0, -0.5, 0.5, 1.0, 3.0))


def _hardtanh(x: Node, *, low: float, high: float) -> Node:
    # Unlike that of `clamp`, the gradient on a bound is 0.
    return where(x <= low, low, where(x >= high, high, x))


hardtanh = _activation("hardtanh", _hardtanh, _edges, low=-1.0, high=1.0)

hardsigmoid = _activation("hardsigmoid", lambda x: _hardtanh(x + 3, low=0.0, high=6.0) / 6, _edges)

hardswish = _activation(
    "hardswish", lambda x: x * (_hardtanh(x + 3, low=0.0, high=6.0) / 6), _edges
)


def _softshrink(x: Node, *, width: float) -> Node:
    return where(x > width, x - width, where(x < -width, x + width, x * 0))


softshrink = _activation("softshrink", _softshrink, _edges, width=0.5)

hardshrink = _activation(
    "hardshrink",
    lambda x, width: where((x >= -width) & (x <= width), 0, x),
    _edges,
    width=0.5,
)

threshold = _activation(
    "threshold", lambda x, bound, value: where(x <= bound, value, x), _edges, bound=0.5, value=2.0
)
