"""The tape nodes of compiled calls: backward by the compiled backward programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.config import config
from tracegrad.errors import GradError
from tracegrad.ir.differentiate import gradient_graph
from tracegrad.ir.graph import Graph
from tracegrad.ir.types import TensorType
from tracegrad.tracer.device import contiguous, cpu, device_among
from tracegrad.tracer.dispatch import apply_graph
from tracegrad.tracer.program import Program, counters, program_for
from tracegrad.tracer.recording import Ref
from tracegrad.tracer.state import state
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.tape import FREED, Edge, Node, edge_of, mark
from tracegrad.tracer.tensor import Tensor, wrap
from tracegrad.tracer.tree import Occurrence, Path, Run, Tree, layout_of

if TYPE_CHECKING:
    from tracegrad.runtime.entry import Entry

Array = np.ndarray[Any, Any]

# Runs of one backward before it is a native function.
PATIENCE = 4


class FreedNode(Node):
    """The tape of a result whose graph was freed inside the compiled function."""

    __slots__ = ("function_name",)

    def __init__(self, function_name: str, type: TensorType) -> None:
        super().__init__((), (type,))
        self.function_name = function_name

    def name(self) -> str:
        """As of a result that can be differentiated."""
        return f"CompiledFunctionBackward({self.function_name})"

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """GradError: what backward needs is gone."""
        raise GradError(FREED)


class Saving:
    """What backward of a path reads, worked out once for the programs that its segments have now.

    generation  of the tree when this was made: in another one they may have others.
    segments  of each segment with a gradient: its depth, its occurrence, and where each saved array
              is: (True, number) among its outputs, (False, number) among its arguments.
    copied    numbers of the arguments, by segment, that the call itself writes into.
    read      inputs of the call that are saved as they are, so that their versions count.
    direct    of a path of one segment: for each cotangent that backward takes, the output of the
              call that it belongs to, and for each differentiable input the result of backward
              that is its cotangent. None where cotangents have to be added up.
    results   of a path that only computes: of each result, where it is, its number among those on
              the tape or -1, and whether backward reads it. None for other paths.
    native    backward of a path of one segment as a function from arrays to tensors, once it is
              needed often; `runs` counts to there.
    """

    __slots__ = ("copied", "direct", "generation", "native", "read", "results", "runs", "segments")

    def __init__(self, path: Path, programs: Sequence[Program | None], generation: int) -> None:
        self.generation = generation
        self.segments: list[tuple[int, Occurrence, Program, list[tuple[bool, int]]]] = []
        self.copied: set[tuple[int, int]] = set()
        read: dict[int, None] = {}
        for depth, (occurrence, program) in enumerate(zip(path.occurrences, programs, strict=True)):
            if program is None or program.backward_graph is None:
                continue
            places = []
            for item in program.saved:
                places.append((item.kind == "output", item.index))
                if item.kind == "output":
                    continue
                where, number = occurrence.sources[item.index]
                if where < 0 and number in path.written:
                    self.copied.add((depth, item.index))
                elif where < 0:
                    read[number] = None
            self.segments.append((depth, occurrence, program, places))
        self.read = list(read)
        self.direct = self._direct(path)
        self.results = self._results(path)
        self.native: Entry | None = None
        self.runs = 0

    def _results(self, path: Path) -> list[tuple[Ref, int, bool]] | None:
        if path.has_more:
            return None
        read = {
            (depth, i) for depth, *_, places in self.segments for computed, i in places if computed
        }
        return [
            (ref, path.output_number.get(i, -1), ref in read) for i, ref in enumerate(path.refs)
        ]

    def _direct(self, path: Path) -> tuple[list[int], list[int | None]] | None:
        if len(self.segments) != 1:
            return None
        depth, occurrence, program, _ = self.segments[0]
        flagged = [(depth, number) for number, flag in enumerate(program.given) if flag]
        if sorted(flagged) != sorted(path.output_refs):
            return None
        present = iter(program.present)
        wanted = zip(occurrence.sources, program.wrt, strict=True)
        results = [source for source, wants in wanted if wants and next(present)]
        if len(set(results)) != len(results):
            return None
        order = [path.output_refs.index(ref) for ref in flagged]
        inputs = [(-1, i) for i in path.differentiable_inputs]
        return order, [results.index(ref) if ref in results else None for ref in inputs]

    def arrays(self, run: Run) -> list[list[Array]]:
        """The saved arrays of each segment."""
        found = []
        for depth, _, _, places in self.segments:
            arguments, outputs = run.arguments[depth], run.values[depth + 1]
            kept = [outputs[i] if computed else arguments[i] for computed, i in places]
            if self.copied:
                # The call is about to write into this very memory.
                for position, (computed, i) in enumerate(places):
                    if not computed and (depth, i) in self.copied:
                        kept[position] = kept[position].copy()
            found.append(kept)
        return found


def saving_of(path: Path, run: Run) -> Saving:
    """What backward of a path reads, of the programs that ran."""
    saving = path.saving
    if saving is None or saving.generation != run.generation:
        programs = [program for _, program in run.steps]
        saving = path.saving = Saving(path, programs, run.generation)
    return saving


def saving_now(tree: Tree, path: Path) -> Saving:
    """What backward of a path reads, of the programs that its segments have now."""
    saving = path.saving
    if saving is None or saving.generation != tree.generation:
        programs = [occurrence.program for occurrence in path.occurrences]
        saving = path.saving = Saving(path, programs, tree.generation)
    return saving


class CompiledFunctionBackward(Node):
    """The tape node of one compiled call. Its edges are the differentiable inputs of the trace."""

    __slots__ = ("_edges", "_ends", "inputs", "path", "saved", "saving", "tree", "versions")

    def __init__(self, tree: Tree, path: Path, run: Run, inputs: Sequence[Any]) -> None:
        # Written out instead of super().__init__: this runs for every call on the tape.
        self.output_types = path.output_types
        self.sequence = mark()
        self.hooks = self.prehooks = self.tensor_hooks = self.retained = None
        self.tree = tree
        self.path = path
        self.inputs: Sequence[Any] | None = inputs
        ends = [inputs[i] for i in path.differentiable_inputs]
        self._ends: list[Tensor] | None = ends
        self._edges: tuple[Edge, ...] | None = None
        for x in ends:
            if x._grad_fn is not None or x._base is not None:
                self._edges = tuple([edge_of(x) for x in ends])
                self._ends = None
                break
        saving = self.saving = saving_of(path, run)
        self.saved: list[list[Array]] | None = saving.arrays(run)
        self.versions: list[tuple[Storage, int, int]] = []
        for i in saving.read:
            value = inputs[i]
            if isinstance(value, Tensor):
                storage = value._storage
                self.versions.append((storage, storage.version, i))

    @property
    def edges(self) -> tuple[Edge, ...]:  # type: ignore[override]
        """To the nodes of the differentiable inputs; those of leaves are made when asked for."""
        if self._edges is None:
            assert self._ends is not None
            self._edges = tuple([edge_of(x) for x in self._ends])
            self._ends = None
        return self._edges

    @property
    def ends(self) -> Sequence[Tensor] | None:
        """The differentiable inputs, if all are leaves and nobody has asked for the edges."""
        return self._ends

    def name(self) -> str:
        """`CompiledFunctionBackward(loss)`."""
        return f"CompiledFunctionBackward({self.tree.name})"

    def keep_result(self, tensor: Tensor, array: Array) -> None:
        """Watch a result that backward reads: the user may change it in place."""
        for arrays in self.saved or ():
            if any(kept is array for kept in arrays):
                self.versions.append((tensor._storage, tensor._storage.version, -1))
                return

    def release(self) -> None:
        """Drop the saved values."""
        self.saved = None
        self.inputs = None

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The cotangents of the differentiable inputs, by the compiled backward programs."""
        if self.saved is None:
            raise GradError(FREED)
        self._check_versions()
        if state.grad_enabled or state.recorder is not None:
            return self._run_on_tape(grads)
        return self._run_off_tape(self.saved, grads)

    def run_alone(self, number: int, cotangent: Tensor) -> Sequence[Tensor | None]:
        """`run` without a tape, whatever the mode, for one output."""
        if self.saved is None:
            raise GradError(FREED)
        if self.versions:
            self._check_versions()
        saving = self.saving
        entry, direct = saving.native, saving.direct
        if entry is not None and direct is not None and direct[0] == [number] and not config.check:
            # The shortest way: nothing but the native call.
            made = entry.native(*self.saved[0], cotangent._values)
            if made is not None:
                return [None if i is None else made[i] for i in direct[1]]
        grads: list[Tensor | None] = [None] * len(self.output_types)
        grads[number] = cotangent
        return self._run_off_tape(self.saved, grads)

    def _run_off_tape(
        self, saved: list[list[Array]], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        compiled, seconds = counters.compilations, counters.seconds
        direct = self.saving.direct
        # Not `in`: that would ask tensors whether they are equal to None.
        if direct is not None and not any(g is None for g in grads):
            found = self._run_directly(saved[0], grads, *direct)
        else:
            found = self._run_segments(saved, grads)
        if compiled != counters.compilations:
            statistics = self.tree.statistics
            statistics.compilations += counters.compilations - compiled
            statistics.compile_seconds += counters.seconds - seconds
        return found

    def _run_directly(
        self,
        saved: list[Array],
        grads: Sequence[Tensor | None],
        order: list[int],
        results: list[int | None],
    ) -> list[Tensor | None]:
        """Backward of a single segment whose every output has a cotangent."""
        saving = self.saving
        _, _, program, _ = saving.segments[0]
        cotangents = [grads[i]._values for i in order]  # type: ignore[union-attr]
        # What is native may be made anew meanwhile by another thread: this one is kept.
        entry = saving.native
        if entry is not None and not config.check:
            made = entry.native(*saved, *cotangents)
            if made is not None:
                for tensor in made:
                    tensor._fresh = True
                return [None if i is None else made[i] for i in results]
        cotangents = [contiguous(g) for g in cotangents]
        executable = program.backward(program.all_given)
        found = executable(saved + cotangents)
        saving.runs += 1
        if saving.runs == PATIENCE and not config.check and program.device is cpu:
            # Here and not above: it imports the compiler.
            from tracegrad.tracer.native_results import function_of

            saving.native = function_of(executable, saved + cotangents)
        return [None if i is None else fresh(found[i]) for i in results]

    def _run_segments(
        self, saved: list[list[Array]], grads: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Backward of the segments, last first, adding up what comes to a value twice."""
        total: dict[Ref, Array] = {}
        for ref, g in zip(self.path.output_refs, grads, strict=True):
            if g is not None:
                add(total, ref, g._values)
        segments = zip(self.saving.segments, saved, strict=True)
        for (depth, occurrence, program, _), arrays in reversed(list(segments)):
            backward_of(depth, occurrence.sources, program, arrays, total)
        return [
            wrap(total[-1, i]) if (-1, i) in total else None
            for i in self.path.differentiable_inputs
        ]

    def _run_on_tape(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The same as a function of the inputs that is differentiable itself."""
        path, inputs = self.path, self.inputs
        assert inputs is not None
        if path.written:
            names = ", ".join(self.tree.inputs[i].name for i in sorted(path.written))
            raise GradError(
                f"{self.name()}: create_graph=True needs the inputs of the call, but it changed "
                f"{names} in place. Call the function without @tg.compile for this, or let it "
                "return the new value"
            )
        given = [False] * path.computed
        cotangents = []
        for position, g in zip(path.output_positions, grads, strict=True):
            if g is not None:
                given[position] = True
                cotangents.append(g)
        if not cotangents:
            return [None] * len(path.differentiable_inputs)
        wanted = set(path.differentiable_inputs)
        wrt = tuple(i in wanted for i in range(len(inputs)))
        key = (wrt, tuple(given))
        graph = path.whole.get(key)
        if graph is None:
            graph = gradient_graph(self.tree.whole_graph(path, len(inputs)), wrt, given)
            path.whole[key] = graph
        tensors = [
            value if isinstance(value, Tensor) else wrap(np.asarray(value, item.type.dtype.numpy))
            for value, item in zip(inputs, self.tree.inputs[: len(inputs)], strict=True)
        ]
        return list(call_graph(graph, [*tensors, *cotangents]))

    def _check_versions(self) -> None:
        for storage, version, number in self.versions:
            if storage.version != version:
                role = "a result" if number < 0 else f"input {self.tree.inputs[number].name}"
                raise GradError(
                    "one of the variables needed for gradient computation has been modified by an "
                    f"inplace operation: {role} of {self.name()} is at version {storage.version}; "
                    f"expected version {version} instead. It was changed by "
                    f"{storage.last_write()}. Use the out-of-place form there, or pass a clone() "
                    "to the compiled function"
                )


def add(total: dict[Ref, Array], ref: Ref, cotangent: Array) -> None:
    """Add a cotangent to those that came before."""
    before = total.get(ref)
    total[ref] = cotangent if before is None else np.asanyarray(before + cotangent)


def fresh(array: Array) -> Tensor:
    """A cotangent whose memory nothing else holds."""
    tensor = wrap(array)
    tensor._fresh = True
    return tensor


def backward_of(
    depth: int,
    sources: Sequence[Ref],
    program: Program,
    arrays: list[Array],
    total: dict[Ref, Array],
) -> None:
    """Run backward of one segment, from the cotangents of its outputs to those of its inputs."""
    mask = []
    cotangents = []
    for number, flag in enumerate(program.given):
        if flag:
            g = total.get((depth, number))
            mask.append(g is not None)
            if g is not None:
                cotangents.append(contiguous(g))
    if not cotangents:
        return
    found = program.backward(tuple(mask))(arrays + cotangents)
    present = iter(program.present)
    results = iter(found)
    for source, wanted in zip(sources, program.wrt, strict=True):
        if wanted and next(present):
            add(total, source, next(results))


class GraphBackward(Node):
    """The tape node of a graph that was applied as a whole: a derivative of a compiled call."""

    __slots__ = ("arrays", "graph", "numbers", "program", "tensors")

    def __init__(
        self, graph: Graph, program: Program, tensors: Sequence[Tensor], outputs: list[Array]
    ) -> None:
        needed = tuple(i for i, flag in enumerate(program.wrt) if flag)
        types = tuple(y.type for y, flag in zip(graph.outputs, program.given, strict=True) if flag)
        super().__init__(tuple(edge_of(tensors[i]) for i in needed), types)
        self.graph = graph
        self.program = program
        self.numbers = needed
        self.tensors: Sequence[Tensor] | None = tensors
        self.arrays = [
            outputs[x.index] if x.kind == "output" else tensors[x.index]._values
            for x in program.saved
        ]

    def name(self) -> str:
        """`CompiledFunctionBackward(loss_gradient)`."""
        return f"CompiledFunctionBackward({self.graph.name})"

    def release(self) -> None:
        """Drop the saved values."""
        self.tensors = None
        self.arrays = []

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The cotangents of the inputs that need one."""
        tensors = self.tensors
        if tensors is None:
            raise GradError(FREED)
        if state.grad_enabled or state.recorder is not None:
            flags = iter(grads)
            given = [flag and next(flags) is not None for flag in self.program.given]
            if not any(given):
                return [None] * len(self.numbers)
            graph = gradient_graph(self.graph, self.program.wrt, given)
            return list(call_graph(graph, [*tensors, *(g for g in grads if g is not None)]))
        total: dict[Ref, Array] = {}
        numbers = [i for i, flag in enumerate(self.program.given) if flag]
        for number, g in zip(numbers, grads, strict=True):
            if g is not None:
                total[0, number] = g._values
        sources = [(-1, i) for i in range(len(tensors))]
        backward_of(0, sources, self.program, self.arrays, total)
        return [wrap(total[-1, i]) if (-1, i) in total else None for i in self.numbers]


def call_graph(graph: Graph, tensors: Sequence[Tensor]) -> list[Tensor]:
    """`graph` on tensors, compiled, with one node on the tape."""
    if state.recorder is not None:
        return apply_graph(graph, tensors)
    tracked = state.grad_enabled
    wrt = tuple(
        tracked and x.requires_grad and node.dtype.is_floating_point
        for x, node in zip(tensors, graph.inputs, strict=True)
    )
    given = tuple(any(wrt) and y.dtype.is_floating_point for y in graph.outputs)
    layouts = tuple(layout_of(x._array) for x in tensors)
    values = [x._values for x in tensors]
    program = program_for(graph, wrt, given, layouts, None, device_among(values))
    arrays = program.forward(values)
    outputs = [wrap(array) for array in arrays[: len(graph.outputs)]]
    if any(given):
        node = GraphBackward(graph, program, tensors, arrays)
        number = 0
        for tensor, flag in zip(outputs, given, strict=True):
            if flag:
                tensor._grad_fn = node
                tensor._output_nr = number
                tensor._requires_grad = True
                number += 1
    return outputs
