"""One iteration of a loop, as it was recorded: its operations, in terms of what the loop carries.

Values are named by references that are the same in every recording of the iteration:

    ("node", piece, position)   computed in the iteration
    ("carry", i)                carried, as it was at the start of the iteration
    ("position",)               the number of the iteration
    ("outer", (segment, place)) computed before the loop
    ("outer", ("list", way))    the stacked items of a list
    ("constant", literal)       a constant
    ("hidden", line)            computed in an earlier iteration and not carried
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from tracegrad.ir.graph import Graph, Literal, Loc, Node
from tracegrad.ir.op import CONSTANT, Op
from tracegrad.ir.params import frozen_params
from tracegrad.ir.types import Type
from tracegrad.tracer.bounds import Limits
from tracegrad.tracer.location import Place
from tracegrad.tracer.recording import Segment, Value

if TYPE_CHECKING:
    from tracegrad.tracer.checkpoints import Checkpoint

LoopRef = tuple[Any, ...]


@dataclass(frozen=True)
class Step:
    """One operation of an iteration."""

    op: Op
    operands: tuple[LoopRef, ...]
    params: Any
    type: Type
    loc: Loc | None

    def key(self) -> Hashable:
        """Equal for the same operation in two recordings."""
        return self.op.name, self.operands, frozen_params(self.params), self.type


@dataclass(frozen=True)
class Check:
    """A requirement of an iteration: `flag` is true where `value` is out of its limits."""

    flag: LoopRef
    value: LoopRef
    limits: Limits
    place: Place | None


@dataclass(frozen=True)
class Exits:
    """In which ways a loop can end.

    trails      for each that no path knows: the outcomes in the iteration that lead to it.
    impossible  numbers of those that contradict how a loop inside came to its end, and 0 if there
                is no regular end.
    """

    trails: tuple[tuple[Hashable, ...], ...] = ()
    impossible: frozenset[int] = frozenset()

    def next(self, code: int) -> int | None:
        """The first possible one from a number on; 0 is the regular end."""
        codes = range(code, len(self.trails) + 1)
        return next((x for x in codes if x not in self.impossible), None)


@dataclass
class Piece:
    """The operations between two guards of an iteration.

    asked    what the guard asks for: a truth, or how a loop inside came to its end.
    choices  how many outcomes there are.
    exits    how that loop can end.
    """

    steps: list[Step]
    checks: list[Check]
    asked: LoopRef | None = None
    kind: str = ""
    outcome: Hashable = None
    choices: int = 2
    exits: Exits = Exits()

    def after(self, outcome: Hashable) -> tuple[Hashable, ...]:
        """The next outcomes, where they follow from this one: what ended the loop inside."""
        if self.kind != "exit" or not isinstance(outcome, int) or not outcome:
            return ()
        return self.exits.trails[outcome - 1]

    def key(self) -> Hashable:
        """Equal for the same piece in two recordings."""
        checks = tuple((check.flag, check.value) for check in self.checks)
        return tuple(step.key() for step in self.steps), checks, self.asked, self.kind


@dataclass
class Path:
    """One way through the body of a loop.

    outcome   of the condition at the site, with which it begins; None for a loop that counts.
    results   what is carried on to the next iteration.
    following the condition at the site after it.
    rows      what is appended to lists, with its `twins`, and numbers of carried values that are on
              the same memory as that: see `loop_rows`.
    """

    outcome: bool | None
    pieces: list[Piece]
    results: list[LoopRef] = field(default_factory=list)
    following: LoopRef | None = None
    rows: list[LoopRef] = field(default_factory=list)
    twins: tuple[tuple[str, int] | None, ...] = ()
    shared: frozenset[int] = frozenset()


_exits: WeakKeyDictionary[Graph, Exits] = WeakKeyDictionary()


def remember_exits(body: Graph, exits: Exits) -> None:
    """The loop with this body can end so."""
    _exits[body] = exits


def exits_of(body: Graph) -> Exits:
    """In which ways the loop with this body can end."""
    return _exits.get(body, Exits())


class Recorded:
    """What was recorded since the segment number `segment` had `position` nodes.

    start    where the loop begins; what was computed between and is needed is hidden state. None
             where nothing was before.
    carried  the reference of each carried value, by the place of its node.
    outer    the values from before the loop that are used, by their place.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        segment: int,
        position: int,
        start: Checkpoint | None,
        carried: dict[tuple[int, int], LoopRef],
    ) -> None:
        self._segments = segments
        self._segment = segment
        self._position = position
        self._start = start
        self._carried = carried
        self.outer: dict[tuple[int, int], Value] = {}

    def ref(self, value: Value) -> LoopRef:
        """The reference of a value."""
        known = self._carried.get(value.ref)
        if known is not None:
            if known[0] == "outer":
                self.outer[known[1]] = value
            return known
        node = value.node
        if node is not None and node.op is CONSTANT:
            return "constant", node.params["value"]
        if self._is_inside(value.segment, value.position):
            base = self._position if value.segment == self._segment else 0
            return "node", value.segment - self._segment, value.position - base
        assert self._start is not None
        if self._start.is_before(value):
            self.outer[value.ref] = value
            return "outer", value.ref
        filled = _filled(node)
        if filled is not None:
            return "constant", filled
        return "hidden", str(node.loc) if node is not None else ""

    def _is_inside(self, segment: int, position: int) -> bool:
        return segment > self._segment or (segment == self._segment and position >= self._position)

    def pieces(self) -> list[Piece]:
        """The operations, piece by piece."""
        found = []
        for number in range(self._segment, len(self._segments)):
            segment = self._segments[number]
            base = self._position if number == self._segment else 0
            imported = dict(zip(segment.builder.inputs, segment.sources, strict=True))
            positions = {node: i for i, node in enumerate(segment.builder.nodes)}

            def of_node(
                node: Node,
                number: int = number,
                imported: dict[Node, Value] = imported,
                positions: dict[Node, int] = positions,
            ) -> LoopRef:
                source = imported.get(node)
                if source is not None:
                    return self.ref(source)
                place = positions[node]
                scope = self._segments[number]
                value = Value(number, place, node, node.type, False, scope)  # type: ignore[arg-type]
                return self.ref(value)

            steps = [
                Step(node.op, tuple(map(of_node, node.inputs)), node.params, node.type, node.loc)
                for node in segment.builder.nodes[base:]
            ]
            checks = [
                Check(
                    of_node(segment.builder.nodes[item.position]),
                    of_node(item.node),
                    item.limits,
                    item.place,
                )
                for item in segment.requirements
                if item.position >= base
            ]
            piece = Piece(steps, checks)
            guard = segment.guard
            if guard is not None:
                piece.asked = self._of_place(guard.ref)
                piece.kind = guard.kind
                if guard.kind == "exit":
                    asked = self._segments[guard.ref[0]].builder.nodes[guard.ref[1]]
                    piece.exits = exits_of(asked.inputs[0].params["body"])
                    piece.choices = 1 + len(piece.exits.trails)
            found.append(piece)
        return found

    def _of_place(self, ref: tuple[int, int]) -> LoopRef:
        segment, position = ref
        if segment < 0:
            return self._carried.get(ref, ("outer", ref))
        node = self._segments[segment].builder.nodes[position]
        value = Value(segment, position, node, node.type, False, None)  # type: ignore[arg-type]
        return self.ref(value)


