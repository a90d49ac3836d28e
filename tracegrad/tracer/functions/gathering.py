"""Reading and writing by index tensors: the gather and scatter families, masks, embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DtypeError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import bool_, int64
from tracegrad.tracer.bounds import Limits, require
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.contraction import broadcast_tensors, permuted, reshaped
from tracegrad.tracer.functions.operands import as_tensor
from tracegrad.tracer.functions.reductions import index_grid, sum_
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.movement import axis_of
from tracegrad.tracer.promotion import Operand, cast, promote, to_tensor
from tracegrad.tracer.tensor import Tensor


def checked_index(name: str, index: Tensor, size: int, *, negative: bool = False) -> Tensor:
    """`index` as int64, counted from the front. BoundsError where it is out of range."""
    if as_tensor(index, name).dtype.kind not in "iu":
        raise DtypeError(f"{name}(): Expected dtype int32/int64 for index, got {index.dtype.name}")
    message = f"{name}(): index {{}} is out of bounds for dimension with size {size}"
    index = cast(index, int64)
    require(index, Limits(-size if negative else 0, size - 1, message))
    if not negative:
        return index
    below = apply(OPS["lt"], promote(index, 0))
    return apply(OPS["where"], [below, apply(OPS["add"], promote(index, size)), index])


def places(index: Tensor, axis: int) -> list[Tensor]:
    """One index for each axis: `index` itself for `axis`, its own position for the others."""
    shape = index._array.shape
    return [index if i == axis else index_grid(shape, i) for i in range(len(shape))]


def _front(x: Tensor, axis: int) -> Tensor:
    """`x` with `axis` first."""
    return permuted(x, (axis, *(i for i in range(x.ndim) if i != axis)))


def _back(x: Tensor, axis: int) -> Tensor:
    """`x` with its first axis at `axis`, which undoes `_front`."""
    order = list(range(1, x.ndim))
    order.insert(axis, 0)
    return permuted(x, tuple(order))


def _as_vector(x: Tensor) -> Tensor:
    return reshaped(x, (1,)) if x.ndim == 0 else x


@register(out=True)
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along `dim` that the vector `index` lists."""
    if index.ndim > 1:
        raise ShapeError(
            f"index_select(): Index is supposed to be a vector, but got {index.ndim}-D"
        )
    axis = axis_of(dim, input.ndim)
    vector = _as_vector(input)
    index = checked_index("index_select", _as_vector(index), vector._array.shape[axis])
    picked = apply(OPS["gather"], [_front(vector, axis), index], grad_name="IndexSelectBackward0")
    return _back(picked, axis) if input.ndim else reshaped(picked, ())


def _check_reach(name: str, index: Tensor, x: Tensor, axis: int) -> None:
    if index.ndim != x.ndim:
        raise ShapeError(
            f"{name}(): Index tensor must have the same number of dimensions as input tensor, but "
            f"has {index.ndim} and {x.ndim}"
        )
    for i, (have, size) in enumerate(zip(index._array.shape, x._array.shape, strict=True)):
        if i != axis and have > size:
            raise ShapeError(
                f"{name}(): Size does not match at dimension {i}: expected index "
                f"{list(index.shape)} to be no larger than {list(x.shape)} apart from dimension "
                f"{axis}"
            )


@register(out=True)
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0, and so on; of the shape of `index`."""
    axis = axis_of(dim, input.ndim)
    x, at = _as_vector(input), _as_vector(index)
    _check_reach("gather", at, x, axis)
    return _gathered(x, axis, checked_index("gather", at, x._array.shape[axis]), index.ndim)


def _gathered(x: Tensor, axis: int, at: Tensor, ndim: int) -> Tensor:
    """What the checked indices `at` pick from `x`, with `ndim` axes."""
    picked = apply(OPS["gather"], [x, *places(at, axis)], grad_name="GatherBackward0")
    return picked if ndim else reshaped(picked, ())


@register(out=True)
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` whose operands broadcast together on all other axes; negative indices count."""
    if dim is None:
        input, indices, dim = _flat(input), _flat(indices), 0
    axis = axis_of(dim, input.ndim)
    size = input._array.shape[axis]
    index = checked_index("take_along_dim", indices, size, negative=True)
    shape = np.broadcast_shapes(
        tuple(1 if i == axis else n for i, n in enumerate(input._array.shape)),
        tuple(1 if i == axis else n for i, n in enumerate(index._array.shape)),
    )

    def widened(x: Tensor) -> Tensor:
        wide = tuple(x._array.shape[axis] if i == axis else n for i, n in enumerate(shape))
        return x if x._array.shape == wide else apply(OPS["broadcast_to"], [x], {"shape": wide})

    x, at = _as_vector(widened(input)), _as_vector(widened(index))
    _check_reach("take_along_dim", at, x, axis)
    return _gathered(x, axis, at, index.ndim)


