"""Normalisation, dropout, padding and attention of `tracegrad.nn.functional`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, ShapeError
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.types import bool_
from tracegrad.tracer.conversion import clone
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.functions.arithmetic import add, mul
from tracegrad.tracer.functions.contraction import matmul, permuted, reshaped
from tracegrad.tracer.functions.gathering import index_select
from tracegrad.tracer.functions.reductions import floating_only, fold
from tracegrad.tracer.functions.statistics import softmax
from tracegrad.tracer.functions.table import Decorator, register
from tracegrad.tracer.movement import window
from tracegrad.tracer.promotion import cast, promote
from tracegrad.tracer.randomness import draw
from tracegrad.tracer.tensor import Tensor


def _functional(*names: str, function: bool = False) -> Decorator:
    return register(*names, function=function, method=False, functional=True)


def _last_axes(name: str, x: Tensor, normalized_shape: Sequence[int]) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    first = x.ndim - len(shape)
    if not shape or first < 0 or x._array.shape[first:] != shape:
        raise ShapeError(
            f"{name}: Given normalized_shape={list(shape)}, expected input with shape "
            f"[*, {', '.join(map(str, shape))}], but got input of size {list(x.shape)}"
        )
    return tuple(range(first, x.ndim))


@_functional("layer_norm", function=True)
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`input` brought to mean 0 and variance 1 over its last axes, times `weight`, plus `bias`."""
    x = floating_only(input, "layer_norm")
    axes = _last_axes("layer_norm", x, normalized_shape)
    operands = [x]
    if weight is not None:
        operands.append(weight)
        if bias is not None:
            operands.append(bias)
    y = apply(OPS["layer_norm"], operands, {"eps": float(eps), "axes": axes})
    return add(y, bias) if weight is None and bias is not None else y


