"""Making tensors: from Python data and NumPy arrays, and filled by rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DtypeError, ShapeError
from tracegrad.ir import types
from tracegrad.ir.op import Array
from tracegrad.ir.types import BY_NUMPY, DType
from tracegrad.runtime.cuda import availability
from tracegrad.tracer.device import Device, available, cpu, moved
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.location import located
from tracegrad.tracer.promotion import cast, get_default_dtype, is_number
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor, wrap

DeviceSpec = str | Device | None


def _finish(array: Array, device: DeviceSpec, requires_grad: bool) -> Tensor:
    """The new leaf on `array`, which it owns."""
    made = wrap(array if device is None else moved(array, available(device)))
    if requires_grad:
        made.requires_grad_()
    if state.recorder is not None:
        state.recorder.fresh(made)
    return made


def shape_from(size: Sequence[Any]) -> tuple[int, ...]:
    """The shape of `zeros(2, 3)` or of `zeros((2, 3))`."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = size[0]
    shape = []
    for extent in size:
        try:
            shape.append(extent.__index__())
        except AttributeError:
            raise ArgumentError(f"a size must be an integer, not {type(extent).__name__}") from None
    if any(extent < 0 for extent in shape):
        raise ShapeError(f"Trying to create tensor with negative dimension: {shape}")
    return tuple(shape)


def _numpy_dtype(dtype: DType | None, otherwise: DType | None = None) -> np.dtype[Any]:
    found = dtype or otherwise or get_default_dtype()
    if not isinstance(found, DType):
        raise DtypeError(f"dtype must be a tracegrad dtype, not {found!r}")
    return found.numpy


def array_of(data: Any, dtype: DType | None = None) -> Array:
    """`data` as a fresh array: nested sequences of numbers, arrays or tensors.

    Python floats get the default dtype, integers int64; arrays and tensors keep theirs.
    """
    if isinstance(data, Tensor):
        _demand_array(data)
        return np.array(moved(data._values, cpu), None if dtype is None else dtype.numpy)
    if isinstance(data, (np.ndarray, np.generic)):
        return np.array(_known(np.asarray(data)), None if dtype is None else dtype.numpy)
    array = np.array(_plain(data))
    if array.dtype == object:
        raise DtypeError(f"could not make a tensor of {type(data).__name__}: its rows differ")
    if dtype is not None:
        return array.astype(dtype.numpy)
    if array.dtype == np.float64 and not _has_arrays(data):
        return array.astype(get_default_dtype().numpy)
    if array.size == 0:
        return array.astype(get_default_dtype().numpy)
    return _known(array)


def _known(array: Array) -> Array:
    if array.dtype not in BY_NUMPY:
        names = ", ".join(dtype.name for dtype in types.DTYPES)
        raise DtypeError(
            f"can't convert an array of type {array.dtype}; the supported types are: {names}"
        )
    return array.astype(BY_NUMPY[array.dtype].numpy, copy=False)


def _plain(data: Any, depth: int = 0) -> Any:
    """Nested sequences with the tensors in them turned into arrays; ShapeError where rows
    differ.
    """
    if isinstance(data, Tensor):
        _demand_array(data)
        return moved(data._values, cpu)
    if not isinstance(data, (list, tuple, range)):
        if is_number(data) or isinstance(data, np.ndarray):
            return data
        raise ArgumentError(f"could not infer dtype of {type(data).__name__}")
    rows = [_plain(row, depth + 1) for row in data]
    shapes = [np.shape(row) for row in rows]
    for shape in shapes:
        if shape != shapes[0]:
            lengths = [found[0] if found else 0 for found in (shapes[0], shape)]
            raise ShapeError(
                f"expected sequence of length {lengths[0]} at dim {depth + 1} (got {lengths[1]}): "
                "rows must have equal shapes"
            )
    return rows


def _has_arrays(data: Any) -> bool:
    """Whether a float64 came from an array or a tensor, not from a Python float."""
    if isinstance(data, (Tensor, np.ndarray)):
        return True
    if isinstance(data, np.generic):
        return not isinstance(data, float)
    return isinstance(data, (list, tuple)) and any(map(_has_arrays, data))


def _demand_array(data: Tensor) -> None:
    if state.recorder is not None:
        state.recorder.demand(data, "array", data._values)


@located
def tensor(
    data: Any,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """A new leaf with a copy of `data`: numbers, nested sequences, arrays, tensors."""
    return _copied(_adopted(data), dtype, device, requires_grad)


def _copied(data: Any, dtype: DType | None, device: DeviceSpec, requires_grad: bool) -> Tensor:
    if device is None and isinstance(data, Tensor):
        device = data.device
    if state.recorder is None or not isinstance(data, (np.ndarray, Tensor)):
        return _finish(array_of(data, dtype), device, requires_grad)
    # Not the values of now, but a copy as an operation of its own: another call may find others.
    available(device)
    source = data.detach() if isinstance(data, Tensor) else from_numpy(data)
    if isinstance(data, Tensor) and data._weak and dtype is None and data._array.dtype.kind == "f":
        dtype = get_default_dtype()
    made = source if dtype is None else cast(source, dtype)
    made = made.clone() if made is source else made
    made._weak = False
    return made.requires_grad_() if requires_grad else made


@located
def as_tensor(data: Any, dtype: DType | None = None, device: DeviceSpec = None) -> Tensor:
    """`data` as a tensor, sharing memory where it is an array or a tensor already, or an array of
    another library on a GPU.
    """
    data = _adopted(data)
    if isinstance(data, Tensor):
        made = data if dtype is None else cast(data, dtype)
        return made if device is None else made.to(device)
    if isinstance(data, np.ndarray) and (dtype is None or data.dtype == dtype.numpy):
        made = from_numpy(data)
        return made if device is None else made.to(device)
    return _copied(data, dtype, device, False)


def _adopted(data: Any) -> Any:
    """An array on a GPU that another library has made, on its memory; anything else as it is."""
    if isinstance(data, Tensor | np.ndarray | np.generic):
        return data
    if not hasattr(type(data), "__cuda_array_interface__"):
        return data
    available("cuda")
    # Here and not above: it imports CUDA.
    from tracegrad.runtime.cuda.operations import adopted

    availability.used = True
    return wrap(adopted(data))


@located
def from_numpy(array: Array) -> Tensor:
    """A tensor on the memory of `array`: a change of one is seen in the other."""
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"expected np.ndarray (got {type(array).__name__})")
    return _finish(_known(array), None, False)


