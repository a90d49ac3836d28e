"""Memory of a kernel on a device: elements by pointer and index, without a check.

A float16 is a float32 in a register, and a bool is a byte in memory.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.cuda import extending

from tracegrad.codegen.cuda import ATOMIC
from tracegrad.codegen.primitives.buffers import STORAGE

# Numba's decorators carry no usable types.
intrinsic: Any = extending.intrinsic

CODES = tuple(STORAGE)


def _element(builder: Any, code: str, pointer: Any, index: Any) -> Any:
    """The address of an element."""
    return builder.gep(builder.bitcast(pointer, STORAGE[code][0].as_pointer()), [index])


def _loader(code: str, constant: bool) -> Any:
    """Make `load_<code>(pointer, index)`, or `read_<code>` of what the kernel does not write."""

    def define(typing: Any, pointer: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_element(builder, code, *arguments))
            if constant:
                value.set_metadata("invariant.load", builder.module.add_metadata([]))
            if code == "f16":
                return builder.fpext(value, ir.FloatType())
            if code == "b1":
                return builder.icmp_unsigned("!=", value, value.type(0))
            return value

        return STORAGE[code][1](pointer, types.int64), generate

    define.__name__ = f"{'read' if constant else 'load'}_{code}"
    return intrinsic(define)


def _stored(builder: Any, code: str, value: Any) -> Any:
    """What memory holds of the value in a register."""
    if code == "f16":
        return builder.fptrunc(value, ir.HalfType())
    return builder.zext(value, STORAGE[code][0]) if code == "b1" else value


def _storer(code: str) -> Any:
    """Make `store_<code>(pointer, index, value)`."""

    def define(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _element(builder, code, *arguments[:2])
            builder.store(_stored(builder, code, arguments[2]), address)
            return context.get_dummy_value()

        return types.void(pointer, types.int64, STORAGE[code][1]), generate

    define.__name__ = f"store_{code}"
    return intrinsic(define)


def _adder(code: str) -> Any:
    """Make `add_<code>(pointer, index, value)`: at once, whoever adds at the same time, for types
    of 32 and 64 bits.
    """

    def define(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _element(builder, code, *arguments[:2])
            value = arguments[2]
            if code in ("f32", "f64"):
                name = f"llvm.nvvm.atomic.load.add.{code}.p0{code}"
                shape = ir.FunctionType(value.type, [address.type, value.type])
                function = builder.module.globals.get(name)
                builder.call(function or ir.Function(builder.module, shape, name), [address, value])
            elif code in ATOMIC:
                builder.atomic_rmw("add", address, value, "monotonic")
            elif code == "f16":
                total = builder.fadd(builder.fpext(builder.load(address), ir.FloatType()), value)
                builder.store(_stored(builder, code, total), address)
            else:
                builder.store(builder.add(builder.load(address), value), address)
            return context.get_dummy_value()

        return types.void(pointer, types.int64, STORAGE[code][1]), generate

    define.__name__ = f"add_{code}"
    return intrinsic(define)


_WORDS = {
    **{f"load_{code}": _loader(code, constant=False) for code in CODES},
    **{f"read_{code}": _loader(code, constant=True) for code in CODES},
    **{f"store_{code}": _storer(code) for code in CODES},
    **{f"add_{code}": _adder(code) for code in CODES if code != "b1"},
}
globals().update(_WORDS)
__all__ = [*_WORDS]
