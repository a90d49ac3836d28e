"""The tree of traces of one signature: segments, and after each guard a way on per outcome."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.errors import TraceError
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.types import TensorType
from tracegrad.tracer import bounds, outcomes
from tracegrad.tracer.device import device_among
from tracegrad.tracer.program import Program, program_for
from tracegrad.tracer.recording import Drawn, End, Ref, Result, Segment, Trace, TraceInput
from tracegrad.tracer.signature import Layout
from tracegrad.tracer.statistics import Statistics
from tracegrad.tracer.structure import builder_of

if TYPE_CHECKING:
    from tracegrad.tracer.call_backward import Saving

Array = np.ndarray[Any, Any]


class Occurrence:
    """A segment at its place in the tree.

    exports  positions of the nodes that others read; only ever appended to, so numbers stay valid.
    carries  for each export, whether a cotangent may come back to it.
    sources  for each input of the segment: (number of the segment, number among its exports).
    edges    the ways on, by the guard's outcome. `guard` says where its value is.
    end      how the path ends, where it ends here.
    flags    of each requirement of the segment, the number of its flag among the exports.
    """

    __slots__ = (
        "_key",
        "carries",
        "edges",
        "end",
        "exports",
        "flags",
        "guard",
        "hits",
        "number_of",
        "program",
        "segment",
        "sources",
        "wrt",
    )

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._key: tuple[Hashable, ...] | None = None
        self.exports: list[int] = []
        self.number_of: dict[int, int] = {}
        self.carries: list[bool] = []
        self.sources: list[Ref] = []
        self.flags: list[int] = []
        self.wrt: tuple[bool, ...] = ()
        self.guard: Ref | None = None
        self.edges: dict[Hashable, Occurrence] = {}
        self.end: End | None = None
        self.program: Program | None = None
        self.hits = 0

    @property
    def key(self) -> tuple[Hashable, ...]:
        """That of its segment; most are never compared with another."""
        if self._key is None:
            self._key = self.segment.key()
        return self._key

    @property
    def output_count(self) -> int:
        """How many values its program computes, those for backward included."""
        return 0 if self.program is None else self.program.forward.output_count

    def export(self, position: int, carries: bool) -> int:
        """The number of the node at `position` among the exports."""
        node = self.segment.builder.nodes[position]
        carries = carries and node.dtype.is_floating_point
        number = self.number_of.get(position)
        if number is None:
            number = self.number_of[position] = len(self.exports)
            self.exports.append(position)
            self.carries.append(carries)
            self.program = None
        elif carries and not self.carries[number]:
            self.carries[number] = True
            self.program = None
        return number


class Path:
    """One way through a tree, with all that a call needs to know of its end.

    refs           where each computed result is, by number among the exports of its segment.
    output_refs    the values that may get a cotangent: differentiable results, then writes.
    output_number  of each result, its number among those; `write_number` of each write.
    has_more       whether a call does more than compute tensors.
    twins          results that share memory: (result, an earlier one), or -1 - earlier for the same
                   memory in another tensor.
    """

    def __init__(self, tree: Tree, occurrences: list[Occurrence], end: End) -> None:
        self.occurrences = occurrences
        self.end = end
        self.differentiable = end.differentiable
        self.last_used = 0
        self.whole: dict[Any, Graph] = {}
        self.saving: Saving | None = None
        self.build = builder_of(end.structure)
        self.refs = [self._resolve(r.ref) if r.kind == "value" else r.ref for r in end.results]
        self.write_refs = [self._resolve(w.ref) for w in end.writes]
        self.drawn_ref = None if end.drawn.ref is None else self._resolve(end.drawn.ref)
        self.grad_refs = [None if g.ref is None else self._resolve(g.ref) for g in end.grad_writes]
        self.has_effects = bool(end.writes or end.grad_writes or end.flags)
        self.has_effects |= end.drawn != Drawn()
        self.written = {w.input for w in end.writes}
        self.differentiable_inputs = [
            i for i, item in enumerate(tree.inputs) if item.differentiable
        ]
        self.output_refs: list[Ref] = []
        self.output_number: dict[int, int] = {}
        self.write_number: dict[int, int] = {}
        self.output_positions: list[int] = []
        types: list[TensorType] = []
        self.computed = 0
        for i, result in enumerate(end.results):
            if result.kind != "value":
                continue
            if result.differentiable:
                self.output_number[i] = len(self.output_refs)
                self.output_refs.append(self.refs[i])
                self.output_positions.append(self.computed)
                types.append(self._type(tree, result.ref))
            self.computed += 1
        for i, write in enumerate(end.writes):
            if write.differentiable:
                self.write_number[i] = len(self.output_refs)
                self.output_refs.append(self.write_refs[i])
                self.output_positions.append(self.computed)
                types.append(self._type(tree, write.ref))
            self.computed += 1
        self.output_types = tuple(types)
        self.has_more = self._has_more()
        self.plain = self._plain()
        self.twins = [(i, r.twin) for i, r in enumerate(end.results) if r.twin is not None]

    def outcomes(self) -> list[Hashable]:
        """The outcome of each condition on the way."""
        return [outcome_of(a, b) for a, b in itertools.pairwise(self.occurrences)]

    def _has_more(self) -> bool:
        """Whether a call does more than compute tensors."""
        end = self.end
        if self.has_effects or end.stores or end.gradients:
            return True
        return not all(map(is_simple, end.results, self.refs))

    def _plain(self) -> list[Ref] | None:
        """Where the results are, of a path that only computes tensors off the tape."""
        if self.differentiable or self.has_more:
            return None
        return [(where + 1, number) for where, number in self.refs]

    def _resolve(self, ref: Ref) -> Ref:
        return resolve(ref, self.occurrences)

    def _type(self, tree: Tree, ref: Ref) -> TensorType:
        if ref[0] < 0:
            return tree.inputs[ref[1]].type
        return self.occurrences[ref[0]].segment.builder.nodes[ref[1]].type


def is_simple(result: Result, ref: Ref) -> bool:
    """Whether a result is a tensor around what a program has computed."""
    special = result.weak or result.copied or result.freed or result.leaf
    return result.kind == "value" and not special and result.twin is None and ref[0] >= 0


def outcome_of(parent: Occurrence, following: Occurrence) -> Hashable:
    """The outcome with which a path goes on to a segment."""
    return next(key for key, child in parent.edges.items() if child is following)


def _is_same(known: Occurrence, segment: Segment) -> bool:
    """Whether a segment was recorded as the known one was."""
    before, now = known.segment.guard, segment.guard
    same_guard = (before and before.key()) == (now and now.key())
    return segment.key() == known.key and same_guard


def resolve(ref: Ref, path: Sequence[Occurrence]) -> Ref:
    """A reference by position as one by number among the exports."""
    return ref if ref[0] < 0 else (ref[0], path[ref[0]].number_of[ref[1]])


class Tree:
    """All traces of one signature, with what guards them."""

    def __init__(self, name: str, statistics: Statistics, memory_budget: int | None = None) -> None:
        self.name = name
        self.memory_budget = memory_budget
        self.statistics = statistics
        self.inputs: list[TraceInput] = []
        self.root: Occurrence | None = None
        # Another number with each path that is added or dropped, since segments may come to need
        # other programs: odd until the first is there, and while the tree changes.
        self.generation = 1
        self.paths: dict[Occurrence, Path] = {}
        self.layouts: list[Layout | None] = []
        # Of each input the number of the argument that it is; None for what is captured.
        self.positions: list[int | None] = []
        self.differentiable = False
        self.writes_inputs = False

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The tree, and what is checked before it is used, changes while this lasts.

        Threads that run what it holds do not wait for that: they look at the generation before and
        after, and if it is another one or odd, what they did counts for nothing.
        """
        self.generation |= 1
        try:
            yield
        finally:
            self.generation += 1

    def extend(self, trace: Trace, supersedes: bool = False) -> Path:
        """Add a path. TraceError if it does not begin as the known ones do, unless it `supersedes`
        those that part from it in more than an outcome: then they go.
        """
        self.inputs = trace.inputs
        self.writes_inputs |= trace.writes_inputs
        self.layouts = [
            layout_of(item.tensor._array) if item.kind in ("tensor", "array") else None
            for item in self.inputs
        ]
        self.device = device_among(item.tensor._array for item in self.inputs)
        self.positions = [
            item.path.position if item.kind not in ("seed", "offset") else None
            for item in self.inputs
        ]
        differentiable = self.differentiable or trace.end.differentiable
        occurrences: list[Occurrence] = []
        parent: Occurrence | None = None
        for i, segment in enumerate(trace.segments):
            outcome = trace.outcomes[i - 1] if i else None
            occurrence = self._place(parent, outcome, segment, supersedes)
            occurrences.append(occurrence)
            parent = occurrence
        assert parent is not None
        for i, (occurrence, segment) in enumerate(zip(occurrences, trace.segments, strict=True)):
            self._connect(occurrences[: i + 1], occurrence, segment)
        for ref, carries in trace.end.refs():
            if ref[0] >= 0:
                occurrences[ref[0]].export(ref[1], carries)
        if differentiable and not self.differentiable:
            self.differentiable = True
            for occurrence in self.walk():
                occurrence.program = None
        parent.end = trace.end
        path = self.paths[parent] = Path(self, occurrences, trace.end)
        return path

    def _place(
        self,
        parent: Occurrence | None,
        outcome: Hashable,
        segment: Segment,
        supersedes: bool,
    ) -> Occurrence:
        found = self.root if parent is None else parent.edges.get(outcome)
        if found is not None and supersedes and not _is_same(found, segment):
            self._drop_from(found)
            found = None
        if found is None:
            found = Occurrence(segment)
            if parent is None:
                self.root = found
            else:
                parent.edges[outcome] = found
            return found
        self._check_equal(found, segment)
        return found

    def _drop_from(self, start: Occurrence) -> None:
        """Forget the paths through an occurrence."""
        work = [start]
        for occurrence in work:
            self.paths.pop(occurrence, None)
            work.extend(occurrence.edges.values())

    def _check_equal(self, known: Occurrence, segment: Segment) -> None:
        if _is_same(known, segment):
            return
        key = segment.key()
        where = "its guard"
        for a, b, node in zip(key[1], known.key[1], segment.builder.nodes, strict=False):  # type: ignore[call-overload]
            if a != b:
                # A constant says less than what is done with it.
                users = (user for user in segment.builder.nodes if node in user.inputs)
                shown = next(users, node) if node.op.name == "constant" else node
                where = f"{shown.op.name} at {shown.loc}"
                break
        raise TraceError(
            f"{self.name}: traced once more with equal inputs and equal outcomes of its "
            f"conditions, the function did something else, first in {where}. It depends on "
            "something that is no argument, global or attribute that its code names: a random "
            "number of Python, the time, or an object that changed. Pass it as an argument"
        )

    def _connect(
        self, path: Sequence[Occurrence], occurrence: Occurrence, segment: Segment
    ) -> None:
        for source in segment.sources:
            if source.segment >= 0:
                path[source.segment].export(source.position, source.differentiable)
        if not occurrence.sources:
            occurrence.sources = [resolve(source.ref, path) for source in segment.sources]
            occurrence.wrt = tuple(source.differentiable for source in segment.sources)
        if not occurrence.flags:
            required = occurrence.segment.requirements
            occurrence.flags = [occurrence.export(item.position, False) for item in required]
        guard = segment.guard
        if guard is not None:
            if guard.ref[0] >= 0:
                path[guard.ref[0]].export(guard.ref[1], False)
            occurrence.guard = resolve(guard.ref, path)

    def ends(self) -> list[tuple[Occurrence, Path]]:
        """Every path, by the occurrence where it ends."""
        return list(self.paths.items())

    def drop(self, end: Occurrence) -> bool:
        """Take a path away, and the segments that only it had; False if none is left."""
        path = self.paths.pop(end)
        for parent, child in zip(
            reversed(path.occurrences[:-1]), reversed(path.occurrences[1:]), strict=True
        ):
            for outcome, following in list(parent.edges.items()):
                if following is child:
                    del parent.edges[outcome]
            if parent.edges:
                break
        return bool(self.paths)

    def walk(self) -> list[Occurrence]:
        """Every occurrence."""
        found = [self.root] if self.root is not None else []
        for occurrence in found:
            found.extend(occurrence.edges.values())
        return found

    def program_of(self, occurrence: Occurrence) -> Program:
        """The compiled code of an occurrence, which has exports."""
        segment = occurrence.segment
        graph = segment.graph(occurrence.exports)
        graph = Graph(self.name, graph.inputs, graph.nodes, graph.outputs, graph.origin)
        layouts = tuple(
            self.layouts[number] if where < 0 else None for where, number in occurrence.sources
        )
        wrt = occurrence.wrt if self.differentiable else (False,) * len(layouts)
        given = tuple(occurrence.carries) if self.differentiable else (False,) * len(graph.outputs)
        program = occurrence.program = program_for(
            graph, wrt, given, layouts, self.memory_budget, self.device
        )
        return program

    def whole_graph(self, path: Path, count: int) -> Graph:
        """A path as one graph, without its guards: `count` inputs to what the end reads.

        Outputs: the results that are computed, then the values written into inputs.
        """
        with Builder(self.name) as builder:
            inputs = [builder.input(item.type, item.name) for item in self.inputs[:count]]
            values: dict[Ref, Node] = {(-1, i): node for i, node in enumerate(inputs)}
            for depth, occurrence in enumerate(path.occurrences):
                segment = occurrence.segment
                new: dict[Node, Node] = {}
                for node, source in zip(segment.builder.inputs, segment.sources, strict=True):
                    new[node] = values[source.ref]
                for position, node in enumerate(segment.builder.nodes):
                    new[node] = builder.adopt(node, [new[x] for x in node.inputs])
                    values[depth, position] = new[node]
            refs = [r.ref for r in path.end.results if r.kind == "value"]
            refs += [w.ref for w in path.end.writes]
            return builder.finish([values[ref] for ref in refs])


