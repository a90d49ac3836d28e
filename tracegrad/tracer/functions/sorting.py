"""Sorting along one axis, and what follows from it."""

from __future__ import annotations

from tracegrad.errors import ShapeError
from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.functions.contraction import reshaped
from tracegrad.tracer.functions.gathering import places
from tracegrad.tracer.functions.operands import as_tensor
from tracegrad.tracer.functions.reductions import Extremes
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.movement import axis_of, window
from tracegrad.tracer.tensor import Tensor


def _ordered(x: Tensor, dim: int, descending: bool) -> tuple[Tensor, Tensor, int]:
    """`x` with one axis at least, the order of its elements along `dim`, and that axis."""
    axis = axis_of(dim, x.ndim)
    x = reshaped(x, (1,)) if x.ndim == 0 else x
    params = {"axis": axis, "descending": bool(descending), "stable": True}
    return x, apply(OPS["argsort"], [x], params), axis


@register(out=False)
def sort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Extremes:
    """The elements in order along `dim`, and where they were. Always stable; NaN is the largest."""
    x, order, axis = _ordered(as_tensor(input, "sort"), dim, descending)
    values = apply(OPS["gather"], [x, *places(order, axis)], grad_name="SortBackward0")
    shape = input._array.shape
    return Extremes(reshaped(values, shape), reshaped(order, shape))


@register()
def argsort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Tensor:
    """The indices that sort along `dim`."""
    return reshaped(_ordered(as_tensor(input, "argsort"), dim, descending)[1], input._array.shape)


@register("msort", out=True)
def msort(input: Tensor) -> Tensor:
    """The elements in order along the first axis."""
    return sort(input, 0).values


@register()
def topk(
    input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Extremes:
    """The `k` largest (or smallest) elements along `dim` in order, and where they were."""
    x, order, axis = _ordered(as_tensor(input, "topk"), dim, largest)
    size = x._array.shape[axis]
    if not 0 <= k <= size:
        raise ShapeError("selected index k out of range")
    chosen = window(order, axis, 0, k, 1, "SliceBackward0")
    values = apply(OPS["gather"], [x, *places(chosen, axis)], grad_name="TopkBackward0")
    if input.ndim == 0:
        return Extremes(reshaped(values, ()), reshaped(chosen, ()))
    return Extremes(values, chosen)


def _first_nan(x: Tensor, otherwise: Tensor, axis: int) -> Tensor:
    """Where along `axis` the first NaN is; `otherwise` where there is none."""
    params = {"axes": (axis,), "keepdims": True}
    found = apply(OPS["any"], [apply(OPS["isnan"], [x])], params)
    return apply(OPS["where"], [found, apply(OPS["argmax"], [x], params), otherwise])


def _ranked(
    x: Tensor, rank: int, dim: int, keepdim: bool, grad_name: str, *, nan_wins: bool = False
) -> Extremes:
    """The element of a rank (from 0) in ascending order along `dim`, and where it is.

    NaN counts as the largest; with `nan_wins` it is the result wherever there is one.
    """
    vector, order, axis = _ordered(x, dim, False)
    at = window(order, axis, rank, rank + 1, 1, "SliceBackward0")
    if nan_wins and vector.dtype.kind == "f":
        at = _first_nan(vector, at, axis)
    value = apply(OPS["gather"], [vector, *places(at, axis)], grad_name=grad_name)
    shape = value._array.shape
    if x.ndim == 0:
        shape = ()
    elif not keepdim:
        shape = (*shape[:axis], *shape[axis + 1 :])
    return Extremes(reshaped(value, shape), reshaped(at, shape))


@register()
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Extremes:
    """The k-th smallest element along `dim`, counted from 1, and where it is."""
    axis = axis_of(dim, input.ndim)
    size = input._array.shape[axis] if input.ndim else 1
    if not 1 <= k <= size:
        raise ShapeError("kthvalue(): selected number k out of range for dimension " + str(axis))
    return _ranked(input, k - 1, dim, keepdim, "KthvalueBackward0")


@register()
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | Extremes:
    """The middle element, the lower of two, or NaN if there is one; with `dim` along an axis and
    where it is.
    """
    if dim is None:
        size = input._array.size
        if size == 0:
            return constant(float("nan"), input._array.dtype)
        flat = reshaped(input, (size,))
        return _ranked(flat, (size - 1) // 2, 0, False, "MedianBackward0", nan_wins=True).values
    axis = axis_of(dim, input.ndim)
    size = input._array.shape[axis] if input.ndim else 1
    if size == 0:
        raise ShapeError(f"median(): Expected reduction dim {axis} to have non-zero size.")
    return _ranked(input, (size - 1) // 2, dim, keepdim, "MedianBackward1", nan_wins=True)
