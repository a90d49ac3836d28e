"""Writing into tensors: every in-place operation computes a new value, then writes it here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.errors import DtypeError, GradError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import category
from tracegrad.tracer.deferral import settle
from tracegrad.tracer.device import beside
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.location import locate, user_place
from tracegrad.tracer.moving_views import follow
from tracegrad.tracer.promotion import cast, to_tensor
from tracegrad.tracer.state import state
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.tape import Node, OpNode, edge_of, mark, node_class
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.views import freeze, memory_root, write_pullback

LEAF = "a leaf Variable that requires grad is being used in an in-place operation."
LEAF_VIEW = "a view of a leaf Variable that requires grad is being used in an in-place operation."
NO_GRAD_VIEW = (
    "A view was created in no_grad mode and is being modified inplace with grad mode enabled. "
    "Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify your "
    "code by moving both the view and the inplace either both inside the no_grad block (if you "
    "don't want the inplace to be tracked) or both outside (if you want the inplace to be tracked)."
)
CHECKPOINTED = (
    "a function given to tg.checkpoint changes an argument in place. It is computed again for "
    "backward, and would change it twice: return the new value"
)
OVERLAP = (
    "unsupported operation: more than one element of the written-to tensor refers to a single "
    "memory location. Please clone() the tensor before performing the operation."
)


def assign(target: Tensor, value: Tensor, name: str, *, since: int, grad_name: str = "") -> Tensor:
    """Write `value` into `target` as the in-place operation `name`; returns `target`.

    `since` is the `tape.mark()` taken before `value` was computed for this purpose. `grad_name`:
    `value` was not computed but is given, so that the tape needs a node of its own.

    `value` has the shape of `target`, and a dtype of no higher category. GradError for a leaf that
    requires grad, ShapeError and DtypeError for a value that does not fit; then nothing has
    changed.
    """
    shape = target._array.shape
    if value._array.shape != shape:
        raise locate(
            ShapeError(
                f"{name}: output with shape {list(shape)} doesn't match the broadcast shape "
                f"{list(value._array.shape)}"
            )
        )
    if value._array.dtype is not target._array.dtype:
        if category(value.dtype) > category(target.dtype):
            raise locate(
                DtypeError(
                    f"{name}: result type {value.dtype.name} can't be cast to the desired output "
                    f"type {target.dtype.name}"
                )
            )
        value = cast(value, target.dtype)
    check_writable(target, value)
    write(target, value, name, since, grad_name)
    return target


def check_writable(target: Tensor, value: Tensor | None = None) -> None:
    """Raise the error of a write into `target` that autograd forbids or memory makes ambiguous."""
    array = target._array
    if state.protected and id(target._storage) in state.protected:
        raise locate(GradError(CHECKPOINTED))
    if array.size and any(
        stride == 0 and size > 1 for stride, size in zip(array.strides, array.shape, strict=True)
    ):
        raise locate(ShapeError(OVERLAP))
    if not array.flags.writeable:
        raise locate(ShapeError("the NumPy array that this tensor shares memory with is read-only"))
    if not state.grad_enabled:
        return
    if target._requires_grad and target.grad_fn is None:
        raise locate(GradError(LEAF))
    base = target._base
    if base is not None and base._requires_grad and base.grad_fn is None:
        raise locate(GradError(LEAF_VIEW))
    if target._no_grad_view and target._alias is not None:
        tracked = value is not None and value.requires_grad
        root, _ = memory_root(target)
        if tracked or root.requires_grad:
            raise locate(GradError(NO_GRAD_VIEW))


def write(target: Tensor, value: Tensor, name: str, since: int, grad_name: str) -> None:
    """Put `value`, of the same shape and dtype, into the memory of `target`, and on its tape."""
    recorder = state.recorder
    tracked = (
        state.grad_enabled
        and target._array.dtype.kind == "f"
        and (value.requires_grad or target.requires_grad)
    )
    if tracked:
        # Before the write changes what the edges lead to; and if it fails nothing has changed.
        _keep_old_values(value, target._storage, since)
        node, number = _node_after(target, value, grad_name)
    if recorder is not None:
        recorder.before_write(target)
    settle()
    np.copyto(target._array, value._array)
    storage = target._storage
    storage.version += 1
    storage.written_by = name
    storage.written_at = user_place()
    if recorder is not None:
        recorder.mutate(target, value)
    if tracked:
        _become(target if target._base is None else target._base, node, number)
    if recorder is not None:
        follow(target, since)


def _keep_old_values(value: Tensor, storage: Storage, since: int) -> None:
    """Copy what the computation of `value` saved of the memory that is about to be written."""
    work = [value.grad_fn]
    while work:
        node = work.pop()
        if node is None or node.sequence < since:
            continue
        work.extend([following for following, _ in node.edges])
        if isinstance(node, OpNode) and node.saved:
            for item in node.saved:
                if item.tensor._storage is storage:
                    item.keep()


def _node_after(target: Tensor, value: Tensor, grad_name: str) -> tuple[Node, int]:
    """The tape node of `target`, or of the tensor that it is a view of, once `value` is written."""
    base = target._base
    if base is None and value._grad_fn is not None and not grad_name:
        return value._grad_fn, value._output_nr
    if base is None:
        name = grad_name or "CopyBackwards"
        base = target
    else:
        name = "CopySlices"
    edges = (edge_of(base), edge_of(value))
    needs = (edges[0][0] is not None, edges[1][0] is not None)
    pullback = write_pullback(base._type, value._type, freeze(target._steps), needs)
    return node_class(name)(pullback, edges, user_place()), 0


def _become(tensor: Tensor, node: Any, number: int) -> None:
    """Change the tape node of `tensor`, and take a retained gradient along."""
    old = tensor._grad_fn
    if tensor._retains_grad and old is not None and old.retained is not None:
        kept = old.retained.pop(tensor._output_nr, None)
        if kept is not None and node is not None:
            node.retained = node.retained or {}
            node.retained[number] = kept
    tensor._grad_fn = node
    tensor._output_nr = number
    tensor._requires_grad = node is not None


def in_place(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The in-place form of a function whose first argument is the tensor: `add` gives `add_`."""

    @functools.wraps(function)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        since = mark()
        return assign(self, function(self, *args, **kwargs), name, since=since)

    method.__name__ = name
    method.__qualname__ = f"Tensor.{name}"
    method.__doc__ = f"In-place version of `{name[:-1]}`; returns the tensor."
    return method


