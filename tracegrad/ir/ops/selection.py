"""Elementwise choice between values."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.families import anything, elementwise
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Array, Domain, Op
from tracegrad.ir.ops.arithmetic import eq

where: Op = elementwise(
    "where",
    types=anything,
    evaluate=np.where,
    vjp=(None, lambda g, y, c, a, b: where(c, g, 0), lambda g, y, c, a, b: where(c, 0, g)),
    scalar="{x1} if {x0} else {x2}",
    condition=True,
)


def _winner(g: Node, loses: Node, ties: Node) -> Node:
    """The cotangent of the operand that was chosen; a tie gives half of it to each."""
    return where(loses, 0, where(ties, 0.5 * g, g))


maximum = elementwise(
    "maximum",
    types=anything,
    evaluate=np.maximum,
    vjp=(
        lambda g, y, a, b: _winner(g, a < b, eq(a, b)),
        lambda g, y, a, b: _winner(g, b < a, eq(a, b)),
    ),
    scalar="maximum({x0}, {x1})",
)

minimum = elementwise(
    "minimum",
    types=anything,
    evaluate=np.minimum,
    vjp=(
        lambda g, y, a, b: _winner(g, a > b, eq(a, b)),
        lambda g, y, a, b: _winner(g, b > a, eq(a, b)),
    ),
    scalar="minimum({x0}, {x1})",
)


def _evaluate_clamp(x: Array, low: Array, high: Array) -> Any:
    return np.minimum(np.maximum(x, low), high)


# A value on a bound still counts as inside; where the bounds cross, the upper one wins.
clamp = elementwise(
    "clamp",
    types=anything,
    evaluate=_evaluate_clamp,
    vjp=(
        lambda g, y, x, low, high: where((x >= low) & (x <= high), g, 0),
        lambda g, y, x, low, high: where((x < low) & (low < high), g, 0),
        lambda g, y, x, low, high: where((x > high) | (high < low), g, 0),
    ),
    scalar="minimum(maximum({x0}, {x1}), {x2})",
    sample=(Domain(), Domain(-1.0, -0.5), Domain(0.5, 1.0)),
    grad_name="ClampBackward1",
)

clamp_min = elementwise(
    "clamp_min",
    types=anything,
    evaluate=np.maximum,
    vjp=(
        lambda g, y, x, low: where(x >= low, g, 0),
        lambda g, y, x, low: where(x < low, g, 0),
    ),
    scalar="maximum({x0}, {x1})",
)

clamp_max = elementwise(
    "clamp_max",
    types=anything,
    evaluate=np.minimum,
    vjp=(
        lambda g, y, x, high: where(x <= high, g, 0),
        lambda g, y, x, high: where(x > high, g, 0),
    ),
    scalar="minimum({x0}, {x1})",
)
