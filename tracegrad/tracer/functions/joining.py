"""Tensors joined, cut apart, turned round and repeated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tracegrad.errors import ArgumentError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.contraction import broadcast_tensors, reshaped
from tracegrad.tracer.functions.operands import as_tensor
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.movement import axes_of, axis_of, shape_of, window
from tracegrad.tracer.promotion import cast, result_type
from tracegrad.tracer.tensor import Tensor

Tensors = Sequence[Tensor]


def _together(name: str, tensors: Tensors) -> list[Tensor]:
    """The tensors of a list in their common dtype."""
    listed = list(tensors)
    if not listed:
        raise ShapeError(f"{name}: expected a non-empty list of Tensors")
    dtype = result_type(*(as_tensor(x, name) for x in listed))
    return [cast(x, dtype) for x in listed]


@register("cat", "concat", "concatenate", method=False, out=True)
def cat(tensors: Tensors, dim: int = 0) -> Tensor:
    """The tensors one after the other along an axis."""
    parts = _together("cat", tensors)
    if any(x.ndim == 0 for x in parts):
        raise ShapeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    # PyTorch lets a list start from an empty vector, whatever the other shapes are.
    real = [x for x in parts if x._array.shape != (0,)] or parts[:1]
    return apply(OPS["concatenate"], real, {"axis": axis_of(dim, real[0].ndim)})


@register(method=False, out=True)
def stack(tensors: Tensors, dim: int = 0) -> Tensor:
    """The tensors, all of one shape, along a new axis."""
    parts = _together("stack", tensors)
    for i, x in enumerate(parts):
        if x.shape != parts[0].shape:
            raise ShapeError(
                f"stack expects each tensor to be equal size, but got {list(parts[0].shape)} at "
                f"entry 0 and {list(x.shape)} at entry {i}"
            )
    return apply(OPS["stack"], parts, {"axis": axis_of(dim, parts[0].ndim + 1)})


def at_least(x: Tensor, ndim: int) -> Tensor:
    """`x` with axes of size 1 added as NumPy's `atleast_2d` and `atleast_3d` do."""
    shape = x._array.shape
    if len(shape) >= ndim:
        return x
    if ndim == 1:
        return reshaped(x, (1,))
    if ndim == 2:
        return reshaped(x, (1, *shape) if shape else (1, 1), "UnsqueezeBackward0")
    return reshaped(x, {0: (1, 1, 1), 1: (1, *shape, 1)}.get(len(shape), (*shape, 1)))


def _define_at_least(ndim: int) -> None:
    def function(*tensors: Tensor) -> Any:
        if len(tensors) == 1 and isinstance(tensors[0], Tensor):
            return at_least(tensors[0], ndim)
        listed: Any = tensors[0] if len(tensors) == 1 else tensors
        return tuple(at_least(x, ndim) for x in listed)

    function.__name__ = function.__qualname__ = f"atleast_{ndim}d"
    function.__doc__ = f"The tensors with {ndim} axes at least."
    register(method=False)(function)


for _ndim in (1, 2, 3):
    _define_at_least(_ndim)


@register(method=False, out=True)
def hstack(tensors: Tensors) -> Tensor:
    """Vectors one after the other, other tensors side by side."""
    parts = [at_least(x, 1) for x in tensors]
    return cat(parts, 0 if parts and parts[0].ndim == 1 else 1)


@register("vstack", "row_stack", method=False, out=True)
def vstack(tensors: Tensors) -> Tensor:
    """Tensors below each other; a vector counts as a row."""
    return cat([at_least(x, 2) for x in tensors], 0)


@register(method=False, out=True)
def dstack(tensors: Tensors) -> Tensor:
    """Tensors behind each other along the third axis."""
    return cat([at_least(x, 3) for x in tensors], 2)


@register(method=False, out=True)
def column_stack(tensors: Tensors) -> Tensor:
    """Tensors side by side; a vector counts as a column."""
    columns = [reshaped(x, (x._array.size, 1)) if x.ndim <= 1 else x for x in tensors]
    return cat(columns, 1)


def _cut(x: Tensor, axis: int, edges: Sequence[int]) -> tuple[Tensor, ...]:
    """The parts of `x` between neighbouring edges."""
    return tuple(
        window(x, axis, start, stop, 1, "SplitBackward0") for start, stop in pairwise(edges)
    )


