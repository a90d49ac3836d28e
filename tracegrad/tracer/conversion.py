"""From tensors to Python and NumPy: numbers, lists, arrays, other dtypes and devices."""

from __future__ import annotations

import copy as copying
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DeviceError, GradError, ShapeError, TraceError
from tracegrad.ir import types
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.types import BY_NUMPY, DType
from tracegrad.runtime.cuda.arrays import DeviceArray
from tracegrad.tracer import device as devices
from tracegrad.tracer.deferral import settle
from tracegrad.tracer.device import Device, available
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.location import locate
from tracegrad.tracer.movement import unbind
from tracegrad.tracer.promotion import cast
from tracegrad.tracer.state import state
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.tensor import Tensor, wrap


def _demand(tensor: Tensor, kind: str, value: Any) -> Any:
    """A concrete value leaves the tensor: the recorder guards it, and may know a truer one."""
    if state.recorder is not None:
        return state.recorder.demand(tensor, kind, value)
    return value


def _only(tensor: Tensor) -> Any:
    if tensor._array.size != 1:
        raise locate(
            ShapeError(f"a Tensor with {tensor._array.size} elements cannot be converted to Scalar")
        )
    return tensor._values.item()


def item(self: Tensor) -> Any:
    """The value of a tensor of one element, as a Python number."""
    return _demand(self, "item", _only(self))


def to_bool(self: Tensor) -> bool:
    """The truth of a tensor of one element."""
    if self._array.size != 1:
        what = "no values" if self._array.size == 0 else "more than one value"
        raise locate(ShapeError(f"Boolean value of Tensor with {what} is ambiguous"))
    return bool(_demand(self, "bool", bool(self._values.item())))


def to_int(self: Tensor) -> int:
    """The value of a tensor of one element, towards zero."""
    return int(_demand(self, "int", int(_only(self))))


def to_float(self: Tensor) -> float:
    """The value of a tensor of one element."""
    return float(_demand(self, "float", float(_only(self))))


def to_index(self: Tensor) -> int:
    """The value of an integer tensor of one element, where Python wants an index."""
    if self._array.size != 1 or self._array.dtype.kind not in "iub":
        raise locate(
            ArgumentError("only integer tensors of a single element can be converted to an index")
        )
    return int(_demand(self, "index", int(self._values.item())))


def tolist(self: Tensor) -> Any:
    """The values as nested lists of Python numbers."""
    values = self._values
    _demand(self, "array", values)
    return values.tolist()


def numpy(self: Tensor, *, force: bool = False) -> Array:
    """The tensor's own memory as an array: a change of one is seen in the other.

    GradError for a tensor that requires grad, unless `force`.
    """
    if self.requires_grad and not force:
        raise locate(
            GradError(
                "Can't call numpy() on Tensor that requires grad. Use "
                "tensor.detach().numpy() instead."
            )
        )
    # Who has the memory may write to it.
    settle()
    _demand(self, "array", self._array)
    if isinstance(self._array, DeviceArray):
        if force:
            return self._array.host()
        raise locate(
            DeviceError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        )
    return self._array.view()


def cuda_array_interface(self: Tensor) -> dict[str, Any]:
    """The memory of a tensor on a GPU, for libraries that take it as it is.

    AttributeError for a tensor of the CPU; GradError for one that requires grad.
    """
    array = self._array
    if not isinstance(array, DeviceArray):
        raise AttributeError(
            "Can't get __cuda_array_interface__ on non-CUDA tensor type: move it with .cuda() first"
        )
    if self.requires_grad:
        raise locate(
            GradError(
                "Can't get __cuda_array_interface__ on Tensor that requires grad. Use "
                "tensor.detach() first."
            )
        )
    _demand(self, "array", array)
    from tracegrad.runtime.cuda.machine import machine

    # Who takes it knows nothing of the stream that it is made on.
    machine().synchronize()
    return {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "strides": None if array.flags.c_contiguous else array.strides,
        "data": (array.__array_interface__["data"][0], not array.flags.writeable),
        "version": 2,
    }


def array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Array:
    """NumPy's `np.asarray(t)` and `np.array(t)`."""
    return np.array(numpy(self), dtype, copy=copy)


def detach(self: Tensor) -> Tensor:
    """A tensor on the same memory that is off the tape."""
    twin = self._twin()
    if state.recorder is not None:
        state.recorder.record(OPS["detach"], [self], {}, twin)
    return twin


def detach_(self: Tensor) -> Tensor:
    """Take this tensor off the tape."""
    if self._base is not None:
        raise locate(GradError("Can't detach views in-place. Use detach() instead."))
    self._grad_fn = None
    self._requires_grad = False
    self._output_nr = 0
    return self


def data_of(self: Tensor) -> Tensor:
    """`.data`: like `detach()`, but writes through it are not noticed by backward."""
    twin = detach(self)
    twin._storage = Storage()
    return twin


def set_data(self: Tensor, value: Tensor) -> None:
    """`t.data = other`: take the memory of `other` instead."""
    if value._array.dtype.kind != "f" and self._requires_grad:
        raise locate(
            GradError("data set to a tensor that requires gradients must be floating point")
        )
    if value._alias is not None and value._alias[0] is self and not value._alias[1]:
        # `t.data -= x` hands back the memory that it took.
        return
    self._array = value._array
    self._storage = value._storage
    self._trace = value._trace
    self._alias = (value, ())