def _flat(x: Tensor) -> Tensor:
    return reshaped(x, (x._array.size,))


@register(out=True)
def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements at the row-major positions `index`."""
    flat = _flat(input)
    index = checked_index("take", index, flat._array.size, negative=True)
    return apply(OPS["gather"], [flat, index], grad_name="TakeBackward0")


def _scattered(
    op_name: str, name: str, x: Tensor, dim: int, index: Tensor, source: Operand, grad_name: str
) -> Tensor:
    """`x` with `source` put, or added, at `index` along one axis."""
    axis = axis_of(dim, x.ndim)
    base, at = _as_vector(x), _as_vector(index)
    _check_reach(name, at, base, axis)
    at = checked_index(name, at, base._array.shape[axis])
    shape = at._array.shape
    if isinstance(source, Tensor) and source.ndim == base.ndim:
        if source.dtype is not x.dtype:
            raise DtypeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
        if any(have < size for have, size in zip(source._array.shape, shape, strict=True)):
            raise ShapeError(
                f"{name}(): Expected index {list(shape)} to be no larger than src "
                f"{list(source.shape)}"
            )
        params = {"starts": (0,) * len(shape), "limits": shape, "strides": (1,) * len(shape)}
        value = source if source._array.shape == shape else apply(OPS["slice"], [source], params)
    else:
        number = _as_number(name, source, x)
        value = apply(OPS["broadcast_to"], [number], {"shape": shape})
    made = apply(OPS[op_name], [base, value, *places(at, axis)], grad_name=grad_name)
    return made if x.ndim else reshaped(made, ())


def _as_number(name: str, value: Operand, like: Tensor) -> Tensor:
    number = to_tensor(value, like.dtype)
    if number.ndim:
        raise ShapeError(
            f"{name}(): Index tensor must have the same number of dimensions as src tensor"
        )
    return number


@register(out=True)
def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Operand | None = None,
    *,
    value: Operand | None = None,
    reduce: str | None = None,
) -> Tensor:
    """A copy with out[index[i][j]][j] = src[i][j] for dim 0, and so on; `reduce="add"` adds."""
    source = src if src is not None else value
    if source is None:
        raise ArgumentError("scatter() missing 1 required argument: 'src' or 'value'")
    if reduce not in (None, "add"):
        raise ArgumentError(f'scatter(): reduce argument must be "add" or None, not {reduce!r}')
    op_name = "scatter" if reduce is None else "scatter_add"
    name = "ScatterBackward0" if isinstance(source, Tensor) else "ScatterBackward1"
    return _scattered(op_name, "scatter", input, dim, index, source, name)


@register(out=True)
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy with src[i][j] added at [index[i][j]][j] for dim 0, and so on."""
    return _scattered("scatter_add", "scatter_add", input, dim, index, src, "ScatterAddBackward0")


def _put(
    op_name: str, name: str, x: Tensor, dim: int, index: Tensor, source: Operand, grad_name: str
) -> Tensor:
    """`x` with slices along `dim` replaced by, or added, those of `source`."""
    axis = axis_of(dim, x.ndim)
    base = _front(_as_vector(x), axis)
    at = checked_index(name, _as_vector(index), base._array.shape[0])
    if isinstance(source, Tensor) and source.ndim:
        if source.dtype is not x.dtype:
            raise DtypeError(f"{name}(): self and source expected to have the same dtype")
        value = _front(source, axis)
    else:
        number = _as_number(name, source, x)
        shape = (at._array.shape[0], *base._array.shape[1:])
        value = apply(OPS["broadcast_to"], [number], {"shape": shape})
    made = _back(apply(OPS[op_name], [base, value, at], grad_name=grad_name), axis)
    return made if x.ndim else reshaped(made, ())


