"""The error function and its complement.

Near 0, the error function is a polynomial; in float32, it is 1 - 2**-p(|x|) elsewhere, with a
polynomial p that is about -log2(erfc). Its complement is the exponential of -x**2 times a function
without zeros, which is a polynomial in (a - k) / (a + k) over 1 + 2 * a, where a = |x|. The
coefficients are minimax for the error of the result; docs/vector-math.md says more.
"""

from __future__ import annotations

from tracegrad.codegen.primitives.exponentials import expm1_of_reduced, reduced
from tracegrad.codegen.primitives.expressions import (
    Value,
    function,
    nearest_whole,
    polynomial,
    power_of_two,
    reciprocal_to_one_digit,
    scaled,
)
from tracegrad.codegen.primitives.vectormath import library

__all__ = ["erf", "erfc"]

# erf(x) = x + x * (...) in x**2, where |x| < 0.875.
_NEAR_SINGLE = (
    *(0.12837915122509003, -0.3761250376701355, 0.11281921714544296),
    *(-0.026770485565066338, 0.00499891908839345, -0.0006020350265316665),
)
# erf(a) = 1 - 2**-(...) in a from there on, to where it is 1.
_FAR_SINGLE = (
    *(0.000192751016584225, 1.627267599105835, 0.9186182618141174, 0.15051200985908508),
    *(-0.03234502300620079, 0.0044610570184886456, -0.00028995180036872625),
)
# 2**r = 1 + r * (...), where |r| <= 1/2.
_EXP2_SINGLE = (
    *(0.6931470036506653, 0.24022242426872253, 0.05550704151391983),
    *(0.009671528823673725, 0.00132727378513664),
)

# erf(x) = 2 / sqrt(pi) * x + x**3 * (...) in x**2, where |x| < 2**-6.
_NEAR_DOUBLE = (-0.3761263890318236, 0.11283791636318, -0.026863721766067192)
_TWO_PER_ROOT_PI = (1.1283791670955126, 1.533545961316588e-17)

# erf(x) = x + x * (...) in x**2, where |x| < 0.6.
_SMALL = {
    "f32": (
        *(0.12837915122509003, -0.3761245608329773, 0.11280272156000137, -0.02661663107573986),
        *(0.004471419844776392,),
    ),
    "f64": (
        *(0.1283791670955126, -0.3761263890318426, 0.11283791670989363, -0.026866170654018084),
        *(0.005223977739581168, -0.0008548335025555538, 0.00012055641379759214),
        *(-1.493134991714706e-05, 1.647076344390348e-06, -1.5057816234968214e-07),
    ),
}

# erfc(a) = exp(-a**2) / (1 + 2 * a) * (...) in (a - k) / (a + k), from there on to where it is 0.
# k is such that the first coefficient loses nothing in rounding.
_MIDDLE = {"f32": 3.2265625, "f64": 3.5078125}
_END = {"f32": 10.1, "f64": 27.3}
_COMPLEMENT = {
    "f32": (
        *(1.248016357421875, -0.13840633630752563, -0.02919868379831314, 0.11502723395824432),
        *(-0.11917673796415329, 0.07920192927122116, -0.03580198436975479),
        *(0.009416099637746811, 0.00025530357379466295, -0.0011411370942369103),
    ),
    "f64": (
        *(1.2421931458446636, -0.1400321784670636, -0.010074165410993015, 0.09702924148515951),
        *(-0.1149239824025818, 0.08816828786804876, -0.049164097453638964),
        *(0.019388775863902412, -0.004368006268566397, -0.0002576953225502236),
        *(0.0005656625704657574, -0.0001283716911591133, -4.089416462418315e-05),
        *(2.4853513209689292e-05, 1.9085675453414192e-06, -3.846811560521617e-06),
        *(3.053966288196472e-08, 5.988416288162189e-07, -2.031624018098961e-08),
        *(-9.176031749186656e-08, 2.0419994946838997e-09, 1.0042184093337789e-08),
    ),
}


def _erf_single(x: Value) -> Value:
    a = abs(x).at_most(3.95)
    near = a.muladd(polynomial(a * a, _NEAR_SINGLE), a)
    power = -polynomial(a, _FAR_SINGLE)
    n, whole = nearest_whole(power, 1.0)
    r = power - whole
    rest = power_of_two(n) * r.muladd(polynomial(r, _EXP2_SINGLE), 1.0)
    return (a < 0.875).choose(near, 1.0 - rest).copysign(x)


_erf_of_library = library("erf")


def _erf_double(x: Value) -> Value:
    """That of libmvec, which loses 2.5 units between 2**-9 and 2**-7."""
    square = x * x
    high, low = _TWO_PER_ROOT_PI
    near = x.muladd(high, x * square.muladd(polynomial(square, _NEAR_DOUBLE), low))
    return (abs(x) < 2.0**-6).choose(near, _erf_of_library(x))


def _erfc(x: Value) -> Value:
    form = x.format
    small = x.muladd(polynomial(x * x, _SMALL[form.code]), x)
    a = abs(x).at_most(_END[form.code])
    square = a * a
    n, r = reduced(-square)
    growth = expm1_of_reduced(r - a.fma(a, -square))
    k = _MIDDLE[form.code]
    factor = polynomial((a - k) / (a + k), _COMPLEMENT[form.code])
    product, divisor = growth.muladd(factor, factor), a.muladd(2.0, 1.0)
    quotient = product / divisor
    # What the three have lost in rounding, which would be more than the polynomial.
    lost = quotient.fma(-divisor, product) + growth.muladd(factor, factor - product)
    lost = ((a + a) - (divisor - 1.0)).muladd(-quotient, lost)
    result = scaled(lost.muladd(reciprocal_to_one_digit(divisor), quotient), n)
    result = (x < 0.0).choose(2.0 - result, result)
    return (abs(x) < 0.6).choose(1.0 - small, result)


erf = function("erf", _erf_single, _erf_double)
erfc = function("erfc", _erfc, _erfc)