def _filled(node: Node | None) -> Literal | None:
    """The constant that a node is, if it repeats one."""
    if node is None or node.op.name != "broadcast_to" or node.inputs[0].op is not CONSTANT:
        return None
    value = node.inputs[0].params["value"].array
    return Literal(np.broadcast_to(value, node.params["shape"]))


def hidden_in(pieces: Sequence[Piece], wanted: Sequence[LoopRef]) -> LoopRef | None:
    """A hidden value that is needed for `wanted`, for a guard or for a check."""
    work = list(wanted)
    for piece in pieces:
        if piece.asked is not None:
            work.append(piece.asked)
        work.extend(ref for check in piece.checks for ref in (check.flag, check.value))
        work.extend(ref for step in piece.steps if not step.op.pure for ref in step.operands)
    seen: set[LoopRef] = set()
    while work:
        ref = work.pop()
        if ref in seen:
            continue
        seen.add(ref)
        if ref[0] == "hidden":
            return ref
        if ref[0] == "node":
            work.extend(pieces[ref[1]].steps[ref[2]].operands)
    return None


def varies(pieces: Sequence[Piece], ref: LoopRef) -> bool:
    """Whether a value may be another in each iteration."""
    work = [ref]
    seen: set[LoopRef] = set()
    while work:
        ref = work.pop()
        if ref in seen:
            continue
        seen.add(ref)
        if ref[0] in ("carry", "position", "hidden"):
            return True
        if ref[0] == "node":
            work.extend(pieces[ref[1]].steps[ref[2]].operands)
    return False


class Junction:
    """The paths known from some point of an iteration on.

    Up to the first guard they agree: that is `piece`. `ways` is where they go on, by outcome;
    `end` is the path that ends here.
    """

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.ways: dict[Hashable, Junction] = {}
        self.end: Path | None = None


def joined(paths: Sequence[Path]) -> dict[bool | None, Junction] | None:
    """The paths as a tree, by the outcome that they begin with; None if equal outcomes did not
    lead to the same operations.
    """
    roots: dict[Any, Junction] = {}
    for path in paths:
        ways = roots
        outcome: Any = path.outcome
        found: Junction | None = None
        for piece in path.pieces:
            found = ways.get(outcome)
            if found is None:
                found = ways[outcome] = Junction(piece)
            elif found.piece.key() != piece.key():
                return None
            ways = found.ways
            outcome = piece.outcome
        assert found is not None
        if found.ways or found.end is not None:
            return None
        found.end = path
    return roots
