"""Elements that a loop reads of an array that it fills, and does not write again.

They are in the array that comes out of the loop, so reverse mode need not save them: Cholesky's
decomposition reads n**3 / 3 elements of a matrix of n**2. That an element is not written later is
seen from the indices as sums of the positions of loops (`tracegrad.ir.linear`): for each write in a
later iteration, of whichever loop around both, one index has to differ for certain.

`with_finals` puts the array that comes out beside the array that is read, `settled(now, final)`,
which has the value of the first and may be computed as the second in backward. `without_finals`
takes it out again, for forward, which does not have it yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tracegrad.ir.graph import Builder, Graph, Node, reachable
from tracegrad.ir.intervals import Known, inside, intervals_of, stays_within
from tracegrad.ir.linear import Linear, Symbol
from tracegrad.ir.loops import Loop
from tracegrad.ir.ops.control import item, while_loop
from tracegrad.ir.ops.tracing import settled

_WRITES = frozenset({"scatter", "scatter_add"})

# The loop has to write at least such a part of the array, as far as is known: it is kept whole.
_PART = 8

# The indices of an access: what each is a sum of, or None where it may be out of bounds.
_Place = tuple[Linear | None, ...]


@dataclass(frozen=True, slots=True)
class _Access:
    """A read or a write of one element or row, in the loops of `path` from the outside in."""

    node: Node
    path: tuple[Node, ...]

    @property
    def indices(self) -> tuple[Node, ...]:
        return self.node.inputs[1 if self.node.op.name == "gather" else 2 :]


@dataclass(slots=True)
class _Timeline:
    """What happens to one array: the accesses to any of its versions, each one made of the last."""

    reads: list[_Access] = field(default_factory=list)
    writes: list[_Access] = field(default_factory=list)


# ----------------------------------------------------------------------------------------- analysis


def settled_reads(node: Node) -> dict[int, list[Node]]:
    """For carries of a loop the reads, in it and the loops within, of what is written no more."""
    loop = Loop.of(node)
    found: dict[int, list[Node]] = {}
    bodies = list(_bodies(loop.body))
    if len(set(bodies)) < len(bodies):
        return found
    nest: _Nest | None = None
    for i, x in enumerate(loop.inner.carry):
        if not x.shape or not x.dtype.is_floating_point:
            continue
        timeline = _Timeline()
        if not _follow(loop.body, x, loop.made.carry[i], (node,), timeline) or not timeline.reads:
            continue
        nest = nest or _Nest(node)
        if any(nest.fills(write, x.shape) for write in timeline.writes):
            reads = [each.node for each in timeline.reads if nest.is_last(each, timeline.writes)]
            if reads:
                found[i] = reads
    return found


def _bodies(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        if node.op is while_loop:
            yield from _bodies(node.params["body"])


def _follow(
    graph: Graph, start: Node, end: Node | None, path: tuple[Node, ...], found: _Timeline
) -> bool:
    """Note the accesses to the array that begins as `start`, and ends as `end` if it changes;
    whether all of its changes are understood.
    """
    versions = {start}
    x = start if end is None else end
    while x is not start:
        if x in versions:
            return False
        versions.add(x)
        if x.op.name in _WRITES and not any(index.shape for index in x.inputs[2:]):
            found.writes.append(_Access(x, path))
            x = x.inputs[0]
        elif x.op is item and x.inputs[0].op is while_loop:
            inner, k = Loop.of(x.inputs[0]), x.params["index"] - 1
            if not 0 <= k < len(inner.carry):
                return False
            before, after = inner.inner.carry[k], inner.made.carry[k]
            if not _follow(inner.body, before, after, (*path, x.inputs[0]), found):
                return False
            x = inner.carry[k]
        else:
            return False
    for node in graph.nodes:
        if node.op.name == "gather" and node.inputs[0] in versions:
            if not any(index.shape for index in node.inputs[1:]):
                found.reads.append(_Access(node, path))
        elif node.op is while_loop:
            inner = Loop.of(node)
            for outside, x in zip(inner.consts, inner.inner.consts, strict=True):
                if outside in versions:
                    _follow(inner.body, x, None, (*path, node), found)
    return True


class _Nest:
    """The loops of a nest, with what is known of indices in one iteration and in another."""

    def __init__(self, node: Node) -> None:
        self.node = node
        # What is the same in all iterations of the outermost loop.
        self.around = Known()
        self.positions: dict[Node, Linear] = {}
        self.limits: dict[Node, Linear] = {}
        self.now: dict[Node, _Place] = {}
        self._visit(node, self.around, {}, self.now, self.positions)
        self.passes: dict[tuple[tuple[Node, ...], int, bool], dict[Node, _Place]] = {}

    def fills(self, write: _Access, shape: tuple[int, ...]) -> bool:
        """Whether a write may come by much of the array."""
        axes = len(write.indices)
        trips = math.prod(max(self.limits[loop].greatest(), 0) for loop in write.path)
        return len(write.path) >= axes and trips * _PART >= math.prod(shape[:axes])

    def is_last(self, read: _Access, writes: Sequence[_Access]) -> bool:
        """Whether none of `writes` comes by what `read` has read, after it."""
        return all(self._is_apart(read, write) for write in writes)

    def _is_apart(self, read: _Access, write: _Access) -> bool:
        common = 0
        for a, b in zip(read.path, write.path, strict=False):
            if a is not b:
                break
            common += 1
        place = self.now[read.node]
        # A later iteration of the first loop; the same one of that, but a later one of the second.
        for depth in range(common):
            if not _differ(place, self._other(read.path, depth, True)[write.node]):
                return False
        return self._is_before(write, read, common) or _differ(
            place, self._other(read.path, common, False)[write.node]
        )

    def _is_before(self, write: _Access, read: _Access, common: int) -> bool:
        """Whether a write in the same iteration is one that the read sees."""
        first, second = ((*x.path, x.node)[common] for x in (write, read))
        return first is not second and first in reachable([second])

    def _other(self, path: tuple[Node, ...], depth: int, later: bool) -> dict[Node, _Place]:
        """The places of all accesses in the same iteration of the first `depth` loops of `path`,
        and a later one of the next loop.
        """
        key = path, depth, later
        if key not in self.passes:
            same: dict[Node, Linear] = {loop: self.positions[loop] for loop in path[:depth]}
            self.passes[key] = {}
            following = path[depth] if later else None
            self._visit(self.node, self.around, same, self.passes[key], {}, following)
        return self.passes[key]

    def _visit(
        self,
        node: Node,
        around: Known,
        same: Mapping[Node, Linear],
        places: dict[Node, _Place],
        positions: dict[Node, Linear],
        following: Node | None = None,
    ) -> None:
        loop = Loop.of(node)
        position = loop.inner.position
        (inputs,) = inside(node, around)
        limit = around.sum_of(loop.limit)
        self.limits.setdefault(node, limit)
        if node in same:
            inputs.add(position, inputs[position], same[node])
        elif node is following:
            now = self.positions[node]
            room = now if loop.reverse else limit.plus(now, -1).plus(Linear(-1))
            step = Linear.of(Symbol(1, max(inputs[position][1], 1), (), (room,)))
            inputs.add(position, inputs[position], now.plus(step, -1 if loop.reverse else 1))
        positions[node] = inputs.sum_of(position)
        known = intervals_of(loop.body, inputs)
        for x in loop.body.nodes:
            if x.op is while_loop:
                self._visit(x, known, same, places, positions, following)
            elif x.op.name == "gather" or x.op.name in _WRITES:
                indices = _Access(x, ()).indices
                if not any(index.shape for index in indices):
                    sizes = x.inputs[0].shape
                    places[x] = tuple(
                        known.sum_of(index) if stays_within(index, size, known) else None
                        for index, size in zip(indices, sizes, strict=False)
                    )


def _differ(a: _Place, b: _Place) -> bool:
    """Whether one of the indices differs for certain."""
    for x, y in zip(a, b, strict=False):
        if x is not None and y is not None:
            apart = x.plus(y, -1)
            if apart.is_short and (apart.greatest() < 0 or apart.smallest() > 0):
                return True
    return False


# -------------------------------------------------------------------------------------------- loops


def with_finals(loop: Loop, reads: Mapping[int, Sequence[Node]]) -> Loop:
    """The loop with the finals of the carries in `reads` among its last constants, in that order,
    each beside what is read. The carries' first values stand in for them outside.
    """
    number = {node: k for k, nodes in enumerate(reads.values()) for node in nodes}
    return _beside(loop, [(k, loop.carry[i]) for k, i in enumerate(reads)], number)


def _beside(loop: Loop, finals: Sequence[tuple[int, Node]], number: Mapping[Node, int]) -> Loop:
    body, inner = loop.body, loop.inner
    at = 1 + len(loop.carry) + len(loop.consts)
    with Builder(body.name) as builder:
        new: dict[Node, Node] = {}
        final: dict[int, Node] = {}
        for x in body.inputs[:at]:
            new[x] = builder.input(x.type, x.params["name"], x.loc)
        for k, outside in finals:
            final[k] = builder.input(outside.type, "final")
        for x in body.inputs[at:]:
            new[x] = builder.input(x.type, x.params["name"], x.loc)
        for node in body.nodes:
            inputs = [new[x] for x in node.inputs]
            if node in number:
                inputs[0] = settled(inputs[0], final[number[node]])
            within = sorted(_numbers_in(node, number)) if node.op is while_loop else []
            if within:
                moved = Node(node.op, tuple(inputs), node.params, node.type, node.loc)
                nested = _beside(Loop.of(moved), [(k, final[k]) for k in within], number)
                new[node] = nested.append()
            else:
                new[node] = builder.adopt(node, inputs)
        graph = builder.finish([new[x] for x in body.outputs], body.origin)
    assert len(inner.consts) == len(loop.consts)
    return replace(loop, consts=(*loop.consts, *(x for _, x in finals)), body=graph)


def _numbers_in(node: Node, number: Mapping[Node, int]) -> set[int]:
    """The finals that the body of a loop has a use for."""
    bodies = _bodies(node.params["body"])
    return {number[x] for body in bodies for x in body.nodes if x in number}


def without_finals(loop: Loop, count: int) -> Loop | None:
    """The loop without its last `count` constants, for which something else stands where they are
    `settled`; None where they are read otherwise.
    """
    kept = len(loop.consts) - count
    return _without(loop, set(range(kept, len(loop.consts))))


def _without(loop: Loop, dropped: set[int]) -> Loop | None:
    body, inner = loop.body, loop.inner
    gone = {inner.consts[k] for k in dropped}
    if gone.intersection(body.outputs):
        return None
    with Builder(body.name) as builder:
        new: dict[Node, Node] = {
            x: builder.input(x.type, x.params["name"], x.loc) for x in body.inputs if x not in gone
        }
        for node in body.nodes:
            if node.op is settled and node.inputs[1] in gone:
                if node.inputs[0] in gone:
                    return None
                new[node] = new[node.inputs[0]]
                continue
            if not gone.intersection(node.inputs):
                new[node] = builder.adopt(node, [new[x] for x in node.inputs])
                continue
            if node.op is not while_loop:
                return None
            nested = Loop.of(node)
            places = {k for k, x in enumerate(nested.consts) if x in gone}
            smaller = _without(nested, places)
            others = (nested.limit, nested.go, *nested.carry, *nested.xs, *nested.stacks)
            if smaller is None or gone.intersection(others):
                return None
            new[node] = replace(
                smaller,
                limit=new[nested.limit],
                go=new[nested.go],
                carry=tuple(new[x] for x in nested.carry),
                consts=tuple(new[x] for x in smaller.consts),
                xs=tuple(new[x] for x in nested.xs),
                stacks=tuple(new[x] for x in nested.stacks),
            ).append()
        graph = builder.finish([new[x] for x in body.outputs], body.origin)
    consts = tuple(x for k, x in enumerate(loop.consts) if k not in dropped)
    return replace(loop, consts=consts, body=graph)
