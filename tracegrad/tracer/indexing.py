"""NumPy's indexing, read and write, brought down to slices, reshapes, transposes, gathers and
scatters.

An index is handled in two stages. The basic one (integers, slices, `None`, `...`) is a view. The
advanced one (arrays of integers, masks) gathers from that view, with the addressed axes moved to
the front.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, BoundsError, ShapeError
from tracegrad.ir import types
from tracegrad.ir.families import broadcast_shapes
from tracegrad.ir.op import OPS
from tracegrad.tracer.bounds import Limits, require
from tracegrad.tracer.conversion import to_index, to_int
from tracegrad.tracer.creation import array_of, from_numpy
from tracegrad.tracer.device import cpu, moved
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.inplace import assign, check_writable, fill_from
from tracegrad.tracer.location import located, user_place
from tracegrad.tracer.movement import window
from tracegrad.tracer.moving_index import Block, Moving, block_of, is_moving, moving_slice
from tracegrad.tracer.moving_views import watch
from tracegrad.tracer.promotion import cast, to_tensor
from tracegrad.tracer.state import state
from tracegrad.tracer.tape import mark
from tracegrad.tracer.tensor import Tensor

Shape = tuple[int, ...]

# What becomes of a tensor, a value for a place in it, and the indices of that place.
Update = Callable[[Tensor, Tensor, list[Tensor]], Tensor]


@dataclass
class Parsed:
    """An index, taken apart against the shape of its tensor.

    starts, limits, strides   the slice of every axis.
    shape                     the shape of the view: without integer axes, with new ones.
    arrays                    for each axis of the view that an array addresses, that array; a mask
    is there
                              once, with all axes that it covers.
    moving                    the axes of the tensor that a running program's indices address. For
                              an integer there is no axis in the view, and no start.
    grad_name                 the tape node of the view, after the last part of the index.
    """

    starts: list[int]
    limits: list[int]
    strides: list[int]
    shape: list[int]
    arrays: list[tuple[int, Tensor]]
    moving: list[Moving]
    grad_name: str


def _parts(index: Any) -> list[Any]:
    """The components of an index, arrays and lists as tensors."""
    return [_part(part) for part in (index if isinstance(index, tuple) else (index,))]


def _part(part: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, (bool, slice, int)):
        return part
    if isinstance(part, np.bool_):
        return bool(part)
    if isinstance(part, Tensor):
        return _index_tensor(part)
    if isinstance(part, np.ndarray) and state.recorder is not None:
        return _index_tensor(from_numpy(part))
    if isinstance(part, (list, tuple)) and any(map(is_moving, part)):
        return _row(part)
    if isinstance(part, (np.ndarray, list, tuple, range)):
        array = array_of(part)
        if array.size == 0 and array.dtype.kind == "f" and not isinstance(part, np.ndarray):
            array = array.astype(np.int64)
        return _index_tensor(constant(array))
    if hasattr(part, "__index__"):
        return part.__index__()
    raise BoundsError(
        "only integers, slices (`:`), ellipsis (`...`), None and long or bool tensors are valid "
        f"indices (got {type(part).__name__})"
    )


def _row(parts: Sequence[Any]) -> Tensor:
    """int64[len(parts)]: integers of which the running program knows some, `x[[k, p]]`."""
    rows = []
    for part in parts:
        known = not is_moving(part)
        index = constant(np.int64(operator.index(part))) if known else cast(part, types.int64)
        rows.append(apply(OPS["reshape"], [index], {"shape": (1,)}))
    return apply(OPS["concatenate"], rows, {"axis": 0})


def _index_tensor(part: Tensor) -> Any:
    if part._array.dtype.kind == "f":
        raise BoundsError("tensors used as indices must be long, int, byte or bool tensors")
    if part.ndim == 0:
        if part._array.dtype.kind == "b":
            return bool(part)
        if not is_moving(part):
            return to_index(part)
    return part if part._array.dtype.kind == "b" else cast(part, types.int64)


def _consumed(part: Any) -> int:
    """How many axes of the tensor a component addresses."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    if isinstance(part, Tensor) and part._array.dtype.kind == "b":
        return part.ndim
    return 1