@register()
def split(
    tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Views of parts along an axis: of one size, the last being smaller, or of the sizes listed."""
    axis = axis_of(dim, tensor.ndim)
    size = tensor._array.shape[axis]
    if isinstance(split_size_or_sections, (tuple, list)):
        edges = [0]
        for part in split_size_or_sections:
            edges.append(edges[-1] + int(part))
        if edges[-1] != size:
            raise ShapeError(
                f"split_with_sizes expects split_sizes to sum exactly to {size} (input tensor's "
                f"size at dimension {axis}), but got split_sizes={list(split_size_or_sections)}"
            )
        return _cut(tensor, axis, edges)
    step = int(split_size_or_sections)  # type: ignore[arg-type]
    if step < 0 or (step == 0 and size):
        raise ShapeError(f"split expects split_size be positive, but got split_size={step}")
    if size == 0:
        return _cut(tensor, axis, [0, 0])
    return _cut(tensor, axis, [*range(0, size, step), size])


@register()
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of parts of equal size along an axis; the last may be smaller."""
    if chunks <= 0:
        raise ShapeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    axis = axis_of(dim, input.ndim)
    size = input._array.shape[axis]
    if size == 0:
        return _cut(input, axis, [0] * (chunks + 1))
    return split(input, -(-size // chunks), axis)


@register()
def tensor_split(
    input: Tensor, indices_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Views of parts along an axis: as many as said, of nearly equal size, or cut at indices."""
    axis = axis_of(dim, input.ndim)
    size = input._array.shape[axis]
    if isinstance(indices_or_sections, int):
        count = indices_or_sections
        if count <= 0:
            raise ShapeError(f"number of sections must be larger than 0, got {count}")
        small, larger = divmod(size, count)
        edges = [0]
        for i in range(count):
            edges.append(edges[-1] + small + (i < larger))
        return _cut(input, axis, edges)
    edges = [0]
    for index in indices_or_sections:
        edge = index + size if index < 0 else index
        edges.append(min(max(edge, 0), size))
    edges.append(size)
    return tuple(
        window(input, axis, start, max(start, stop), 1, "SliceBackward0")
        for start, stop in pairwise(edges)
    )


@register()
def flip(input: Tensor, *dims: Any) -> Tensor:
    """A copy with axes in reverse order."""
    given = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    axes = tuple(sorted(axes_of(given, input.ndim))) if input.ndim else ()
    return apply(OPS["flip"], [input], {"axes": axes})


@register()
def fliplr(input: Tensor) -> Tensor:
    """A copy with its columns in reverse order."""
    return flip(input, 1)


@register()
def flipud(input: Tensor) -> Tensor:
    """A copy with its rows in reverse order."""
    return flip(input, 0)


@register()
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements moved along axes; those that leave at one end come in at the other.

    Without `dims` the tensor is rolled as if it were flat.
    """
    moves = tuple(shifts) if isinstance(shifts, (tuple, list)) else (int(shifts),)
    if dims is None or dims == ():
        if len(moves) != 1:
            raise ShapeError(f"shifts and dimensions must align. shifts: {len(moves)}, dims:0")
        flat = reshaped(input, (input._array.size,))
        rolled = apply(OPS["roll"], [flat], {"shifts": moves, "axes": (0,)})
        return reshaped(rolled, input._array.shape)
    given = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,)
    if len(given) != len(moves):
        raise ShapeError(
            f"shifts and dimensions must align. shifts: {len(moves)}, dims:{len(given)}"
        )
    axes = tuple(axis_of(dim, input.ndim) for dim in given)
    return apply(OPS["roll"], [input], {"shifts": moves, "axes": axes})


@register(function=False)
def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """The whole tensor repeated along each axis; more repeats than axes add leading axes."""
    counts = shape_of(repeats)
    if len(counts) < input.ndim:
        raise ShapeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of "
            "tensor"
        )
    if any(count < 0 for count in counts):
        raise ShapeError(f"repeat: repeats must not be negative, but got {list(counts)}")
    return apply(OPS["tile"], [input], {"repeats": counts})


@register()
def tile(input: Tensor, *dims: Any) -> Tensor:
    """The whole tensor repeated along its last axes, as NumPy's `tile`."""
    counts = shape_of(dims)
    return repeat(input, (*(1,) * (input.ndim - len(counts)), *counts))


@register()
def repeat_interleave(input: Tensor, repeats: int, dim: int | None = None) -> Tensor:
    """Each element repeated `repeats` times in a row along `dim`, or of the flat tensor."""
    if isinstance(repeats, Tensor):
        if repeats._array.size != 1:
            raise ArgumentError("repeat_interleave: repeats must be one number")
        repeats = int(repeats)
    x = reshaped(input, (input._array.size,)) if dim is None else input
    axis = axis_of(0 if dim is None else dim, x.ndim)
    shape = x._array.shape
    inserted = reshaped(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    wide = (*shape[: axis + 1], repeats, *shape[axis + 1 :])
    spread = apply(OPS["broadcast_to"], [inserted], {"shape": wide})
    return reshaped(spread, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


@register(method=False)
def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """One grid for each vector: its elements along its own axis, repeated along the others."""
    listed = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    if indexing not in ("ij", "xy"):
        raise ArgumentError(
            f'meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}'
        )
    order = list(range(len(listed)))
    if indexing == "xy" and len(listed) > 1:
        order[0], order[1] = 1, 0
    thin = []
    for place, x in zip(order, listed, strict=True):
        shape = tuple(x._array.size if i == place else 1 for i in range(len(listed)))
        thin.append(reshaped(x, shape))
    return broadcast_tensors(*thin)


@register()
def diff(input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """The differences of neighbours along an axis, taken `n` times."""
    axis = axis_of(dim, input.ndim)
    for _ in range(n):
        size = input._array.shape[axis]
        if size == 0:
            break
        after = window(input, axis, 1, size, 1, "SliceBackward0")
        before = window(input, axis, 0, size - 1, 1, "SliceBackward0")
        op = OPS["bitwise_xor" if input.dtype.kind == "b" else "sub"]
        input = apply(op, [after, before])
    return input
