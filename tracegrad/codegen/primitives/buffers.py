"""Raw memory for kernels: tables of constants, buffers by slot, unchecked loads and stores.

LLVM is told that what `load` reads, no `store` of the same kernel writes. A kernel that works in
place must therefore read the shared buffer with `load_output`, through the *same* pointer value
that it stores to. Outputs from `output_f32(pointers, slot, k)` with different literal `k` are told
to be disjoint from each other too; stores through `pointer_f32` all share one scope.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.extending import models, register_model

from tracegrad.codegen.primitives import half

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic

__all__ = [
    "call_address",
    "call_kernel",
    "clear",
    "load",
    "load_output",
    "read_byte",
    "read_double",
    "read_float",
    "read_word",
    "real",
    "store",
    "store_real",
    "store_word",
    "word",
    "pointer_f16",
    "pointer_f32",
    "pointer_f64",
    "pointer_i8",
    "pointer_i16",
    "pointer_i32",
    "pointer_i64",
    "pointer_u8",
    "pointer_b1",
    "output_f16",
    "output_f32",
    "output_f64",
    "output_i8",
    "output_i16",
    "output_i32",
    "output_i64",
    "output_u8",
    "output_b1",
]

# Outputs of one kernel that are told apart for alias analysis; one more scope is for the rest.
OUTPUT_SCOPES = 16


# Storage code -> (LLVM storage type, Numba type of a loaded value).
STORAGE: dict[str, tuple[Any, Any]] = {
    "f16": (ir.HalfType(), types.float32),
    "f32": (ir.FloatType(), types.float32),
    "f64": (ir.DoubleType(), types.float64),
    "i8": (ir.IntType(8), types.int8),
    "i16": (ir.IntType(16), types.int16),
    "i32": (ir.IntType(32), types.int32),
    "i64": (ir.IntType(64), types.int64),
    "u8": (ir.IntType(8), types.uint8),
    "b1": (ir.IntType(8), types.boolean),
}

# ---------------------------------------------------------------------------- typed buffer pointers


class Pointer(types.Type):
    """A buffer's address with its element type and the alias scope of what is stored through it."""

    def __init__(self, code: str, scope: int) -> None:
        self.code = code
        self.scope = scope
        self.storage = STORAGE[code][0]
        super().__init__(name=f"Pointer({code}, {scope})")


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    """A pointer is one machine address."""

    def __init__(self, manager: Any, kind: Pointer) -> None:
        super().__init__(manager, kind, ir.IntType(8).as_pointer())  # type: ignore[no-untyped-call]


_I64 = ir.IntType(64)


def _load_word(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    """Load element `index` of the 8-byte constants at an integer address."""
    base = builder.inttoptr(address, kind.as_pointer())
    value = builder.load(builder.gep(base, [index]))
    # Neither a table nor the pointer array changes while a kernel runs, so LLVM may hoist.
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


@intrinsic
def word(typing: Any, table: Any, index: Any) -> Any:
    """Load the int64 constant at position `index` of a table."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load_word(builder, arguments[0], arguments[1], _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def real(typing: Any, table: Any, index: Any) -> Any:
    """Load the float64 constant whose bits are the int64 word at position `index` of a table."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load_word(builder, arguments[0], arguments[1], ir.DoubleType())

    return types.float64(types.int64, types.int64), generate


@intrinsic
def read_word(typing: Any, address: Any, index: Any) -> Any:
    """Load an int64 that may change while the function runs."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = builder.inttoptr(arguments[0], _I64.as_pointer())
        return builder.load(builder.gep(base, [arguments[1]]))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def read_byte(typing: Any, address: Any) -> Any:
    """Load the byte at an address, as an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
        return builder.zext(byte, _I64)

    return types.int64(types.int64), generate


@intrinsic
def read_double(typing: Any, address: Any) -> Any:
    """Load the float64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.DoubleType().as_pointer()))

    return types.float64(types.int64), generate


@intrinsic
def read_float(typing: Any, address: Any) -> Any:
    """Load the float32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.FloatType().as_pointer()))

    return types.float32(types.int64), generate


