"""Slices of a constant size at a place that is computed, in JAX's spelling.

A start counts from the end if it is negative, and is then moved so that the slice lies within the
tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DtypeError, ShapeError
from tracegrad.ir import types
from tracegrad.ir.op import OPS
from tracegrad.tracer.creation import as_tensor
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.location import located
from tracegrad.tracer.movement import axis_of
from tracegrad.tracer.moving_index import Block, Moving, block_of, positions
from tracegrad.tracer.promotion import cast
from tracegrad.tracer.tensor import Tensor


@located
def dynamic_slice(
    operand: Tensor, start_indices: Sequence[Any], slice_sizes: Sequence[int]
) -> Tensor:
    """The part of `operand` of shape `slice_sizes` from `start_indices` on, one for each axis."""
    block = _block("dynamic_slice", operand, start_indices, slice_sizes)
    if block is None:
        return operand
    found = apply(OPS["gather"], [_ordered(operand, block.order), *block.indices])
    return _ordered(found, block.back)


@located
def dynamic_update_slice(operand: Tensor, update: Any, start_indices: Sequence[Any]) -> Tensor:
    """`operand` with `update`, of as many axes, in place of the part from `start_indices` on."""
    value = as_tensor(update)
    if value.dtype is not operand.dtype:
        raise DtypeError(
            f"dynamic_update_slice: the operand is {operand.dtype.name}, but the update "
            f"{value.dtype.name}"
        )
    if value.ndim != operand.ndim:
        raise ShapeError(
            f"dynamic_update_slice: the operand is {operand._type}, but the update {value._type}"
        )
    block = _block("dynamic_update_slice", operand, start_indices, value._array.shape)
    if block is None:
        return value
    forth = tuple(int(i) for i in np.argsort(block.back))
    moved = _ordered(operand, block.order)
    new = apply(OPS["scatter"], [moved, _ordered(value, forth), *block.indices])
    return _ordered(new, tuple(int(i) for i in np.argsort(block.order)))


@located
def dynamic_slice_in_dim(
    operand: Tensor, start_index: Any, slice_size: int, axis: int = 0
) -> Tensor:
    """`dynamic_slice` along one axis; the others are taken whole."""
    place = axis_of(axis, operand.ndim)
    starts: list[Any] = [0] * operand.ndim
    sizes = list(operand._array.shape)
    starts[place], sizes[place] = start_index, slice_size
    return dynamic_slice(operand, starts, sizes)


@located
def dynamic_index_in_dim(
    operand: Tensor, index: Any, axis: int = 0, keepdims: bool = True
) -> Tensor:
    """The slice of size 1 at `index` along one axis, which is dropped without `keepdims`."""
    found = dynamic_slice_in_dim(operand, index, 1, axis)
    if keepdims:
        return found
    place = axis_of(axis, operand.ndim)
    shape = found._array.shape
    return apply(OPS["reshape"], [found], {"shape": shape[:place] + shape[place + 1 :]})


@located
def dynamic_update_slice_in_dim(
    operand: Tensor, update: Any, start_index: Any, axis: int
) -> Tensor:
    """`dynamic_update_slice` along one axis, at the beginning of the others."""
    starts: list[Any] = [0] * operand.ndim
    starts[axis_of(axis, operand.ndim)] = start_index
    return dynamic_update_slice(operand, update, starts)


@located
def dynamic_update_index_in_dim(operand: Tensor, update: Any, index: Any, axis: int) -> Tensor:
    """`operand` with `update` at `index` along one axis, which `update` may lack."""
    value = as_tensor(update)
    place = axis_of(axis, operand.ndim)
    if value.ndim == operand.ndim - 1:
        shape = value._array.shape
        value = apply(OPS["reshape"], [value], {"shape": (*shape[:place], 1, *shape[place:])})
    return dynamic_update_slice_in_dim(operand, value, index, place)


def _block(name: str, operand: Tensor, starts: Sequence[Any], sizes: Sequence[int]) -> Block | None:
    """The part as a block; None if it is all of the operand."""
    shape = operand._array.shape
    if isinstance(starts, Tensor):
        starts = list(starts)
    if not len(starts) == len(sizes) == len(shape):
        raise ArgumentError(
            f"{name}: the operand has {len(shape)} axes, but there are {len(starts)} start indices "
            f"and {len(sizes)} sizes"
        )
    moving = []
    for axis, (start, size, extent) in enumerate(zip(starts, sizes, shape, strict=True)):
        if not 0 <= size <= extent:
            raise ShapeError(f"{name}: a slice of {size} elements of an axis of {extent}")
        if size < extent:
            moving.append(Moving(axis, positions(_start(name, start, size, extent), size), size))
    return block_of(operand.ndim, moving) if moving else None


def _start(name: str, start: Any, size: int, extent: int) -> Tensor:
    """Where a slice begins, counted from the front and moved into the operand."""
    if isinstance(start, int | np.integer):
        begin = start + extent if start < 0 else start
        return constant(np.int64(min(max(begin, 0), extent - size)))
    given = as_tensor(start)
    if given.ndim or given.dtype.kind not in "iu":
        raise ArgumentError(f"{name}: a start index has to be an integer of shape ()")
    first = cast(given, types.int64)
    from_end = apply(OPS["add"], [first, constant(np.int64(extent))])
    is_negative = apply(OPS["lt"], [first, constant(np.int64(0))])
    first = apply(OPS["where"], [is_negative, from_end, first])
    first = apply(OPS["maximum"], [first, constant(np.int64(0))])
    return apply(OPS["minimum"], [first, constant(np.int64(extent - size))])


def _ordered(x: Tensor, order: tuple[int, ...]) -> Tensor:
    if order == tuple(range(x.ndim)):
        return x
    return apply(OPS["transpose"], [x], {"axes": order})
