"""LLVM instructions written as Python arithmetic: what the mathematical functions are made of.

A `Value` is a number that generated code will hold, and each of its operators emits one
instruction. A function written with them has no branch, so that LLVM vectorises the loop that it
stands in at the full width of the registers, whatever the processor. Numba sees one call and infers
no types inside it, which makes this the cheapest way to compile, too.

Every product and sum is rounded by itself, so that a function has the same bits wherever it is
inlined: only `fma` and `muladd` combine the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import types

from tracegrad.codegen import processor
from tracegrad.codegen.primitives.libdevice import device_function, is_for_gpu

# Numba's decorators carry no usable types.
intrinsic: Any = extending.intrinsic


@dataclass(frozen=True, eq=False)
class Format:
    """A binary floating-point format of IEEE 754."""

    real: Any
    integer: Any
    fraction: int
    """Bits of the fraction."""
    bias: int
    """What is added to the exponent."""
    code: str

    @property
    def smallest_normal(self) -> float:
        """The least positive number of full precision."""
        return 2.0 ** (1 - self.bias)

    @property
    def sign_bit(self) -> int:
        """The bit that makes a number negative."""
        return -1 << (31 if self is SINGLE else 63)


SINGLE = Format(ir.FloatType(), ir.IntType(32), 23, 127, "f32")
DOUBLE = Format(ir.DoubleType(), ir.IntType(64), 52, 1023, "f64")

# Numba gives its own flag, contraction, to what has none; each of these means nothing where it is.
_ALONE = ("arcp",)
_ALONE_QUOTIENT = ("contract",)


class Value:
    """A number, integer or truth value of generated code, with its arithmetic."""

    __slots__ = ("builder", "ref")

    def __init__(self, builder: Any, ref: Any) -> None:
        self.builder = builder
        self.ref = ref

    def __repr__(self) -> str:
        return f"Value({self.ref})"

    @property
    def format(self) -> Format:
        """The floating-point format of a real number, or that of the same size of an integer."""
        return next(x for x in (SINGLE, DOUBLE) if self.ref.type in (x.real, x.integer))

    @property
    def is_real(self) -> bool:
        """Whether this is a floating-point number."""
        return isinstance(self.ref.type, (ir.FloatType, ir.DoubleType))

    def like(self, number: Number) -> Value:
        """A constant of the same type; a `Value` is itself."""
        if isinstance(number, Value):
            return number
        return Value(self.builder, ir.Constant(self.ref.type, number))

    # ------------------------------------------------------------------ arithmetic

    def __add__(self, other: Number) -> Value:
        return self._binary("add", self, self.like(other))

    def __radd__(self, other: Number) -> Value:
        return self._binary("add", self.like(other), self)

    def __sub__(self, other: Number) -> Value:
        return self._binary("sub", self, self.like(other))

    def __rsub__(self, other: Number) -> Value:
        return self._binary("sub", self.like(other), self)

    def __mul__(self, other: Number) -> Value:
        return self._binary("mul", self, self.like(other))

    def __rmul__(self, other: Number) -> Value:
        return self._binary("mul", self.like(other), self)

    def __truediv__(self, other: Number) -> Value:
        quotient = self.builder.fdiv(self.ref, self.like(other).ref, flags=_ALONE_QUOTIENT)
        return Value(self.builder, quotient)

    def __rtruediv__(self, other: Number) -> Value:
        return self.like(other) / self

    def __neg__(self) -> Value:
        if not self.is_real:
            return Value(self.builder, self.builder.neg(self.ref))
        if is_for_gpu(self.builder):
            # The LLVM of NVVM is older than the instruction.
            return self.like(-0.0) - self
        return Value(self.builder, self.builder.fneg(self.ref))

    def _binary(self, operation: str, a: Value, b: Value) -> Value:
        if not self.is_real:
            return Value(self.builder, getattr(self.builder, operation)(a.ref, b.ref))
        method = getattr(self.builder, f"f{operation}")
        return Value(self.builder, method(a.ref, b.ref, flags=_ALONE))

    def fma(self, factor: Number, term: Number) -> Value:
        """`self * factor + term`, rounded once."""
        return self.call("fma", factor, term)

    def muladd(self, factor: Number, term: Number) -> Value:
        """`self * factor + term`, rounded once where that is the fastest."""
        return self.call("fmuladd", factor, term)

    def call(self, name: str, *others: Number) -> Value:
        """An LLVM intrinsic of real numbers of one type."""
        kind = self.ref.type
        operands = [self.ref, *(self.like(x).ref for x in others)]
        on_device = device_function(self.builder, name, kind)
        if on_device is not None:
            return Value(self.builder, self.builder.call(on_device, operands))
        shape = ir.FunctionType(kind, [kind] * len(operands))
        function = self.builder.module.declare_intrinsic(f"llvm.{name}", [kind], shape)
        return Value(self.builder, self.builder.call(function, operands))

    def __abs__(self) -> Value:
        return self.call("fabs")

    def sqrt(self) -> Value:
        """The square root, correctly rounded."""
        return self.call("sqrt")

    def copysign(self, other: Value) -> Value:
        """This magnitude with the sign of `other`."""
        return self.call("copysign", other)

    # ------------------------------------------------------------------ choice

    def _compare(self, relation: str, other: Number) -> Value:
        method = self.builder.fcmp_ordered if self.is_real else self.builder.icmp_signed
        return Value(self.builder, method(relation, self.ref, self.like(other).ref))

    def __lt__(self, other: Number) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Number) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Number) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Number) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Number) -> Value:
        """Whether two numbers are equal."""
        return self._compare("==", other)

    def choose(self, a: Number, b: Number) -> Value:
        """`a` where this truth value holds, else `b`; one of them at least is a `Value`."""
        kind = a if isinstance(a, Value) else b
        assert isinstance(kind, Value)
        chosen = self.builder.select(self.ref, kind.like(a).ref, kind.like(b).ref)
        return Value(self.builder, chosen)

    def at_least(self, bound: float) -> Value:
        """The greater of this and a bound; NaN stays."""
        return (self < bound).choose(bound, self)

    def at_most(self, bound: float) -> Value:
        """The lesser of this and a bound; NaN stays."""
        return (self > bound).choose(bound, self)

    # ------------------------------------------------------------------ bits

    def __and__(self, other: Number) -> Value:
        return Value(self.builder, self.builder.and_(self.ref, self.like(other).ref))

    def __or__(self, other: Number) -> Value:
        return Value(self.builder, self.builder.or_(self.ref, self.like(other).ref))

    def __xor__(self, other: Number) -> Value:
        return Value(self.builder, self.builder.xor(self.ref, self.like(other).ref))

    def __lshift__(self, count: Number) -> Value:
        return Value(self.builder, self.builder.shl(self.ref, self.like(count).ref))

    def __rshift__(self, count: Number) -> Value:
        """Keeps the sign."""
        return Value(self.builder, self.builder.ashr(self.ref, self.like(count).ref))

    @property
    def bits(self) -> Value:
        """The integer that represents a real number."""
        return Value(self.builder, self.builder.bitcast(self.ref, self.format.integer))

    @property
    def number(self) -> Value:
        """The real number that an integer represents."""
        return Value(self.builder, self.builder.bitcast(self.ref, self.format.real))

    # ------------------------------------------------------------------ conversions

    def whole(self) -> Value:
        """An integer as a real number."""
        return Value(self.builder, self.builder.sitofp(self.ref, self.format.real))

    def widened(self) -> Value:
        """A float32 as float64."""
        return Value(self.builder, self.builder.fpext(self.ref, DOUBLE.real))

    def narrowed(self) -> Value:
        """A float64 rounded to float32."""
        return Value(self.builder, self.builder.fptrunc(self.ref, SINGLE.real))


Number = Value | float
Body = Callable[..., Value]


def align_stack(builder: Any) -> None:
    """Have vectors that a function puts on its stack lie within a cache line.

    LLVM aligns the stack to their size only where it keeps a frame pointer. A loop of several
    mathematical functions has more constants than registers, and loads them from the stack.
    """
    # llvmlite knows no such attribute.
    set.add(builder.function.attributes, '"frame-pointer"="all"')


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """The sum of `coefficients[k] * x**k`, by Horner's rule."""
    align_stack(x.builder)
    result = x.like(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result.muladd(x, coefficient)
    return result


def nearest_whole(x: Value, factor: float) -> tuple[Value, Value]:
    """The whole number nearest to `x * factor`, as an integer and as a real number.

    It has to be less than 2**22, or 2**51 in float64; beyond, the results mean nothing.
    """
    form = x.format
    # A sum of this size has whole numbers for its last bits.
    rounder = 1.5 * 2.0**form.fraction
    near = x.muladd(factor, rounder)
    offset = (form.bias + form.fraction << form.fraction) + (1 << form.fraction - 1)
    return near.bits - offset, near - rounder


def power_of_two(exponent: Value) -> Value:
    """2 to the power of an integer, where that is a normal number."""
    form = exponent.format
    return ((exponent << form.fraction) + (form.bias << form.fraction)).number


def scaled(x: Value, exponent: Value) -> Value:
    """`x * 2**exponent`, rounded once also where the result is subnormal or infinite.

    `x` is about 1, and the exponent no further from 0 than twice the exponents of the format.
    """
    builder = x.builder
    if processor.has("avx512f") and not is_for_gpu(builder):
        # One instruction there; elsewhere LLVM would call libm.
        i32 = SINGLE.integer
        steps = exponent.ref if x.format is SINGLE else builder.trunc(exponent.ref, i32)
        shape = ir.FunctionType(x.ref.type, [x.ref.type, i32])
        function = builder.module.declare_intrinsic("llvm.ldexp", [x.ref.type, i32], shape)
        return Value(builder, builder.call(function, [x.ref, steps]))
    half = exponent >> 1
    return x * power_of_two(half) * power_of_two(exponent - half)


def reciprocal_to_one_digit(x: Value) -> Value:
    """1 / x of a positive number to a sixteenth of it; some large number of 0."""
    # The fraction bits stand for the logarithm, which they differ from by a twelfth at most.
    form = x.format
    return ((2 * form.bias << form.fraction) - (1 << form.fraction) // 12 - x.bits).number


def function(name: str, single: Body, double: Body, operands: int = 1) -> Any:
    """A function for kernels: of float32 by `single` if every operand is, else of float64."""

    def make(kinds: tuple[Any, ...]) -> Any:
        is_single = all(kind == types.float32 for kind in kinds)
        kind: Any = types.float32 if is_single else types.float64
        body = single if is_single else double

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            on_device = device_function(builder, name, arguments[0].type)
            if on_device is not None:
                return builder.call(on_device, arguments)
            return body(*(Value(builder, x) for x in arguments)).ref

        return kind(*[kind] * len(kinds)), generate

    def one(typing: Any, x: Any) -> Any:
        return make((x,))

    def two(typing: Any, x: Any, y: Any) -> Any:
        return make((x, y))

    def three(typing: Any, x: Any, y: Any, z: Any) -> Any:
        return make((x, y, z))

    chosen = (one, two, three)[operands - 1]
    chosen.__name__ = name
    return intrinsic(chosen)