def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`to(dtype)`, `to(device)`, `to(device, dtype)`, `to(other)`; the tensor itself where nothing
    changes.
    """
    dtype: DType | None = kwargs.pop("dtype", None)
    where = kwargs.pop("device", None)
    copy = kwargs.pop("copy", False)
    kwargs.pop("non_blocking", None)
    if kwargs:
        raise locate(ArgumentError(f"to() got an unexpected argument {next(iter(kwargs))!r}"))
    for argument in args:
        if isinstance(argument, DType):
            dtype = argument
        elif isinstance(argument, Tensor):
            dtype = argument.dtype
            where = argument.device
        elif isinstance(argument, (str, Device)):
            where = argument
        elif not isinstance(argument, bool):
            raise locate(ArgumentError(f"to() takes no {type(argument).__name__}"))
    made = self if dtype is None else cast(self, dtype)
    if where is not None:
        made = transferred(made, available(where))
    return clone(made) if copy and made is self else made


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """This tensor in the dtype of another."""
    return cast(self, other.dtype)


_NAMES = {
    types.float32: "FloatTensor",
    types.float64: "DoubleTensor",
    types.float16: "HalfTensor",
    types.uint8: "ByteTensor",
    types.int8: "CharTensor",
    types.int16: "ShortTensor",
    types.int32: "IntTensor",
    types.int64: "LongTensor",
    types.bool_: "BoolTensor",
}


def type_(self: Tensor, dtype: DType | None = None) -> Any:
    """Without argument the name of the tensor's type; with one the tensor in that dtype."""
    return f"tracegrad.{_NAMES[self.dtype]}" if dtype is None else cast(self, dtype)


def transferred(tensor: Tensor, target: Device) -> Tensor:
    """A tensor on a device, itself if it is there; differentiable."""
    source = tensor.device
    if source is target:
        return tensor
    if state.recorder is not None:
        raise locate(
            TraceError(
                f"a compiled function computes on one device, and this moves a tensor from "
                f"{source} to {target}: move tensors before the call"
            )
        )
    return apply(OPS["transfer"], [tensor], {"source": str(source), "target": str(target)})


def cpu(self: Tensor) -> Tensor:
    """This tensor on the CPU."""
    return transferred(self, devices.cpu)


def cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """This tensor on a GPU; DeviceError without one."""
    spec = "cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device
    return transferred(self, available(spec))


def clone(self: Tensor) -> Tensor:
    """A copy, differentiable."""
    return apply(OPS["cast"], [self], {"dtype": self.dtype}, grad_name="CloneBackward0")


def contiguous(self: Tensor) -> Tensor:
    """This tensor in row-major memory; itself if it is so already."""
    if self._array.flags.c_contiguous:
        return self
    made = clone(self)
    # A copy keeps the order of the axes in memory. Nobody has seen it yet, so its memory may be
    # replaced.
    made._array = devices.contiguous(made._values)
    return made


def deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """A copy of a leaf with its gradient, for `copy.deepcopy`."""
    if id(self) in memo:
        found: Tensor = memo[id(self)]
        return found
    if self.grad_fn is not None:
        raise locate(
            GradError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
                "protocol at the moment."
            )
        )
    made = wrap(self._values.copy())
    made._requires_grad = self._requires_grad
    memo[id(self)] = made
    if self._grad is not None:
        made._grad = copying.deepcopy(self._grad, memo)
    return made


def rebuild(values: Array, requires_grad: bool, device: str = "cpu") -> Tensor:
    """A leaf from a pickle, where it was."""
    array = values.astype(BY_NUMPY[values.dtype].numpy, copy=False)
    made = wrap(devices.moved(array, available(device)))
    made._requires_grad = requires_grad
    return made


def reduce(self: Tensor) -> Any:
    """Pickling: the values and whether gradients are wanted."""
    if self.grad_fn is not None:
        raise locate(
            GradError("only tensors that are graph leaves can be pickled; detach() this one before")
        )
    values = devices.moved(self._values, devices.cpu)
    return rebuild, (values, self._requires_grad, str(self.device))


def iterate(self: Tensor) -> Any:
    """The tensors along the first axis."""
    if self.ndim == 0:
        raise locate(ArgumentError("iteration over a 0-d tensor"))
    return iter(unbind(self))


def length(self: Tensor) -> int:
    """The size of the first axis."""
    if self.ndim == 0:
        raise locate(ArgumentError("len() of a 0-d tensor"))
    return len(self._array)


def contains(self: Tensor, value: Any) -> bool:
    """Whether any element equals `value`."""
    return bool((self == value).any())


def element_strides(self: Tensor) -> tuple[int, ...]:
    """Steps in memory along each axis, counted in elements."""
    return tuple(stride // self._array.itemsize for stride in self._array.strides)


def stride(self: Tensor, dim: int | None = None) -> Any:
    """Steps in memory, in elements, along all axes or along `dim`."""
    strides = element_strides(self)
    return strides if dim is None else strides[dim]


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input._array.size


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a floating one."""
    return input.dtype.is_floating_point


def storage_offset(self: Tensor) -> int:
    """Elements between the start of the memory and the first element."""
    owner = self._array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    distance = self._array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return int(distance) // self._array.itemsize


def data_ptr(self: Tensor) -> int:
    """The address of the first element."""
    return int(self._array.__array_interface__["data"][0])


def is_contiguous(self: Tensor) -> bool:
    """Whether the memory is in row-major order."""
    return bool(self._array.flags.c_contiguous)


def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one axis."""
    return self.shape if dim is None else self.shape[dim]


def get_device(self: Tensor) -> int:
    """The number of the GPU; -1 on the CPU."""
    index = self.device.index
    return -1 if index is None else index
