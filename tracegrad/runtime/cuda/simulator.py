"""Kernels run by numba-cuda's simulator, on memory of the host: what a device would do, slowly.

It is on where `NUMBA_ENABLE_CUDASIM=1`. A block has few threads: each is a thread of Python.
"""

from __future__ import annotations

import ctypes
import math
import sys
import warnings
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from tracegrad.codegen.cuda import DeviceLaunch, lanes
from tracegrad.runtime.cuda.accounting import Accounting
from tracegrad.runtime.cuda.arrays import Block, DeviceArray
from tracegrad.runtime.cuda.guarded import Region

Array = np.ndarray[Any, Any]

_cuda: Any = cuda

# How much memory the device has. Pages that nobody touches cost nothing.
_BYTES = 1 << 30
# Threads of a block, and blocks of a grid.
_BLOCK = 8
_GRID = 3
# Seconds until a thread of Python that is not interrupted gives way to another.
_SWITCH = 1e-5


class Pointer:
    """Memory from an element on; an index that leaves it is an error."""

    __slots__ = ("elements", "first")

    def __init__(self, elements: Array, first: int) -> None:
        self.elements = elements
        self.first = first

    def _place(self, index: Any) -> int:
        place = self.first + int(index)
        if not 0 <= place < len(self.elements):
            raise IndexError(f"element {index} from {self.first} of {len(self.elements)}")
        return place

    def __getitem__(self, index: Any) -> Any:
        return self.elements[self._place(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.elements[self._place(index)] = value


def kernel(what: DeviceLaunch) -> Any:
    """The kernel of a launch."""
    return _kernel(what.source)


@cache
def _kernel(source: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(compile(source, "<kernel>", "exec"), namespace)
    return _cuda.jit(namespace["kernel"])


def launch(function: Any, what: DeviceLaunch, arguments: Sequence[Any]) -> None:
    """Run a kernel to its end."""
    threads = lanes(what, _BLOCK)
    blocks = max(min(-(-what.rows // threads[0]), _GRID), 1)
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        with warnings.catch_warnings():
            # Numbers overflow as they do on a device.
            warnings.simplefilter("ignore", RuntimeWarning)
            with _region.open():
                function[(1 if what.serial else blocks, 1), threads](*arguments)
    finally:
        sys.setswitchinterval(before)


# ------------------------------------------------------------------------------------------- memory

memory = Accounting()
_region = Region(_BYTES)


def empty_cache() -> None:
    """Nothing is kept that no array holds."""


def synchronize() -> None:
    """Everything has run when it was asked for."""


def name() -> str:
    """What the device is called."""
    return "CUDA simulator"


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
    """An array that is not initialised."""
    count = math.prod(shape) * dtype.itemsize
    address = _region.allocate(count)
    block = Block(address, count)
    memory.take(count)
    weakref.finalize(block, _free, address, count).atexit = False
    return np.ndarray(shape, dtype, buffer=np.asarray(block)).view(DeviceArray)


def _free(address: int, count: int) -> None:
    memory.give_back(count)
    _region.free(address, count)


def copied(array: Array) -> DeviceArray:
    """An array of the host on the device."""
    made = empty(array.shape, array.dtype)
    with _region.open():
        np.copyto(made.plain(), array)
    return made


def fetched(array: DeviceArray) -> Array:
    """A contiguous array of the device on the host."""
    with _region.open():
        return array.plain().copy()


def pointer(array: DeviceArray, dtype: np.dtype[Any], shift: int) -> Pointer:
    """The element that is `shift` bytes behind the first of an array, with all of its memory."""
    start = array.__array_interface__["data"][0]
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (start, start)
    count = (high - low) // dtype.itemsize
    memory: Any = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(low)
    return Pointer(np.frombuffer(memory, dtype), (start - low + shift) // dtype.itemsize)
