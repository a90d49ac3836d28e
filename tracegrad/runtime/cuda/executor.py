"""Compiled graphs on arrays of a device: from a graph to a list of launches, and to run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from tracegrad.runtime.cuda import simulator as machine

Array = np.ndarray[Any, Any]
Layout = tuple[int, ...] | None


@dataclass(slots=True)
class _Launch:
    """A kernel that is ready, and what it is launched with."""

    kernel: Any
    what: DeviceLaunch


class DeviceExecutable:
    """A graph ready to run on a device.

    Calling it with one array for each graph input, of exactly the planned dtype, shape and strides,
    returns fresh arrays that own their memory. Inputs are never modified.
    """

    def __init__(self, graph: Graph, layouts: Sequence[Layout] | None = None) -> None:
        self.graph = graph
        planned = schedule(legalize(graph), list(layouts or [None] * len(graph.inputs)))
        self._planned = planned
        launches = [each for step in planned.steps for each in launches_of(step, planned)]
        self._places, self._arena = plan([buffers_of(launch) for launch in launches])
        self._launches = [_Launch(machine.kernel(x.source), x) for x in launches]
        self._constants = {
            buffer: machine.copied(np.asarray(buffer.literal))
            for buffer in planned.buffers
            if buffer.kind == "constant"
        }

    def __call__(self, values: Sequence[Any]) -> list[Array]:
        outputs = [machine.empty(x.shape, x.dtype.numpy) for x in self.graph.outputs]
        arena = machine.empty((self._arena,), np.dtype(np.uint8))
        inputs = [
            machine.copied(np.asarray(value, node.dtype.numpy))
            if not isinstance(value, np.ndarray)
            else value
            for value, node in zip(values, self.graph.inputs, strict=True)
        ]

        def pointer(buffer: Buffer, offset: int = 0) -> Any:
            dtype = buffer.dtype.numpy
            shift = offset * dtype.itemsize
            if buffer.kind == "input":
                return machine.pointer(inputs[buffer.position], dtype, shift)
            if buffer.kind == "output":
                return machine.pointer(outputs[buffer.position], dtype, shift)
            if buffer.kind == "constant":
                return machine.pointer(self._constants[buffer], dtype, shift)
            place = self._places[buffer]
            home = arena if place.host is None else outputs[place.host.position]
            return machine.pointer(home, dtype, place.offset + shift)

        for launch in self._launches:
            arguments = []
            for kind, x in launch.what.words:
                if kind == "buffer":
                    arguments.append(pointer(x))
                elif kind == "view":
                    arguments.append(pointer(x.buffer, x.offset))
                else:
                    arguments.append(x)
            machine.launch(launch.kernel, launch.what, arguments)
        return outputs

    @property
    def source(self) -> str:
        """The Numba source of every kernel in the order in which they run."""
        return "\n\n".join(launch.what.source for launch in self._launches)


def launches_of(step: Step, planned: Schedule) -> list[DeviceLaunch]:
    """The launches of one step."""
    if isinstance(step, Kernel):
        return [emit(lower(step, planned.places, planned.known, columns=False))]
    assert isinstance(step, Call)
    return emit_call(step)


def buffers_of(launch: DeviceLaunch) -> list[Buffer]:
    """The buffers that a launch reads or writes, each once."""
    found = [x for kind, x in launch.words if kind == "buffer"]
    found += [x.buffer for _, x in launch.words if isinstance(x, View)]
    return list(dict.fromkeys(found))


def compile_graph(graph: Graph, layouts: Sequence[Layout] | None = None) -> DeviceExecutable:
    """Compile `graph` for the device; `layouts` gives element strides of inputs that are not
    C-contiguous.
    """
    return DeviceExecutable(graph, layouts)
