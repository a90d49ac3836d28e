"""Views: the same memory in another shape, and what falls back to a copy where strides cannot say
it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DimError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import DType
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.location import locate
from tracegrad.tracer.tensor import Tensor

Shape = tuple[int, ...]


def integer(value: Any, role: str) -> int:
    """`value`, which is the `role` of an operation, as a number that Python can index with."""
    if not hasattr(value, "__index__"):
        raise locate(ArgumentError(f"a {role} must be an integer, not {type(value).__name__}"))
    return operator.index(value)


def axis_of(dim: Any, ndim: int) -> int:
    """`dim` counted from the front; DimError when out of range. A 0-d tensor counts as 1-d."""
    index = integer(dim, "dimension")
    bound = max(ndim, 1)
    if not -bound <= index < bound:
        raise locate(
            DimError(
                f"Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], "
                f"but got {index})"
            )
        )
    return index % bound


def axes_of(dims: Any, ndim: int) -> Shape:
    """One dim or several, counted from the front; each at most once."""
    axes = tuple(
        axis_of(dim, ndim) for dim in (dims if isinstance(dims, (tuple, list)) else (dims,))
    )
    if len(set(axes)) != len(axes):
        raise locate(DimError(f"dims appear more than once: {list(dims)}"))
    return axes


def shape_of(size: Sequence[Any]) -> Shape:
    """The shape in `f(2, 3)` or `f((2, 3))`."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = size[0]
    return tuple(integer(extent, "size") for extent in size)


