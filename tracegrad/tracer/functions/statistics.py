"""Spreads, norms and the softmax family."""

from __future__ import annotations

from typing import Any

from tracegrad.errors import ArgumentError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import DType
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.operands import as_tensor, floating_input, in_dtype
from tracegrad.tracer.functions.reductions import Dims, floating_only, fold, mean
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.movement import axis_of
from tracegrad.tracer.tensor import Tensor


def _spread(
    name: str, x: Tensor, dim: Any, unbiased: bool | None, keepdim: bool, correction: float | None
) -> Tensor:
    if isinstance(dim, bool):
        # var(x, False): the second argument may be `unbiased`.
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    return fold(name, floating_only(x, name), dim, keepdim, correction=correction)


@register(out=True)
def var(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance: squared distances from the mean, summed and divided by n - correction (1)."""
    return _spread("var", input, dim, unbiased, keepdim, correction)


@register(out=True)
def std(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The standard deviation, the root of `var`; its gradient is 0 where it is 0."""
    return _spread("std", input, dim, unbiased, keepdim, correction)


@register(method=False)
def var_mean(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean."""
    spread = var(input, dim, unbiased, keepdim, correction=correction)
    return spread, mean(input, None if isinstance(dim, bool) else dim, keepdim)


@register(method=False)
def std_mean(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean."""
    spread = std(input, dim, unbiased, keepdim, correction=correction)
    return spread, mean(input, None if isinstance(dim, bool) else dim, keepdim)


def vector_norm_of(x: Tensor, p: float, dim: Dims, keepdim: bool, name: str) -> Tensor:
    """The p-norm over what `dim` names. DtypeError for integers."""
    return fold("norm", floating_only(x, name), dim, keepdim, p=float(p))


@register()
def norm(
    input: Tensor,
    p: float | str | None = "fro",
    dim: Dims = None,
    keepdim: bool = False,
    dtype: DType | None = None,
) -> Tensor:
    """The p-norm of the elements taken as one vector, or of the vectors along `dim`.

    "fro", the default, is p = 2. The gradient at 0 is 0.
    """
    if p == "nuc":
        raise ArgumentError("norm: the nuclear norm is not available")
    power = 2.0 if p is None or p == "fro" else float(p)
    return vector_norm_of(in_dtype(input, dtype), power, dim, keepdim, "norm")


@register(out=True)
def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over `dim`, without overflow."""
    return fold("logsumexp", floating_input(input, "logsumexp"), dim, keepdim)


def _soft(name: str, x: Tensor, dim: int | None, dtype: DType | None) -> Tensor:
    x = in_dtype(as_tensor(x, name), dtype)
    if dim is None:
        dim = 0 if x.ndim in (0, 1, 3) else 1
    axis = axis_of(dim, x.ndim)
    axes = (axis,) if x.ndim else ()
    return apply(OPS[name], [floating_only(x, name)], {"axes": axes})


@register(functional=True)
def softmax(input: Tensor, dim: int | None = None, dtype: DType | None = None) -> Tensor:
    """exp(x) divided by its sum along `dim`."""
    return _soft("softmax", input, dim, dtype)


@register(functional=True)
def log_softmax(input: Tensor, dim: int | None = None, dtype: DType | None = None) -> Tensor:
    """The logarithm of the softmax along `dim`, without loss of digits."""
    return _soft("log_softmax", input, dim, dtype)


@register(function=False, method=False, functional=True)
def softmin(input: Tensor, dim: int | None = None, dtype: DType | None = None) -> Tensor:
    """The softmax of -x along `dim`."""
    return _soft("softmax", apply(OPS["neg"], [input]), dim, dtype)


@register("cosine_similarity", method=False, functional=True)
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along `dim`; a norm counts as `eps` at least."""
    from tracegrad.tracer.functions.contraction import broadcast_tensors

    first, second = broadcast_tensors(floating_only(x1, "cosine_similarity"), x2)
    axis = axis_of(dim, first.ndim)
    if first.ndim == 0:
        first, second = (apply(OPS["reshape"], [x], {"shape": (1,)}) for x in (first, second))
    return apply(OPS["cosine_similarity"], [first, second], {"axis": axis, "eps": eps})


@register("normalize", function=False, method=False, functional=True)
def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """`input` divided by its p-norm along `dim`, which counts as `eps` at least."""
    from tracegrad.tracer.functions.arithmetic import div
    from tracegrad.tracer.functions.selection import clamp_min

    size = vector_norm_of(input, p, dim, True, "normalize")
    return div(input, clamp_min(size, eps))


@register(method=False)
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of input - other."""
    from tracegrad.tracer.functions.arithmetic import sub

    return vector_norm_of(sub(input, other), p, None, False, "dist")