def with_out(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a function the argument `out=`: a tensor that its result is written into and that is
    returned.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, out: Tensor | None = None, **kwargs: Any) -> Tensor:
        if out is None:
            return function(*args, **kwargs)
        if state.grad_enabled and any(
            isinstance(x, Tensor) and x.requires_grad for x in (*args, out)
        ):
            raise locate(
                GradError(
                    f"{function.__name__}(): functions with out=... arguments don't support "
                    "automatic differentiation, but one of the arguments requires grad."
                )
            )
        since = mark()
        value = function(*args, **kwargs)
        if out._array.shape != value._array.shape:
            resize(out, value._array.shape)
        return assign(out, value, function.__name__, since=since)

    return wrapper


def resize(tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Give `out=` memory of another shape. An empty tensor is silent; PyTorch warns of others, here
    it is an error.
    """
    if tensor._array.size or state.recorder is not None:
        raise locate(
            ShapeError(
                f"out= has shape {list(tensor._array.shape)}, but the result has {list(shape)}"
            )
        )
    tensor._array = beside(np.empty(shape, tensor._array.dtype), tensor._array)
    tensor._storage = Storage()


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Write `src`, broadcast to the shape and cast to the dtype of this tensor, into it."""
    return fill_from(self, src, "copy_", "CopyBackwards")


def fill_(self: Tensor, value: Any) -> Tensor:
    """Write `value`, a number or a tensor of dimension 0, into every element."""
    if isinstance(value, Tensor) and value.ndim:
        raise locate(
            ShapeError(
                "fill_ only supports 0-dimension value tensor but got tensor with "
                f"{value.ndim} dimensions."
            )
        )
    return fill_from(self, value, "fill_", "FillBackward0")


def zero_(self: Tensor) -> Tensor:
    """Write zeros into every element."""
    return fill_from(self, 0, "zero_", "ZeroBackward0")


def fill_from(target: Tensor, source: Any, name: str, grad_name: str) -> Tensor:
    """Write `source` into `target`, in any dtype and any shape that broadcasts."""
    since = mark()
    value = to_tensor(source, target.dtype)
    shape = target._array.shape
    if value._array.shape != shape:
        # An assignment may drop leading axes of size 1: a[0] = ones(1, 3).
        while value.ndim > len(shape) and value._array.shape[0] == 1:
            value = apply(OPS["reshape"], [value], {"shape": value._array.shape[1:]})
        value = apply(OPS["broadcast_to"], [value], {"shape": shape})
    check_writable(target, value)
    write(target, value, name, since, grad_name)
    return target
