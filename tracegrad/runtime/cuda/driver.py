"""Kernels on a GPU by its driver: modules, launches, memory in the order of one stream.

Everything is asked for on one stream and runs in that order, so that memory which an array gives
back may be used for the next at once, and nothing waits but what brings elements to the host.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import math
import re
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from cuda.bindings import driver as bindings

from tracegrad.codegen.cuda import DeviceLaunch, lanes
from tracegrad.errors import DeviceError, OutOfMemoryError
from tracegrad.runtime import object_files
from tracegrad.runtime.cuda.accounting import Accounting
from tracegrad.runtime.cuda.arrays import Block, DeviceArray
from tracegrad.runtime.kernels import vocabulary
from tracegrad.runtime.object_files import ObjectCode

Array = np.ndarray[Any, Any]

# The bindings carry no usable types.
_cuda: Any = bindings

# Blocks of a launch for each multiprocessor, at most: more only begin later what a loop does.
_BLOCKS = 32
_ENTRY = re.compile(r"\.visible \.entry (\S+?)\(")

memory = Accounting()


class _DriverError(Exception):
    """What a function of the driver answers when it does not do what it was asked for."""

    def __init__(self, code: Any) -> None:
        _, text = _cuda.cuGetErrorString(code)
        super().__init__(text.decode() if isinstance(text, bytes) else str(code))
        self.code = code


def _call(name: str, *arguments: Any) -> Any:
    """A function of the driver; its result, or results."""
    code, *results = getattr(_cuda, name)(*arguments)
    if int(code):
        raise _DriverError(code)
    return results[0] if len(results) == 1 else tuple(results)


class _Device:
    """The first GPU, with its context and the stream that everything runs on."""

    def __init__(self) -> None:
        _call("cuInit", 0)
        self.handle = _call("cuDeviceGet", 0)
        self.context = _call("cuDevicePrimaryCtxRetain", self.handle)
        self._threads = threading.local()
        self.enter()
        attribute = _cuda.CUdevice_attribute
        self.capability = (
            self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self.multiprocessors = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.stream = _call("cuStreamCreate", 0)
        self.pool = _call("cuDeviceGetDefaultMemPool", self.handle)
        # What is given back stays with the pool until `empty_cache`.
        _call(
            "cuMemPoolSetAttribute",
            self.pool,
            _cuda.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            _cuda.cuuint64_t(2**64 - 1),
        )

    def _attribute(self, attribute: Any) -> int:
        return int(_call("cuDeviceGetAttribute", attribute, self.handle))

    def enter(self) -> None:
        """Make the context that of this thread."""
        if not hasattr(self._threads, "entered"):
            _call("cuCtxSetCurrent", self.context)
            self._threads.entered = True


@cache
def _first() -> _Device:
    try:
        return _Device()
    except _DriverError as failure:
        raise DeviceError(f"the GPU cannot be used: {failure}") from None


def _device() -> _Device:
    found = _first()
    found.enter()
    return found


def name() -> str:
    """What the GPU is called."""
    text = _call("cuDeviceGetName", 256, _device().handle)
    return str(text.split(b"\0")[0].decode())


def synchronize() -> None:
    """Wait until everything has run."""
    _call("cuStreamSynchronize", _device().stream)


# ------------------------------------------------------------------------------------------ kernels


def kernel(what: DeviceLaunch) -> Any:
    """The kernel of a launch: compiled, or from the disk."""
    return _kernel(what.source, what.signature)


@cache
def _kernel(source: str, signature: tuple[str, ...]) -> Any:
    device = _device()
    parts = (_toolchain(), str(device.capability), ",".join(signature), source)
    key = "c" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    found = object_files.read(key)
    if found is None:
        from tracegrad.runtime.cuda import toolchain

        text = toolchain.ptx(source, signature, device.capability)
        entry = _ENTRY.search(text)
        assert entry is not None
        code = toolchain.machine_code(text, device.capability).code
        found = ObjectCode(entry[1], (), code)
        object_files.write(key, source, found)
    module = _call("cuModuleLoadData", found.code)
    return _call("cuModuleGetFunction", module, found.symbol.encode())


@cache
def _toolchain() -> str:
    """A digest of what machine code depends on besides the source and the device."""
    version = importlib.metadata.version("numba-cuda")
    words = vocabulary("primitives", "cuda_primitives")
    return hashlib.sha256(f"{version}\n{words}".encode()).hexdigest()


def launch(function: Any, what: DeviceLaunch, arguments: Sequence[Any]) -> None:
    """Ask for a kernel to be run."""
    device = _device()
    across, along = lanes(what)
    most = device.multiprocessors * _BLOCKS
    blocks = 1 if what.serial else max(min(-(-what.rows // across), most), 1)
    # Every argument is eight bytes: an address, an integer or a float64.
    values = (ctypes.c_uint64 * len(arguments))()
    for i, argument in enumerate(arguments):
        if isinstance(argument, float):
            ctypes.c_double.from_buffer(values, 8 * i).value = argument
        else:
            values[i] = argument & 0xFFFFFFFFFFFFFFFF
    first = ctypes.addressof(values)
    places = (ctypes.c_void_p * len(arguments))(*range(first, first + 8 * len(arguments), 8))
    _call(
        "cuLaunchKernel",
        function,
        *(blocks, 1, 1),
        *(across, along, 1),
        0,
        device.stream,
        ctypes.addressof(places),
        0,
    )


# ------------------------------------------------------------------------------------------- memory


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
    """An array that is not initialised. OutOfMemoryError where there is not so much memory."""
    count = math.prod(shape) * dtype.itemsize
    # Arrays without elements have an address too.
    size = max(count, 1)
    address = _allocate(size)
    block = Block(address, size)
    memory.take(count)
    weakref.finalize(block, _free, address, count).atexit = False
    return np.ndarray(shape, dtype, buffer=np.asarray(block)).view(DeviceArray)


def _allocate(size: int) -> int:
    device = _device()
    try:
        return int(_call("cuMemAllocAsync", size, device.stream))
    except _DriverError:
        # Once more, with all that nobody holds given back.
        empty_cache()
    try:
        return int(_call("cuMemAllocAsync", size, device.stream))
    except _DriverError as failure:
        raise OutOfMemoryError(
            f"{size:,} bytes of the GPU's memory were asked for, and {memory.used:,} are held by "
            f"tensors: {failure}. Drop tensors that are not needed, or make the batch smaller"
        ) from None


def _free(address: int, count: int) -> None:
    memory.give_back(count)
    device = _device()
    _call("cuMemFreeAsync", address, device.stream)


def empty_cache() -> None:
    """Give what nobody holds back to the system."""
    synchronize()
    _call("cuMemPoolTrimTo", _device().pool, 0)


def copied(array: Array) -> DeviceArray:
    """An array of the host on the device."""
    made = empty(array.shape, array.dtype)
    whole = np.ascontiguousarray(array)
    if whole.nbytes:
        stream = _device().stream
        _call("cuMemcpyHtoDAsync", _address(made), whole.ctypes.data, whole.nbytes, stream)
        # The host's array may be gone or changed as soon as this returns.
        synchronize()
    return made


def fetched(array: DeviceArray) -> Array:
    """A contiguous array of the device on the host, when all that makes it has run."""
    made = np.empty(array.shape, array.dtype)
    if made.nbytes:
        stream = _device().stream
        _call("cuMemcpyDtoHAsync", made.ctypes.data, _address(array), made.nbytes, stream)
        synchronize()
    return made


def pointer(array: DeviceArray, dtype: np.dtype[Any], shift: int) -> int:
    """The address `shift` bytes behind the first element of an array."""
    return _address(array) + shift


def _address(array: DeviceArray) -> int:
    return int(array.__array_interface__["data"][0])