def legacy_tensor(*args: Any, **kwargs: Any) -> Tensor:
    """`Tensor(data)` and `Tensor(2, 3)`, of the default dtype."""
    if args and all(isinstance(extent, int) for extent in args):
        return empty(*args, **kwargs)
    if not args:
        return empty(0, **kwargs)
    return tensor(*args, dtype=get_default_dtype(), **kwargs)


@located
def full(
    size: Sequence[int],
    fill_value: Any,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor with `fill_value` everywhere, of its type unless `dtype` says otherwise."""
    if dtype is None:
        if isinstance(fill_value, bool):
            dtype = types.bool_
        elif isinstance(fill_value, int):
            dtype = types.int64
    if isinstance(fill_value, Tensor):
        made = apply_broadcast(fill_value, shape_from((size,)), dtype)
        return made.requires_grad_() if requires_grad else made
    shape = shape_from((size,))
    return _finish(np.full(shape, fill_value, _numpy_dtype(dtype)), device, requires_grad)


def apply_broadcast(value: Tensor, shape: tuple[int, ...], dtype: DType | None) -> Tensor:
    """`value` repeated to `shape`, in memory of its own."""
    from tracegrad.ir.op import OPS

    value = value if dtype is None else cast(value, dtype)
    spread = apply(OPS["broadcast_to"], [value], {"shape": shape})
    return wrap(spread._array.copy()) if state.recorder is None else spread


def zeros(
    *size: Any,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of zeros."""
    return _filled(np.zeros, size, dtype, device, requires_grad)


def ones(
    *size: Any,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of ones."""
    return _filled(np.ones, size, dtype, device, requires_grad)


def empty(
    *size: Any,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor whose values are whatever was in memory."""
    return _filled(np.empty, size, dtype, device, requires_grad)


@located
def _filled(
    make: Any,
    size: Sequence[Any],
    dtype: DType | None,
    device: DeviceSpec,
    requires_grad: bool,
) -> Tensor:
    return _finish(make(shape_from(size), _numpy_dtype(dtype)), device, requires_grad)


@located
def _like(
    make: Any, other: Tensor, dtype: DType | None, device: DeviceSpec, requires_grad: bool
) -> Tensor:
    array = make(other._array.shape, _numpy_dtype(dtype, other.dtype))
    return _finish(array, other.device if device is None else device, requires_grad)


def zeros_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """Zeros of the shape and dtype of `input`."""
    return _like(np.zeros, input, dtype, device, requires_grad)


def ones_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones of the shape and dtype of `input`."""
    return _like(np.ones, input, dtype, device, requires_grad)


def empty_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """An uninitialised tensor of the shape and dtype of `input`."""
    return _like(np.empty, input, dtype, device, requires_grad)


def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """`fill_value` everywhere, in the shape and dtype of `input`."""
    return full(
        input.shape,
        fill_value,
        dtype=dtype or input.dtype,
        device=device,
        requires_grad=requires_grad,
    )


@located
def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """The n x m matrix with ones on its diagonal."""
    return _finish(np.eye(n, m, dtype=_numpy_dtype(dtype)), device, requires_grad)


@located
def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... below `end`; int64 where all three are integers."""
    if end is None:
        start, end = 0, start
    start, end, step = (x.item() if isinstance(x, Tensor) else x for x in (start, end, step))
    if step == 0:
        raise ShapeError("step must be nonzero")
    if (end - start) * step < 0:
        raise ShapeError("upper bound and lower bound inconsistent with step sign")
    integral = all(isinstance(x, (int, np.integer)) for x in (start, end, step))
    kind = _numpy_dtype(dtype, types.int64 if integral else None)
    count = -(-(end - start) // step) if integral else math.ceil((end - start) / step)
    values = start + np.arange(count) * step
    return _finish(values.astype(kind), device, requires_grad)


@located
def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` numbers at equal distances from `start` to `end`, both included."""
    if steps < 0:
        raise ShapeError("number of steps must be non-negative")
    kind = _numpy_dtype(dtype)
    low, high = (float(x) for x in (start, end))
    return _finish(spaced(low, high, steps, kind), device, requires_grad)


def spaced(start: float, end: float, steps: int, dtype: np.dtype[Any]) -> Array:
    """Computed from both ends to the middle in the result's own precision, as PyTorch does."""
    if dtype.kind != "f":
        return np.linspace(start, end, steps).astype(dtype)
    work = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    if steps == 1:
        return np.full(1, start, dtype)
    low, high = work.type(start), work.type(end)
    step = (high - low) / work.type(steps - 1) if steps else work.type(0)
    index = np.arange(steps)
    half = steps // 2
    up = low + step * index.astype(work)
    down = high - step * (steps - 1 - index).astype(work)
    return np.where(index < half, up, down).astype(dtype)
