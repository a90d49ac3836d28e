"""exp, expm1, and the functions made of them: the logistic and the hyperbolic ones.

An argument is `n * log(2) + r`, with a whole `n` and a small `r`, for which a polynomial is
accurate; 2**n goes into the exponent of the result. The coefficients are minimax for the relative
error of the result: docs/vector-math.md says how they were found, and lists errors and speeds.
"""

from __future__ import annotations

import math

from tracegrad.codegen.primitives.expressions import (
    Value,
    function,
    nearest_whole,
    polynomial,
    power_of_two,
    scaled,
)

__all__ = ["cosh", "exp", "exp2", "expm1", "sigmoid", "sinh", "tanh"]

# log(2) in two parts.
_LN2 = {
    "f32": (0.693147182464599609375, -1.90465429995776804525e-9),
    "f64": (0.693147180559945286227, 2.31904681384629955842e-17),
}

# exp(r) = 1 + r + r**2 * (...), where |r| <= log(2) / 2.
_EXP = {
    "f32": (
        *(1.0, 1.0, 0.4999999403953552, 0.1666652113199234, 0.04166827350854874),
        *(0.008368685841560364, 0.0013820132007822394),
    ),
    "f64": (
        *(1.0, 1.0, 0.5000000000000011, 0.16666666666666438, 0.04166666666652671),
        *(0.008333333333478911, 0.0013888888944465164, 0.00019841269539202914),
        *(2.4801492275623983e-05, 2.7557557755286194e-06, 2.76305332386095e-07),
        2.500903893592814e-08,
    ),
}

# 2**r = 1 + r * (...), where |r| <= 1/2.
EXP2 = {
    "f32": (
        *(1.0, 0.6931471824645996, 0.24022647738456726, 0.05550359562039375),
        *(0.009618503041565418, 0.0013390997191891074, 0.00015328009612858295),
    ),
    "f64": (
        *(1.0, 0.6931471805599453, 0.2402265069591011, 0.055504108664821736),
        *(0.009618129107600562, 0.0013333558146540183, 0.00015403530450289703),
        *(1.5252733641882747e-05, 1.3215438232243568e-06, 1.0178156106300819e-07),
        *(7.0733341728962374e-09, 4.4395342473200543e-10),
    ),
}

# exp(r) - 1 = r + r**2 * (...).
_EXPM1 = {
    "f32": (
        *(0.5, 0.1666654348373413, 0.041666433215141296, 0.008366555906832218),
        0.0013937922194600105,
    ),
    "f64": (
        *(0.5000000000000006, 0.16666666666666685, 0.04166666666657334, 0.008333333333315112),
        *(0.001388888893251708, 0.0001984126990192629, 2.4801504242672568e-05),
        *(2.75572289191597e-06, 2.762641846659335e-07, 2.5114174136649776e-08),
    ),
}

# sinh(r) = r + r**3 * (...) in r**2, where |r| <= 1.
_SINH = {
    "f32": (
        0.1666666716337204,
        0.008333311416208744,
        0.00019842608890030533,
        2.7842752388096415e-06,
    ),
    "f64": (
        *(0.16666666666666669, 0.008333333333332912, 0.00019841269841593324),
        *(2.7557319106820733e-06, 2.5052130982149052e-08, 1.6056660968747128e-10),
        7.776530067581289e-13,
    ),
}

# tanh(r) = r + r**3 * (...) in r**2, where |r| <= 0.27.
_TANH = {
    "f32": (-0.3333318531513214, 0.13320977985858917, -0.05101582035422325),
    "f64": (
        *(-0.33333333333331794, 0.13333333332793607, -0.053968253327639264),
        *(0.021869452435459475, -0.00886214488528685, 0.003573934234330722),
        -0.0012966901385982495,
    ),
}


def reduced(x: Value, parts: int = 1, lowest: float = -0.5) -> tuple[Value, Value]:
    """The integer n and r such that x = n * (log(2) / parts) + r.

    r is between `lowest` and `lowest + 1` times log(2) / parts.
    """
    high, low = (part / parts for part in _LN2[x.format.code])
    # Where the middle of that interval is not 0.
    shift = (lowest + 0.5) * high
    n, whole = nearest_whole(x - shift if shift else x, parts / math.log(2))
    return n, whole.fma(-low, whole.fma(-high, x))


