"""Sine, cosine and tangent.

An argument is `n * pi / 2 + r` with a whole n and |r| below pi/4 and a little. pi/2 is subtracted
in three parts, of which the first difference is exact; from `_LIMIT` on, where n has too many
digits for that, `large_angles` reduces single elements. Sine and cosine of r are polynomials, the
tangent is a quotient of two. Coefficients are minimax for the relative error of the result;
docs/vector-math.md says more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tracegrad.codegen.primitives.expressions import (
    SINGLE,
    Body,
    Value,
    function,
    nearest_whole,
    polynomial,
)
from tracegrad.codegen.primitives.large_angles import reduced_large
from tracegrad.codegen.primitives.rarely import unless_large

__all__ = ["cos", "sin", "tan"]

_LIMIT = {"f32": 2.0**17, "f64": 2.0**30}

# pi/2, in parts of one sign, so that x = -0 stays.
_QUARTER = {
    "f32": (1.570796251296997, 7.549789415861596e-08, 5.390302529957765e-15),
    "f64": (1.5707963267948966, 6.123233995736765e-17, 1.0828566739219139e-32),
}

# sin(r) = r + r**3 * (...) in r**2.
_SIN = {
    "f32": (-0.16666653752326965, 0.008332095108926296, -0.00019505539967212826),
    "f64": (
        *(-0.1666666666666663, 0.0083333333333219, -0.00019841269829435552),
        *(2.7557313572667115e-06, -2.5050740640198533e-08, 1.5895838415371087e-10),
    ),
}

# cos(r) = 1 - r**2 / 2 + r**4 * (...) in r**2.
_COS = {
    "f32": (0.04166664183139801, -0.0013887130189687014, 2.4412085622316226e-05),
    "f64": (
        *(0.041666666666666595, -0.0013888888888873327, 2.4801587288985626e-05),
        *(-2.7557314210711837e-07, 2.087570436140655e-09, -1.1358688048770703e-11),
    ),
}

# tan(r) = r + r**3 * (...) / (...) in r**2.
_TAN = {
    "f32": (
        (0.333333331945113, -0.014899256569677315),
        (1.0, -0.4446978281240954, 0.015974617627083527),
    ),
    "f64": (
        (
            *(0.3333333333333333, -0.021442814504608738, 0.0002448915642316787),
            -1.7896732513627907e-08,
        ),
        (
            *(1.0, -0.4643284435138259, 0.024561290193459564),
            -0.00025604928330780566,
        ),
    ),
}


def _reduced(x: Value) -> tuple[Value, Value]:
    """n and r, for x below the limit; r has lost half of its last place."""
    n, whole = nearest_whole(x, 2 / math.pi)
    r = x
    for part in _QUARTER[x.format.code]:
        r = whole.fma(-part, r)
    return n, r


def _reduced_exactly(x: Value) -> tuple[Value, Value, Value]:
    """n, r, and what r has lost in rounding, for x below the limit."""
    n, whole = nearest_whole(x, 2 / math.pi)
    first, second, third = _QUARTER[x.format.code]
    # Exact, because the last place of the difference is that of `first`.
    rest = whole.fma(-first, x)
    product = whole * second
    r = rest - product
    low = ((rest - r) - product) - whole.fma(third, whole.fma(second, -product))
    rounded = r + low
    return n, rounded, low - (rounded - r)


def _is_odd(n: Value) -> Value:
    return (n & 1).equals(1)


def _sine_of(n: Value, r: Value) -> Value:
    """The sine of `n * pi / 2 + r`."""
    code = r.format.code
    bits = 32 if r.format is SINGLE else 64
    square = r * r
    sine = (r * square).muladd(polynomial(square, _SIN[code]), r)
    # -0 stays.
    sine = r.equals(0.0).choose(r, sine)
    cosine = (square * square).muladd(polynomial(square, _COS[code]), square.muladd(-0.5, 1.0))
    magnitude = _is_odd(n).choose(cosine, sine)
    # The second bit of n is the sign.
    return (magnitude.bits ^ ((n << bits - 2) & r.format.sign_bit)).number


def _tangent_of(n: Value, r: Value, low: Value) -> Value:
    """The tangent of `n * pi / 2 + r + low`, where `low` is less than the last place of r."""
    above, below = _TAN[r.format.code]
    square = r * r
    denominator = polynomial(square, below)
    cube = r * square * polynomial(square, above)
    # `low` times the derivative, and the denominator, to one digit.
    cube = low.muladd(square.muladd(0.7, 1.0), cube)
    # Of odd n it is -1 / tan(r).
    odd = _is_odd(n)
    product = r.fma(denominator, cube)
    quotient = odd.choose(-denominator, cube) / odd.choose(product, denominator)
    return odd.choose(0.0, r) + quotient


def _with_large(
    name: str, fast: Callable[[Value], Value], slow: Callable[[Value, Value, Value], Value]
) -> Body:
    """A function by `fast` below the limit, and by `slow`, from the parts in float64, beyond."""

    def remedy(x: Value) -> Value:
        single = x.format is SINGLE
        result = slow(*reduced_large(x.widened() if single else x))
        return result.narrowed() if single else result

    return lambda x: unless_large(fast(x), x, _LIMIT[x.format.code], name, remedy)


def _sin(x: Value) -> Value:
    return _sine_of(*_reduced(x))


def _cos(x: Value) -> Value:
    n, r = _reduced(x)
    return _sine_of(n + 1, r)


def _tan(x: Value) -> Value:
    tangent = _tangent_of(*_reduced_exactly(x))
    # -0 stays.
    return (abs(x) < 2.0 ** (-x.format.fraction // 2 - 1)).choose(x, tangent)


_sin_any = _with_large("sin", _sin, lambda n, r, low: _sine_of(n, r))
_cos_any = _with_large("cos", _cos, lambda n, r, low: _sine_of(n + 1, r))
_tan_any = _with_large("tan", _tan, _tangent_of)

sin = function("sin", _sin_any, _sin_any)
cos = function("cos", _cos_any, _cos_any)
tan = function("tan", _tan_any, _tan_any)
