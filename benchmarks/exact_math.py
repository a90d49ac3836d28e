"""What mathematical functions should return, where to try them, and how far off a result is.

The reference of float32 is computed in float64; that of float64 in NumPy's long double, which has
to be longer (on x86 it has 64 bits of precision, 11 more than float64).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

HAS_LONG_DOUBLE = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant


def _sigmoid(x: Array) -> Array:
    """The logistic function without overflow and without cancellation."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _root_of_pi(x: Array) -> Any:
    """In the format of x."""
    return np.sqrt(4 * np.arctan(x.dtype.type(1)))


def _exp_of_minus_square(x: Array) -> Array:
    """exp(-x**2), with a square that is not rounded."""
    upper = x.astype(np.float32).astype(x.dtype)
    return np.exp(-upper * upper) * np.exp(-(x - upper) * (x + upper))


def _erf_near(x: Array) -> Array:
    """A series of positive terms: https://dlmf.nist.gov/7.6.E2."""
    term = 2 / _root_of_pi(x) * x * _exp_of_minus_square(x)
    total = term
    for n in range(1, 60):
        term = term * (2 * x * x) / (2 * n + 1)
        total = total + term
    return total


def _erfc_far(x: Array) -> Array:
    """A continued fraction: https://dlmf.nist.gov/7.9.E1."""
    rest = x
    for n in range(160, 0, -1):
        rest = x + x.dtype.type(n) / 2 / rest
    return _exp_of_minus_square(x) / _root_of_pi(x) / rest


def _erf(x: Array) -> Array:
    size = np.minimum(np.abs(x), 28)
    far = 1 - _erfc_far(np.maximum(size, 1.5))
    return np.copysign(np.where(size < 1.5, _erf_near(np.minimum(size, 1.5)), far), x)


def _erfc(x: Array) -> Array:
    size = np.minimum(np.abs(x), 28)
    near = 1 - np.copysign(_erf_near(np.minimum(size, 1.5)), x)
    far = _erfc_far(np.maximum(size, 1.5))
    return np.where(size < 1.5, near, np.where(x < 0, 2 - far, far))


# The name of a function in kernels -> its reference.
UNARY: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "erfc": _erfc,
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "pow": np.power,
    "atan2": np.arctan2,
    "hypot": np.hypot,
}


def reference(name: str, operands: tuple[Array, ...]) -> Array:
    """The value of a function in a longer format than that of its operands."""
    longer = np.float64 if operands[0].dtype == np.float32 else np.longdouble
    function: Callable[..., Array] = (UNARY | BINARY)[name]  # type: ignore[assignment]
    with np.errstate(all="ignore"):
        return function(*(x.astype(longer) for x in operands))


def errors(found: Array, exact: Array) -> Array:
    """Distances from exact results in units of the last place; infinite where a special value or
    the sign of a zero is another one.
    """
    kind = found.dtype.type
    with np.errstate(all="ignore"):
        wanted = exact.astype(kind)
        size = np.where(np.isfinite(wanted), np.abs(wanted), np.finfo(kind).max)
        distance = np.abs(found.astype(exact.dtype) - exact) / np.spacing(size)
    same = (found == wanted) & (np.signbit(found) == np.signbit(wanted))
    same |= np.isnan(found) & np.isnan(wanted)
    ordinary = np.isfinite(found) & np.isfinite(wanted)
    ordinary &= (wanted != 0) | (found != 0)
    return np.where(same, np.where(ordinary, distance, 0), np.where(ordinary, distance, np.inf))


# The float32 and float64 that are nearest to multiples of pi/2.
_NEARLY_RIGHT_ANGLES = ("0x1.f37c8ap+95", "0x1.47d0fep+34", "0x1.f37c8ap+96", "0x1.47d0fep+35")
_NEARLY_RIGHT_ANGLES += ("0x1.6ac5b262ca1ffp+849", "0x1.6c6cbc45dc8dep+5")
_NEARLY_RIGHT_ANGLES += ("0x1.6ac5b262ca1ffp+850", "0x1.921fb54442d18p+0", "0x1.921fb6p+1")


def _special(kind: Any) -> Array:
    """Zeros, infinities, NaN, subnormal numbers, both ends of the range, and hard angles."""
    facts = np.finfo(kind)
    values = [0.0, 1.0, 0.5, 2.0, np.inf, np.nan, facts.max, facts.tiny, facts.smallest_subnormal]
    values += [facts.tiny / 2, facts.eps, 1 - facts.epsneg, 1 + facts.eps, 1e22, 1e-22]
    with np.errstate(over="ignore"):
        values += [kind(float.fromhex(text)) for text in _NEARLY_RIGHT_ANGLES]
    return np.array([*values, *np.negative(values)], kind)


def _bits(rng: np.random.Generator, kind: Any, count: int) -> Array:
    """Numbers of every size, and NaN."""
    integer = np.uint32 if kind == np.float32 else np.uint64
    return rng.integers(0, np.iinfo(integer).max, count, integer, endpoint=True).view(kind)


def samples(kind: Any, count: int) -> Array:
    """Some 7 * count numbers over the whole range, and more of them where functions change."""
    rng = np.random.default_rng(1)
    largest = np.log(np.finfo(kind).max)
    signs = rng.choice([-1, 1], count)
    # Where exp, exp2 and their like reach the ends of the range.
    ends = np.outer([-1.05, -1, 1], [largest, largest / np.log(2)]).ravel()
    with np.errstate(over="ignore"):
        parts = [
            _bits(rng, kind, count),
            *(rng.uniform(-size, size, count) for size in (1, 12, 1.1 * largest)),
            signs * np.exp(rng.uniform(-20, 5, count)),
            1 + signs * np.exp(rng.uniform(-20, 0, count)),
            rng.choice(ends, count) * rng.uniform(0.995, 1.005, count),
            _special(kind),
        ]
    return np.concatenate([part.astype(kind) for part in parts])


def pairs(kind: Any, count: int) -> tuple[Array, Array]:
    """Some 5 * count pairs, of which powers are of all sizes, and quotients neither 0 nor infinite,
    and all pairs of special values.
    """
    rng = np.random.default_rng(2)
    largest = np.log(np.finfo(kind).max)
    special = np.meshgrid(_special(kind), _special(kind))
    base, number = np.abs(_bits(rng, kind, count)), _bits(rng, kind, count)
    with np.errstate(all="ignore"):
        exponent = rng.uniform(-1.1, 1.1, count) * largest / np.log(base.astype(np.float64))
        parts = [
            (_bits(rng, kind, count), _bits(rng, kind, count)),
            (base, exponent),
            (1 + rng.uniform(-0.01, 0.01, count), rng.uniform(-100, 100, count) * largest),
            (rng.uniform(-9, 9, count), rng.integers(-9, 9, count)),
            (number, number.astype(np.float64) * np.exp(rng.uniform(-2, 2, count))),
            (special[0].ravel(), special[1].ravel()),
        ]
        first, second = zip(*parts, strict=True)
        return (
            np.concatenate([np.asarray(part, kind) for part in first]),
            np.concatenate([np.asarray(part, kind) for part in second]),
        )
