"""Compiled graphs on plain arrays: from a graph to a program, and one native call to run it."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tracegrad.codegen.affine import View
from tracegrad.codegen.calls import emit_call
from tracegrad.codegen.cpu import emit
from tracegrad.codegen.explanation import Explanation, explain
from tracegrad.codegen.gemm import (
    BatchAxis,
    Matrix,
    calls_blas,
    gemm_extent,
    gemm_source,
    gemm_table,
    strips_of,
)
from tracegrad.codegen.legalize import legalize
from tracegrad.codegen.lowering import lower
from tracegrad.codegen.memory_plan import plan
from tracegrad.codegen.region import emit_region
from tracegrad.codegen.schedule import schedule
from tracegrad.codegen.steps import (
    Block,
    Buffer,
    Call,
    Kernel,
    Region,
    Schedule,
    Step,
)
from tracegrad.codegen.text import Launch
from tracegrad.config import config
from tracegrad.errors import GraphError
from tracegrad.ir.graph import Graph
from tracegrad.ir.types import StackType
from tracegrad.ir.verifier import verify
from tracegrad.log import log
from tracegrad.runtime import memory, program
from tracegrad.runtime.arenas import Arena, Arenas
from tracegrad.runtime.blas import gemm_addresses
from tracegrad.runtime.kernels import KERNEL_SIGNATURE, announce, compile_kernel

Array = np.ndarray[Any, Any]
Layout = tuple[int, ...] | None

# Work is counted in elements of a simple loop over data in cache, some 0.08 ns each with 512-bit
# vectors. A thread takes at least so much: measured with two threads, x * x + x of 32,768 float32
# takes 2.7 us in one and 2.9 in both, of 65,536 5.3 and 4.0.
GRAIN = 1 << 15
# With less than so much in steps for threads, a program has none: to wake a thread that sleeps
# takes some 20 us. A call with x * x + x of 262,144 float32 takes 29 us in one thread and 18 in two
# when calls follow each other, 33 and 37 after a pause; of 524,288 48 and 26, 61 and 54.
THREADED = 1 << 18
# A profile takes at least so many rounds, and so many seconds.
_ROUNDS = 5
_PROFILED = 0.02
# Outputs at least this large come from the pool, where their pages have been touched before.
POOLED = 1 << 16


@dataclass(frozen=True)
class KernelInfo:
    """One step of a program: the name and the source of its kernel, and what it does."""

    name: str
    source: str
    does: Explanation

    @property
    def bytes(self) -> int:
        """The bytes that it reads and writes."""
        return self.does.read_bytes + self.does.written_bytes

    def __str__(self) -> str:
        read, written = self.does.read_bytes, self.does.written_bytes
        return f"{self.name} {self.does.text}: {read:,} bytes read, {written:,} written"


class Executable:
    """A graph ready to run on arrays.

    Calling it with one value for each graph input returns fresh arrays that own their memory.
    Values are arrays of exactly the planned dtype, shape and strides, or Python numbers for 0-d
    inputs. Inputs are never modified.
    """

    def __init__(self, graph: Graph, layouts: Sequence[Layout] | None = None) -> None:
        begin = time.perf_counter()
        program.expect_first()
        self.graph = graph
        chosen: list[Layout] = list(layouts or [None] * len(graph.inputs))
        self._layouts = chosen
        legal = legalize(graph)
        if config.check:
            verify(legal)
        self._planned = planned = schedule(legal, chosen)
        self._launches = [launch_of(step, planned) for step in planned.steps]
        self._stacks = [
            (i, Arenas()) for i, x in enumerate(graph.outputs) if isinstance(x.type, StackType)
        ]
        self._outputs = tuple(
            (node.shape, node.dtype.numpy, node.type.nbytes) for node in graph.outputs
        )
        self._dtypes = tuple(node.dtype.numpy for node in graph.inputs)
        # Only a 0-d input can be given as a number.
        self._takes_arrays = all(node.ndim for node in graph.inputs)
        self._pooled = any(nbytes >= POOLED for _, _, nbytes in self._outputs)
        self._keep: list[Array] = []
        self._arenas: list[Arena] = []
        self._program, self._arena = self._assemble()
        self._run = self._program.run
        self.compile_seconds = time.perf_counter() - begin
        log("kernels", self._listing)

    def __call__(self, values: Sequence[Any]) -> list[Array]:
        arrays = values if self._takes_arrays else self._as_arrays(values)
        outputs = self.new_outputs()
        if config.check:
            return self._run_checked(arrays, outputs)
        scratch = memory.scratch(self._arena) if self._arena else 0
        self._run(*arrays, *outputs, scratch, 0)
        return outputs

    def new_outputs(self) -> list[Array]:
        """Memory for the outputs of one call."""
        if self._pooled:
            outputs = [new_array(*output) for output in self._outputs]
        else:
            outputs = [np.empty(shape, dtype) for shape, dtype, _ in self._outputs]
        for position, arenas in self._stacks:
            outputs[position] = arenas.lend()
        return outputs

    @property
    def words(self) -> Array:
        """The program as words, for who runs it natively."""
        words: Array = self._program.words
        return words

    @property
    def makers(self) -> list[Callable[[], Array] | tuple[tuple[int, ...], Any]]:
        """How each output is made: by a function, or as an array of a shape and dtype."""
        found: list[Callable[[], Array] | tuple[tuple[int, ...], Any]] = []
        for shape, dtype, nbytes in self._outputs:
            pooled = functools.partial(new_array, shape, dtype, nbytes)
            found.append(pooled if nbytes >= POOLED else (shape, dtype))
        for position, arenas in self._stacks:
            found[position] = arenas.lend
        return found

    @property
    def output_count(self) -> int:
        """How many outputs there are."""
        return len(self._outputs)

    @property
    def scratch_bytes(self) -> int:
        """The memory that it needs for temporaries."""
        return self._arena

    def _as_arrays(self, values: Sequence[Any]) -> list[Array]:
        """Arrays for the Python numbers among the values."""
        return [
            value if type(value) is np.ndarray else np.asarray(value, dtype)
            for value, dtype in zip(values, self._dtypes, strict=True)
        ]

    def _run_checked(self, arrays: Sequence[Array], outputs: list[Array]) -> list[Array]:
        """Run with what `TRACEGRAD_CHECK` promises: inputs as planned and unmodified, outputs
        whole and their own.
        """
        for array, node, layout in zip(arrays, self.graph.inputs, self._layouts, strict=True):
            if isinstance(node.type, StackType):
                continue
            strides = tuple(step // array.itemsize for step in array.strides)
            planned = array.flags.c_contiguous if layout is None else strides == layout
            if (array.shape, array.dtype) != (node.shape, node.dtype.numpy) or not planned:
                raise GraphError(
                    f"{self.graph.name}: input {node.params['name']} is {array.dtype}"
                    f"{array.shape} with strides {strides}, not what was planned"
                )
        before = [array.copy() for array in arrays]
        self._run(*arrays, *outputs, memory.scratch(self._arena), 0)
        for array, copy in zip(arrays, before, strict=True):
            if array.tobytes() != copy.tobytes():
                raise GraphError(f"{self.graph.name}: an input was modified")
        for i, output in enumerate(outputs):
            if any(np.shares_memory(output, other) for other in (*arrays, *outputs[i + 1 :])):
                raise GraphError(f"{self.graph.name}: output {i} shares memory")
        return outputs

    @cached_property
    def kernels(self) -> list[KernelInfo]:
        """The steps in the order in which they run."""
        return [
            KernelInfo(step.kernel.name[:9], launch.source, explain(planned, self._planned, launch))
            for step, planned, launch in zip(
                self._program.steps, self._planned.steps, self._launches, strict=True
            )
        ]

    def profile(self, values: Sequence[Any]) -> list[float]:
        """The seconds that each step takes, run by itself, one after the other: the least of some
        rounds. The values are only read, and the results dropped.
        """
        bases = [*self._as_arrays(values), *self.new_outputs()]
        scratch = memory.scratch(self._arena)
        steps = [self._program.only([step]).run for step in self._program.steps]
        nothing = self._program.only([]).run
        best = [math.inf] * (1 + len(steps))
        end = time.perf_counter() + _PROFILED
        for number in itertools.count():
            if number >= _ROUNDS and time.perf_counter() > end:
                break
            for i, run in enumerate((nothing, *steps)):
                begin = time.perf_counter()
                run(*bases, scratch, 0)
                best[i] = min(best[i], time.perf_counter() - begin)
        # Every call costs what one that does nothing costs.
        return [max(seconds - best[0], 0.0) for seconds in best[1:]]

    @property
    def source(self) -> str:
        """The Numba source of every kernel, each once, then the order in which they run."""
        sources: dict[str, str] = {}
        for info in self.kernels:
            sources.setdefault(info.name, info.source)
        parts = [f"# {name}\n{text}" for name, text in sources.items()]
        parts.append(self._listing() + "\n")
        return "\n\n".join(parts)

    def _listing(self) -> str:
        """The kernels in the order in which they run, a line each."""
        lines = [f"# {info}" for info in self.kernels]
        return "\n".join([f"# {self.graph.name}: {len(lines)} kernels", *lines])

    # ------------------------------------------------------------------ assembly

    def _assemble(self) -> tuple[program.Program, int]:
        """The program for the schedule, and the bytes of scratch that it needs."""
        planned, launches = self._planned, self._launches
        uses = [buffers_of(launch) for launch in launches]
        places, arena = plan(uses)
        inputs, outputs = len(planned.inputs), len(planned.outputs)
        slots: dict[tuple[Buffer, int], int] = {}
        buffers: list[program.Buffer] = []

        def slot(kind: str, x: Any) -> int:
            buffer = x if kind == "buffer" else x.buffer
            shift = 0 if kind == "buffer" else x.offset * buffer.dtype.itemsize
            if (buffer, shift) not in slots:
                slots[buffer, shift] = len(buffers)
                if buffer.kind == "input":
                    base, start = buffer.position, 0
                elif buffer.kind == "output":
                    base, start = inputs + buffer.position, 0
                elif buffer.kind == "temporary":
                    place = places[buffer]
                    at = outputs if place.host is None else place.host.position
                    base, start = inputs + at, place.offset
                else:
                    # The address is fixed: an offset from the base 0, passed last.
                    array = self._lasting(buffer)
                    base, start = inputs + outputs + 1, array.ctypes.data
                buffers.append(program.Buffer(base, start + shift))
            return slots[buffer, shift]

        def word(kind: str, x: Any) -> int:
            if kind == "int":
                return int(x)
            if kind == "kernel":
                return compile_kernel(x).address
            if kind == "control":
                return program.control_address()
            if kind == "slot":
                # Set by a region before it calls a kernel.
                buffers.append(program.Buffer(inputs + outputs + 1, 0))
                return len(buffers) - 1
            return slot(kind, x)

        steps: list[program.Step] = []
        grains = grains_of(launches)
        threads = any(launch.threads for launch in launches)
        self._announce(launches, grains, threads)
        for launch, grain in zip(launches, grains, strict=True):
            kernel = compile_kernel(launch.source)
            table = [word(kind, x) for kind, x in launch.words]
            steps.append(program.Step(kernel, table, launch.extent, grain, launch.blas))
        return program.Program(buffers, steps, inputs + outputs + 2, threads), arena

    def _announce(self, launches: Sequence[Launch], grains: Sequence[int], threads: bool) -> None:
        """Say what will be compiled, in the order in which it will."""
        sources: list[str] = []
        for launch in launches:
            sources.append(launch.source)
            sources += [x for kind, x in launch.words if kind == "kernel"]
        for launch, grain in zip(launches, grains, strict=True):
            threads = threads or program.parted(launch.extent, grain)
        kernels = [(source, "kernel", KERNEL_SIGNATURE) for source in sources]
        announce([*kernels, *program.requirements(threads)])

    def _lasting(self, buffer: Buffer) -> Array:
        """The memory of a constant, or of the arena of stacks that no call gives out."""
        if buffer.kind == "arena":
            arena = Arena()
            self._arenas.append(arena)
            return arena.words
        array = np.array(buffer.literal, order="C")
        self._keep.append(array)
        return array


def launch_of(step: Step, planned: Schedule) -> Launch:
    """The text and words of one step."""
    if isinstance(step, Region):
        return emit_region(step, launch_at, GRAIN)
    return launch_at(step, planned)


def launch_at(step: Step, around: Schedule | Block) -> Launch:
    """The text and words of a kernel or a call."""
    if isinstance(step, Kernel):
        return emit(lower(step, around.places, around.known))
    assert isinstance(step, Call)
    if step.node.op.name == "matmul":
        return matmul_launch(step)
    return emit_call(step)


def grains_of(launches: Sequence[Launch]) -> list[int]:
    """For each step of a program the smallest part of its extent that is worth a thread."""
    grains = [launch.grain(GRAIN) for launch in launches]
    parted = [x for x, grain in zip(launches, grains, strict=True) if x.extent // grain > 1]
    if sum(x.extent * x.work for x in parted) >= THREADED or any(x.threads for x in launches):
        return grains
    return [launch.extent + 1 for launch in launches]


def buffers_of(launch: Launch) -> list[Buffer]:
    """The buffers that a launch reads or writes, each once."""
    found = [x for kind, x in launch.words if kind == "buffer"]
    found += [x.buffer for kind, x in launch.words if kind == "view"]
    return list(dict.fromkeys(found))


def compile_graph(graph: Graph, layouts: Sequence[Layout] | None = None) -> Executable:
    """Compile `graph`; `layouts` gives element strides of inputs that are not C-contiguous."""
    return Executable(graph, layouts)


def new_array(shape: tuple[int, ...], dtype: Any, nbytes: int) -> Array:
    """An uninitialised array; a large one from the pool."""
    if nbytes < POOLED:
        return np.empty(shape, dtype)
    block, offset, _ = memory.allocate(nbytes)
    return np.ndarray(shape, dtype, buffer=block, offset=offset)


def matmul_launch(call: Call) -> Launch:
    """The launch of a matrix product whose operands BLAS can read as they are."""
    program.know_blas()
    a, b = call.operands
    code = call.node.dtype.short
    m, k = a.shape[-2:]
    n = b.shape[-1]
    lead = call.node.shape[:-2]
    batch = [
        BatchAxis(size, _step(a, axis, lead), _step(b, axis, lead), _step(call.target, axis, lead))
        for axis, size in enumerate(lead)
        if size != 1
    ]
    matrices = _matrix(a, 0), _matrix(b, 1), _matrix(call.target, 2)
    beta = 1.0 if call.accumulate else 0.0
    table = gemm_table(code, gemm_addresses(code), *matrices, m, n, k, batch, beta=beta)
    words: list[tuple[str, Any]] = [("int", x) for x in table]
    for position, view in zip((2, 3, 4), (a, b, call.target), strict=True):
        words[position] = ("view", view)
    extent = gemm_extent(m, n, k, batch)
    return Launch(gemm_source(code), words, extent, strips_of(m, n, k).work, blas=calls_blas(table))


def _step(view: View, axis: int, lead: tuple[int, ...]) -> int:
    """The stride of a batch axis in an operand that may lack it or broadcast over it."""
    own = axis - (len(lead) - (len(view.shape) - 2))
    return 0 if own < 0 or view.shape[own] == 1 else view.strides[own]


def _matrix(view: View, slot: int) -> Matrix:
    rows, columns = view.shape[-2:]
    row_stride, column_stride = view.strides[-2:]
    if (columns == 1 or column_stride == 1) and (rows == 1 or row_stride >= columns):
        return Matrix(slot, False, row_stride if rows != 1 else None)
    return Matrix(slot, True, column_stride if columns != 1 else None)