def complete(size: Sequence[Any], numel: int) -> Shape:
    """The shape with its -1, if it has one, worked out; ShapeError where the sizes do not fit."""
    shape = shape_of(size)
    problem = ShapeError(f"shape '{list(shape)}' is invalid for input of size {numel}")
    if any(extent < -1 for extent in shape):
        raise locate(ShapeError(f"invalid shape dimension {min(shape)}"))
    if shape.count(-1) > 1:
        raise locate(ShapeError("only one dimension can be inferred"))
    if -1 in shape:
        known = math.prod(extent for extent in shape if extent != -1)
        if known == 0 or numel % known:
            raise locate(problem)
        shape = tuple(numel // known if extent == -1 else extent for extent in shape)
    if math.prod(shape) != numel:
        raise locate(problem)
    return shape


def _reshaped(x: Tensor, shape: Shape, grad_name: str) -> Tensor:
    return apply(OPS["reshape"], [x], {"shape": shape}, grad_name=grad_name)


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The elements in row-major order in another shape; a view where strides allow. One size may be
    -1.
    """
    if not shape:
        raise locate(ArgumentError("reshape() missing the shape"))
    return _reshaped(input, complete(shape, input._array.size), "ViewBackward0")


def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """`reshape` to the shape of another tensor."""
    return reshape(self, other.shape)


def view(self: Tensor, *shape: Any, dtype: DType | None = None) -> Tensor:
    """A view in another shape; ShapeError where that would need a copy."""
    if dtype is None and len(shape) == 1 and isinstance(shape[0], DType):
        dtype = shape[0]
    if dtype is not None:
        if dtype is not self.dtype:
            raise locate(
                ArgumentError("view(dtype) reinterprets memory, which tensors here cannot")
            )
        return _reshaped(self, self._array.shape, "AliasBackward0")
    made = complete(shape, self._array.size)
    try:
        np.reshape(self._array, made, copy=False)
    except ValueError:
        raise locate(
            ShapeError(
                "view size is not compatible with input tensor's size and stride (at least one "
                "dimension spans across two contiguous subspaces). Use .reshape(...) instead."
            )
        ) from None
    return _reshaped(self, made, "ViewBackward0")


def view_as(self: Tensor, other: Tensor) -> Tensor:
    """`view` in the shape of another tensor."""
    return view(self, other.shape)


def permute(input: Tensor, *dims: Any) -> Tensor:
    """The axes in another order."""
    given = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    if len(given) != input.ndim:
        raise locate(
            ShapeError(
                "permute: number of dimensions in the tensor input does not match the length of "
                f"the desired ordering of dimensions i.e. input.dim() = {input.ndim} is not equal "
                f"to len(dims) = {len(given)}"
            )
        )
    axes = tuple(axis_of(dim, input.ndim) for dim in given)
    if len(set(axes)) != len(axes):
        raise locate(ShapeError("permute(): duplicate dims are not allowed."))
    return apply(OPS["transpose"], [input], {"axes": axes})


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged."""
    return _swapped(input, dim0, dim1, "TransposeBackward0")


def _swapped(x: Tensor, dim0: int, dim1: int, grad_name: str) -> Tensor:
    first, second = axis_of(dim0, x.ndim), axis_of(dim1, x.ndim)
    axes = list(range(x.ndim))
    if axes:
        axes[first], axes[second] = axes[second], axes[first]
    return apply(OPS["transpose"], [x], {"axes": tuple(axes)}, grad_name=grad_name)


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; a vector or a number as it is."""
    if input.ndim > 2:
        raise locate(
            ShapeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.ndim}D")
        )
    return _swapped(input, 0, input.ndim - 1, "TBackward0") if input.ndim else input


def reversed_axes(self: Tensor) -> Tensor:
    """`.T`: all axes in reverse order."""
    axes = tuple(reversed(range(self.ndim)))
    return apply(OPS["transpose"], [self], {"axes": axes}, grad_name="PermuteBackward0")


def matrix_transpose(self: Tensor) -> Tensor:
    """`.mT`: the last two axes exchanged."""
    if self.ndim < 2:
        raise locate(
            ShapeError(
                "tensor.mT is only supported on matrices or batches of matrices. "
                f"Got {self.ndim}-D tensor."
            )
        )
    return transpose(self, -2, -1)


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Axes moved to other positions, the rest in order."""
    sources = axes_of(source, input.ndim)
    targets = axes_of(destination, input.ndim)
    if len(sources) != len(targets):
        raise locate(
            ShapeError("movedim: Invalid source or destination dims: their numbers differ")
        )
    order = [axis for axis in range(input.ndim) if axis not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return permute(input, order)


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without the axes of size 1, or without those of them that `dim` names."""
    named = range(input.ndim) if dim is None else axes_of(dim, input.ndim)
    shape = tuple(
        size for i, size in enumerate(input._array.shape) if not (size == 1 and i in named)
    )
    return _reshaped(input, shape, "SqueezeBackward0" if dim is None else "SqueezeBackward1")


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new axis of size 1 at `dim`."""
    axis = axis_of(dim, input.ndim + 1)
    shape = input._array.shape
    return _reshaped(input, (*shape[:axis], 1, *shape[axis:]), "UnsqueezeBackward0")


def expand(self: Tensor, *size: Any) -> Tensor:
    """Axes of size 1 repeated, without memory; -1 keeps a size."""
    given = shape_of(size)
    lead = len(given) - self.ndim
    if lead < 0:
        raise locate(
            ShapeError(
                f"expand({list(self.shape)}, size={list(given)}): the number of sizes provided "
                f"({len(given)}) must be greater or equal to the number of dimensions in the "
                f"tensor ({self.ndim})"
            )
        )
    shape = []
    for i, extent in enumerate(given):
        have = self._array.shape[i - lead] if i >= lead else 1
        if extent == -1 and i < lead:
            raise locate(
                ShapeError(
                    "The expanded size of the tensor (-1) isn't allowed in a leading, non-existing "
                    f"dimension {i}"
                )
            )
        if extent not in (-1, have) and have != 1:
            raise locate(
                ShapeError(
                    f"The expanded size of the tensor ({extent}) must match the existing size "
                    f"({have}) at non-singleton dimension {i}.  Target sizes: {list(given)}.  "
                    f"Tensor sizes: {list(self.shape)}"
                )
            )
        shape.append(have if extent == -1 else extent)
    return apply(OPS["broadcast_to"], [self], {"shape": tuple(shape)})


def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """`expand` to the shape of another tensor."""
    return expand(self, other.shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """`expand` as a function."""
    return expand(input, size)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from `start_dim` to `end_dim` as one."""
    start, end = axis_of(start_dim, input.ndim), axis_of(end_dim, input.ndim)
    if start > end:
        raise locate(ShapeError("flatten() has invalid args: start_dim cannot come after end_dim"))
    shape = input._array.shape
    if start == end and shape:
        return input
    middle = math.prod(shape[start : end + 1])
    return _reshaped(input, (*shape[:start], middle, *shape[end + 1 :]), "ViewBackward0")


def ravel(input: Tensor) -> Tensor:
    """All axes as one."""
    return reshape(input, -1)


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One axis cut into several; one size may be -1."""
    axis = axis_of(dim, input.ndim)
    shape = input._array.shape
    return _reshaped(
        input, (*shape[:axis], *complete(sizes, shape[axis]), *shape[axis + 1 :]), "ViewBackward0"
    )


def window(x: Tensor, axis: int, start: int, limit: int, step: int, grad_name: str) -> Tensor:
    """Elements start, start + step, ... below `limit` along one axis."""
    shape = x._array.shape
    starts = tuple(start if i == axis else 0 for i in range(len(shape)))
    limits = tuple(limit if i == axis else n for i, n in enumerate(shape))
    strides = tuple(step if i == axis else 1 for i in range(len(shape)))
    params = {"starts": starts, "limits": limits, "strides": strides}
    return apply(OPS["slice"], [x], params, grad_name=grad_name)


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`length` elements from `start` along one axis."""
    axis = axis_of(dim, input.ndim)
    size = input._array.shape[axis]
    begin = integer(start, "start")
    begin += size if begin < 0 else 0
    if not 0 <= begin <= begin + length <= size:
        raise locate(
            ShapeError(f"start ({start}) + length ({length}) exceeds dimension size ({size}).")
        )
    return window(input, axis, begin, begin + length, 1, "SliceBackward0")


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """The element `index` along one axis, which is dropped."""
    axis = axis_of(dim, input.ndim)
    size = input._array.shape[axis] if input.ndim else 0
    at = integer(index, "index")
    if not -size <= at < size:
        raise locate(
            DimError(
                f"select(): index {at} out of range for tensor of size {list(input.shape)} at "
                f"dimension {axis}"
            )
        )
    cut = window(input, axis, at % size, at % size + 1, 1, "SliceBackward0")
    shape = cut._array.shape
    return _reshaped(cut, (*shape[:axis], *shape[axis + 1 :]), "SelectBackward0")


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The tensors along one axis."""
    axis = axis_of(dim, input.ndim)
    return tuple(select(input, axis, i) for i in range(input._array.shape[axis]))


VIEW_METHODS = {
    "reshape": reshape,
    "reshape_as": reshape_as,
    "view": view,
    "view_as": view_as,
    "permute": permute,
    "transpose": transpose,
    "swapaxes": transpose,
    "swapdims": transpose,
    "t": t,
    "movedim": movedim,
    "moveaxis": movedim,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "expand": expand,
    "expand_as": expand_as,
    "broadcast_to": broadcast_to,
    "flatten": flatten,
    "ravel": ravel,
    "unflatten": unflatten,
    "narrow": narrow,
    "select": select,
    "unbind": unbind,
}

VIEW_FUNCTIONS = {
    name: function
    for name, function in VIEW_METHODS.items()
    if name not in ("view", "view_as", "reshape_as", "expand", "expand_as")
}
