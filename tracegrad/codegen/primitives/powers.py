"""Powers.

Of float32, 2**(y * log2(x)) in float64, where a polynomial of few terms is exact enough.
"""

from __future__ import annotations

import math

from tracegrad.codegen.primitives.exponentials import EXP2
from tracegrad.codegen.primitives.expressions import (
    Value,
    function,
    nearest_whole,
    polynomial,
    power_of_two,
)
from tracegrad.codegen.primitives.logarithms import split
from tracegrad.codegen.primitives.vectormath import library

__all__ = ["pow"]

# log2(1 + f) = s * (...) in s**2, where s = f / (2 + f).
_LOG2 = (
    *(2.8853900817900926, 0.9617966733335042, 0.577083586638899, 0.411672613157216),
    0.3407321600275099,
)


def _log2(a: Value) -> Value:
    """The logarithm of a float32, not negative, as float64; 33 bits of it are right."""
    x = a.widened()
    n, mantissa = split(x)
    f = mantissa - 1.0
    s = f / (f + 2.0)
    logarithm = s.muladd(polynomial(s * s, _LOG2), n.whole())
    return x.equals(0.0).choose(-math.inf, (x < math.inf).choose(logarithm, x))


def _exp2(x: Value) -> Value:
    """2**x as float32."""
    x = x.at_least(-152.0).at_most(129.0)
    n, whole = nearest_whole(x, 1.0)
    return (polynomial(x - whole, EXP2["f32"]) * power_of_two(n)).narrowed()


def _pow_single(x: Value, y: Value) -> Value:
    a = abs(x)
    # 1**y and x**0 are 1, also of infinity and NaN.
    one = a.equals(1.0) | y.equals(0.0)
    magnitude = one.choose(1.0, _exp2(y.widened() * _log2(a)))
    half = y * 0.5
    whole, even = y.call("rint").equals(y), half.call("rint").equals(half)
    negative = x.bits & (even.choose(x.bits.like(0), x.bits.like(-1 << 31)))
    result = (magnitude.bits ^ negative).number
    invalid = (x < 0.0) & (x > -math.inf)
    return whole.choose(result, invalid.choose(math.nan, magnitude))


pow = function("pow", _pow_single, library("pow"), operands=2)