@register(out=True)
def index_add(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1
) -> Tensor:
    """A copy with alpha times the slices of `source` added to those that `index` lists."""
    if alpha != 1:
        source = apply(OPS["mul"], promote(source, alpha))
    return _put("scatter_add", "index_add", input, dim, index, source, "IndexAddBackward0")


@register(out=True)
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy with the slices that `index` lists replaced by those of `source`."""
    return _put("scatter", "index_copy", input, dim, index, source, "IndexCopyBackward0")


@register()
def index_fill(input: Tensor, dim: int, index: Tensor, value: Operand) -> Tensor:
    """A copy with the slices that `index` lists filled with a number."""
    return _put("scatter", "index_fill", input, dim, index, value, "IndexFillBackward0")


def true_places(mask: Tensor) -> Tensor:
    """The indices of the true elements, i64[count, ndim]. Their number is asked of the tensor, so
    that a recorded function has a guard on it.
    """
    count = int(sum_(mask).item())
    return apply(OPS["nonzero"], [mask], {"count": count})


def columns(table: Tensor) -> tuple[Tensor, ...]:
    """The columns of a table of indices, one for each axis that they address."""
    count, width = table._array.shape
    return tuple(
        reshaped(
            apply(
                OPS["slice"],
                [table],
                {"starts": (0, i), "limits": (count, i + 1), "strides": (1, 1)},
            ),
            (count,),
        )
        for i in range(width)
    )


@register()
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero, one row each; or one vector for each axis."""
    mask = cast(as_tensor(input, "nonzero"), bool_)
    if as_tuple:
        return columns(true_places(_as_vector(mask)))
    return true_places(mask)


@register()
def argwhere(input: Tensor) -> Tensor:
    """The indices of the elements that are not zero, one row each."""
    result: Tensor = nonzero(input)
    return result


@register(out=True)
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where `mask` is true, as a vector."""
    if mask.dtype is not bool_:
        raise DtypeError(f"masked_select: expected BoolTensor for mask, got {mask.dtype.name}")
    x, where = (_as_vector(t) for t in broadcast_tensors(input, mask))
    at = columns(true_places(where))
    return apply(OPS["gather"], [x, *at], grad_name="MaskedSelectBackward0")


@register()
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """A copy with the first elements of `source` where `mask` is true."""
    if mask.dtype is not bool_:
        raise DtypeError(f"masked_scatter: expected BoolTensor for mask, got {mask.dtype.name}")
    x, where = (_as_vector(t) for t in broadcast_tensors(input, mask))
    at = columns(true_places(where))
    count = at[0]._array.size
    if source._array.size < count:
        raise ShapeError("masked_scatter: expected self and source to have enough elements")
    params = {"starts": (0,), "limits": (count,), "strides": (1,)}
    value = apply(OPS["slice"], [_flat(source)], params)
    made = apply(OPS["scatter"], [x, value, *at], grad_name="MaskedScatterBackward0")
    return made if input.ndim or mask.ndim else reshaped(made, ())


@register("one_hot", function=False, method=False, functional=True)
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at the class of each element along a new last axis, 0 elsewhere; int64."""
    if tensor.dtype is not int64:
        raise DtypeError("one_hot is only applicable to index tensor of type int64.")
    if num_classes == -1:
        if tensor._array.size == 0:
            raise ShapeError("Can not infer total number of classes from empty tensor.")
        num_classes = (
            int(
                apply(
                    OPS["amax"], [tensor], {"axes": tuple(range(tensor.ndim)), "keepdims": False}
                ).item()
            )
            + 1
        )
    classes = checked_index("one_hot", tensor, num_classes)
    shape = tensor._array.shape
    grid = index_grid((*(1,) * len(shape), num_classes), len(shape))
    return cast(apply(OPS["eq"], [reshaped(classes, (*shape, 1)), grid]), int64)


@register("embedding", function=False, method=False, functional=True)
def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """The rows of `weight` that `input` lists. The row `padding_idx` gets no gradient."""
    index = checked_index("embedding", input, weight._array.shape[0])
    if padding_idx is not None:
        row = padding_idx + weight._array.shape[0] if padding_idx < 0 else padding_idx
        rows = index_grid((weight._array.shape[0], 1), 0)
        fixed = apply(OPS["eq"], promote(rows, row))
        weight = apply(OPS["where"], [fixed, apply(OPS["detach"], [weight]), weight])
    return apply(OPS["gather"], [weight, index], grad_name="EmbeddingBackward0")
