"""Functions of integers that libm has for floats only, where int64 would lose its low bits.

All compute in int64 and wrap around; the caller narrows the result to its dtype.
"""

from __future__ import annotations

from typing import Any

from numba import extending
from numba.core import types
from numba.extending import register_jitable

from tracegrad.codegen.primitives.arithmetic import i64, where

# Numba's decorators carry no usable types.
intrinsic: Any = extending.intrinsic

__all__ = ["integer_abs", "integer_fmod", "integer_pow", "max", "min"]


def _chosen(comparison: str) -> Any:
    """The signature and code of the operand that compares so with the other."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.icmp_signed(comparison, *arguments), *arguments)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def min(typing: Any, a: Any, b: Any) -> Any:
    """The lesser of two int64; Numba's own `min` takes 50 ms to compile in each process."""
    return _chosen("<")


@intrinsic
def max(typing: Any, a: Any, b: Any) -> Any:
    """The greater of two int64."""
    return _chosen(">")


@register_jitable
def integer_abs(x: Any) -> Any:
    """The value without its sign; the least integer is its own."""
    value = i64(x)
    return where(value < 0, -value, value)


@register_jitable
def integer_fmod(a: Any, b: Any) -> Any:
    """What truncating division leaves: it has the dividend's sign, and is 0 for a divisor of 0."""
    dividend = i64(a)
    divisor = i64(b)
    # 0 and -1 are the divisors that trap.
    safe = where((divisor == 0) | (divisor == -1), divisor * 0 + 1, divisor)
    rest = dividend % safe
    # Python's remainder has the divisor's sign.
    return where((rest != 0) & ((dividend < 0) != (safe < 0)), rest - safe, rest)


@register_jitable
def integer_pow(a: Any, b: Any) -> Any:
    """The power, truncated to an integer where the exponent is negative."""
    base = i64(a)
    exponent = i64(b)
    if exponent < 0:
        # 1 / base**n: nothing but 1 and -1 leaves an integer.
        sign = where(exponent % 2 == 0, i64(1), i64(-1))
        return where(base == 1, i64(1), where(base == -1, sign, i64(0)))
    result = i64(1)
    while exponent > 0:
        if exponent & 1:
            result = result * base
        base = base * base
        exponent = exponent >> 1
    return result
