"""BLAS by address: Fortran's calling convention, where every argument is a pointer.

The address is an argument, read from a launch's table, because cached object code must not hold
the address that a library had in an earlier process.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types

from tracegrad.codegen.primitives.buffers import Pointer

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic
place_on_stack: Any = cgutils.alloca_once_value

__all__ = ["advance", "gemm", "gemv"]

_I8 = ir.IntType(8)
_I32 = ir.IntType(32)
_REAL = {"f32": ir.FloatType(), "f64": ir.DoubleType()}

# What each argument of a routine is: c a transposition (0 or 1), i an integer, r a real number,
# p a buffer.
_GEMM = "cciiirpipirpi"
_GEMV = "ciirpipirpi"


def _emit_call(builder: Any, address: Any, letters: str, code: str, arguments: Any) -> Any:
    """Store the arguments on the stack and call the routine with their addresses."""
    passed = []
    for letter, argument in zip(letters, arguments, strict=True):
        if letter == "p":
            passed.append(argument)
            continue
        if letter == "c":
            chosen = builder.icmp_unsigned("!=", argument, ir.Constant(argument.type, 0))
            letters_t_n = ir.Constant(_I8, ord("T")), ir.Constant(_I8, ord("N"))
            value = builder.select(chosen, *letters_t_n)
        elif letter == "i":
            value = builder.trunc(argument, _I32)
        elif code == "f32":
            value = builder.fptrunc(argument, _REAL[code])
        else:
            value = argument
        slot = place_on_stack(builder, value)
        passed.append(builder.bitcast(slot, _I8.as_pointer()))
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer()] * len(passed))
    builder.call(builder.inttoptr(address, kind.as_pointer()), passed)


def _define_call(letters: str, pointer: Any) -> Any:
    """The signature and code of a routine's call; `pointer` is its first buffer's type."""
    if not isinstance(pointer, Pointer) or pointer.code not in _REAL:
        return None
    scalars = {"c": types.int64, "i": types.int64, "r": types.float64}
    kinds = [scalars.get(letter, pointer) for letter in letters]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _emit_call(builder, values[0], letters, pointer.code, values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *kinds), generate


@intrinsic
def gemm(
    typing: Any,
    address: Any,
    transpose_a: Any,
    transpose_b: Any,
    m: Any,
    n: Any,
    k: Any,
    alpha: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
) -> Any:
    """C = alpha * op(A) op(B) + beta * C, column-major, by the routine at `address`."""
    return _define_call(_GEMM, a)


@intrinsic
def gemv(
    typing: Any,
    address: Any,
    transpose_a: Any,
    m: Any,
    n: Any,
    alpha: Any,
    a: Any,
    lda: Any,
    x: Any,
    incx: Any,
    beta: Any,
    y: Any,
    incy: Any,
) -> Any:
    """y = alpha * op(A) x + beta * y, column-major, by the routine at `address`."""
    return _define_call(_GEMV, a)


@intrinsic
def advance(typing: Any, pointer: Any, elements: Any) -> Any:
    """The pointer moved by a number of elements."""
    if not isinstance(pointer, Pointer):
        return None
    kind = pointer.storage

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        typed = builder.bitcast(arguments[0], kind.as_pointer())
        return builder.bitcast(builder.gep(typed, [arguments[1]]), _I8.as_pointer())

    return pointer(pointer, types.int64), generate
