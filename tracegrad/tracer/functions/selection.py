"""Choice between values element by element, bounds, and blends of operands."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DtypeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import bool_
from tracegrad.tracer.conversion import clone
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.arithmetic import sub
from tracegrad.tracer.functions.operands import as_tensor, floating_input, promote_floating
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.promotion import Operand, promote, to_tensor
from tracegrad.tracer.tensor import Tensor


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


@register(out=True)
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)); with `eps` the elements are clamped to [eps, 1 - eps] before."""
    x = floating_input(input, "logit")
    if eps is not None:
        x = clamp(x, eps, 1 - eps)
    return sub(apply(OPS["log"], [x]), apply(OPS["log1p"], [apply(OPS["neg"], [x])]))


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
