"""The remainder of a large angle by pi/2, after Payne and Hanek.

A float64 of size 2**1000 has its quadrant in digits of 2/pi a thousand places behind the point. Of
the product of the argument's 53 bits with 2/pi only those digits are computed that neither make a
multiple of 4 nor a fraction too small to matter: 192 bits of 2/pi, from a table, of which two words
of 64 bits of the product are kept. No float64 is nearer to a multiple of pi/2 than about 2**-62, so
that this leaves some 60 correct bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir

from tracegrad.codegen.primitives.expressions import DOUBLE, Value

_I64 = ir.IntType(64)
_I128 = ir.IntType(128)
_WORDS = 20
_TABLE = "tracegrad_two_over_pi"

# pi/2 in two parts.
_QUARTER = (1.5707963267948966, 6.123233995736766e-17)


@cache
def _two_over_pi() -> list[int]:
    """The bits of 2/pi in 64-bit words, behind a word of 0."""
    guard = 64
    one = 1 << 64 * _WORDS + guard

    def arctangent_of_inverse(x: int) -> int:
        """atan(1 / x) in units of 1 / one."""
        power = one // x
        total, k = power, 1
        while power:
            power //= -x * x
            k += 2
            total += power // k
        return total

    # Machin's formula for pi/4.
    quarter = 4 * arctangent_of_inverse(5) - arctangent_of_inverse(239)
    digits = (one * one // (2 * quarter)) >> guard + 64
    return [digits >> 64 * (_WORDS - 1 - k) & (1 << 64) - 1 for k in range(_WORDS)]


def _table(module: Any) -> Any:
    """The words as a constant of a module."""
    if _TABLE in module.globals:
        return module.globals[_TABLE]
    kind = ir.ArrayType(_I64, _WORDS)
    table = ir.GlobalVariable(module, kind, _TABLE)
    table.initializer = ir.Constant(kind, _two_over_pi())
    table.global_constant = True
    table.linkage = "linkonce_odr"
    return table


def reduced_large(x: Value) -> tuple[Value, Value, Value]:
    """The integer n, r and what r has lost in rounding, such that x is n * pi / 2 + r and a
    multiple of 2 * pi.

    x is a float64 of 2**-9 or more in size; r is NaN if x is infinite.
    """
    builder = x.builder
    integer = x.bits.like

    def multiplied(a: Value, b: Value) -> tuple[Any, Any]:
        """The 128 bits of a product of words, and its low word."""
        wide = builder.mul(builder.zext(a.ref, _I128), builder.zext(b.ref, _I128))
        return wide, builder.trunc(wide, _I64)

    def high(wide: Any) -> Any:
        return builder.trunc(builder.lshr(wide, ir.Constant(_I128, 64)), _I64)

    def funnel(upper: Value, lower: Value, count: Value) -> Value:
        """The upper 64 of 128 bits after a shift to the left."""
        shape = ir.FunctionType(_I64, [_I64] * 3)
        shift = builder.module.declare_intrinsic("llvm.fshl", [_I64], shape)
        return Value(builder, builder.call(shift, [upper.ref, lower.ref, count.ref]))

    def unsigned(word: Value) -> Value:
        return Value(builder, builder.uitofp(word.ref, DOUBLE.real))

    magnitude = abs(x).bits
    fraction = DOUBLE.fraction
    mantissa = magnitude & (1 << fraction) - 1 | 1 << fraction
    # |x| is mantissa * 2**power; the bit of 2/pi that makes 2 of it is the first of the window.
    power = (magnitude >> fraction) - (DOUBLE.bias + fraction)
    start = power + 62
    first = start >> 6
    words = []
    for k in range(4):
        # Infinity is beyond the table.
        place = (first + k) & 31
        place = (place < _WORDS).choose(place, 0)
        address = builder.gep(_table(builder.module), [ir.Constant(_I64, 0), place.ref])
        words.append(Value(builder, builder.load(address)))
    count = start & 63
    window = [funnel(words[k], words[k + 1], count) for k in range(3)]

    # The product modulo 2**192 without its last word: two bits of quadrant, then the fraction.
    lowest, _ = multiplied(mantissa, window[2])
    middle, _ = multiplied(mantissa, window[1])
    middle = builder.add(middle, builder.zext(high(lowest), _I128))
    _, top = multiplied(mantissa, window[0])
    upper = Value(builder, builder.add(top, high(middle)))
    lower = Value(builder, builder.trunc(middle, _I64))

    # To the nearest quadrant: the fraction is a signed number of 128 bits.
    rounded = Value(builder, builder.lshr((upper + (1 << 61)).ref, ir.Constant(_I64, 62)))
    upper, lower = funnel(upper, lower, integer(2)), lower << 2
    negative = upper < 0
    carry = lower.equals(0).choose(integer(1), integer(0))
    upper = negative.choose((upper ^ -1) + carry, upper)
    lower = negative.choose(-lower, lower)

    # Its first 53 bits, which are exact, and the next 64, of which 53 are kept.
    near = (upper >> 11).whole() * 2.0**-53
    far = unsigned(funnel(upper, lower, integer(53))) * 2.0**-117
    quarter, rest = _QUARTER
    product = near * quarter
    exact = near.fma(quarter, -product) + near.muladd(rest, far * quarter)
    r = product + exact
    low = exact - (r - product)
    # NaN of infinity.
    r = r + (x - x)

    backwards = negative.choose(integer(1), integer(0)) ^ (x < 0.0).choose(integer(1), integer(0))
    sign = backwards << 63
    n = (x < 0.0).choose(-rounded, rounded)
    return n, (r.bits ^ sign).number, (low.bits ^ sign).number
