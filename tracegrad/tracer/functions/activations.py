"""Activation functions: `tracegrad.nn.functional` and a few that are methods too."""

from __future__ import annotations

from typing import Any

from tracegrad.errors import ArgumentError, DtypeError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import bool_
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.arithmetic import div, mul, sub
from tracegrad.tracer.functions.operands import as_tensor
from tracegrad.tracer.functions.reductions import floating_only
from tracegrad.tracer.functions.table import Decorator, register
from tracegrad.tracer.movement import axis_of, window
from tracegrad.tracer.promotion import promote
from tracegrad.tracer.tensor import Tensor


def _composite(
    name: str, x: Tensor, params: dict[str, Any] | None = None, grad_name: str | None = None
) -> Tensor:
    return apply(OPS[name], [floating_only(x, name)], params, grad_name=grad_name)


@register(functional=True)
def relu(input: Tensor) -> Tensor:
    """max(x, 0); its gradient at 0 is 0."""
    if as_tensor(input, "relu").dtype is bool_:
        raise DtypeError("Boolean inputs not supported for relu")
    return apply(OPS["relu"], [input])


def _functional(*names: str, function: bool = False) -> Decorator:
    return register(*names, function=function, method=False, functional=True)


# Op without parameters: names, and the class of the tape node where it is not the op's.
_PLAIN: dict[str, tuple[tuple[str, ...], str | None]] = {
    "silu": (("silu", "swish"), None),
    "mish": (("mish",), None),
    "log_sigmoid": (("logsigmoid",), None),
    "softsign": (("softsign",), "DivBackward0"),
    "hardsigmoid": (("hardsigmoid",), None),
    "hardswish": (("hardswish",), None),
}


def _define_plain(op_name: str, names: tuple[str, ...], grad_name: str | None) -> None:
    def function(input: Tensor) -> Tensor:
        return _composite(op_name, input, None, grad_name)

    function.__name__ = function.__qualname__ = names[0]
    function.__doc__ = f"`{names[0]}` of each element."
    _functional(*names)(function)


for _name, (_names, _grad_name) in _PLAIN.items():
    _define_plain(_name, _names, _grad_name)


@_functional()
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function; "tanh" uses an approximation of it."""
    if approximate not in ("none", "tanh"):
        raise ArgumentError("approximate argument must be either none or tanh.")
    return _composite("gelu", input, {"tanh_form": approximate == "tanh"})


@_functional()
def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where positive, negative_slope * x elsewhere."""
    return _composite("leaky_relu", input, {"slope": float(negative_slope)})


@_functional("prelu", function=True)
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where positive, weight * x elsewhere; one weight, or one for each channel (axis 1)."""
    from tracegrad.tracer.functions.contraction import reshaped

    x = floating_only(input, "prelu")
    if weight._array.size != 1:
        if x.ndim < 2 or weight._array.size != x._array.shape[1]:
            raise ShapeError(
                "Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                f"{weight._array.size} and shape = {list(x.shape)}."
            )
        shape = tuple(n if i == 1 else 1 for i, n in enumerate(x._array.shape))
    else:
        shape = (1,) * x.ndim
    positive = apply(OPS["gt"], promote(x, 0))
    scaled = mul(x, reshaped(weight, shape))
    return apply(OPS["where"], [positive, x, scaled], grad_name="PreluKernelBackward0")


def _exponential(x: Tensor, alpha: float, scale: float, rate: float, grad_name: str) -> Tensor:
    params = {"alpha": float(alpha), "scale": float(scale), "rate": float(rate)}
    return _composite("elu", x, params, grad_name)


@_functional()
def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """x where positive, alpha * (exp(x) - 1) elsewhere."""
    return _exponential(input, alpha, 1.0, 1.0, "EluBackward0")


@_functional("selu", function=True)
def selu(input: Tensor) -> Tensor:
    """The self-normalising exponential unit."""
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return _exponential(input, alpha, scale, 1.0, "EluBackward0")


@_functional("celu", function=True)
def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """x where positive, alpha * (exp(x / alpha) - 1) elsewhere."""
    return _exponential(input, alpha, 1.0, 1.0 / alpha, "CeluBackward0")


@_functional()
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, without overflow. The formula needs no `threshold`."""
    x = floating_only(input, "softplus")
    if beta == 1:
        return apply(OPS["softplus"], [x])
    return div(apply(OPS["softplus"], [mul(x, beta)]), beta)


@_functional()
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x brought into [min_val, max_val]; the gradient on a bound is 0."""
    return _composite("hardtanh", input, {"low": float(min_val), "high": float(max_val)})


@_functional()
def relu6(input: Tensor) -> Tensor:
    """x brought into [0, 6]."""
    return hardtanh(input, 0.0, 6.0)


@_functional()
def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return sub(input, apply(OPS["tanh"], [floating_only(input, "tanhshrink")]))


@_functional()
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x brought nearer to 0 by `lambd`, 0 within that distance."""
    return _composite("softshrink", input, {"width": float(lambd)})


@_functional("hardshrink", function=True)
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x, but 0 within the distance `lambd` of 0."""
    return _composite("hardshrink", input, {"width": float(lambd)})


@_functional("threshold", function=True)
def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """x where it exceeds `threshold`, `value` elsewhere."""
    return _composite("threshold", input, {"bound": float(threshold), "value": float(value)})


@_functional()
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half along `dim` times the sigmoid of the second."""
    axis = axis_of(dim, input.ndim)
    size = input._array.shape[axis] if input.ndim else 1
    if size % 2:
        raise ShapeError(f"Halving dimension must be even, but dimension {axis} is size {size}")
    half = size // 2
    first = window(input, axis, 0, half, 1, "SliceBackward0")
    second = window(input, axis, half, size, 1, "SliceBackward0")
    return mul(first, apply(OPS["sigmoid"], [second]))
