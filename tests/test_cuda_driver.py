"""What is asked of the driver of a GPU: by a driver that keeps its memory on the host."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

pytest.importorskip("cuda.bindings", reason="numba-cuda is not installed")

from tracegrad.codegen.cuda import DeviceLaunch
from tracegrad.runtime.cuda import driver


class Named:
    """Every attribute is its own name."""

    def __getattr__(self, name: str) -> str:
        return name


class Driver:
    """Answers as the bindings do: a code, then the results."""

    CUdevice_attribute = Named()
    CUmemPool_attribute = Named()
    cuuint64_t = int

    def __init__(self, limit: int = 1 << 20) -> None:
        self.limit = limit
        self.blocks: dict[int, Any] = {}
        self.calls: list[str] = []
        self.launches: list[tuple[Any, ...]] = []
        self.contexts: list[int] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            return (0, f"{name} result")

        return call

    def cuGetErrorString(self, code: int) -> tuple[int, bytes]:
        return 0, b"out of memory"

    def cuDeviceGetName(self, length: int, device: Any) -> tuple[int, bytes]:
        return 0, b"A device" + bytes(10)

    def cuDeviceGetAttribute(self, attribute: str, device: Any) -> tuple[int, int]:
        return 0, {"CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": 4}.get(attribute, 9)

    def cuCtxSetCurrent(self, context: Any) -> tuple[int]:
        self.contexts.append(threading.get_ident())
        return (0,)

    def cuMemAllocAsync(self, size: int, stream: Any) -> tuple[int, int]:
        self.calls.append("cuMemAllocAsync")
        if size + sum(map(len, self.blocks.values())) > self.limit:
            return 2, 0
        block = (ctypes.c_uint8 * size)()
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cuMemFreeAsync(self, address: int, stream: Any) -> tuple[int]:
        del self.blocks[address]
        return (0,)

    def cuMemcpyHtoDAsync(self, to: int, at: int, size: int, stream: Any) -> tuple[int]:
        ctypes.memmove(to, at, size)
        return (0,)

    def cuMemcpyDtoHAsync(self, to: int, at: int, size: int, stream: Any) -> tuple[int]:
        ctypes.memmove(to, at, size)
        return (0,)

    def cuLaunchKernel(self, function: Any, *arguments: Any) -> tuple[int]:
        grid, block, (_, _, places, extra) = arguments[:3], arguments[3:6], arguments[6:]
        assert extra == 0
        self.launches.append((function, grid, block, places))
        return (0,)


@pytest.fixture
def device(monkeypatch: Any) -> Iterator[Driver]:
    made = Driver()
    monkeypatch.setattr(driver, "_cuda", made)
    driver._first.cache_clear()
    yield made
    gc.collect()
    driver._first.cache_clear()


def test_arrays_go_there_and_back(device: Driver) -> None:
    here = np.arange(12.0).reshape(3, 4)
    for array in (here, here.T, here[::2, 1:], np.array(3.0), np.zeros((0, 4), np.float32)):
        there = driver.copied(array)
        assert (there.shape, there.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(driver.fetched(there), array)
    # What came back is waited for.
    assert device.calls.count("cuStreamSynchronize") >= 8


def test_memory_goes_back_with_the_last_view(device: Driver) -> None:
    before = driver.memory.used
    there = driver.copied(np.arange(100.0))
    view = there[10:20]
    assert driver.memory.used == before + 800
    assert driver.pointer(view, view.dtype, 16) == driver.pointer(there, there.dtype, 96)
    del there
    assert len(device.blocks) == 1
    del view
    assert not device.blocks
    assert driver.memory.used == before


def test_arguments_of_a_launch(device: Driver) -> None:
    there = driver.copied(np.arange(8.0))
    address = driver.pointer(there, there.dtype, 0)
    what = DeviceLaunch("", ("*f64", "i64", "f64", "i64"), [], 1000)
    seen = []

    def look(function: Any, *arguments: Any) -> tuple[int]:
        places = (ctypes.c_void_p * 4).from_address(arguments[8])
        kinds = (ctypes.c_uint64, ctypes.c_int64, ctypes.c_double, ctypes.c_int64)
        seen.append(
            [kind.from_address(place).value for kind, place in zip(kinds, places, strict=True)]
        )
        return Driver.cuLaunchKernel(device, function, *arguments)

    device.cuLaunchKernel = look  # type: ignore[method-assign]
    driver.launch("function", what, [address, -5, 0.25, 2**62])
    assert seen == [[address, -5, 0.25, 2**62]]
    ((function, grid, block, _),) = device.launches
    assert (function, grid, block) == ("function", (4, 1, 1), (256, 1, 1))


@pytest.mark.parametrize(
    ("rows", "inner", "serial", "grid", "block"),
    [
        (10, 0, False, 1, (256, 1, 1)),
        # Four multiprocessors take 128 blocks; each goes on in strides of the grid.
        (1 << 20, 0, False, 128, (256, 1, 1)),
        (7, 5000, False, 7, (1, 256, 1)),
        (1 << 20, 0, True, 1, (1, 1, 1)),
        (0, 0, False, 1, (256, 1, 1)),
    ],
)
def test_threads_of_a_launch(
    device: Driver, rows: int, inner: int, serial: bool, grid: int, block: tuple[int, ...]
) -> None:
    driver.launch("function", DeviceLaunch("", (), [], rows, inner, serial=serial), [])
    assert device.launches[0][1:3] == ((grid, 1, 1), block)


def test_too_little_memory_is_tried_once_more_and_said(device: Driver) -> None:
    held = driver.empty((700_000,), np.dtype(np.uint8))
    with pytest.raises(tg.errors.OutOfMemoryError, match=r"500,000 bytes.*700,000 are held") as e:
        driver.empty((500_000,), np.dtype(np.uint8))
    assert isinstance(e.value, MemoryError)
    assert device.calls.count("cuMemPoolTrimTo") == 1
    del held
    assert driver.empty((500_000,), np.dtype(np.uint8)).size == 500_000


def test_each_thread_enters_the_context(device: Driver) -> None:
    driver.synchronize()
    thread = threading.Thread(target=driver.synchronize)
    thread.start()
    thread.join()
    assert len(set(device.contexts)) == 2
    assert driver.name() == "A device"


def test_a_device_that_does_not_start_is_an_error(device: Driver, monkeypatch: Any) -> None:
    monkeypatch.setattr(device, "cuInit", lambda flags: (100,), raising=False)
    with pytest.raises(tg.errors.DeviceError, match="cannot be used"):
        driver.synchronize()
