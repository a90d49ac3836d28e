"""Compiled graphs on arrays of a device: from a graph to a list of launches, and to run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.codegen.affine import View
from tracegrad.codegen.cuda import DeviceLaunch, emit
from tracegrad.codegen.cuda_calls import emit_call
from tracegrad.codegen.legalize import legalize
from tracegrad.codegen.lowering import lower
from tracegrad.codegen.memory_plan import plan
from tracegrad.codegen.schedule import schedule
from tracegrad.codegen.steps import Buffer, Call, Kernel, Schedule, Step
from tracegrad.ir.graph import Graph
from tracegrad.ir.ops.control import has_control
from tracegrad.ir.passes import expand_composites
from tracegrad.runtime.cuda.arrays import Array, DeviceArray
from tracegrad.runtime.cuda.machine import machine

Layout = tuple[int, ...] | None


class DeviceExecutable:
    """A graph ready to run on a device.

    Calling it with one array for each graph input, of exactly the planned dtype, shape and strides,
    returns fresh arrays that own their memory. An input of no dimensions may be a number of the
    host. Inputs are never modified.
    """

    def __init__(self, graph: Graph, layouts: Sequence[Layout] | None = None) -> None:
        self.graph = graph
        self.layouts = tuple(layouts or [None] * len(graph.inputs))
        self.compile_seconds = 0.0
        # Kernels take numbers of the host by value: which of a call's they are is part of the text.
        self._programs: dict[tuple[bool, ...], Any] = {}

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        # Constants of a formula may be of the host.
        values = [machine().copied(x) if _is_array_of_host(x) else x for x in values]
        found: list[Any] = self.program(values)(values)
        return found

    def program(self, values: Sequence[Any]) -> Any:
        """What runs the graph on values that are of the device or of the host as these are."""
        numbers = tuple(not isinstance(value, DeviceArray | list) for value in values)
        found = self._programs.get(numbers)
        if found is None:
            if has_control(self.graph):
                from tracegrad.runtime.cuda.control import ControlProgram

                found = ControlProgram(self.graph, self.layouts)
            else:
                found = DeviceProgram(self.graph, self.layouts, numbers)
            self._programs[numbers] = found
        return found

    @property
    def output_count(self) -> int:
        """How many outputs there are."""
        return len(self.graph.outputs)

    @property
    def kernels(self) -> list[Any]:
        """What `explain` lists; kernels of a device are in `source` alone."""
        return []

    def profile(self, values: Sequence[Any]) -> list[float]:
        """The seconds of each of `kernels`."""
        return []

    @property
    def source(self) -> str:
        """The Numba source of every kernel that has run, in the order in which they run."""
        return "\n\n".join(program.source for program in self._programs.values())


class DeviceProgram:
    """A list of launches. `numbers` flags the inputs that are numbers of the host."""

    def __init__(self, graph: Graph, layouts: Sequence[Layout], numbers: Sequence[bool]) -> None:
        self.graph = graph
        planned = schedule(legalize(expand_composites(graph)), list(layouts))
        given = {x for x, flag in zip(planned.inputs, numbers, strict=True) if flag}
        launches = [each for step in planned.steps for each in launches_of(step, planned, given)]
        self._places, self._arena = plan([buffers_of(launch) for launch in launches])
        self._launches = [(machine().kernel(launch), launch) for launch in launches]
        self._constants = {
            buffer: machine().copied(np.asarray(buffer.literal))
            for buffer in planned.buffers
            if buffer.kind == "constant"
        }

    def __call__(self, values: Sequence[Any]) -> list[DeviceArray]:
        on = machine()
        outputs = [on.empty(x.shape, x.dtype.numpy) for x in self.graph.outputs]
        arena = on.empty((self._arena,), np.dtype(np.uint8))

        def pointer(buffer: Buffer, offset: int = 0) -> Any:
            dtype = buffer.dtype.numpy
            shift = offset * dtype.itemsize
            if buffer.kind == "input":
                value = values[buffer.position]
                if not isinstance(value, DeviceArray):
                    value = on.copied(np.asarray(value, dtype))
                return on.pointer(value, dtype, shift)
            if buffer.kind == "output":
                return on.pointer(outputs[buffer.position], dtype, shift)
            if buffer.kind == "constant":
                return on.pointer(self._constants[buffer], dtype, shift)
            place = self._places[buffer]
            home = arena if place.host is None else outputs[place.host.position]
            return on.pointer(home, dtype, place.offset + shift)

        for kernel, launch in self._launches:
            arguments = []
            for kind, x in launch.words:
                if kind == "buffer":
                    arguments.append(pointer(x))
                elif kind == "view":
                    arguments.append(pointer(x.buffer, x.offset))
                elif kind == "number":
                    value = values[x.position]
                    arguments.append(float(value) if x.dtype.kind == "f" else int(value))
                else:
                    arguments.append(x)
            on.launch(kernel, launch, arguments)
        return outputs

    @property
    def source(self) -> str:
        """The Numba source of every kernel in the order in which they run."""
        return "\n\n".join(launch.source for _, launch in self._launches)


def launches_of(
    step: Step, planned: Schedule, numbers: set[Buffer] | None = None
) -> list[DeviceLaunch]:
    """The launches of one step; `numbers` are inputs that kernels get by value."""
    if isinstance(step, Kernel):
        lowered = lower(step, planned.places, planned.known, columns=False)
        return [emit(lowered, numbers or set())]
    assert isinstance(step, Call)
    return emit_call(step)


def buffers_of(launch: DeviceLaunch) -> list[Buffer]:
    """The buffers that a launch reads or writes, each once."""
    found = [x for kind, x in launch.words if kind == "buffer"]
    found += [x.buffer for _, x in launch.words if isinstance(x, View)]
    return list(dict.fromkeys(found))


def _is_array_of_host(value: Any) -> bool:
    return type(value) is np.ndarray and value.ndim > 0


def layout_of(array: Array) -> Layout:
    """Element strides of an array that is not C-contiguous; None for one that is."""
    if array.flags.c_contiguous:
        return None
    return tuple(stride // array.itemsize for stride in array.strides)
