"""Arithmetic of two operands, with PyTorch's promotion."""

from __future__ import annotations

from tracegrad.errors import ArgumentError, DtypeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import bool_
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.operands import promote_floating
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.promotion import Operand, cast, promote
from tracegrad.tracer.tensor import Tensor


def _scaled(other: Operand, alpha: float) -> Operand:
    if alpha == 1:
        return other
    return mul(other, alpha)


@register(out=True)
def add(input: Operand, other: Operand, *, alpha: float = 1) -> Tensor:
    """input + alpha * other."""
    return apply(OPS["add"], promote(input, _scaled(other, alpha)))


@register("sub", "subtract", out=True)
def sub(input: Operand, other: Operand, *, alpha: float = 1) -> Tensor:
    """input - alpha * other."""
    for operand in (input, other):
        if isinstance(operand, bool) or (isinstance(operand, Tensor) and operand.dtype is bool_):
            raise DtypeError(
                "Subtraction, the `-` operator, with a bool tensor is not supported. If you are "
                "trying to invert a mask, use the `~` or `logical_not()` operator instead."
            )
    operands = promote(input, _scaled(other, alpha))
    reflected = operands[0]._literal is not None
    return apply(OPS["sub"], operands, grad_name="RsubBackward1" if reflected else None)


@register("rsub", method=False)
def rsub(input: Operand, other: Operand, *, alpha: float = 1) -> Tensor:
    """other - alpha * input."""
    return sub(other, input, alpha=alpha)


@register("mul", "multiply", out=True)
def mul(input: Operand, other: Operand) -> Tensor:
    """input * other."""
    return apply(OPS["mul"], promote(input, other))


@register("div", "divide", out=True)
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; integers give the default floating dtype.

    `rounding_mode`: "trunc" rounds the quotient towards zero and "floor" down; integers stay so.
    """
    if rounding_mode is None:
        return apply(OPS["div"], promote_floating(input, other))
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise ArgumentError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
            f"{rounding_mode!r}"
        )
    a, b = promote(input, other)
    if a.dtype.kind == "f":
        return apply(OPS["trunc"], [apply(OPS["div"], [a, b])])
    # The quotient rounded down is one too low where it is negative and not exact.
    down = floor_divide(a, b)
    inexact = apply(OPS["ne"], [mul(down, b), a])
    negative = apply(OPS["lt"], promote(down, 0))
    return add(down, cast(apply(OPS["bitwise_and"], [inexact, negative]), down.dtype))


@register("true_divide", out=True)
def true_divide(input: Operand, other: Operand) -> Tensor:
    """input / other."""
    return div(input, other)


@register(out=True)
def floor_divide(input: Operand, other: Operand) -> Tensor:
    """The quotient rounded down, in the operands' dtype. An integer divided by zero gives zero."""
    return apply(OPS["floor_divide"], promote(input, other))


@register(out=True)
def remainder(input: Operand, other: Operand) -> Tensor:
    """The remainder with the divisor's sign, as Python's `%`."""
    name = None if isinstance(other, Tensor) else "RemainderBackward0"
    return apply(OPS["remainder"], promote(input, other), grad_name=name or "RemainderBackward1")


@register(out=True)
def fmod(input: Operand, other: Operand) -> Tensor:
    """The remainder with the dividend's sign, as C's `fmod`."""
    name = "FmodBackward1" if isinstance(other, Tensor) else "FmodBackward0"
    return apply(OPS["fmod"], promote(input, other), grad_name=name)


@register("pow", out=True)
def pow_(input: Operand, exponent: Operand) -> Tensor:
    """input ** exponent. DtypeError for integers with a negative integer exponent."""
    x, p = promote(input, exponent)
    if p._literal is not None:
        if x.dtype.kind in "iu" and p._literal < 0:
            raise DtypeError("Integers to negative integer powers are not allowed.")
        name = "PowBackward0"
        if p._literal == 1:
            return apply(OPS["cast"], [x], {"dtype": x.dtype}, grad_name=name)
        if p._literal == 2:
            return apply(OPS["square"], [x], grad_name=name)
        if p._literal == 0.5:
            return apply(OPS["sqrt"], [x], grad_name=name)
    else:
        name = "PowBackward1" if x._literal is None else "PowBackward2"
    return apply(OPS["pow"], [x, p], grad_name=name)


_SAME_DTYPE = ("maximum", "minimum")
_FLOATING_PAIRS = {
    "atan2": ("atan2", "arctan2"),
    "hypot": ("hypot",),
    "logaddexp": ("logaddexp",),
    "xlogy": ("xlogy",),
}


def _define_pair(op_name: str, names: tuple[str, ...], floating: bool) -> None:
    op = OPS[op_name]
    bring = promote_floating if floating else promote

    def function(input: Operand, other: Operand) -> Tensor:
        return apply(op, bring(input, other))

    function.__name__ = function.__qualname__ = names[0]
    function.__doc__ = f"`{op_name}` of the elements of two tensors, broadcast together."
    register(*names, out=True)(function)


for _name in _SAME_DTYPE:
    _define_pair(_name, (_name,), floating=False)
for _name, _names in _FLOATING_PAIRS.items():
    _define_pair(_name, _names, floating=True)
