"""What control flow in native code needs: pointers that move, stacks that grow, steps by address.

A stack of frames lies in an *arena*, memory that is given out in order and given back as a whole.
An arena is eight words:

    0  address of the chunk in use        1  bytes taken of it      2  bytes that it has
    3  bytes of all chunks                4  address of the stack that the arena is for

A chunk begins with the address of the chunk before it and its own size.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils
from numba.core import types as numba_types

from tracegrad.codegen.primitives.buffers import (
    OUTPUT_SCOPES,
    Pointer,
    read_word,
    store_word,
    word,
)
from tracegrad.codegen.primitives.launching import launch_step

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic
alloca_once: Any = cgutils.alloca_once
register_jitable: Any = extending.register_jitable
types: Any = numba_types

__all__ = [
    "address_of",
    "arena_allocate",
    "arena_grow",
    "arena_release",
    "arena_reset",
    "at_b1",
    "at_f16",
    "at_f32",
    "at_f64",
    "at_i16",
    "at_i32",
    "at_i64",
    "at_i8",
    "at_u8",
    "depth_of",
    "run_step",
    "slot_b1",
    "slot_f16",
    "slot_f32",
    "slot_f64",
    "slot_i16",
    "slot_i32",
    "slot_i64",
    "slot_i8",
    "slot_u8",
]

_BYTE = ir.IntType(8).as_pointer()


@intrinsic
def address_of(typing: Any, pointer: Any) -> Any:
    """The address that a pointer holds."""
    if not isinstance(pointer, Pointer):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(pointer), generate


def _pointer_at(code: str) -> Any:
    """Make the intrinsic `at_<code>(address, offset)`."""

    def define(typing: Any, address: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            # LLVM can follow a pointer that moves, but no integer that becomes one.
            return builder.gep(builder.inttoptr(arguments[0], _BYTE), [arguments[1]])

        return Pointer(code, OUTPUT_SCOPES)(types.int64, types.int64), generate

    define.__name__ = f"at_{code}"
    define.__doc__ = f"A {code} pointer that many bytes after an address."
    return intrinsic(define)


def _slot(code: str) -> Any:
    """Make the intrinsic `slot_<code>()`."""

    def define(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = Pointer(code, OUTPUT_SCOPES)
            slot = alloca_once(builder, pointer.storage)
            return builder.bitcast(slot, _BYTE)

        return Pointer(code, OUTPUT_SCOPES)(), generate

    define.__name__ = f"slot_{code}"
    define.__doc__ = f"A place for one {code} on the machine stack, which LLVM makes a register."
    return intrinsic(define)


at_f16 = _pointer_at("f16")
at_f32 = _pointer_at("f32")
at_f64 = _pointer_at("f64")
at_i8 = _pointer_at("i8")
at_i16 = _pointer_at("i16")
at_i32 = _pointer_at("i32")
at_i64 = _pointer_at("i64")
at_u8 = _pointer_at("u8")
at_b1 = _pointer_at("b1")

slot_f16 = _slot("f16")
slot_f32 = _slot("f32")
slot_f64 = _slot("f64")
slot_i8 = _slot("i8")
slot_i16 = _slot("i16")
slot_i32 = _slot("i32")
slot_i64 = _slot("i64")
slot_u8 = _slot("u8")
slot_b1 = _slot("b1")


# ------------------------------------------------------------------------------------------- arenas

# Python's own allocator, so that Python can free what a kernel took.
_malloc: Any = types.ExternalFunction("PyMem_RawMalloc", types.intp(types.intp))
_free: Any = types.ExternalFunction("PyMem_RawFree", types.void(types.intp))
_memcpy: Any = types.ExternalFunction("memcpy", types.intp(types.intp, types.intp, types.intp))

_FIRST = 4096
# Frames of several elements are aligned for vectors.
_ALIGNMENT = 64


@register_jitable
def _add_chunk(arena: int, size: int) -> None:
    chunk = _malloc(size)
    store_word(chunk, 0, read_word(arena, 0))
    store_word(chunk, 1, size)
    store_word(arena, 0, chunk)
    store_word(arena, 1, _ALIGNMENT)
    store_word(arena, 2, size)
    store_word(arena, 3, read_word(arena, 3) + size)


@register_jitable
def arena_reset(arena: int) -> None:
    """Take everything back. Of several chunks one is made, so that the same work fits in it."""
    chunk = read_word(arena, 0)
    store_word(arena, 1, _ALIGNMENT)
    if chunk == 0:
        return
    before = read_word(chunk, 0)
    if before == 0:
        return
    total = read_word(arena, 3)
    while chunk != 0:
        before = read_word(chunk, 0)
        _free(chunk)
        chunk = before
    store_word(arena, 0, 0)
    store_word(arena, 3, 0)
    _add_chunk(arena, total)


@register_jitable
def arena_allocate(arena: int, size: int) -> int:
    """The address of `size` bytes."""
    size = (size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
    taken = read_word(arena, 1)
    if read_word(arena, 0) == 0 or taken + size > read_word(arena, 2):
        wanted = max(size + _ALIGNMENT, _FIRST)
        # Twice the last one, so that the number of chunks stays small.
        _add_chunk(arena, max(wanted, 2 * read_word(arena, 3)))
        taken = read_word(arena, 1)
    store_word(arena, 1, taken + size)
    start: int = read_word(arena, 0) + taken
    return start


@register_jitable
def arena_grow(arena: int, address: int, size: int, wanted: int) -> int:
    """The address of `wanted` bytes whose first `size` are those at `address`."""
    new: int = arena_allocate(arena, wanted)
    _memcpy(new, address, size)
    return new


@register_jitable
def arena_release(arena: int, chunk: int, taken: int) -> None:
    """Take back what was given out since the arena stood at `chunk` and `taken`."""
    if read_word(arena, 0) == chunk:
        store_word(arena, 1, taken)
    else:
        # A chunk was added since: what is in the ones before stays as it is.
        store_word(arena, 1, _ALIGNMENT)


@register_jitable
def depth_of(stack: int) -> int:
    """How many frames a stack holds; none, if no branch has made it."""
    return read_word(stack, 0) if stack != 0 else 0


# -------------------------------------------------------------------------------------------- steps


@register_jitable
def run_step(pointers: int, table: int, at: int) -> None:
    """Run the kernel whose launch is described at position `at` of the table: the four words that
    `launch_step` takes, and the address of the control words.
    """
    launch_step(pointers, table + 8 * at, table, word(table, at + 4))
