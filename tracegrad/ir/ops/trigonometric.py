"""Circular and hyperbolic functions and their inverses."""

from __future__ import annotations

import numpy as np

from tracegrad.ir.families import elementwise, floating
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Domain, Op
from tracegrad.ir.ops.arithmetic import eq, nonzero
from tracegrad.ir.ops.exponential import sqrt
from tracegrad.ir.ops.selection import where

sin = elementwise(
    "sin", types=floating, evaluate=np.sin, vjp=lambda g, y, x: g * cos(x), scalar="sin({x})"
)

cos: Op = elementwise(
    "cos", types=floating, evaluate=np.cos, vjp=lambda g, y, x: -g * sin(x), scalar="cos({x})"
)

tan = elementwise(
    "tan",
    types=floating,
    evaluate=np.tan,
    vjp=lambda g, y, x: g * (1 + y * y),
    scalar="tan({x})",
    sample=Domain(-1.2, 1.2),
)

asin = elementwise(
    "asin",
    types=floating,
    evaluate=np.arcsin,
    vjp=lambda g, y, x: g / sqrt(1 - x * x),
    scalar="asin({x})",
    sample=Domain(-0.9, 0.9),
)

acos = elementwise(
    "acos",
    types=floating,
    evaluate=np.arccos,
    vjp=lambda g, y, x: -g / sqrt(1 - x * x),
    scalar="acos({x})",
    sample=Domain(-0.9, 0.9),
)

atan = elementwise(
    "atan",
    types=floating,
    evaluate=np.arctan,
    vjp=lambda g, y, x: g / (1 + x * x),
    scalar="atan({x})",
)

sinh = elementwise(
    "sinh", types=floating, evaluate=np.sinh, vjp=lambda g, y, x: g * cosh(x), scalar="sinh({x})"
)

cosh: Op = elementwise(
    "cosh", types=floating, evaluate=np.cosh, vjp=lambda g, y, x: g * sinh(x), scalar="cosh({x})"
)

tanh = elementwise(
    "tanh",
    types=floating,
    evaluate=np.tanh,
    vjp=lambda g, y, x: g * (1 - y * y),
    scalar="tanh({x})",
)

asinh = elementwise(
    "asinh",
    types=floating,
    evaluate=np.arcsinh,
    vjp=lambda g, y, x: g / sqrt(x * x + 1),
    scalar="asinh({x})",
)

acosh = elementwise(
    "acosh",
    types=floating,
    evaluate=np.arccosh,
    vjp=lambda g, y, x: g / sqrt(x * x - 1),
    scalar="acosh({x})",
    sample=Domain(1.3, 3.0),
)

atanh = elementwise(
    "atanh",
    types=floating,
    evaluate=np.arctanh,
    vjp=lambda g, y, x: g / (1 - x * x),
    scalar="atanh({x})",
    sample=Domain(-0.9, 0.9),
)

atan2 = elementwise(
    "atan2",
    types=floating,
    evaluate=np.arctan2,
    vjp=(
        lambda g, y, a, b: g * (b / _squared_radius(a, b)),
        lambda g, y, a, b: -g * (a / _squared_radius(a, b)),
    ),
    scalar="atan2({x0}, {x1})",
    sample=nonzero,
)


def _squared_radius(a: Node, b: Node) -> Node:
    """a*a + b*b, and 1 at the origin, so that the gradient there is 0 and not 0 / 0."""
    radius = a * a + b * b
    return where(eq(radius, 0), 1, radius)


# The gradient at the origin is 0, as that of `norm`.
hypot = elementwise(
    "hypot",
    types=floating,
    evaluate=np.hypot,
    vjp=(
        lambda g, y, a, b: g * (a / where(eq(y, 0), 1, y)),
        lambda g, y, a, b: g * (b / where(eq(y, 0), 1, y)),
    ),
    scalar="hypot({x0}, {x1})",
    sample=nonzero,
)
