"""Elementwise functions: arithmetic, exponentials, trigonometry, rounding, choice."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DtypeError
from tracegrad.ir import types as T
from tracegrad.ir.op import OPS
from tracegrad.ir.types import DType, bool_, float64, int64
from tracegrad.tracer.conversion import clone
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.promotion import (
    Operand,
    cast,
    get_default_dtype,
    is_number,
    only_numbers,
    promote,
    promote_to,
    result_type,
    to_tensor,
)
from tracegrad.tracer.tensor import Tensor


def as_tensor(value: Any, name: str) -> Tensor:
    """`value` if it is a tensor; ArgumentError naming the function otherwise."""
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"{name}(): argument 'input' must be Tensor, not {type(value).__name__}"
        )
    return value


def floating_input(x: Tensor, name: str) -> Tensor:
    """`x`, in the default dtype if it is not floating."""
    x = as_tensor(x, name)
    return x if x.dtype.kind == "f" else cast(x, get_default_dtype())


def promote_floating(*operands: Operand) -> tuple[Tensor, ...]:
    """The operands in their common dtype, or in the default one if that is not floating."""
    dtype = result_type(*operands)
    if dtype.kind != "f":
        dtype = float64 if only_numbers(operands) else get_default_dtype()
    return promote_to(dtype, operands)


# ------------------------------------------------------------------------------------- one operand

# Op: names. Integers are computed in the default dtype.
_FLOATING = {
    "exp": ("exp",),
    "exp2": ("exp2",),
    "expm1": ("expm1",),
    "log": ("log",),
    "log2": ("log2",),
    "log10": ("log10",),
    "log1p": ("log1p",),
    "sqrt": ("sqrt",),
    "rsqrt": ("rsqrt",),
    "reciprocal": ("reciprocal",),
    "sin": ("sin",),
    "cos": ("cos",),
    "tan": ("tan",),
    "asin": ("asin", "arcsin"),
    "acos": ("acos", "arccos"),
    "atan": ("atan", "arctan"),
    "sinh": ("sinh",),
    "cosh": ("cosh",),
    "tanh": ("tanh",),
    "asinh": ("asinh", "arcsinh"),
    "acosh": ("acosh", "arccosh"),
    "atanh": ("atanh", "arctanh"),
    "erf": ("erf",),
    "erfc": ("erfc",),
    "sigmoid": ("sigmoid",),
}


def _define_floating(op_name: str, names: tuple[str, ...]) -> None:
    op = OPS[op_name]

    def function(input: Tensor) -> Tensor:
        return apply(op, [floating_input(input, op_name)])

    function.__name__ = function.__qualname__ = names[0]
    function.__doc__ = f"`{op_name}` of each element; integers give the default floating dtype."
    register(*names, out=True)(function)


for _name, _names in _FLOATING.items():
    _define_floating(_name, _names)

_ROUNDING = {
    "floor": ("floor",),
    "ceil": ("ceil",),
    "trunc": ("trunc", "fix"),
}


def _rounded(x: Tensor, op_name: str) -> Tensor:
    x = as_tensor(x, op_name)
    return apply(OPS[op_name], [x]) if x.dtype.kind == "f" else clone(x)


def _define_rounding(op_name: str, names: tuple[str, ...]) -> None:
    def function(input: Tensor) -> Tensor:
        return _rounded(input, op_name)

    function.__name__ = function.__qualname__ = names[0]
    function.__doc__ = f"`{op_name}` of each element; integers stay as they are."
    register(*names, out=True)(function)


for _name, _names in _ROUNDING.items():
    _define_rounding(_name, _names)


@register("round", out=True)
def round_(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Each element to the nearest whole number, or to `decimals` places; halves go to even."""
    if decimals == 0 or as_tensor(input, "round").dtype.kind != "f":
        return _rounded(input, "round")
    scale = 10.0 ** abs(decimals)
    if decimals > 0:
        return div(_rounded(mul(input, scale), "round"), scale)
    return mul(_rounded(div(input, scale), "round"), scale)


@register(out=True)
def frac(input: Tensor) -> Tensor:
    """Each element without its whole part."""
    return sub(input, _rounded(input, "trunc"))


@register("neg", "negative", out=True)
def neg(input: Tensor) -> Tensor:
    """Each element negated."""
    if as_tensor(input, "neg").dtype is bool_:
        raise DtypeError(
            "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to "
            "invert a mask, use the `~` or `logical_not()` operator instead."
        )
    return apply(OPS["neg"], [input])


@register()
def positive(input: Tensor) -> Tensor:
    """The tensor itself."""
    return as_tensor(input, "positive")


@register("abs", "absolute", out=True)
def abs_(input: Tensor) -> Tensor:
    """The absolute value of each element; its gradient at 0 is 0."""
    return apply(OPS["abs"], [as_tensor(input, "abs")])


@register("sign", "sgn", out=True)
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1 by the sign of each element; NaN for NaN."""
    x = as_tensor(input, "sign")
    return clone(x) if x.dtype is bool_ else apply(OPS["sign"], [x])


@register(out=True)
def square(input: Tensor) -> Tensor:
    """The square of each element."""
    x = as_tensor(input, "square")
    return apply(OPS["square"], [cast(x, int64) if x.dtype is bool_ else x])


@register(out=True)
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)); with `eps` the elements are clamped to [eps, 1 - eps] before."""
    x = floating_input(input, "logit")
    if eps is not None:
        x = clamp(x, eps, 1 - eps)
    return sub(apply(OPS["log"], [x]), apply(OPS["log1p"], [neg(x)]))


