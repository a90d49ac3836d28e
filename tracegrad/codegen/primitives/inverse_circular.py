"""Arcsine, arccosine and arctangent.

Arcsine and arccosine of numbers above 1/2 are those of the square root of (1 - x) / 2. The
arctangent of a quotient is that of a number below tan(1/2) and a multiple of pi/4, by exchanging
the two and by tan(a - pi/4) = (tan(a) - 1) / (tan(a) + 1), so that one division is enough.
Coefficients are minimax for the relative error of the result; docs/vector-math.md says more.
"""

from __future__ import annotations

import math

from tracegrad.codegen.primitives.expressions import (
    Value,
    function,
    polynomial,
    reciprocal_to_one_digit,
)

__all__ = ["acos", "asin", "atan", "atan2"]

# pi, of which halves and quarters are exact, in two parts.
_PI = {
    "f32": (3.1415927410125732, -8.742277657347586e-08),
    "f64": (3.141592653589793, 1.2246467991473532e-16),
}

# asin(s) = s + s**3 * (...) in s**2.
_ASIN = {
    "f32": (
        *(0.16666753590106964, 0.07495256513357162, 0.04547504335641861),
        *(0.024158313870429993, 0.04220012575387955),
    ),
    "f64": (
        *(0.16666666666665395, 0.07500000000340541, 0.044642856825317156),
        *(0.030381959265005674, 0.02237175489398271, 0.017359753578642882),
        *(0.013884742041463597, 0.012172521163333175, 0.006513374533174767),
        *(0.019568975544585324, -0.01628927282073672, 0.03195759020254006),
    ),
}

# atan(q) = q + q**3 * (...) in q**2, up to the tangent of 1/2: an angle above is no less than 1/2,
# where a last place is as large as what sum, difference and quotient lose.
_STEEP = math.tan(0.5)
_ATAN = {
    "f32": (
        *(-0.3333311676979065, 0.19989392161369324, -0.14114335179328918, 0.09863867610692978),
        *(-0.04639226570725441,),
    ),
    "f64": (
        *(-0.3333333333333317, 0.19999999999956436, -0.14285714281630546, 0.1111111091775434),
        *(-0.09090903671973868, 0.0769220965822195, -0.0666546113658489, 0.05871960198695306),
        *(-0.05199295027261478, 0.04480641393866159, -0.0346341433280053, 0.02035158873756959),
        *(-0.006422309776970187,),
    ),
}


def _arcsine_parts(magnitude: Value) -> tuple[Value, Value, Value]:
    """Whether |x| is above 1/2, and s and t whose sum is the arcsine of |x|, or of the root of
    (1 - |x|) / 2.
    """
    form = magnitude.format
    high = magnitude > 0.5
    square = high.choose(0.5 - magnitude * 0.5, magnitude * magnitude)
    root = square.sqrt()
    s = high.choose(root, magnitude)
    # What the root has lost.
    lost = root.fma(-root, square) * (reciprocal_to_one_digit(root) * 0.5)
    lost = high.choose(lost, 0.0)
    return high, s, (s * square).muladd(polynomial(square, _ASIN[form.code]), lost)


def _asin(x: Value) -> Value:
    pi, rest = _PI[x.format.code]
    high, s, t = _arcsine_parts(abs(x))
    above = s.fma(-2.0, pi / 2) + t.muladd(-2.0, rest / 2)
    return high.choose(above, s + t).copysign(x)


def _acos(x: Value) -> Value:
    pi, rest = _PI[x.format.code]
    high, s, t = _arcsine_parts(abs(x))
    # 2 * (s + t) above 1/2, pi - 2 * (s + t) below -1/2, else pi / 2 - (s + t) with the sign of x.
    sign = x.bits & x.format.sign_bit
    factor = (high.choose(2.0, x.like(-1.0)).bits ^ sign).number
    base = high.choose((x < 0.0).choose(pi, x.like(0.0)), pi / 2)
    return s.muladd(factor, base) + t.muladd(factor, base * (rest / pi))


def _arctangent(a: Value, b: Value, back: Value | None = None) -> Value:
    """The arctangent of a / b, of which neither is negative; pi minus that where `back` holds."""
    form = a.format
    steep = a > b
    low, high = steep.choose(b, a), steep.choose(a, b)
    middle = low > high * _STEEP
    quotient = middle.choose(low - high, low) / middle.choose(low + high, high)
    square = quotient * quotient
    # The angle is base + quotient + rest; the two latter change their sign with each subtraction.
    rest = quotient * square * polynomial(square, _ATAN[form.code])
    pi, pi_rest = _PI[form.code]
    base = middle.choose(pi / 4, a.like(0.0))
    base = steep.choose(pi / 2 - base, base)
    nothing = a.bits.like(0)
    sign = steep.choose(form.sign_bit, nothing)
    if back is not None:
        base = back.choose(pi - base, base)
        sign = sign ^ back.choose(form.sign_bit, nothing)
    quotient, rest = (quotient.bits ^ sign).number, (rest.bits ^ sign).number
    return base + (quotient + (rest + base * (pi_rest / pi)))


def _atan(x: Value) -> Value:
    return _arctangent(abs(x), x.like(1.0)).copysign(x)


def _atan2(y: Value, x: Value) -> Value:
    form = x.format
    a, b = abs(y), abs(x)
    # 0 / 0 is 0 here, and of two infinities both are 1.
    zero = b.equals(0.0) & a.equals(0.0)
    b = zero.choose(1.0, b)
    infinite = a.equals(math.inf) & b.equals(math.inf)
    a, b = infinite.choose(1.0, a), infinite.choose(1.0, b)
    # The sum of large ones may be infinite, and products of subnormal ones lose digits.
    large = (a > 2.0**form.bias) | (b > 2.0**form.bias)
    small = (a < form.smallest_normal) & (b < form.smallest_normal)
    scale = large.choose(0.25, small.choose(2.0**form.fraction, x.like(1.0)))
    return _arctangent(a * scale, b * scale, x.bits < 0).copysign(y)


asin = function("asin", _asin, _asin)
acos = function("acos", _acos, _acos)
atan = function("atan", _atan, _atan)
atan2 = function("atan2", _atan2, _atan2, operands=2)
