"""Elementwise functions of one operand: exponentials, trigonometry, rounding, sign."""

from __future__ import annotations

from tracegrad.errors import DtypeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import bool_, int64
from tracegrad.tracer.conversion import clone
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.arithmetic import div, mul, sub
from tracegrad.tracer.functions.operands import as_tensor, floating_input
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.promotion import cast
from tracegrad.tracer.tensor import Tensor

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
    register(*names, out=True, functional=op_name in ("sigmoid", "tanh"))(function)


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


@register("deg2rad", out=True)
def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians."""
    return mul(floating_input(input, "deg2rad"), 0.017453292519943295)


@register("rad2deg", out=True)
def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees."""
    return mul(floating_input(input, "rad2deg"), 57.29577951308232)
