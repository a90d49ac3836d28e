"""Graphs on the simulated device."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from tracegrad.ir.graph import Graph
from tracegrad.ir.op import Array

HAS_CUDA = importlib.util.find_spec("numba_cuda") is not None


def run_on_device(graph: Graph, arrays: Sequence[Array]) -> list[Any]:
    """The outputs, on the host; a stack is a list of frames."""
    from tracegrad.runtime.cuda.arrays import DeviceArray
    from tracegrad.runtime.cuda.executor import DeviceExecutable, layout_of
    from tracegrad.runtime.cuda.operations import to_host

    on_device = [array.view(DeviceArray) for array in arrays]
    executable = DeviceExecutable(graph, [layout_of(array) for array in on_device])
    found = executable(on_device)
    return [to_host(x) if isinstance(x, DeviceArray) else x for x in found]
