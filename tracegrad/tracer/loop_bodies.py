"""The body of a rolled loop as a graph, from the paths that were recorded through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.ir.families import fill
from tracegrad.ir.graph import Builder, Graph, Node, reachable
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import FLAG, INDEX, cond, item
from tracegrad.ir.types import TensorType, bool_, int64
from tracegrad.tracer.bounds import Requirement, any_outside, remember
from tracegrad.tracer.loop_paths import Check, Exits, Junction, LoopRef, Path, remember_exits

if TYPE_CHECKING:
    from tracegrad.tracer.loop_rows import Growth


@dataclass
class Body:
    """The graph of a loop's body.

    Its inputs are the position, what is carried, then `condition` (if `starts_open`), the code and
    the fault where there are such, then the `outer` values. Its outputs are whether to go on, the
    same carried values, and what is appended to each list.

    goes_on    the outcome of the condition at the site with which every path begins; None if there
               are both, or none.
    exits      how many ways out there are that no path knows: the code says which, or 0.
    """

    graph: Graph
    outer: list[tuple[int, int]]
    goes_on: bool | None
    carries_condition: bool
    exits: int
    checks: list[Requirement] = field(default_factory=list)


class BodyScope:
    """A graph being made: the body, or a branch of it."""

    def __init__(self, assembly: Assembly, outer: BodyScope | None, name: str) -> None:
        self.assembly = assembly
        self.outer = outer
        self.builder = Builder(name)
        self.known: dict[LoopRef, Node] = {}
        self.taken: dict[LoopRef, Node] = {}
        self.requirements: list[Requirement] = []

    def has(self, ref: LoopRef) -> bool:
        """Whether a value is there, here or around."""
        return ref in self.known or (self.outer is not None and self.outer.has(ref))

    def take(self, ref: LoopRef) -> Node:
        """A value that is there already, as an input if it comes from around."""
        found = self.known.get(ref)
        if found is None:
            assert self.outer is not None
            around = self.outer.take(ref)
            found = self.known[ref] = self.taken[ref] = self.builder.input(around.type)
        return found

    def node(self, ref: LoopRef) -> Node:
        """The node of a value, computed here if it is not there yet."""
        work = [ref]
        while work:
            current = work[-1]
            if current in self.known:
                work.pop()
                continue
            if self.has(current):
                self.take(current)
                work.pop()
                continue
            kind = current[0]
            if kind == "constant":
                self.known[current] = self.builder.constant(current[1].array)
                work.pop()
            elif kind == "outer":
                self.assembly.import_outer(current)
            else:
                step = self.assembly.step(current)
                if step.op is item:
                    # Only tensors go into a branch: what a tuple has is taken where the tuple is.
                    holder = self._holder(step.operands[0])
                    if holder is not None and holder is not self:
                        holder.node(current)
                        continue
                missing = [x for x in step.operands if not self.is_ready(x)]
                if missing:
                    work.extend(missing)
                    continue
                operands = [self.take(x) for x in step.operands]
                self.known[current] = self.builder.append(step.op, operands, step.params, step.loc)
                work.pop()
        return self.known[ref]

    def _holder(self, ref: LoopRef) -> BodyScope | None:
        scope: BodyScope | None = self
        while scope is not None and ref not in scope.known:
            scope = scope.outer
        return scope

    def is_ready(self, ref: LoopRef) -> bool:
        return ref in self.known or self.has(ref)


class Assembly(ABC):
    """One graph of the paths in a tree, with a `cond` where they part. How a path ends is for the
    subclasses to say.

    path   the junctions that lead to what is being emitted; `trail` the outcomes.
    ahead  the next outcomes, where they follow from how a loop inside came to its end.
    """

    def __init__(self, name: str) -> None:
        self.path: list[Junction] = []
        self.trail: list[Hashable] = []
        self.ahead: tuple[Hashable, ...] = ()
        self.top = BodyScope(self, None, name)

    @abstractmethod
    def import_outer(self, ref: LoopRef) -> None:
        """Make a value from before the body an input of it."""

    @abstractmethod
    def end(self, scope: BodyScope, path: Path, fault: LoopRef) -> list[Node]:
        """The outputs where a path ends."""

    @abstractmethod
    def missing(self, scope: BodyScope, fault: LoopRef) -> list[Node]:
        """The outputs where no path is known."""

    @abstractmethod
    def never(self, scope: BodyScope, fault: LoopRef) -> list[Node]:
        """The outputs where nothing ever comes."""

    def step(self, ref: LoopRef) -> Any:
        """The operation that computes a value."""
        return self.path[ref[1]].piece.steps[ref[2]]

    def emit(self, scope: BodyScope, junction: Junction, fault: LoopRef) -> list[Node]:
        """The outputs of the body from a junction on."""
        self.path.append(junction)
        piece = junction.piece
        number = len(self.path) - 1
        for place, step in enumerate(piece.steps):
            if not step.op.pure:
                scope.node(("node", number, place))
        if piece.checks:
            fault = self.check(scope, piece.checks, fault)
        if junction.end is not None:
            made = self.end(scope, junction.end, fault)
        elif None in junction.ways:
            made = self.emit(scope, junction.ways[None], fault)
        else:
            assert piece.asked is not None
            made = self.branches(scope, piece.asked, junction.ways, fault, junction)
        self.path.pop()
        return made

    def check(self, scope: BodyScope, checks: Sequence[Check], fault: LoopRef) -> LoopRef:
        """What says that something is wrong, after these requirements too."""
        flags = [scope.node(fault)]
        for check in checks:
            value = scope.node(check.value)
            flags.append(scope.node(check.flag))
            scope.requirements.append(Requirement(0, value, check.limits, check.place))
        with scope.builder:
            node = any_outside(flags)
        new = "fault", fault[1] + 1
        scope.known[new] = node
        return new

    def branches(
        self,
        scope: BodyScope,
        asked: LoopRef,
        ways: dict[Any, Junction],
        fault: LoopRef,
        junction: Junction | None,
    ) -> list[Node]:
        """Both ways on from a condition."""
        index = scope.node(asked)
        if index.dtype is bool_:
            with scope.builder:
                index = OPS["cast"](index, dtype=int64)
        scopes = []
        outputs = []
        for outcome in range(2 if junction is None else junction.piece.choices):
            branch = BodyScope(self, scope, f"way{outcome}")
            ahead, piece = self.ahead, None if junction is None else junction.piece
            counts = piece is not None and piece.kind == "exit"
            way: Hashable = outcome if counts else bool(outcome)
            self.trail.append(way)
            with branch.builder:
                if outcome in ways:
                    self.ahead = ahead[1:] or (() if piece is None else piece.after(way))
                    made = self.emit(branch, ways[outcome], fault)
                elif ahead[:1] not in ((), (way,)) or (
                    piece is not None and counts and outcome in piece.exits.impossible
                ):
                    made = self.never(branch, fault)
                else:
                    made = self.missing(branch, fault)
            self.trail.pop()
            self.ahead = ahead
            scopes.append(branch)
            outputs.append(made)
        refs = list(dict.fromkeys(ref for branch in scopes for ref in branch.taken))
        operands = [scope.take(ref) for ref in refs]
        graphs = []
        for branch, made in zip(scopes, outputs, strict=True):
            inputs = [
                branch.taken.get(ref) or branch.builder.input(node.type)
                for ref, node in zip(refs, operands, strict=True)
            ]
            graphs.append(finished(branch, made, inputs))
            scope.requirements.extend(branch.requirements)
        with scope.builder:
            node = cond(index, *operands, branches=tuple(graphs))
            return [item(node, index=i) for i in range(len(outputs[0]))]


class _LoopAssembly(Assembly):
    def __init__(
        self,
        roots: dict[bool | None, Junction],
        carries: Sequence[TensorType],
        outer_types: dict[tuple[int, int], TensorType],
        first: int,
        growths: Sequence[Growth],
    ) -> None:
        super().__init__("body")
        self.growths = growths
        self.roots = roots
        self.carries = carries
        self.outer_types = outer_types
        self.outer: list[tuple[int, int]] = []
        self.trails: list[tuple[Hashable, ...]] = []
        self.impossible: set[int] = set()
        self.has_code = any(_has_exit(root) for root in roots.values())
        self.has_fault = any(_has_check(root) for root in roots.values())
        outcomes = [x for x in roots if x is not None]
        self.goes_on = outcomes[0] if len(outcomes) == 1 else None
        self.carries_condition = len(outcomes) == 2
        builder = self.top.builder
        position = builder.input(INDEX, "position")
        with builder:
            self.top.known["position",] = position + first if first else position
        for i, type in enumerate(carries):
            self.top.known["carry", i] = builder.input(type, f"carry{i}")
        if self.carries_condition:
            self.top.known["condition",] = builder.input(FLAG, "condition")
        if self.has_code:
            self.top.known["code",] = builder.input(INDEX, "code")
        if self.has_fault:
            self.top.known["fault", 0] = builder.input(FLAG, "fault")

    def import_outer(self, ref: LoopRef) -> None:
        """Make a value from before the loop an input of the body."""
        place = ref[1]
        self.outer.append(place)
        self.top.known[ref] = self.top.builder.input(self.outer_types[place])

    # ------------------------------------------------------------------- assembling

    def body(self) -> Body:
        top = self.top
        if self.carries_condition:
            made = self.branches(top, ("condition",), self.roots, ("fault", 0), None)
        else:
            (root,) = self.roots.values()
            made = self.emit(top, root, ("fault", 0))
        graph = finished(top, made, top.builder.inputs)
        if self.carries_condition:
            # No condition ends it: only a way that no path knows does.
            self.impossible.add(0)
        remember_exits(graph, Exits(tuple(self.trails), frozenset(self.impossible)))
        return Body(
            graph,
            self.outer,
            self.goes_on,
            self.carries_condition,
            len(self.trails),
            _all_requirements(top),
        )

    def end(self, scope: BodyScope, path: Path, fault: LoopRef) -> list[Node]:
        carried = [scope.node(ref) for ref in path.results]
        builder = scope.builder
        following = None if path.following is None else scope.node(path.following)
        if self.goes_on is None or following is None:
            go = builder.constant(np.True_)
        else:
            go = following
            if not self.goes_on:
                go = builder.append(OPS["logical_not"], [go], {})
        if self.carries_condition:
            assert following is not None
            carried.append(following)
        return [*self._close(scope, go, carried, 0, fault), *self._rows(scope, path)]

    def _rows(self, scope: BodyScope, path: Path) -> list[Node]:
        """What is appended to each list, as one tensor."""
        nodes = iter([scope.node(ref) for ref in path.rows])
        rows = []
        for growth in self.growths:
            parts = [next(nodes) for _ in range(growth.count)]
            row = parts[0]
            if growth.count > 1:
                row = scope.builder.append(OPS["stack"], parts, {"axis": 0})
            rows.append(row)
        return rows

    def missing(self, scope: BodyScope, fault: LoopRef) -> list[Node]:
        """The iteration is not done: all is as it was at its start."""
        self.trails.append(tuple(self.trail))
        carried = [scope.node(("carry", i)) for i in range(len(self.carries))]
        if self.carries_condition:
            carried.append(scope.node(("condition",)))
        go = scope.builder.constant(np.False_)
        made = self._close(scope, go, carried, len(self.trails), fault)
        with scope.builder:
            return [*made, *(fill(0, growth.row) for growth in self.growths)]

    def never(self, scope: BodyScope, fault: LoopRef) -> list[Node]:
        """A way out that nothing takes."""
        made = self.missing(scope, fault)
        self.impossible.add(len(self.trails))
        return made

    def _close(
        self, scope: BodyScope, go: Node, carried: list[Node], code: int, fault: LoopRef
    ) -> list[Node]:
        builder = scope.builder
        if self.has_code:
            carried.append(builder.constant(np.int64(code)))
        if self.has_fault:
            flag = scope.node(fault)
            carried.append(flag)
            right = builder.append(OPS["logical_not"], [flag], {})
            go = builder.append(OPS["bitwise_and"], [go, right], {})
        return [go, *carried]


def finished(scope: BodyScope, outputs: Sequence[Node], inputs: Sequence[Node]) -> Graph:
    """What was made in a scope, as a graph."""
    nodes = scope.builder.nodes
    live = reachable((*outputs, *(node for node in nodes if not node.op.pure)))
    graph = Graph(
        scope.builder.name,
        tuple(inputs),
        tuple(node for node in nodes if node in live),
        tuple(outputs),
    )
    if scope.requirements:
        remember(graph, scope.requirements)
    return graph


def _all_requirements(scope: BodyScope) -> list[Requirement]:
    return scope.requirements


def _has_exit(junction: Junction) -> bool:
    if junction.end is not None:
        return False
    if None in junction.ways:
        return _has_exit(junction.ways[None])
    ways = junction.ways
    return len(ways) < junction.piece.choices or any(map(_has_exit, ways.values()))


def _has_check(junction: Junction) -> bool:
    return bool(junction.piece.checks) or any(map(_has_check, junction.ways.values()))


def assemble(
    roots: dict[bool | None, Junction],
    carries: Sequence[TensorType],
    outer_types: dict[tuple[int, int], TensorType],
    first: int = 0,
    growths: Sequence[Growth] = (),
) -> Body:
    """The body of a loop that carries values of these types, begins at position `first` and appends
    to lists.
    """
    return _LoopAssembly(roots, carries, outer_types, first, growths).body()
