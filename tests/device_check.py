"""Graphs on a device: the simulated one, or a GPU where `TRACEGRAD_TEST_GPU=1`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir.graph import Graph
from tracegrad.ir.op import Array

HAS_CUDA = importlib.util.find_spec("numba_cuda") is not None


def placed(array: Array) -> Array:
    """An array of the device with the same elements and the same strides."""
    from tracegrad.runtime.cuda.arrays import DeviceArray
    from tracegrad.runtime.cuda.operations import to_device

    if array.flags.c_contiguous:
        return to_device(array)
    start = array.__array_interface__["data"][0]
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (start, start)
    around = np.empty(high - low, np.uint8)
    strided = np.ndarray(array.shape, array.dtype, around, start - low, array.strides)
    strided[...] = array
    memory = to_device(around).plain()
    return np.ndarray(array.shape, array.dtype, memory, start - low, array.strides).view(
        DeviceArray
    )


def run_on_device(graph: Graph, arrays: Sequence[Array]) -> list[Any]:
    """The outputs, on the host; a stack is a list of frames."""
    from tracegrad.runtime.cuda.arrays import DeviceArray
    from tracegrad.runtime.cuda.executor import DeviceExecutable, layout_of
    from tracegrad.runtime.cuda.operations import to_host

    on_device = [placed(array) for array in arrays]
    executable = DeviceExecutable(graph, [layout_of(array) for array in on_device])
    found = executable(on_device)
    for array, given in zip(arrays, on_device, strict=True):
        np.testing.assert_array_equal(to_host(given), array, err_msg="an input was changed")
    return [to_host(x) if isinstance(x, DeviceArray) else x for x in found]