@intrinsic
def store_word(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Store an int64 at position `index` of the words at `address` (the interpreter's own use)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = builder.inttoptr(arguments[0], _I64.as_pointer())
        builder.store(arguments[2], builder.gep(base, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def store_real(typing: Any, address: Any, value: Any) -> Any:
    """Store a float32 or a float64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[1].type
        builder.store(arguments[1], builder.inttoptr(arguments[0], kind.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, value), generate


def _prefer_wide_vectors(builder: Any) -> None:
    """Ask for full-width vectors in this function only.

    LLVM prefers 256 bits on many Intel CPUs; the attribute overrides that without touching
    Numba's process-wide CPU features. `noinline` keeps the function, and with it the attribute.
    """
    attributes = builder.function.attributes
    set.add(attributes, '"prefer-vector-width"="512"')
    attributes.add("noinline")


def _define_pointer(code: str, scope: int, arguments: tuple[Any, ...]) -> Any:
    """The signature and code of fetching a buffer's address from the pointer array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _prefer_wide_vectors(builder)
        address = _load_word(builder, values[0], values[1], _I64)
        return builder.inttoptr(address, ir.IntType(8).as_pointer())

    return Pointer(code, scope)(*arguments), generate


def _shared_pointer(code: str) -> Any:
    """Make the intrinsic `pointer_<code>(pointers, slot)`."""

    def define(typing: Any, pointers: Any, slot: Any) -> Any:
        return _define_pointer(code, OUTPUT_SCOPES, (types.int64, types.int64))

    define.__name__ = f"pointer_{code}"
    define.__doc__ = f"The {code} buffer at a slot."
    return intrinsic(define)


def _output_pointer(code: str) -> Any:
    """Make the intrinsic `output_<code>(pointers, slot, k)` with a literal `k`."""

    def define(typing: Any, pointers: Any, slot: Any, scope: Any) -> Any:
        if not isinstance(scope, types.IntegerLiteral):
            return None
        if not 0 <= scope.literal_value < OUTPUT_SCOPES:
            return None
        return _define_pointer(code, scope.literal_value, (types.int64, types.int64, scope))

    define.__name__ = f"output_{code}"
    define.__doc__ = f"The {code} output buffer at a slot, disjoint from outputs of another k."
    return intrinsic(prefer_literal=True)(define)


pointer_f16 = _shared_pointer("f16")
pointer_f32 = _shared_pointer("f32")
pointer_f64 = _shared_pointer("f64")
pointer_i8 = _shared_pointer("i8")
pointer_i16 = _shared_pointer("i16")
pointer_i32 = _shared_pointer("i32")
pointer_i64 = _shared_pointer("i64")
pointer_u8 = _shared_pointer("u8")
pointer_b1 = _shared_pointer("b1")

output_f16 = _output_pointer("f16")
output_f32 = _output_pointer("f32")
output_f64 = _output_pointer("f64")
output_i8 = _output_pointer("i8")
output_i16 = _output_pointer("i16")
output_i32 = _output_pointer("i32")
output_i64 = _output_pointer("i64")
output_u8 = _output_pointer("u8")
output_b1 = _output_pointer("b1")


def _scopes(module: Any, numbers: Iterable[int]) -> Any:
    """The metadata list of the alias scopes of the given outputs."""
    domain = module.add_metadata(["tracegrad.buffers"])
    return module.add_metadata(
        [module.add_metadata([f"tracegrad.output.{k}", domain]) for k in numbers]
    )


def _state_alias(builder: Any, access: Any, scope: int | None) -> None:
    """Tell LLVM which stores a memory access cannot meet: all for None, else all but its own scope.

    Without this LLVM compares address ranges at run time, and gives up beyond eight comparisons.
    """
    others = [k for k in range(OUTPUT_SCOPES + 1) if k != scope]
    access.set_metadata("noalias", _scopes(builder.module, others))
    if scope is not None:
        access.set_metadata("alias.scope", _scopes(builder.module, [scope]))


def _element(builder: Any, pointer: Any, index: Any, code: str) -> Any:
    """The address of one element; the index is a raw element count, unchecked."""
    typed = builder.bitcast(pointer, STORAGE[code][0].as_pointer())
    return builder.gep(typed, [index])


def _define_load(pointer: Any, written: bool) -> Any:
    """The signature and code of a load through a pointer."""
    if not isinstance(pointer, Pointer):
        return None
    code = pointer.code

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_element(builder, arguments[0], arguments[1], code))
        _state_alias(builder, value, pointer.scope if written else None)
        if code == "f16":
            return half.widen(builder, value)
        if code == "b1":
            return builder.icmp_unsigned("!=", value, ir.Constant(value.type, 0))
        return value

    return STORAGE[code][1](pointer, types.int64), generate


@intrinsic
def load(typing: Any, pointer: Any, index: Any) -> Any:
    """Load element `index`; float16 comes as float32, bool as a boolean."""
    return _define_load(pointer, written=False)


@intrinsic
def load_output(typing: Any, pointer: Any, index: Any) -> Any:
    """Load element `index` of a buffer that this kernel writes through the same pointer."""
    return _define_load(pointer, written=True)


@intrinsic
def store(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Store `value`, converted to the element type, at element `index` of an output."""
    if not isinstance(pointer, Pointer):
        return None
    code = pointer.code
    kind = STORAGE[code][1]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored = arguments[2]
        if code == "f16":
            stored = half.narrow(builder, stored)
        if code == "b1":
            stored = builder.zext(stored, ir.IntType(8))
        access = builder.store(stored, _element(builder, arguments[0], arguments[1], code))
        _state_alias(builder, access, pointer.scope)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, kind), generate


@intrinsic
def clear(typing: Any, pointer: Any, count: Any) -> Any:
    """Store zero in the first `count` elements of an output."""
    if not isinstance(pointer, Pointer):
        return None
    code = pointer.code

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, count = arguments
        end = builder.ptrtoint(_element(builder, start, count, code), _I64)
        size = builder.sub(end, builder.ptrtoint(start, _I64))
        cgutils.memset(builder, start, size, 0)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(pointer, types.int64), generate


@intrinsic
def call_kernel(typing: Any, address: Any, pointers: Any, table: Any, start: Any, stop: Any) -> Any:
    """Call the kernel at `address` over `[start, stop)`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64] * 4)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(function, arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def call_address(typing: Any, address: Any, values: Any) -> Any:
    """Call the C function at `address` with a tuple of words; the word that it returns."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words = [builder.extract_value(arguments[1], i) for i in range(len(values))]
        kind = ir.FunctionType(_I64, [_I64] * len(words))
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), words)

    return types.int64(types.int64, values), generate
