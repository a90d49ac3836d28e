"""Arrays of a device: NumPy's shapes and strides over memory that the host does not read.

A view of such an array is NumPy's own view, since that takes no look at the elements: so slices,
transposes and all that is known of memory, such as whether it is contiguous or shared, are the same
on all devices. What would read or write elements goes to the device, or is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tracegrad.errors import DeviceError

Array = np.ndarray[Any, Any]


class Block:
    """Memory at an address, which NumPy takes for an array of bytes; it lives as long as views.

    owner   who else has the memory, and shall live as long.
    """

    owner: Any = None

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }


class DeviceArray(np.ndarray[Any, Any]):
    """An array in the memory of a device."""

    def plain(self) -> Array:
        """The same memory for NumPy, which must not look at the elements."""
        return self.view(np.ndarray)

    # ------------------------------------------------------------------ to the host

    def host(self) -> Array:
        """A copy in the host's memory, when all that makes it has run."""
        from tracegrad.runtime.cuda import operations

        return operations.to_host(self)

    def item(self, *index: Any) -> Any:
        """The number in an array of one element."""
        return self.host().item(*index)

    def tolist(self) -> Any:
        """The elements as Python's numbers in lists."""
        return self.host().tolist()

    def tobytes(self, order: Any = "C") -> bytes:
        """The bytes of the elements."""
        return self.host().tobytes(order)

    def __bool__(self) -> bool:
        return bool(self.host())

    def __int__(self) -> int:
        return int(self.host())

    def __float__(self) -> float:
        return float(self.host())

    def __index__(self) -> int:
        return self.host().__index__()

    def __repr__(self) -> str:
        return f"DeviceArray({self.host()!r})"

    def __str__(self) -> str:
        return str(self.host())

    def __format__(self, form: str) -> str:
        return format(self.host(), form)

    def __reduce__(self) -> Any:
        return self.host().__reduce__()

    # ------------------------------------------------------------------ on the device

    def copy(self, order: Any = "C") -> DeviceArray:
        """The elements in memory of their own, in the order of the axes."""
        from tracegrad.runtime.cuda import operations

        return operations.copy(self)

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> DeviceArray:
        """The elements as numbers of another type."""
        from tracegrad.runtime.cuda import operations

        return operations.cast(self, np.dtype(dtype))

    def reshape(self, *shape: Any, **kwargs: Any) -> DeviceArray:
        """The elements in another shape: a view where the strides allow one."""
        wanted = shape[0] if len(shape) == 1 else shape
        try:
            return np.reshape(self.plain(), wanted, copy=False).view(DeviceArray)
        except ValueError:
            return np.reshape(self.copy().plain(), wanted, copy=False).view(DeviceArray)

    def __getitem__(self, key: Any) -> DeviceArray:
        whole = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, np.ndarray | list) for part in whole):
            raise refused("an index by an array")
        # With an ellipsis one element is an array too, and is not read.
        if not any(part is Ellipsis for part in whole):
            whole = (*whole, ...)
        return self.plain()[whole].view(DeviceArray)

    def __setitem__(self, key: Any, value: Any) -> None:
        from tracegrad.runtime.cuda import operations

        operations.write(self[key], value)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        from tracegrad.runtime.cuda import operations

        if method != "__call__" or kwargs or ufunc is not np.add:
            raise refused(f"numpy.{ufunc.__name__}")
        result = operations.add(*inputs)
        if out is None:
            return result
        operations.write(out[0], result)
        return out[0]

    def __array_function__(
        self, function: Any, types: Any, args: Iterable[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        from tracegrad.runtime.cuda import operations

        if function is np.copyto and not kwargs:
            target, value = args
            if isinstance(target, DeviceArray):
                operations.write(target, value)
            else:
                np.copyto(target, value.host())
            return None
        if function in _OF_SHAPE:
            return function(*[x.plain() if isinstance(x, DeviceArray) else x for x in args])
        raise refused(f"numpy.{function.__name__}")


# Functions that look at no element.
_OF_SHAPE = frozenset({np.shape, np.ndim, np.size, np.shares_memory, np.may_share_memory})


def refused(what: str) -> DeviceError:
    """The error of what only the host could do."""
    return DeviceError(
        f"{what} of memory on a CUDA device, which NumPy cannot read: move the tensor with .cpu()"
    )