def parse(shape: Shape, index: Any) -> Parsed:
    """Take an index apart. BoundsError where it does not fit `shape`."""
    parts = _parts(index)
    used = sum(map(_consumed, parts))
    if used > len(shape):
        raise BoundsError(f"too many indices for tensor of dimension {len(shape)}")
    dots = sum(part is Ellipsis for part in parts)
    if dots > 1:
        raise BoundsError("an index can only have a single ellipsis ('...')")
    if dots == 0:
        parts.append(Ellipsis)
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    parts[at : at + 1] = [Ellipsis] * (len(shape) - used)
    parsed = Parsed([], [], [], [], [], [], "AliasBackward0")
    # Beside arrays and masks, whose axes go to the front, an index is an array like them.
    alone = all(is_moving(part) or not isinstance(part, (Tensor, bool)) for part in parts)
    axis = 0
    for part in parts:
        if not (alone and _add_moving(parsed, shape, part, axis)):
            _add(parsed, shape, part, axis)
        axis += 1 if part is Ellipsis else _consumed(part)
    return parsed


def _add_moving(parsed: Parsed, shape: Shape, part: Any, axis: int) -> bool:
    """Take a part that is an integer, or a slice between integers, of a running program."""
    if is_moving(part):
        parsed.moving.append(Moving(axis, _within(part, shape[axis], axis)))
        return True
    moving = moving_slice(part, shape[axis], axis) if isinstance(part, slice) else None
    if moving is None:
        return False
    parsed.moving.append(moving)
    assert moving.length is not None
    _cut(parsed, 0, moving.length, 1)
    parsed.shape.append(moving.length)
    return True


