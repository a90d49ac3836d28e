"""Division as NumPy rounds it, and the tests for NaN and infinity.

Integers never trap: a divisor of 0 gives 0, and the one quotient that overflows wraps.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import overload, register_jitable

from tracegrad.codegen.primitives.arithmetic import where
from tracegrad.codegen.primitives.vectormath import copysign, floor, fmod

__all__ = ["floor_div", "isfinite", "isinf", "isnan", "remainder"]


def floor_div(a: Any, b: Any) -> Any:
    """The quotient rounded towards minus infinity."""


def remainder(a: Any, b: Any) -> Any:
    """What floor division leaves: it has the divisor's sign."""


def _is_real(kind: Any) -> bool:
    return isinstance(types.unliteral(kind), types.Float)  # type: ignore[no-untyped-call]


@register_jitable
def _safe(b: Any) -> Any:
    # 0 and -1 are the divisors that trap; their results are chosen by the caller.
    return where((b == 0) | (b == -1), b * 0 + 1, b)


@overload(floor_div)
def _floor_div(a: Any, b: Any) -> Any:
    if _is_real(a):

        def real(a: Any, b: Any) -> Any:
            rest = fmod(a, b)
            quotient = (a - rest) / b
            other_sign = (rest != 0) & ((b < 0) != (rest < 0))
            quotient = where(other_sign, quotient - 1, quotient)
            # The quotient is a whole number but for rounding: go to the nearest.
            whole = floor(quotient)
            whole = where(quotient - whole > 0.5, whole + 1, whole)
            whole = where(quotient == 0, copysign(quotient, a / b), whole)
            return where(b == 0, a / b, whole)

        return real

    def integer(a: Any, b: Any) -> Any:
        quotient = a // _safe(b)
        return where(b == 0, a * 0, where(b == -1, -a, quotient))

    return integer


@overload(remainder)
def _remainder(a: Any, b: Any) -> Any:
    if _is_real(a):

        def real(a: Any, b: Any) -> Any:
            rest = fmod(a, b)
            other_sign = (rest != 0) & ((b < 0) != (rest < 0))
            rest = where(other_sign, rest + b, rest)
            return where(rest == 0, copysign(rest, b), rest)

        return real

    def integer(a: Any, b: Any) -> Any:
        rest = a % _safe(b)
        return where((b == 0) | (b == -1), a * 0, rest)

    return integer


@register_jitable
def isnan(x: Any) -> Any:
    """Whether x is not a number."""
    return x != x


@register_jitable
def isinf(x: Any) -> Any:
    """Whether x is an infinity: the only number that differs from itself less itself."""
    return (x == x) & ((x - x) != (x - x))


@register_jitable
def isfinite(x: Any) -> Any:
    """Whether x is neither NaN nor an infinity."""
    return (x - x) == (x - x)
