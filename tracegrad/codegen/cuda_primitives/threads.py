"""Threads of a device: registers of others, and positions."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.cuda import extending

intrinsic: Any = extending.intrinsic

# How many threads read each other's registers.
WARP = 32

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_KINDS = {
    "b1": types.boolean,
    "u8": types.uint8,
    "i8": types.int8,
    "i16": types.int16,
    "i32": types.int32,
    "i64": types.int64,
    "f32": types.float32,
    "f64": types.float64,
}


def _exchanged(builder: Any, word: Any, distance: Any) -> Any:
    """The 32-bit word of the thread that is so far behind, of all threads of a warp."""
    shape = ir.FunctionType(_I32, [_I32] * 4)
    name = "llvm.nvvm.shfl.sync.down.i32"
    function = builder.module.globals.get(name) or ir.Function(builder.module, shape, name)
    return builder.call(function, [_I32(-1), word, distance, _I32(31)])


def _shuffle(code: str) -> Any:
    """Make `shuffle_<code>(value, distance)`."""
    kind = _KINDS[code]

    def define(typing: Any, value: Any, distance: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value, distance = arguments
            steps = builder.trunc(distance, _I32)
            if value.type == ir.FloatType():
                bits = _exchanged(builder, builder.bitcast(value, _I32), steps)
                return builder.bitcast(bits, value.type)
            if value.type == ir.DoubleType() or value.type == _I64:
                bits = builder.bitcast(value, _I64)
                low = _exchanged(builder, builder.trunc(bits, _I32), steps)
                upper = builder.trunc(builder.lshr(bits, _I64(32)), _I32)
                high = _exchanged(builder, upper, steps)
                wide = builder.shl(builder.zext(high, _I64), _I64(32))
                return builder.bitcast(builder.or_(wide, builder.zext(low, _I64)), value.type)
            word = value if value.type == _I32 else builder.zext(value, _I32)
            word = _exchanged(builder, word, steps)
            return word if value.type == _I32 else builder.trunc(word, value.type)

        return kind(kind, types.int64), generate

    define.__name__ = f"shuffle_{code}"
    return intrinsic(define)


def _unsigned(name: str, operation: str, width: Any) -> Any:
    """Make a division of positions that fit into a word of some width."""

    def define(typing: Any, position: Any, size: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            divide = getattr(builder, operation)
            if width == _I64:
                return divide(*arguments)
            return builder.zext(divide(*(builder.trunc(x, width) for x in arguments)), _I64)

        return types.int64(types.int64, types.int64), generate

    define.__name__ = name
    return intrinsic(define)


quotient = _unsigned("quotient", "udiv", _I32)
remains = _unsigned("remains", "urem", _I32)
quotient_wide = _unsigned("quotient_wide", "udiv", _I64)
remains_wide = _unsigned("remains_wide", "urem", _I64)

# The types of shared arrays are `kind_<code>`.
_WORDS = {f"kind_{code}": kind for code, kind in _KINDS.items()}
_WORDS |= {f"shuffle_{code}": _shuffle(code) for code in _KINDS}
globals().update(_WORDS)
__all__ = ["WARP", "quotient", "quotient_wide", "remains", "remains_wide", *_WORDS]
