"""Logarithms, and the inverse hyperbolic functions made of them.

An argument is `2**n * (1 + f)` with `1 + f` between the square roots of 1/2 and 2. The logarithm of
`1 + f` is a polynomial in f, or in float64, where that would be twice as long, one in the square of
s = f / (2 + f), of which it is twice the inverse hyperbolic tangent. Coefficients are minimax for
the relative error of the result; docs/vector-math.md says more.
"""

from __future__ import annotations

import math

from tracegrad.codegen.primitives.expressions import (
    DOUBLE,
    Body,
    Value,
    function,
    polynomial,
    reciprocal_to_one_digit,
)

__all__ = ["acosh", "asinh", "atanh", "log", "log10", "log1p", "log2"]

_LN2 = math.log(2)

# 1 / log(2) and 1 / log(10), each in two parts, and so log10(2).
_PER_LN2 = {
    "f32": (1.4426950216293335, 1.9259629911266175e-08),
    "f64": (1.4426950408889634, 2.0355273740931033e-17),
}
_PER_LN10 = {
    "f32": (0.4342944920063019, -1.0103050052231683e-08),
    "f64": (0.4342944819032518, 1.098319650216765e-17),
}
_ONE = {"f32": (1.0, 0.0), "f64": (1.0, 0.0)}
_LOG10_2 = {
    "f32": (0.3010300099849701, -1.4320988897547e-08),
    "f64": (0.3010299956639812, -2.8037281277851704e-18),
}

# log(1 + f) = f + f**2 * (...).
_LOG = (
    *(-0.49999991059303284, 0.33333954215049744, -0.25001826882362366, 0.19961974024772644),
    *(-0.16568495333194733, 0.14916713535785675, -0.14322298765182495, 0.08757679909467697),
)

# log(1 + f) = 2 * s + s**3 * (...) in s**2.
_LOG_OF_QUOTIENT = (
    *(0.6666666666666734, 0.399999999994164, 0.2857142874211648, 0.2222219859316376),
    *(0.18183563591787066, 0.15314063187036883, 0.1479587440219169),
)


def split(x: Value) -> tuple[Value, Value]:
    """The integer n and the number 1 + f of a positive normal number."""
    form = x.format
    # The exponent is to change at the square root of 1/2.
    root = x.like(math.sqrt(0.5)).bits
    n = (x.bits - root) >> form.fraction
    return n, (x.bits - (n << form.fraction)).number


def _split_any(x: Value) -> tuple[Value, Value]:
    """n, as a real number, and f; of subnormal numbers, too."""
    form = x.format
    up = form.fraction + 1
    small = x < form.smallest_normal
    n, mantissa = split(small.choose(x * 2.0**up, x))
    return n.whole() - small.choose(x.like(up), 0.0), mantissa - 1.0


def _tail(f: Value) -> tuple[Value, Value]:
    """Two numbers whose product is log(1 + f) - f."""
    if f.format is DOUBLE:
        s = f / (f + 2.0)
        square = s * s
        return -s, f - square * polynomial(square, _LOG_OF_QUOTIENT)
    return f * f, polynomial(f, _LOG)


def _with_limits(x: Value, pole: float, result: Value) -> Value:
    """The result above the pole; -inf there, NaN below; and infinity stays."""
    below = x.equals(pole).choose(-math.inf, x.like(math.nan))
    return (x > pole).choose((x < math.inf).choose(result, x), below)


def _log(x: Value) -> Value:
    n, f = _split_any(x)
    a, b = _tail(f)
    return _with_limits(x, 0.0, n.muladd(_LN2, a.muladd(b, f)))


Parts = dict[str, tuple[float, float]]


def _to_base(scale: Parts, of_two: Parts) -> Body:
    """A logarithm to another base, given what to multiply the natural one by, and that of 2."""

    def logarithm(x: Value) -> Value:
        n, f = _split_any(x)
        a, b = _tail(f)
        high, low = scale[x.format.code]
        step, rest = of_two[x.format.code]
        tail = (a * b).muladd(high, f * low)
        if rest:
            tail = n.muladd(rest, tail)
        return _with_limits(x, 0.0, n.muladd(step, f.fma(high, tail)))

    return logarithm


_log2 = _to_base(_PER_LN2, _ONE)
_log10 = _to_base(_PER_LN10, _LOG10_2)