@register(out=True)
def nan_to_num(
    input: Tensor,
    nan: float = 0.0,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Tensor:
    """NaN and the infinities replaced; by default by 0 and the extremes of the dtype."""
    x = as_tensor(input, "nan_to_num")
    if x.dtype.kind != "f":
        return clone(x)
    limits: Any = np.finfo(x.dtype.numpy)
    high = float(limits.max) if posinf is None else posinf
    low = float(limits.min) if neginf is None else neginf
    finite = chosen(apply(OPS["isnan"], [x]), nan, x)
    positive_infinity = apply(OPS["eq"], promote(x, float("inf")))
    negative_infinity = apply(OPS["eq"], promote(x, float("-inf")))
    return chosen(positive_infinity, high, chosen(negative_infinity, low, finite))


@register("deg2rad", out=True)
def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians."""
    return mul(floating_input(input, "deg2rad"), 0.017453292519943295)


@register("rad2deg", out=True)
def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees."""
    return mul(floating_input(input, "rad2deg"), 57.29577951308232)


# ------------------------------------------------------------------------------------ two operands


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


@register("fmax", out=True)
def fmax(input: Operand, other: Operand) -> Tensor:
    """The larger of two elements; a NaN counts as missing."""
    return _ignoring_nan("maximum", input, other)


@register("fmin", out=True)
def fmin(input: Operand, other: Operand) -> Tensor:
    """The smaller of two elements; a NaN counts as missing."""
    return _ignoring_nan("minimum", input, other)


def _ignoring_nan(op_name: str, input: Operand, other: Operand) -> Tensor:
    a, b = promote(input, other)
    both = apply(OPS[op_name], [a, b])
    if a.dtype.kind != "f":
        return both
    no_a, no_b = apply(OPS["isnan"], [a]), apply(OPS["isnan"], [b])
    return chosen(no_a, b, chosen(no_b, a, both))


# -------------------------------------------------------------------------------- choice and blends


@register(out=True)
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """`input` where `condition` is true, `other` elsewhere.

    With one argument: the indices of what is true.
    """
    if input is None or other is None:
        from tracegrad.tracer.functions.gathering import nonzero

        return nonzero(condition, as_tuple=True)
    if condition.dtype is not bool_:
        raise DtypeError(
            "where expected condition to be a boolean tensor, but got a tensor with dtype "
            f"{condition.dtype.name}"
        )
    return chosen(condition, input, other)


def chosen(condition: Tensor, a: Operand, b: Operand) -> Tensor:
    """`a` where `condition` is true, `b` elsewhere, promoted."""
    return apply(OPS["where"], [condition, *promote(a, b)])


@register()
def masked_fill(input: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """`value` where `mask` is true, the tensor elsewhere."""
    if mask.dtype is not bool_:
        raise DtypeError(
            f"masked_fill only supports boolean masks, but got mask with dtype {mask.dtype.name}"
        )
    if isinstance(value, Tensor) and value.ndim:
        raise ArgumentError(
            "masked_fill only supports a 0-dimensional value tensor, but got tensor with "
            f"{value.ndim} dimension(s)."
        )
    filler = to_tensor(value, input.dtype)
    return apply(OPS["where"], [mask, filler, input], grad_name="MaskedFillBackward0")


@register("clamp", "clip", out=True)
def clamp(input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """Each element brought into [min, max]; a bound may be missing.

    The gradient on a bound counts as inside.
    """
    x = as_tensor(input, "clamp")
    if min is None and max is None:
        raise ArgumentError("clamp: At least one of 'min' or 'max' must not be None")
    name = (
        "ClampBackward0" if isinstance(min, Tensor) or isinstance(max, Tensor) else "ClampBackward1"
    )
    if max is None:
        return apply(OPS["clamp_min"], promote(x, min), grad_name=name)  # type: ignore[arg-type]
    if min is None:
        return apply(OPS["clamp_max"], promote(x, max), grad_name=name)
    return apply(OPS["clamp"], promote(x, min, max), grad_name=name)


@register(out=True)
def clamp_min(input: Tensor, min: Operand) -> Tensor:
    """Each element, but `min` at least."""
    return apply(OPS["clamp_min"], promote(input, min))


@register(out=True)
def clamp_max(input: Tensor, max: Operand) -> Tensor:
    """Each element, but `max` at most."""
    return apply(OPS["clamp_max"], promote(input, max))


def _same_dtype(name: str, *tensors: Tensor) -> None:
    for other in tensors[1:]:
        if other.dtype is not tensors[0].dtype:
            raise DtypeError(
                f"{name}: expected dtype {tensors[0].dtype.name} for all tensors, "
                f"but got {other.dtype.name}"
            )


@register(out=True)
def lerp(input: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """input + weight * (end - input)."""
    name = "LerpBackward1" if isinstance(weight, Tensor) else "LerpBackward0"
    fraction = weight if isinstance(weight, Tensor) else to_tensor(weight, input.dtype)
    _same_dtype("lerp", input, end, fraction)
    return apply(OPS["lerp"], [input, end, fraction], grad_name=name)


@register(out=True)
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    return apply(OPS["addcmul"], promote(input, tensor1, tensor2), {"value": value})


@register(out=True)
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 / tensor2."""
    operands = promote_floating(input, tensor1, tensor2)
    return apply(OPS["addcdiv"], operands, {"value": value})


def in_dtype(x: Tensor, dtype: DType | None) -> Tensor:
    """`x` in `dtype`, if one is given."""
    return x if dtype is None else cast(x, dtype)


def is_scalar(value: object) -> bool:
    """Whether `value` is a number or a tensor of dimension 0."""
    return is_number(value) or (isinstance(value, Tensor) and value.ndim == 0)
