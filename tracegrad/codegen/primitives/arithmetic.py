"""Scalar arithmetic of kernels beyond Python's operators: reassociation, NaN, selects, conversions.

Everything here is IEEE arithmetic. The one licence is in the `_reassoc` forms, for the running
value of a reduction: LLVM may reorder those, and so vectorise the loop.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import types as numba_types

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic
types: Any = numba_types

__all__ = [
    "add_reassoc",
    "mul_reassoc",
    "add_apart",
    "sub_apart",
    "maximum_reassoc",
    "minimum_reassoc",
    "maximum",
    "minimum",
    "where",
    "f32",
    "f64",
    "i8",
    "i16",
    "i32",
    "i64",
    "u8",
    "b1",
]


def _common_real(*kinds: Any) -> Any:
    """The float type of an operation: float32 only if no operand is wider."""
    if all(kind == types.float32 for kind in kinds):
        return types.float32
    return types.float64


def _reassociated(operation: str) -> Any:
    """Make an addition or multiplication that LLVM may reorder, so that reductions vectorise."""

    def define(typing: Any, a: Any, b: Any) -> Any:
        if isinstance(a, types.Integer) and isinstance(b, types.Integer):
            return _define_integer(operation, typing, a, b)
        kind = _common_real(a, b)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            method = getattr(builder, f"f{operation}")
            return method(*arguments, flags=("reassoc", "contract"))

        return kind(kind, kind), generate

    define.__name__ = f"{operation}_reassoc"
    return intrinsic(define)


def _define_integer(operation: str, typing: Any, a: Any, b: Any) -> Any:
    """The integer form of a reassociable operation: wrapping arithmetic, always reorderable."""
    kind = typing.unify_types(a, b)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, operation)(*arguments)

    return kind(kind, kind), generate


add_reassoc = _reassociated("add")
mul_reassoc = _reassociated("mul")


def _apart(operation: str) -> Any:
    """Make an addition or subtraction that LLVM keeps apart from a product that goes into it."""

    def define(typing: Any, a: Any, b: Any) -> Any:
        kind = _common_real(a, b)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            # Numba gives its own flags to what has none; this one means nothing here.
            return getattr(builder, f"f{operation}")(*arguments, flags=("arcp",))

        return kind(kind, kind), generate

    define.__name__ = f"{operation}_apart"
    return intrinsic(define)


add_apart = _apart("add")
sub_apart = _apart("sub")


def _extremum(relation: str, reduction: str | None) -> Any:
    """Make a maximum (`relation` ">") or minimum that propagates NaN as NumPy does.

    The elementwise form is one hardware max and one blend. The form for reductions is LLVM's own
    intrinsic, because only that is recognised as a reduction and vectorised.
    """

    def define(typing: Any, a: Any, b: Any) -> Any:
        integral = (types.Integer, types.Boolean)
        if isinstance(a, integral) and isinstance(b, integral):
            kind = typing.unify_types(a, b)
        else:
            kind = _common_real(a, b)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, y = arguments
            if isinstance(kind, types.Float):
                if reduction is not None:
                    shape = ir.FunctionType(x.type, [x.type, x.type])
                    name = f"llvm.{reduction}"
                    function = builder.module.declare_intrinsic(name, [x.type], shape)
                    return builder.call(function, [x, y])
                larger = builder.select(builder.fcmp_ordered(relation, x, y), x, y)
                return builder.select(builder.fcmp_unordered("uno", x, x), x, larger)
            signed = isinstance(kind, types.Integer) and kind.signed
            compare = builder.icmp_signed if signed else builder.icmp_unsigned
            return builder.select(compare(relation, x, y), x, y)

        return kind(kind, kind), generate

    define.__name__ = "maximum" if relation == ">" else "minimum"
    return intrinsic(define)


maximum = _extremum(">", None)
minimum = _extremum("<", None)
maximum_reassoc = _extremum(">", "maximum")
minimum_reassoc = _extremum("<", "minimum")


@intrinsic
def where(typing: Any, condition: Any, a: Any, b: Any) -> Any:
    """Select without a branch: both operands are already evaluated."""
    kind = typing.unify_types(a, b)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return kind(types.boolean, kind, kind), generate


def _conversion(kind: Any) -> Any:
    """Make a conversion to one scalar type."""

    def define(typing: Any, value: Any) -> Any:
        source = types.unliteral(value)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return context.cast(builder, arguments[0], source, kind)

        return kind(source), generate

    define.__name__ = f"to_{kind.name}"
    return intrinsic(define)


f32 = _conversion(types.float32)
f64 = _conversion(types.float64)
i8 = _conversion(types.int8)
i16 = _conversion(types.int16)
i32 = _conversion(types.int32)
i64 = _conversion(types.int64)
u8 = _conversion(types.uint8)
b1 = _conversion(types.boolean)
