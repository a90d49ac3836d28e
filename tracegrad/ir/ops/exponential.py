"""Exponentials, logarithms, roots, and the functions made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.ir.families import elementwise, floating, in_single
from tracegrad.ir.op import Array, Domain

positive = Domain(0.3, 3.0)

exp = elementwise(
    "exp", types=floating, evaluate=np.exp, vjp=lambda g, y, x: g * y, scalar="exp({x})"
)

exp2 = elementwise(
    "exp2",
    types=floating,
    evaluate=np.exp2,
    vjp=lambda g, y, x: g * (y * math.log(2)),
    scalar="exp2({x})",
)

expm1 = elementwise(
    "expm1",
    types=floating,
    evaluate=np.expm1,
    vjp=lambda g, y, x: g * (y + 1),
    scalar="expm1({x})",
)

log = elementwise(
    "log",
    types=floating,
    evaluate=np.log,
    vjp=lambda g, y, x: g / x,
    scalar="log({x})",
    sample=positive,
)

log2 = elementwise(
    "log2",
    types=floating,
    evaluate=np.log2,
    vjp=lambda g, y, x: g / (x * math.log(2)),
    scalar="log2({x})",
    sample=positive,
)

log10 = elementwise(
    "log10",
    types=floating,
    evaluate=np.log10,
    vjp=lambda g, y, x: g / (x * math.log(10)),
    scalar="log10({x})",
    sample=positive,
)

log1p = elementwise(
    "log1p",
    types=floating,
    evaluate=np.log1p,
    vjp=lambda g, y, x: g / (x + 1),
    scalar="log1p({x})",
    sample=Domain(-0.6, 3.0),
    grad_name="Log1PBackward0",
)

sqrt = elementwise(
    "sqrt",
    types=floating,
    evaluate=np.sqrt,
    vjp=lambda g, y, x: g / (2 * y),
    scalar="sqrt({x})",
    sample=positive,
)

rsqrt = elementwise(
    "rsqrt",
    types=floating,
    evaluate=in_single(lambda x: 1 / np.sqrt(x)),
    vjp=lambda g, y, x: g * (-0.5 * (y * y * y)),
    scalar="1.0 / sqrt({x})",
    sample=positive,
)


@in_single
def evaluate_sigmoid(x: Array) -> Any:
    """1 / (1 + exp(-x)), without overflow: that has a value where exp(-x) is infinite."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


sigmoid = elementwise(
    "sigmoid",
    types=floating,
    evaluate=evaluate_sigmoid,
    vjp=lambda g, y, x: g * (y * (1 - y)),
    scalar="sigmoid({x})",
)


@in_single
def _evaluate_softplus(x: Array) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


# log(1 + exp(x)) without overflow.
softplus = elementwise(
    "softplus",
    types=floating,
    evaluate=_evaluate_softplus,
    vjp=lambda g, y, x: g * sigmoid(x),
    scalar="maximum({x}, 0.0) + log1p(exp(-fabs({x})))",
)


def _evaluate_erf(x: Array) -> Any:
    from scipy.special import erf  # here, because SciPy takes long to import

    return erf(x)


def _evaluate_erfc(x: Array) -> Any:
    from scipy.special import erfc

    return erfc(x)


erf = elementwise(
    "erf",
    types=floating,
    evaluate=in_single(_evaluate_erf),
    vjp=lambda g, y, x: g * (2 / math.sqrt(math.pi) * exp(-(x * x))),
    scalar="erf({x})",
)

erfc = elementwise(
    "erfc",
    types=floating,
    evaluate=in_single(_evaluate_erfc),
    vjp=lambda g, y, x: g * (-2 / math.sqrt(math.pi) * exp(-(x * x))),
    scalar="erfc({x})",
)