def _clamped(x: Value, bottom: dict[str, float], top: dict[str, float]) -> Value:
    return x.at_most(top[x.format.code]).at_least(bottom[x.format.code])


# Beyond these, the result is 0 or infinite.
_BOTTOM = {"f32": -104.5, "f64": -746.0}
_TOP = {"f32": 89.0, "f64": 710.0}


def _exp(x: Value) -> Value:
    n, r = reduced(_clamped(x, _BOTTOM, _TOP))
    return scaled(polynomial(r, _EXP[x.format.code]), n)


def _expm1(x: Value) -> Value:
    form = x.format
    # Below, the result is -1.
    n, r = reduced(_clamped(x, {"f32": -18.0, "f64": -39.0}, _TOP))
    # Half of the result, which may be finite where 2**n is not.
    scale = power_of_two(n - 1)
    half = (scale * (r * r)).muladd(polynomial(r, _EXPM1[form.code]), scale.muladd(r, scale - 0.5))
    return (abs(x) < 2.0 ** (-form.fraction - 2)).choose(x, half + half)


def expm1_of_reduced(r: Value) -> Value:
    """exp(r) - 1 of what `reduced` returns."""
    return (r * r).muladd(polynomial(r, _EXPM1[r.format.code]), r)


def _exp2(x: Value) -> Value:
    x = _clamped(x, {"f32": -152.0, "f64": -1077.0}, {"f32": 128.0, "f64": 1024.0})
    n, whole = nearest_whole(x, 1.0)
    return scaled(polynomial(x - whole, EXP2[x.format.code]), n)


def _half_exp(a: Value) -> Value:
    """exp(a) / 2 of a positive number, which may be finite where exp(a) is not."""
    n, r = reduced(a.at_most(_TOP[a.format.code] + 1))
    return scaled(polynomial(r, _EXP[a.format.code]), n - 1)


def _cosh(x: Value) -> Value:
    half = _half_exp(abs(x))
    return half + 0.25 / half


def _sinh(x: Value) -> Value:
    square = x * x
    near = (x * square).muladd(polynomial(square, _SINH[x.format.code]), x)
    half = _half_exp(abs(x))
    return (abs(x) < 1.0).choose(near, half - 0.25 / half).copysign(x)


def _tanh(x: Value) -> Value:
    """By t = tanh(r): exp(2 * |x|) = s * (1 + t) / (1 - t), where s = 2**n.

    So tanh(|x|) is the quotient of s * (1 + t) - (1 - t) and that plus 2 * (1 - t). Rounding errors
    of the numerator cancel where the result is near 1. r is chosen so that the numerator is exact
    for a small argument and has no small value for another.
    """
    form = x.format
    # Beyond, the result is 1.
    magnitude = abs(x).at_most({"f32": 9.02, "f64": 19.07}[form.code])
    n, r = reduced(magnitude, parts=2, lowest=-0.25)
    square = r * r
    t = (r * square).muladd(polynomial(square, _TANH[form.code]), r)
    scale = power_of_two(n)
    numerator = t.muladd(scale + 1.0, scale - 1.0)
    return (numerator / (numerator + t.muladd(-2.0, 2.0))).copysign(x)


def _sigmoid(x: Value) -> Value:
    """By e = exp(-|x|): 1 / (1 + e), or e / (1 + e) where x is negative.

    The sum may lose as much as half a unit of the result and the quotient as much again; what both
    have lost is the remainder of the division, times the derivative of the quotient.
    """
    n, r = reduced((-abs(x)).at_least(_BOTTOM[x.format.code]))
    e = scaled(polynomial(r, _EXP[x.format.code]), n)
    negative = x < 0.0
    numerator = negative.choose(e, 1.0)
    quotient = numerator / (e + 1.0)
    remainder = quotient.fma(-e, numerator - quotient)
    return remainder.muladd(negative.choose(1.0 - quotient, quotient), quotient)


exp = function("exp", _exp, _exp)
expm1 = function("expm1", _expm1, _expm1)
exp2 = function("exp2", _exp2, _exp2)
cosh = function("cosh", _cosh, _cosh)
sinh = function("sinh", _sinh, _sinh)
tanh = function("tanh", _tanh, _tanh)
sigmoid = function("sigmoid", _sigmoid, _sigmoid)