def _add(parsed: Parsed, shape: Shape, part: Any, axis: int) -> None:
    place = len(parsed.shape)
    if part is Ellipsis:
        _cut(parsed, 0, shape[axis], 1)
        parsed.shape.append(shape[axis])
    elif part is None:
        parsed.shape.append(1)
        parsed.grad_name = "UnsqueezeBackward0"
    elif isinstance(part, bool):
        parsed.shape.append(1)
        parsed.arrays.append((place, constant(np.zeros(int(part), np.int64))))
    elif isinstance(part, slice):
        start, limit, stride = _bounds(part, shape[axis])
        parsed.grad_name = "SliceBackward0"
        _cut(parsed, start, limit, stride)
        parsed.shape.append(-(-(limit - start) // stride))
    elif isinstance(part, int):
        size = shape[axis]
        if not -size <= part < size:
            raise BoundsError(
                f"index {part} is out of bounds for dimension {axis} with size {size}"
            )
        _cut(parsed, part % size, part % size + 1, 1)
        parsed.grad_name = "SelectBackward0"
    elif part._array.dtype.kind == "b":
        for i, size in enumerate(part._array.shape):
            if size != shape[axis + i]:
                raise BoundsError(
                    f"The shape of the mask {list(part.shape)} at index {i} does not match the "
                    f"shape of the indexed tensor {list(shape)} at index {axis + i}"
                )
            _cut(parsed, 0, size, 1)
            parsed.shape.append(size)
        parsed.arrays.append((place, part))
    else:
        _cut(parsed, 0, shape[axis], 1)
        parsed.shape.append(shape[axis])
        parsed.arrays.append((place, part))


def _cut(parsed: Parsed, start: int, limit: int, stride: int) -> None:
    parsed.starts.append(start)
    parsed.limits.append(limit)
    parsed.strides.append(stride)


def _bounds(part: slice, size: int) -> tuple[int, int, int]:
    """Start, limit and stride within [0, size]."""
    if part.step is not None and part.step.__index__() <= 0:
        raise ShapeError("step must be greater than zero")
    start, limit, stride = part.indices(size)
    return start, max(start, limit), stride


def _view(x: Tensor, parsed: Parsed) -> Tensor:
    """The basic stage."""
    shape = x._array.shape
    whole = all(
        (start, limit, stride) == (0, size, 1)
        for start, limit, stride, size in zip(
            parsed.starts, parsed.limits, parsed.strides, shape, strict=True
        )
    )
    reshaped = tuple(parsed.shape)
    if not whole:
        params = {
            "starts": tuple(parsed.starts),
            "limits": tuple(parsed.limits),
            "strides": tuple(parsed.strides),
        }
        x = apply(OPS["slice"], [x], params, grad_name="SliceBackward0")
    if x._array.shape != reshaped or (whole and not parsed.arrays):
        x = apply(OPS["reshape"], [x], {"shape": reshaped}, grad_name=parsed.grad_name)
    return x


@dataclass
class Gather:
    """The advanced stage: `indices` address the first axes of the view transposed by `order`.

    `lead` is the shape of the indices together; in the result it stands at axis `place`.
    """

    order: Shape
    indices: list[Tensor]
    lead: Shape
    place: int


def _gather(shape: Shape, arrays: list[tuple[int, Tensor]]) -> Gather:
    indices: dict[int, Tensor] = {}
    for axis, array in arrays:
        if array._array.dtype.kind == "b":
            for i, column in enumerate(_nonzero(array)):
                indices[axis + i] = column
        else:
            indices[axis] = _within(array, shape[axis], axis)
    axes = tuple(sorted(indices))
    try:
        lead = broadcast_shapes(*(indices[axis]._array.shape for axis in axes), op="index")
    except ShapeError:
        listed = ", ".join(str(list(indices[axis].shape)) for axis in axes)
        raise BoundsError(
            f"shape mismatch: indexing tensors could not be broadcast together with shapes {listed}"
        ) from None
    adjacent = axes == tuple(range(axes[0], axes[0] + len(axes)))
    rest = tuple(axis for axis in range(len(shape)) if axis not in indices)
    return Gather(
        (*axes, *rest), [indices[axis] for axis in axes], lead, axes[0] if adjacent else 0
    )


def _nonzero(mask: Tensor) -> list[Tensor]:
    """The indices of the true elements, one tensor for each axis of the mask."""
    if state.recorder is None:
        return [constant(column) for column in np.nonzero(moved(mask._values, cpu))]
    axes = tuple(range(mask.ndim))
    total = apply(OPS["sum"], [cast(mask, types.int64)], {"axes": axes, "keepdims": False})
    count = to_int(total)
    table = apply(OPS["nonzero"], [mask], {"count": count})
    columns = [window(table, 1, i, i + 1, 1, "") for i in range(mask.ndim)]
    return [apply(OPS["reshape"], [column], {"shape": (count,)}) for column in columns]


def _within(index: Tensor, size: int, axis: int) -> Tensor:
    """The index with negative numbers counted from the end; BoundsError out of range."""
    array = moved(index._values, cpu)
    eager = state.recorder is None or index._literal is not None
    if eager and (not array.size or (array.min() >= 0 and array.max() < size)):
        return index
    message = f"index {{}} is out of bounds for dimension {axis} with size {size}"
    require(index, Limits(-size, size - 1, message))
    if eager:
        return constant(np.where(array < 0, array + size, array))
    zero, extent = constant(np.int64(0)), constant(np.int64(size))
    from_end = apply(OPS["add"], [index, extent])
    return apply(OPS["where"], [apply(OPS["lt"], [index, zero]), from_end, index])


def _transposed(x: Tensor, order: Shape, grad_name: str) -> Tensor:
    if order == tuple(range(x.ndim)):
        return x
    return apply(OPS["transpose"], [x], {"axes": order}, grad_name=grad_name)


def _placed(ndim: int, lead: int, place: int) -> Shape:
    """The order that moves the first `lead` of `ndim` axes to `place`."""
    rest = tuple(range(lead, ndim))
    return (*rest[:place], *range(lead), *rest[place:])


@located
def get_item(self: Tensor, index: Any) -> Tensor:
    """`t[index]`: a view for integers, slices, None and `...`; a copy for arrays and masks."""
    parsed = parse(self._array.shape, index)
    if parsed.moving:
        block = block_of(self.ndim, parsed.moving)
        return _part_of(_read_block(self, block, as_view=True), parsed)
    view = _view(self, parsed)
    if not parsed.arrays:
        return view
    plan = _gather(view._array.shape, parsed.arrays)
    moved = _transposed(view, plan.order, "PermuteBackward0")
    found = apply(OPS["gather"], [moved, *plan.indices])
    return _transposed(found, _placed(found.ndim, len(plan.lead), plan.place), "IndexBackward0")


@located
def set_item(self: Tensor, index: Any, value: Any) -> None:
    """`t[index] = value`, where `value` broadcasts to the shape of `t[index]`."""
    if not isinstance(value, (Tensor, bool, int, float, np.ndarray, np.generic)):
        raise ArgumentError(f"can't assign a {type(value).__name__} to a {self.dtype!r} tensor")
    since = mark()
    parsed = parse(self._array.shape, index)
    source = to_tensor(value, self.dtype)
    if parsed.moving:
        _write_block(self, block_of(self.ndim, parsed.moving), parsed, source, since)
        return
    if not parsed.arrays:
        fill_from(_view(self, parsed), source, "__setitem__", "CopyBackwards")
        return
    view = _view(self, parsed)
    if _is_one_mask(parsed) and source._array.size == 1:
        _set_masked(view, parsed.arrays[0], source, since)
        return
    moved, spread, indices = _scattered(view, parsed, source)
    if state.recorder is None and not (
        state.grad_enabled and (source.requires_grad or self.requires_grad)
    ):
        check_writable(self)
        moved._array[tuple(i._values for i in indices)] = spread._values
        self._storage.version += 1
        self._storage.written_by = "__setitem__"
        self._storage.written_at = user_place()
        return
    new = apply(OPS["scatter"], [moved, spread, *indices])
    assign(moved, new, "__setitem__", since=since)


def accumulate_item(self: Tensor, index: Any, value: Any, update: Update) -> bool:
    """`t[index] = update(t[index], value)` where `index` has arrays of integers, which may name an
    element several times: then each time counts. False, and nothing done, for other indices.
    """
    parsed = parse(self._array.shape, index)
    if all(array._array.dtype.kind == "b" for _, array in parsed.arrays):
        return False
    since = mark()
    source = to_tensor(value, self.dtype)
    moved, spread, indices = _scattered(_view(self, parsed), parsed, source)
    assign(moved, update(moved, spread, indices), "at", since=since)
    return True


def _scattered(view: Tensor, parsed: Parsed, source: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The view with the indexed axes in front, the value for the place, and the indices."""
    plan = _gather(view._array.shape, parsed.arrays)
    moved = _transposed(view, plan.order, "PermuteBackward0")
    return moved, _placed_value(source, moved, plan), plan.indices


def _part_of(block: Tensor, parsed: Parsed) -> Tensor:
    """The basic stage on what moving indices address; the tensor itself where that is all."""
    shape = block._array.shape
    if tuple(parsed.limits) == shape == tuple(parsed.shape) and set(parsed.strides) <= {1}:
        return block
    return _view(block, parsed)


def _read_block(x: Tensor, block: Block, as_view: bool = False) -> Tensor:
    moved = _transposed(x, block.order, "PermuteBackward0")
    found = apply(OPS["gather"], [moved, *block.indices], grad_name="SelectBackward0")
    if as_view:
        watch(moved, block.indices, found)
    return _transposed(found, block.back, "PermuteBackward0")


def _write_block(x: Tensor, block: Block, parsed: Parsed, source: Tensor, since: int) -> None:
    moved = _transposed(x, block.order, "PermuteBackward0")
    rest = moved._array.shape[len(block.indices) :]
    forth = tuple(int(i) for i in np.argsort(block.back))
    whole = (*block.lead, *rest)
    there = tuple(whole[i] for i in block.back)
    if tuple(parsed.limits) == there == tuple(parsed.shape) and set(parsed.strides) <= {1}:
        value = _spread(source, there)
    else:
        # Only a part of what the moving indices address is written: the rest stays as it is.
        value = _read_block(x, block)
        fill_from(_view(value, parsed), source, "__setitem__", "CopyBackwards")
    value = _transposed(value, forth, "PermuteBackward0")
    new = apply(OPS["scatter"], [moved, value, *block.indices])
    assign(moved, new, "__setitem__", since=since)


def _spread(source: Tensor, place: Shape) -> Tensor:
    """The value broadcast to the shape of the place that it is written to."""
    shape = source._array.shape
    while len(shape) > len(place) and shape[0] == 1:
        shape = shape[1:]
    if shape != source._array.shape:
        source = apply(OPS["reshape"], [source], {"shape": shape})
    if shape != place:
        try:
            fits = broadcast_shapes(shape, place) == place
        except ShapeError:
            fits = False
        if not fits:
            raise ShapeError(
                f"shape mismatch: value tensor of shape {list(shape)} cannot be broadcast to "
                f"indexing result of shape {list(place)}"
            )
        source = apply(OPS["broadcast_to"], [source], {"shape": place})
    return source


def _placed_value(source: Tensor, moved: Tensor, plan: Gather) -> Tensor:
    """The value broadcast to the shape of the place, with the indexed axes in front."""
    rest = moved._array.shape[len(plan.indices) :]
    place = (*rest[: plan.place], *plan.lead, *rest[plan.place :])
    back = np.argsort(_placed(len(place), len(plan.lead), plan.place))
    return _transposed(_spread(source, place), tuple(int(i) for i in back), "PermuteBackward0")


def _is_one_mask(parsed: Parsed) -> bool:
    return len(parsed.arrays) == 1 and parsed.arrays[0][1]._array.dtype.kind == "b"


def _set_masked(view: Tensor, array: tuple[int, Tensor], source: Tensor, since: int) -> None:
    """One value at a mask needs no positions: select by the mask."""
    axis, mask = array
    trailing = view.ndim - axis - mask.ndim
    shape = (*mask._array.shape, *(1,) * trailing)
    if trailing:
        mask = apply(OPS["reshape"], [mask], {"shape": shape})
    if source.ndim:
        source = apply(OPS["reshape"], [source], {"shape": ()})
    new = apply(OPS["where"], [mask, source, view], grad_name="IndexPutBackward0")
    assign(view, new, "__setitem__", since=since)
