"""The end of a compiled call: results wrapped, inputs written back, one node on the tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import GradError
from tracegrad.ir.differentiate import gradient_graph
from tracegrad.ir.graph import Graph
from tracegrad.ir.types import TensorType
from tracegrad.tracer.dispatch import apply, apply_graph
from tracegrad.tracer.location import user_place
from tracegrad.tracer.program import Program, counters, program_for
from tracegrad.tracer.recording import Ref, Result
from tracegrad.tracer.state import state
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.structure import TENSOR, unflatten
from tracegrad.tracer.tape import FREED, Edge, Node, edge_of
from tracegrad.tracer.tensor import Tensor, wrap
from tracegrad.tracer.tree import Path, Run, Tree, layout_of

Array = np.ndarray[Any, Any]


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


class SavedSegment:
    """What backward of one segment reads: arrays, and the versions of those that the user has too."""

    __slots__ = ("arrays", "depth", "program", "sources")

    def __init__(self, depth: int, sources: Sequence[Ref], program: Program, arrays: list[Array]):
        self.depth = depth
        self.sources = sources
        self.program = program
        self.arrays = arrays


class CompiledFunctionBackward(Node):
    """The tape node of one compiled call. Its edges are the differentiable inputs of the trace."""

    __slots__ = ("inputs", "path", "saved", "tree", "versions")

    saved: list[SavedSegment] | None

    def __init__(
        self, tree: Tree, path: Path, run: Run, inputs: Sequence[Any], edges: tuple[Edge, ...]
    ) -> None:
        super().__init__(edges, path.output_types)
        self.tree = tree
        self.path = path
        self.inputs: Sequence[Any] | None = inputs
        self.saved = []
        read: set[int] = set()
        written = path.written
        for depth, occurrence in enumerate(path.occurrences):
            program = occurrence.program
            if program is None or program.backward_graph is None:
                continue
            arguments, outputs = run.arguments[depth], run.values[depth + 1]
            arrays = []
            for item in program.saved:
                if item.kind == "output":
                    arrays.append(outputs[item.index])
                    continue
                array = arguments[item.index]
                where, number = occurrence.sources[item.index]
                if where < 0:
                    if number in written:
                        # The call is about to write into this very memory.
                        array = array.copy()
                    else:
                        read.add(number)
                arrays.append(array)
            self.saved.append(SavedSegment(depth, occurrence.sources, program, arrays))
        self.versions = [
            (inputs[i]._storage, inputs[i]._storage.version, i)
            for i in read
            if isinstance(inputs[i], Tensor)
        ]

    def name(self) -> str:
        """`CompiledFunctionBackward(loss)`."""
        return f"CompiledFunctionBackward({self.tree.name})"

    def keep_result(self, tensor: Tensor, array: Array) -> None:
        """Watch a result that backward reads: the user may change it in place."""
        for segment in self.saved or ():
            if any(kept is array for kept in segment.arrays):
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
        total: dict[Ref, Array] = {}
        for ref, g in zip(self.path.output_refs, grads, strict=True):
            if g is not None:
                add(total, ref, g._array)
        compiled, seconds = counters.compilations, counters.seconds
        for segment in reversed(self.saved):
            backward_of(segment, total)
        if compiled != counters.compilations:
            statistics = self.tree.statistics
            statistics.compilations += counters.compilations - compiled
            statistics.compile_seconds += counters.seconds - seconds
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
                writer = storage.written_by or "an in-place operation"
                place = f" at {storage.written_at}" if storage.written_at is not None else ""
                raise GradError(
                    "one of the variables needed for gradient computation has been modified by an "
                    f"inplace operation: {role} of {self.name()} is at version {storage.version}; "
                    f"expected version {version} instead. It was changed by {writer}{place}. Use "
                    "the out-of-place form there, or pass a clone() to the compiled function"
                )


def add(total: dict[Ref, Array], ref: Ref, cotangent: Array) -> None:
    """Add a cotangent to those that came before."""
    before = total.get(ref)
    total[ref] = cotangent if before is None else before + cotangent


def backward_of(segment: SavedSegment, total: dict[Ref, Array]) -> None:
    """Run backward of one segment, from the cotangents of its outputs to those of its inputs."""
    program = segment.program
    mask = []
    cotangents = []
    for number, flag in enumerate(program.given):
        if flag:
            g = total.get((segment.depth, number))
            mask.append(g is not None)
            if g is not None:
                # A cotangent that was spread by broadcasting has no memory of its own.
                cotangents.append(g if g.flags.c_contiguous else np.ascontiguousarray(g))
    if not cotangents:
        return
    found = program.backward(tuple(mask))(segment.arrays + cotangents)
    present = iter(program.present)
    results = iter(found)
    for source, wanted in zip(segment.sources, program.wrt, strict=True):
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
            outputs[x.index] if x.kind == "output" else tensors[x.index]._array
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
                total[0, number] = g._array
        sources = [(-1, i) for i in range(len(tensors))]
        backward_of(SavedSegment(0, sources, self.program, self.arrays), total)
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
    program = program_for(graph, wrt, given, layouts)
    arrays = program.forward([x._array for x in tensors])
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


_new = object.__new__


def finish(tree: Tree, path: Path, run: Run, inputs: Sequence[Any], leaves: Sequence[Any]) -> Any:
    """Commit a call whose values are known: the writes, the tape node, the results."""
    node: CompiledFunctionBackward | None = None
    if path.differentiable:
        edges = tuple([edge_of(inputs[i]) for i in path.differentiable_inputs])
        node = CompiledFunctionBackward(tree, path, run, inputs, edges)
    if path.has_effects:
        commit(tree, path, run, inputs, node)
    results = path.end.results
    if len(results) == 1 and path.end.structure is TENSOR and not path.end.stores:
        return _result(tree, path, run, inputs, leaves, node, 0, results[0])
    made = [
        _result(tree, path, run, inputs, leaves, node, i, result)
        for i, result in enumerate(results)
    ]
    for i, first in path.twins:
        made[i] = made[first] if first >= 0 else made[-first - 1]._twin()
    stores = path.end.stores
    if stores:
        for place, value in zip(stores, made[-len(stores) :], strict=True):
            assert place.store is not None
            place.store(leaves, value)
    return unflatten(path.end.structure, made)


def _result(
    tree: Tree,
    path: Path,
    run: Run,
    inputs: Sequence[Any],
    leaves: Sequence[Any],
    node: CompiledFunctionBackward | None,
    number: int,
    result: Result,
) -> Any:
    kind = result.kind
    if kind == "value":
        where, position = path.refs[number]
        array = run.values[where + 1][position]
        if where < 0:
            array = np.array(array, result_dtype(tree, position))
        if result.weak:
            return array.item()
        tensor: Tensor = _new(Tensor)
        tensor._array = array
        tensor._storage = Storage()
        if result.differentiable:
            assert node is not None
            tensor._grad_fn = node
            tensor._output_nr = path.output_number[number]
            tensor._requires_grad = True
            node.keep_result(tensor, array)
        elif result.freed:
            tensor._grad_fn = FreedNode(tree.name, tensor._type)
            tensor._requires_grad = True
        return tensor
    if kind == "constant":
        value = result.constant
        return value.copy() if isinstance(value, np.ndarray) else value
    position = result.ref[1]
    place = tree.positions[position]
    found = inputs[position] if place is None else leaves[place]
    if kind == "input":
        return found
    if not isinstance(found, Tensor):
        found = inputs[position]
    if result.detached:
        found = found.detach()
    for op, params in result.steps:
        found = apply(op, [found], dict(params))
    return found


def result_dtype(tree: Tree, number: int) -> Any:
    """The dtype of an input of the trace."""
    return tree.inputs[number].type.dtype.numpy


def commit(
    tree: Tree,
    path: Path,
    run: Run,
    inputs: Sequence[Any],
    node: CompiledFunctionBackward | None,
) -> None:
    """Write back what the function changed. Nothing here can fail halfway."""
    end = path.end
    by = f"the compiled function {tree.name}"
    place = user_place() if end.writes else None
    # Everything is read before anything is written: a value may be the old value of an input.
    values = [run.value(ref) for ref in path.write_refs]
    values = [
        np.array(value) if ref[0] < 0 else value
        for value, ref in zip(values, path.write_refs, strict=True)
    ]
    gradients = [
        None if ref is None else wrap(np.array(run.value(ref)) if ref[0] < 0 else run.value(ref))
        for ref in path.grad_refs
    ]
    for i, (write, value) in enumerate(zip(end.writes, values, strict=True)):
        target = inputs[write.input]
        if isinstance(target, np.ndarray):
            np.copyto(target, value)
            continue
        np.copyto(target._array, value)
        storage = target._storage
        storage.version += 1
        storage.written_by = by
        storage.written_at = place
        if write.differentiable:
            assert node is not None
            target._grad_fn = node
            target._output_nr = path.write_number[i]
            target._requires_grad = True
    for grad_write, gradient in zip(end.grad_writes, gradients, strict=True):
        target = inputs[grad_write.input]
        target._grad = gradient if grad_write.same_as is None else inputs[grad_write.same_as]
    for flag in end.flags:
        inputs[flag.input]._requires_grad = flag.value
    if end.draws:
        from tracegrad.runtime.random import default_generator

        default_generator.advance(end.draws)