class Run:
    """One call of the compiled code: the values of each segment, and the way that it took.

    values     those of the inputs, then the outputs of each segment.
    steps      the segments, each with the program that ran.
    outcomes   of the guards between them.
    generation of the tree whose programs these are.
    """

    __slots__ = ("arguments", "generation", "outcomes", "steps", "values")

    def __init__(self, inputs: list[Any], generation: int) -> None:
        self.generation = generation
        self.values: list[list[Any]] = [inputs]
        self.arguments: list[list[Any]] = []
        self.steps: list[tuple[Occurrence, Program | None]] = []
        self.outcomes: list[Hashable] = []

    def value(self, ref: Ref) -> Any:
        """The value at a resolved reference."""
        return self.values[ref[0] + 1][ref[1]]

    def add(
        self,
        occurrence: Occurrence,
        program: Program | None,
        arguments: list[Any],
        outputs: list[Any],
    ) -> None:
        """One more segment has run."""
        self.steps.append((occurrence, program))
        self.arguments.append(arguments)
        self.values.append(outputs)

    def arguments_of(self, occurrence: Occurrence) -> list[Any]:
        """What the program of a segment that comes next takes."""
        values = self.values
        return [values[where + 1][number] for where, number in occurrence.sources]

    def ran(self, occurrence: Occurrence, program: Program | None, outputs: list[Any]) -> None:
        """A segment has run natively."""
        self.add(occurrence, program, self.arguments_of(occurrence), outputs)

    def take_over(self, before: Run, root: Occurrence) -> None:
        """Start with what another run of the same call has computed already, as far as its way and
        its programs are those of now.
        """
        occurrence: Occurrence | None = root
        for i, (known, program) in enumerate(before.steps):
            same = known is occurrence and known.program is program
            if not same or (program is None and known.exports):
                break
            if i:
                self.outcomes.append(before.outcomes[i - 1])
            self.add(known, program, before.arguments[i], before.values[i + 1])
            occurrence = known.edges.get(before.outcomes[i])


