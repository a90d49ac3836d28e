"""Comparisons, logic, bit operations, and tests of values."""

from __future__ import annotations

from tracegrad.errors import DtypeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import bool_
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.arithmetic import add, mul, sub
from tracegrad.tracer.functions.operands import as_tensor
from tracegrad.tracer.functions.reductions import all_
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.promotion import Operand, cast, promote, to_tensor
from tracegrad.tracer.tensor import Tensor

_COMPARISONS = {
    "eq": ("eq",),
    "ne": ("ne", "not_equal"),
    "lt": ("lt", "less"),
    "le": ("le", "less_equal"),
    "gt": ("gt", "greater"),
    "ge": ("ge", "greater_equal"),
}


def _define_comparison(op_name: str, names: tuple[str, ...]) -> None:
    op = OPS[op_name]

    def function(input: Operand, other: Operand) -> Tensor:
        return apply(op, promote(input, other))

    function.__name__ = function.__qualname__ = names[0]
    function.__doc__ = f"Whether `{op_name}` holds between the elements of two tensors, as bool."
    register(*names, out=True)(function)


for _name, _names in _COMPARISONS.items():
    _define_comparison(_name, _names)

_BITWISE = {
    "bitwise_and": "bitwise_and",
    "bitwise_or": "bitwise_or",
    "bitwise_xor": "bitwise_xor",
    "bitwise_left_shift": "shift_left",
    "bitwise_right_shift": "shift_right",
}


def _define_bitwise(name: str, op_name: str) -> None:
    op = OPS[op_name]

    def function(input: Operand, other: Operand) -> Tensor:
        return apply(op, promote(input, other))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{name}` of the elements of two integer or bool tensors."
    register(name, out=True)(function)


for _name, _op in _BITWISE.items():
    _define_bitwise(_name, _op)


@register(out=True)
def bitwise_not(input: Tensor) -> Tensor:
    """Each element with its bits inverted; for bool its negation."""
    x = as_tensor(input, "bitwise_not")
    return apply(OPS["logical_not" if x.dtype is bool_ else "bitwise_not"], [x])


def truth(x: Operand) -> Tensor:
    """Whether each element is not zero."""
    return cast(to_tensor(x), bool_)


_LOGICAL = {
    "logical_and": "bitwise_and",
    "logical_or": "bitwise_or",
    "logical_xor": "bitwise_xor",
}


def _define_logical(name: str, op_name: str) -> None:
    op = OPS[op_name]

    def function(input: Tensor, other: Tensor) -> Tensor:
        return apply(op, [truth(input), truth(other)])

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{name}` of the truth of the elements of two tensors."
    register(name, out=True)(function)


for _name, _op in _LOGICAL.items():
    _define_logical(_name, _op)


@register(out=True)
def logical_not(input: Tensor) -> Tensor:
    """Whether each element is zero."""
    return apply(OPS["logical_not"], [truth(input)])


# Test: what it is for numbers that have neither NaN nor infinity, as a comparison of x with itself.
_TESTS = {"isnan": "ne", "isinf": "ne", "isfinite": "eq"}


def _define_test(name: str, constant: str) -> None:
    def function(input: Tensor) -> Tensor:
        x = as_tensor(input, name)
        if x.dtype.kind == "f":
            return apply(OPS[name], [x])
        return apply(OPS[constant], [x, x])

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{name}` of each element, as bool."
    register(name)(function)


for _name, _constant in _TESTS.items():
    _define_test(_name, _constant)


@register()
def isposinf(input: Tensor) -> Tensor:
    """Whether each element is positive infinity."""
    return apply(OPS["eq"], promote(input, float("inf")))


@register()
def isneginf(input: Tensor) -> Tensor:
    """Whether each element is negative infinity."""
    return apply(OPS["eq"], promote(input, float("-inf")))


@register()
def signbit(input: Tensor) -> Tensor:
    """Whether each element is less than zero."""
    return apply(OPS["lt"], promote(input, 0))


@register()
def isclose(
    input: Tensor,
    other: Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
) -> Tensor:
    """Whether |input - other| <= atol + rtol * |other|; infinities must be equal."""
    if input.dtype is not other.dtype:
        raise DtypeError(f"isclose: dtypes {input.dtype.name} and {other.dtype.name} differ")
    close = apply(OPS["eq"], [input, other])
    if input.dtype.kind == "f":
        allowed = add(mul(apply(OPS["abs"], [other]), rtol), atol)
        near = apply(OPS["le"], [apply(OPS["abs"], [sub(input, other)]), allowed])
        finite = apply(OPS["bitwise_and"], [apply(OPS["isfinite"], [x]) for x in (input, other)])
        near = apply(OPS["bitwise_and"], [near, finite])
        close = apply(OPS["bitwise_or"], [close, near])
        if equal_nan:
            both = apply(OPS["bitwise_and"], [apply(OPS["isnan"], [x]) for x in (input, other)])
            close = apply(OPS["bitwise_or"], [close, both])
    elif rtol or atol:
        from tracegrad.tracer.functions.elementwise import abs_

        if input.dtype is not bool_:
            allowed = add(mul(abs_(other), rtol), atol)
            close = apply(OPS["le"], promote(abs_(sub(input, other)), allowed))
    return close


@register()
def allclose(
    input: Tensor,
    other: Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
) -> bool:
    """Whether all elements are close, see `isclose`; a Python bool."""
    return bool(all_(isclose(input, other, rtol, atol, equal_nan)))


@register()
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and the same elements; a Python bool."""
    if input.shape != other.shape:
        return False
    return bool(all_(apply(OPS["eq"], promote(input, other))))
