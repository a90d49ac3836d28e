"""Reductions: functions that fold axes away. `dim` is one axis, several, or None for all."""

from __future__ import annotations

from typing import Any, NamedTuple

from tracegrad.errors import ArgumentError, DtypeError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import DType, bool_, int64, uint8
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.operands import as_tensor, in_dtype
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.movement import axes_of, axis_of
from tracegrad.tracer.promotion import cast, promote
from tracegrad.tracer.tensor import Tensor

Dims = int | tuple[int, ...] | list[int] | None


class Extremes(NamedTuple):
    """Values along an axis and where they are, as `max(dim)`, `sort` and `topk` return them."""

    values: Tensor
    indices: Tensor


def reduced_axes(x: Tensor, dim: Dims) -> tuple[int, ...]:
    """The axes that `dim` names, in order; all of them for None and for an empty tuple."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(x.ndim))
    # The one dimension that a 0-d tensor counts as is no axis of the IR.
    return tuple(sorted(axes_of(dim, x.ndim))) if x.ndim else axes_of(dim, 0)[:0]


def fold(
    name: str, x: Tensor, dim: Dims, keepdim: bool, grad_name: str | None = None, **params: Any
) -> Tensor:
    """The reduction `name` over what `dim` names."""
    params = {"axes": reduced_axes(x, dim), **params, "keepdims": bool(keepdim)}
    return apply(OPS[name], [x], params, grad_name=grad_name)


def _accumulated(x: Tensor, dtype: DType | None) -> Tensor:
    """Integers and bools are summed and multiplied in int64."""
    if dtype is not None:
        return cast(x, dtype)
    return cast(x, int64) if x.dtype.kind != "f" else x


@register("sum", out=True)
def sum_(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The sum of the elements; of integers and bools in int64."""
    x = _accumulated(as_tensor(input, "sum"), dtype)
    return fold("sum", x, dim, keepdim, "SumBackward0" if dim is None else "SumBackward1")


@register(out=True)
def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The product of the elements; of integers and bools in int64."""
    x = _accumulated(as_tensor(input, "prod"), dtype)
    return fold("prod", x, dim, keepdim, "ProdBackward0" if dim is None else "ProdBackward1")


def floating_only(x: Tensor, name: str) -> Tensor:
    """`x`; DtypeError if it is not floating."""
    if as_tensor(x, name).dtype.kind != "f":
        raise DtypeError(
            f"{name}(): could not infer output dtype. Input dtype must be a floating point dtype. "
            f"Got: {x.dtype.name}"
        )
    return x


@register(out=True)
def mean(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The mean of the elements. DtypeError for integers."""
    x = floating_only(in_dtype(input, dtype), "mean")
    return fold("mean", x, dim, keepdim, "MeanBackward0" if dim is None else "MeanBackward1")