class UnknownOutcomeError(Exception):
    """A guard had an outcome that no trace has seen. `outcomes`: those up to here. `run`: what was
    computed up to there.
    """

    def __init__(self, run: Run, occurrence: Occurrence) -> None:
        super().__init__("a new outcome")
        self.run = run
        self.outcomes = run.outcomes
        self._occurrence = occurrence

    @property
    def reason(self) -> str:
        """The condition, what it was and what it is."""
        guard = self._occurrence.segment.guard
        assert guard is not None
        known = [outcomes.describe(guard.kind, key) for key in self._occurrence.edges]
        new = outcomes.describe(guard.kind, self.outcomes[-1])
        return f"{guard.kind}() at {guard.loc}: {' or '.join(known[:3])} -> {new}"


def run(tree: Tree, inputs: list[Any], before: Run | None = None) -> tuple[Path, Run]:
    """Run the compiled code. UnknownOutcomeError where it goes a way that was not traced.

    `before`: a run of the same call that came to such a place; it goes on there.
    """
    root = tree.root
    assert root is not None
    state = Run(inputs, tree.generation)
    if before is not None:
        state.take_over(before, root)
    if not state.steps:
        execute(tree, root, state)
    return go_on(tree, state)


def go_on(tree: Tree, state: Run) -> tuple[Path, Run]:
    """Run the segments that come after those which have run."""
    values = state.values
    while True:
        occurrence = state.steps[-1][0]
        if occurrence.flags:
            _check(occurrence, values[-1], state.arguments[-1])
        if occurrence.guard is None:
            return tree.paths[occurrence], state
        guard = occurrence.segment.guard
        assert guard is not None
        where, number = occurrence.guard
        outcome = outcomes.of_value(guard.kind, values[where + 1][number])
        state.outcomes.append(outcome)
        following = occurrence.edges.get(outcome)
        if following is None:
            raise UnknownOutcomeError(state, occurrence)
        execute(tree, following, state)


def execute(tree: Tree, occurrence: Occurrence, state: Run) -> None:
    """Run one segment."""
    occurrence.hits += 1
    arguments = state.arguments_of(occurrence)
    if occurrence.exports:
        program = occurrence.program or tree.program_of(occurrence)
        state.add(occurrence, program, arguments, program.forward(arguments))
    else:
        state.add(occurrence, None, arguments, [])


def _check(occurrence: Occurrence, values: list[Any], arguments: list[Any]) -> None:
    """Raise the error of the first requirement that the computed values do not meet."""
    for i, number in enumerate(occurrence.flags):
        if values[number]:
            segment = occurrence.segment
            bounds.refuse(segment, segment.requirements[i], arguments)


def layout_of(array: Array) -> Layout | None:
    """Element strides of an array that is not C-contiguous."""
    if array.flags.c_contiguous or has_odd_strides(array):
        return None
    return tuple(stride // array.itemsize for stride in array.strides)


def has_odd_strides(array: Array) -> bool:
    """Whether strides are no whole number of elements, so that compiled code gets a copy."""
    return any(stride % array.itemsize for stride in array.strides)