@_functional("rms_norm", function=True)
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`input` divided by its root mean square over its last axes, times `weight`."""
    x = floating_only(input, "rms_norm")
    axes = _last_axes("rms_norm", x, normalized_shape)
    limits: Any = np.finfo(x.dtype.numpy)
    small = float(limits.eps) if eps is None else float(eps)
    operands = [x] if weight is None else [x, weight]
    return apply(OPS["rms_norm"], operands, {"eps": small, "axes": axes})


def _per_channel(x: Tensor, ndim: int) -> Tensor:
    return reshaped(x, tuple(x._array.size if i == 1 else 1 for i in range(ndim)))


def _normalized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    center = fold("mean", x, axes, True)
    spread = fold("var", x, axes, True, correction=0)
    scale = apply(OPS["rsqrt"], [add(spread, eps)])
    return mul(apply(OPS["sub"], [x, center]), scale)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        y = mul(y, _per_channel(weight, y.ndim))
    return y if bias is None else add(y, _per_channel(bias, y.ndim))


@_functional()
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Groups of channels (axis 1) brought to mean 0 and variance 1, then scaled by channel."""
    shape = input._array.shape
    if input.ndim < 2 or shape[1] % num_groups:
        raise ShapeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of "
            f"shape {list(shape)} and num_groups={num_groups}"
        )
    rows = reshaped(
        floating_only(input, "group_norm"),
        (shape[0], num_groups, math.prod(shape[1:]) // num_groups),
    )
    return _affine(reshaped(_normalized(rows, (2,), eps), shape), weight, bias)


@_functional()
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel (axis 1) brought to mean 0 and variance 1 over the batch, or by the running
    statistics, which training updates in place.
    """
    from tracegrad.tracer.inplace import fill_from

    x = floating_only(input, "batch_norm")
    axes = tuple(i for i in range(x.ndim) if i != 1)
    if not training:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm: running statistics are needed when not training")
        scale = apply(OPS["rsqrt"], [add(_per_channel(running_var, x.ndim), eps)])
        shifted = apply(OPS["sub"], [x, _per_channel(running_mean, x.ndim)])
        return _affine(mul(shifted, scale), weight, bias)
    if running_mean is not None and running_var is not None:
        detached = apply(OPS["detach"], [x])
        fresh = (
            (running_mean, fold("mean", detached, axes, False)),
            (running_var, fold("var", detached, axes, False, correction=1)),
        )
        for kept, new in fresh:
            blend = add(mul(kept, 1 - momentum), mul(new, momentum))
            fill_from(kept, blend, "batch_norm", "")
    return _affine(_normalized(x, axes, eps), weight, bias)


@_functional("dropout", function=True)
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element set to 0 with probability `p`, the others divided by 1 - p."""
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout probability has to be between 0 and 1, but got {p}")
    if inplace:
        raise ArgumentError("dropout: inplace=True is not available")
    x = floating_only(input, "dropout")
    if not training or p == 0:
        return x
    kept = apply(OPS["ge"], promote(draw("uniform", x._array.shape, x.dtype), p))
    scale = 0.0 if p == 1 else 1.0 / (1.0 - p)
    return mul(x, mul(cast(kept, x.dtype), scale))


def _extended(x: Tensor, axis: int, low: int, high: int, mode: str) -> Tensor:
    """`x` longer at both ends of one axis by reflected, repeated or wrapped elements."""
    size = x._array.shape[axis]
    index: Array = np.arange(-low, size + high)
    if mode == "circular":
        index = index % size
    elif mode == "replicate":
        index = np.clip(index, 0, size - 1)
    else:
        if max(low, high) >= size:
            raise ShapeError(
                "pad: Padding size should be less than the corresponding input dimension, but got: "
                f"padding ({low}, {high}) at dimension {axis} of input {list(x.shape)}"
            )
        index = np.abs(index)
        index = np.where(index >= size, 2 * (size - 1) - index, index)
    return index_select(x, axis, constant(index))


@_functional()
def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """`input` longer by `pad` = (before, after) on the last axis, then the last but one, and so on.

    Negative widths cut. Modes: "constant" with `value`, "reflect", "replicate", "circular".
    """
    if len(pad) % 2 or len(pad) // 2 > input.ndim:
        raise ShapeError(
            f"Padding length must be even and at most twice the number of axes: {list(pad)}"
        )
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise ArgumentError(f"Unrecognised padding mode {mode}")
    low, high = [0] * input.ndim, [0] * input.ndim
    for i in range(len(pad) // 2):
        low[-1 - i], high[-1 - i] = pad[2 * i], pad[2 * i + 1]
    x = input
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        size = x._array.shape[axis]
        if before < 0 or after < 0:
            start, stop = max(-before, 0), size - max(-after, 0)
            if start > stop:
                raise ShapeError(f"pad: widths ({before}, {after}) leave nothing of size {size}")
            x = window(x, axis, start, stop, 1, "SliceBackward0")
        if mode != "constant" and (before > 0 or after > 0):
            x = _extended(x, axis, max(before, 0), max(after, 0), mode)
    if mode != "constant" or not any(width > 0 for width in (*low, *high)):
        return clone(x) if x is input else x
    params = {
        "low": tuple(max(width, 0) for width in low),
        "high": tuple(max(width, 0) for width in high),
        "interior": (0,) * x.ndim,
        "value": 0 if value is None else value,
    }
    return apply(OPS["pad"], [x], params)


@_functional()
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query @ key.T * scale + mask) @ value, with a bool mask of what may be seen."""
    factor = 1 / math.sqrt(query._array.shape[-1]) if scale is None else scale
    order = (*range(key.ndim - 2), key.ndim - 1, key.ndim - 2)
    scores = matmul(mul(query, factor), permuted(key, order))
    if is_causal:
        if attn_mask is not None:
            raise ArgumentError(
                "scaled_dot_product_attention: attn_mask and is_causal exclude each other"
            )
        ones = apply(OPS["broadcast_to"], [constant(True)], {"shape": scores._array.shape[-2:]})
        attn_mask = apply(OPS["tril"], [ones], {"diagonal": 0})
    if attn_mask is not None and attn_mask.dtype is bool_:
        scores = apply(OPS["where"], [attn_mask, *promote(scores, -math.inf)])
    elif attn_mask is not None:
        scores = add(scores, attn_mask)
    weights = softmax(scores, -1)
    return matmul(dropout(weights, dropout_p) if dropout_p else weights, value)