@register("nansum", out=True)
def nansum(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The sum of the elements that are not NaN."""
    return sum_(_without_nan(input), dim, keepdim)


@register("nanmean", out=True)
def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The mean of the elements that are not NaN."""
    x = floating_only(input, "nanmean")
    present = cast(apply(OPS["logical_not"], [apply(OPS["isnan"], [x])]), x.dtype)
    total = sum_(_without_nan(x), dim, keepdim)
    return apply(OPS["div"], [total, sum_(present, dim, keepdim)])


def _without_nan(x: Tensor) -> Tensor:
    if x.dtype.kind != "f":
        return x
    missing = apply(OPS["isnan"], [x])
    return apply(OPS["where"], [missing, *promote(0.0, x)])


@register(out=True)
def amax(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """The largest element; equal ones share the gradient."""
    return fold("amax", _nonempty(input, dim, "amax"), dim, keepdim)


@register(out=True)
def amin(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """The smallest element; equal ones share the gradient."""
    return fold("amin", _nonempty(input, dim, "amin"), dim, keepdim)


def _nonempty(x: Tensor, dim: Dims, name: str) -> Tensor:
    x = as_tensor(x, name)
    axes = reduced_axes(x, dim)
    if any(x._array.shape[axis] == 0 for axis in axes):
        raise ShapeError(
            f"{name}(): Expected reduction dim to be specified for input.numel() == 0, and to have "
            f"a size other than 0, but the shape is {list(x.shape)}"
        )
    return x


@register("max", out=True)
def max_(input: Tensor, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    """`max(x)`: the largest element. `max(x, dim)`: values and indices along an axis. `max(x, y)`:
    the larger of two elements.
    """
    return _extreme("max", input, dim, keepdim, other)


@register("min", out=True)
def min_(input: Tensor, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    """`min(x)`: the smallest element. `min(x, dim)`: values and indices along an axis. `min(x, y)`:
    the smaller of two elements.
    """
    return _extreme("min", input, dim, keepdim, other)


def _extreme(name: str, x: Tensor, dim: Any, keepdim: bool, other: Any) -> Any:
    x = as_tensor(x, name)
    if isinstance(dim, Tensor):
        dim, other = None, dim
    title = name.title()
    if other is not None:
        return apply(OPS[f"{name}imum"], promote(x, other))
    if dim is None:
        grad_name = f"{title}Backward1"
        return fold(f"a{name}", _nonempty(x, None, name), None, False, grad_name)
    axis = axis_of(dim, x.ndim)
    _nonempty(x, axis, name)
    indices = fold(f"arg{name}", x, axis, keepdim)
    return Extremes(_picked(x, indices, axis, keepdim, f"{title}Backward0"), indices)


def _picked(x: Tensor, indices: Tensor, axis: int, keepdim: bool, grad_name: str) -> Tensor:
    """`x` at one index along `axis` for each place along the others."""
    if x.ndim == 0:
        return apply(OPS["reshape"], [x], {"shape": ()}, grad_name=grad_name)
    shape = indices._array.shape
    places = []
    for i in range(x.ndim):
        if i == axis:
            places.append(indices)
        else:
            at = i if keepdim or i < axis else i - 1
            places.append(index_grid(shape, at))
    return apply(OPS["gather"], [x, *places], grad_name=grad_name)


def index_grid(shape: tuple[int, ...], axis: int) -> Tensor:
    """The index along `axis` of a tensor of `shape`, of size 1 along the other axes."""
    thin = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    return apply(OPS["iota"], [], {"shape": thin, "axis": axis, "dtype": int64})


@register()
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest and the largest element, together."""
    return MinMax(amin(input, _whole(dim), keepdim), amax(input, _whole(dim), keepdim))


class MinMax(NamedTuple):
    """What `aminmax` returns."""

    min: Tensor
    max: Tensor


def _whole(dim: int | None) -> Dims:
    return () if dim is None else dim


@register(out=True)
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the first largest element along `dim`, or in row-major order of all."""
    return _arg(input, dim, keepdim, "argmax")


@register(out=True)
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the first smallest element along `dim`, or in row-major order of all."""
    return _arg(input, dim, keepdim, "argmin")


def _arg(x: Tensor, dim: int | None, keepdim: bool, name: str) -> Tensor:
    if isinstance(dim, (tuple, list)):
        raise ArgumentError(f"{name}(): argument 'dim' must be int, not {type(dim).__name__}")
    return fold(name, _nonempty(x, dim, name), dim, keepdim)


def _truth(name: str, x: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    x = as_tensor(x, name)
    found = fold(name, cast(x, bool_), dim, keepdim)
    # PyTorch keeps uint8, its bool of old.
    return cast(found, uint8) if x.dtype is uint8 else found


@register("any", out=True)
def any_(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether any element is not zero."""
    return _truth("any", input, dim, keepdim)


@register("all", out=True)
def all_(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether no element is zero."""
    return _truth("all", input, dim, keepdim)


@register()
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements are not zero."""
    return sum_(cast(input, bool_), dim)


def _scan(name: str, x: Tensor, dim: int, dtype: DType | None) -> Tensor:
    x = _accumulated(as_tensor(x, name), dtype)
    axis = axis_of(dim, x.ndim)
    if x.ndim == 0:
        return apply(OPS["reshape"], [x], {"shape": ()})
    return apply(OPS[name], [x], {"axis": axis})


@register(out=True)
def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """The sums of all elements up to each along `dim`; of integers in int64."""
    return _scan("cumsum", input, dim, dtype)


@register(out=True)
def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """The products of all elements up to each along `dim`; of integers in int64."""
    return _scan("cumprod", input, dim, dtype)