def _split_sum(x: Value) -> tuple[Value, Value, Value, Value]:
    """n, as a real number, and f of 1 + x, and such p and q that f is p * q + 2**-n - 1, rounded,
    where x is finite and above -1.
    """
    form = x.format
    n, _ = split(x + 1.0)
    # 4 * 2**-n, which is normal also where 2**-n is not.
    scale = ((form.bias + 2 << form.fraction) - (n << form.fraction)).number
    quarter = x * 0.25
    return n.whole(), quarter.fma(scale, scale.fma(0.25, -1.0)), quarter, scale


def _log1p(x: Value) -> Value:
    n, f, _, _ = _split_sum(x)
    a, b = _tail(f)
    result = _with_limits(x, -1.0, n.muladd(_LN2, a.muladd(b, f)))
    return (abs(x) < 2.0 ** (-x.format.fraction - 2)).choose(x, result)


def _log_of_long_sum(x: Value, low: Value, doubled: Value | None = None) -> Value:
    """log(1 + x + low), and log(2) more where `doubled` holds.

    `low` is less than the last place of x, and the result has twice the accuracy of `log1p`.
    """
    n, f, quarter, scale = _split_sum(x)
    # What f has lost in rounding is of weight where log(1 + f) is nearly -n * log(2).
    lost = quarter.fma(scale, scale.fma(0.25, -1.0) - f)
    lost = (low * 0.25).muladd(scale, lost)
    # 1 / (1 + f) to two digits.
    lost = lost * f.muladd(f - 1.0, 1.0)
    if doubled is not None:
        n = n + doubled.choose(x.like(1.0), 0.0)
    a, b = _tail(f)
    return n.muladd(_LN2, f + a.muladd(b, lost))


def _is_tiny(x: Value) -> Value:
    """Whether x is all that there is of an odd function of which the next term is a cube."""
    return abs(x) < 2.0 ** (-x.format.fraction // 2)


def _asinh(x: Value) -> Value:
    """log(1 + a + q) of a = |x| and q = sqrt(1 + a**2) - 1, or log(2 * a)."""
    a = abs(x)
    large = a > 2.0 ** (x.format.fraction + 2)
    square = a * a
    q = square / ((square + 1.0).sqrt() + 1.0)
    total = a + q
    argument = large.choose(a, total)
    low = large.choose(x.like(0.0), q - (total - a))
    result = (a < math.inf).choose(_log_of_long_sum(argument, low, large), a)
    return _is_tiny(x).choose(x, result.copysign(x))


def _acosh(x: Value) -> Value:
    """log(1 + d + s) of d = x - 1 and s = sqrt(x**2 - 1), or log(2 * x)."""
    large = x > 2.0 ** (x.format.fraction + 2)
    d = x - 1.0
    twice = d + d
    square = d.fma(d, twice)
    s = square.sqrt()
    # What the square and its root have lost in rounding.
    lost = s.fma(-s, square) + d.fma(d, twice - square)
    lost = lost * (reciprocal_to_one_digit(s) * 0.5)
    total = s + d
    argument = large.choose(x, total)
    low = large.choose(x.like(0.0), (d - (total - s)) + lost)
    result = (x < math.inf).choose(_log_of_long_sum(argument, low, large), x)
    return (x >= 1.0).choose(result, x.like(math.nan))


def _atanh(x: Value) -> Value:
    """Half of log(1 + t) of t = 2 * a / (1 - a), where a = |x|."""
    a = abs(x)
    rest = 1.0 - a
    t = (a + a) / rest
    remainder = t.fma(-((1.0 - rest) - a), t.fma(-rest, a + a))
    # 1 + t / 2 is 1 / (1 - a).
    low = remainder * t.muladd(0.5, 1.0)
    result = _log_of_long_sum(t, low) * 0.5
    result = (a < 1.0).choose(result, a.equals(1.0).choose(math.inf, x.like(math.nan)))
    return _is_tiny(x).choose(x, result.copysign(x))


log = function("log", _log, _log)
log2 = function("log2", _log2, _log2)
log10 = function("log10", _log10, _log10)
log1p = function("log1p", _log1p, _log1p)
asinh = function("asinh", _asinh, _asinh)
acosh = function("acosh", _acosh, _acosh)
atanh = function("atanh", _atanh, _atanh)
