"""Comparisons, tests of floating-point values, and logic on bits and bools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir.families import anything, bits, elementwise, floating, integral
from tracegrad.ir.op import NONDIFFERENTIABLE, Domain, Op
from tracegrad.ir.types import bool_


def _comparison(name: str, evaluate: Callable[..., Any], symbol: str) -> Op:
    return elementwise(
        name,
        types=anything,
        evaluate=evaluate,
        vjp=NONDIFFERENTIABLE,
        scalar=f"{{x0}} {symbol} {{x1}}",
        result=bool_,
    )


ne = _comparison("ne", np.not_equal, "!=")
lt = _comparison("lt", np.less, "<")
le = _comparison("le", np.less_equal, "<=")
gt = _comparison("gt", np.greater, ">")
ge = _comparison("ge", np.greater_equal, ">=")


def _test(name: str, evaluate: Callable[..., Any]) -> Op:
    return elementwise(
        name,
        types=floating,
        evaluate=evaluate,
        vjp=NONDIFFERENTIABLE,
        scalar=f"{name}({{x}})",
        result=bool_,
    )


isnan = _test("isnan", np.isnan)
isinf = _test("isinf", np.isinf)
isfinite = _test("isfinite", np.isfinite)


def _bitwise(name: str, evaluate: Callable[..., Any], symbol: str) -> Op:
    return elementwise(
        name,
        types=bits,
        evaluate=evaluate,
        vjp=NONDIFFERENTIABLE,
        scalar=f"{{x0}} {symbol} {{x1}}",
    )


bitwise_and = _bitwise("bitwise_and", np.bitwise_and, "&")
bitwise_or = _bitwise("bitwise_or", np.bitwise_or, "|")
bitwise_xor = _bitwise("bitwise_xor", np.bitwise_xor, "^")

bitwise_not = elementwise(
    "bitwise_not",
    types=integral,
    evaluate=np.bitwise_not,
    vjp=NONDIFFERENTIABLE,
    scalar="~{x}",
)

logical_not = elementwise(
    "logical_not",
    types=(bool_,),
    evaluate=np.logical_not,
    vjp=NONDIFFERENTIABLE,
    scalar="not {x}",
)

# Shifts by less than the number of bits; what others give depends on the machine.
_shift = (Domain(0, 20), Domain(0, 5))

shift_left = elementwise(
    "shift_left",
    types=integral,
    evaluate=np.left_shift,
    vjp=NONDIFFERENTIABLE,
    scalar="{x0} << {x1}",
    sample=_shift,
)

shift_right = elementwise(
    "shift_right",
    types=integral,
    evaluate=np.right_shift,
    vjp=NONDIFFERENTIABLE,
    scalar="{x0} >> {x1}",
    sample=_shift,
)
