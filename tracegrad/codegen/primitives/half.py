"""float16 to float32 and back, on every CPU.

x86 has instructions for it since 2012 (the feature f16c). Without them LLVM calls a function of the
compiler's run-time library, which no process that Numba runs in is sure to hold; integer arithmetic
does the same there. The arithmetic is after Fabian Giesen's `half_to_float` and
`float_to_half_rtne` (public domain), branch-free so that it vectorises.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tracegrad.codegen import processor

_F16 = ir.HalfType()
_F32 = ir.FloatType()
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)


def has_instructions() -> bool:
    """Whether the CPU that code is generated for converts float16 by itself."""
    return platform.machine() not in ("x86_64", "AMD64") or processor.has("f16c")


def _bits(value: int) -> Any:
    """A 32-bit constant."""
    return ir.Constant(_I32, value)


def widen(builder: Any, half: Any) -> Any:
    """The float32 of a float16; exact."""
    if has_instructions():
        return builder.fpext(half, _F32)
    bits = builder.zext(builder.bitcast(half, _I16), _I32)
    magnitude = builder.and_(bits, _bits(0x7FFF))
    # The exponent moves to its place in float32 and is corrected by a product, which also makes
    # normal numbers of subnormal ones.
    shifted = builder.bitcast(builder.shl(magnitude, _bits(13)), _F32)
    scaled = builder.bitcast(builder.fmul(shifted, ir.Constant(_F32, 2.0**112)), _I32)
    special = builder.icmp_unsigned(">=", magnitude, _bits(0x7C00))
    exponent = builder.select(special, _bits(0x7F800000), _bits(0))
    sign = builder.shl(builder.and_(bits, _bits(0x8000)), _bits(16))
    return builder.bitcast(builder.or_(builder.or_(scaled, exponent), sign), _F32)


def narrow(builder: Any, value: Any) -> Any:
    """The float16 nearest to a float32, ties to even."""
    if has_instructions():
        return builder.fptrunc(value, _F16)
    bits = builder.bitcast(value, _I32)
    magnitude = builder.and_(bits, _bits(0x7FFFFFFF))
    # Normal results: rebias the exponent, and add half of the last place, less one if it is even.
    odd = builder.and_(builder.lshr(magnitude, _bits(13)), _bits(1))
    rebias = _bits((0xFFF - (112 << 23)) & 0xFFFFFFFF)
    normal = builder.lshr(builder.add(builder.add(magnitude, rebias), odd), _bits(13))
    # Subnormal results: adding 0.5 leaves the rounded bits at the end of the significand.
    half = ir.Constant(_F32, 0.5)
    summed = builder.bitcast(builder.fadd(builder.bitcast(magnitude, _F32), half), _I32)
    subnormal = builder.sub(summed, _bits(0x3F000000))
    tiny = builder.icmp_unsigned("<", magnitude, _bits(113 << 23))
    finite = builder.select(tiny, subnormal, normal)
    invalid = builder.icmp_unsigned(">", magnitude, _bits(0x7F800000))
    special = builder.select(invalid, _bits(0x7E00), _bits(0x7C00))
    large = builder.icmp_unsigned(">=", magnitude, _bits(143 << 23))
    sign = builder.and_(builder.lshr(bits, _bits(16)), _bits(0x8000))
    result = builder.or_(builder.select(large, special, finite), sign)
    return builder.bitcast(builder.trunc(result, _I16), _F16)


@intrinsic
def f16(typing: Any, value: Any) -> Any:
    """A number rounded to float16, in the float32 register that holds such."""
    source: Any = types.unliteral(value)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        single = context.cast(builder, arguments[0], source, types.float32)
        return widen(builder, narrow(builder, single))

    return types.float32(source), generate
