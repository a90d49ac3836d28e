"""Words that several threads change: each operation is whole, and all threads see all of them in
one order.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import types

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic

__all__ = ["atomic_add", "atomic_load", "atomic_store", "atomic_swap", "relax"]

_I64 = ir.IntType(64)
_ORDER = "seq_cst"

# What tells the processor that a loop only waits: (LLVM's intrinsic, its operands).
_RELAX = {
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "AMD64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.hint", (1,)),
    "arm64": ("llvm.aarch64.hint", (1,)),
}


def _place(builder: Any, address: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(address, _I64.as_pointer()), [index])


@intrinsic
def atomic_load(typing: Any, address: Any, index: Any) -> Any:
    """The word at position `index` of the words at `address`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(builder, *arguments), _ORDER, 8)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def atomic_store(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Set a word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _place(builder, *arguments[:2]), _ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def atomic_add(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Add to a word; what it was before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _place(builder, *arguments[:2]), arguments[2], _ORDER)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def atomic_swap(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Set a word; what it was before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", _place(builder, *arguments[:2]), arguments[2], _ORDER)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def relax(typing: Any) -> Any:
    """Wait for a moment in a loop that waits for another thread."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, operands = _RELAX.get(platform.machine(), ("", ()))
        if name:
            word = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [word] * len(operands))
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            builder.call(function, [ir.Constant(word, x) for x in operands])
        return context.get_dummy_value()

    return types.void(), generate
