"""A loop with less in it that has the same results: what is dead, constant or follows from the
position is not carried, and an operand of which each iteration reads the row at its position is
sliced.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from tracegrad.ir.counting import Counter, bound_of, bounded, counters
from tracegrad.ir.families import fill
from tracegrad.ir.graph import Builder, Literal, Node, inline, scalar_value
from tracegrad.ir.joining import rows_from
from tracegrad.ir.loops import Loop, LoopBuilder, Made, elements
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import INDEX, item, row_of, unset
from tracegrad.ir.types import TensorType

Results = dict[int, Node]


def reduce_loop(node: Node, used: Set[int]) -> Results | None:
    """The results of a loop that are in `used`, by their index, from a smaller loop or none at all;
    None where there is nothing to gain.
    """
    loop = Loop.of(node)
    limit = scalar_value(loop.limit)
    if (limit is not None and limit <= 0) or scalar_value(loop.go) is False:
        return {i: _without_a_trip(node, loop, i) for i in used}
    if limit == 1 and loop.goes_on and not loop.stacks and all(_is_single(loop, i) for i in used):
        return _single_trip(loop, used)
    return _Reduction(loop, used).results()


def _without_a_trip(node: Node, loop: Loop, index: int) -> Node:
    if index == 0:
        return fill(0, INDEX)
    if index < loop.first_row:
        return loop.carry[index - 1]
    type = elements(node)[index]
    return fill(0, type) if isinstance(type, TensorType) else unset(type=type)


def _is_single(loop: Loop, index: int) -> bool:
    """Whether the result of a loop with one trip can be had without the loop."""
    return index < loop.first_row or (index < loop.first_stack and loop.length == 1)


def _single_trip(loop: Loop, used: Set[int]) -> Results:
    slices = [_first_row(x) for x in loop.xs]
    arguments = [fill(0, INDEX), *loop.carry, *loop.consts, *slices]
    made = inline(Builder.current(), loop.body, arguments)
    results: Results = {}
    for i in used:
        if i == 0:
            results[i] = fill(1, INDEX)
        elif i < loop.first_row:
            results[i] = made[i]
        else:
            results[i] = OPS["reshape"](made[i], shape=(1, *made[i].shape))
    return results


def _first_row(x: Node) -> Node:
    return OPS["reshape"](rows_from(x, 0, 1), shape=x.shape[1:])


def uniform_value(x: Node) -> Literal | None:
    """The number that a constant has everywhere, as a constant of no dimensions; None for what is
    no such constant.
    """
    if x.op.name == "broadcast_to":
        (x,) = x.inputs
    literal: Literal | None = x.params.get("value") if x.op.name == "constant" else None
    return literal if literal is not None and literal.is_scalar else None


def uniform(builder: Builder, value: Literal, type: TensorType) -> Node:
    """A tensor of `type` full of `value`."""
    number = builder.append(OPS["constant"], (), {"value": value})
    if not type.shape:
        return number
    return builder.append(OPS["broadcast_to"], (number,), {"shape": type.shape})


class _Reduction:
    """What of a loop is needed, and how the rest is had."""

    def __init__(self, loop: Loop, used: Set[int]) -> None:
        self.loop = loop
        self.used = used
        self.counting = counters(loop)
        self.bound = bound_of(loop, self.counting) if self.counting else None
        self.fixed = [_is_fixed(loop, i) for i in range(len(loop.carry))]
        self.rows = _rows_elsewhere(loop)
        self.sliced = _sliced(loop)
        self.go = loop.made.go
        if self.bound is not None:
            self.go = self.bound.remaining or Builder.current().constant(True)
        self.live = self._live()

    def _live(self) -> set[Node]:
        """The nodes of the body that the results in use need. Carries that are not carried any more
        need nothing of the body.
        """
        loop = self.loop
        made = loop.made
        updates = {
            inside: new
            for i, (inside, new) in enumerate(zip(loop.inner.carry, made.carry, strict=True))
            if not self.fixed[i] and i not in self.counting
        }
        work = [] if self.bound and self.bound.remaining is None else [self.go]
        for i in self.used:
            if 1 <= i < loop.first_row:
                # A final value needs the carry, and so its updates.
                carried = loop.inner.carry[i - 1]
                work.extend([carried] if carried in updates else [])
            elif loop.first_row <= i < loop.first_stack:
                outside = isinstance(self.rows.get(i), Node)
                work.extend([] if outside else [made.rows[i - loop.first_row]])
            elif i >= loop.first_stack:
                work.extend(made.saved[i - loop.first_stack])
        work.extend(node for node in loop.body.nodes if not node.op.pure)
        live: set[Node] = set()
        while work:
            node = work.pop()
            if node not in live:
                live.add(node)
                work.extend(() if node in self.sliced else node.inputs)
                if node in updates:
                    work.append(updates[node])
        return live

    def _gains(self) -> bool:
        loop = self.loop
        inner = loop.inner
        if any(self.fixed) or self.counting or self.bound is not None or self.sliced:
            return True
        if any(x not in self.live for x in (*inner.carry, *inner.consts, *inner.slices)):
            return True
        if any(not self.live.intersection(frame) for frame in inner.frames):
            return True
        if any(uniform_value(x) is not None for x in (*loop.consts, *loop.xs)):
            return True
        if any(map(_repeats, loop.xs)):
            return True
        operands = (*loop.consts, *loop.xs, *loop.stacks)
        if len(set(operands)) < len(operands):
            return True
        results = {*range(loop.first_row, loop.first_stack + len(loop.saves))}
        return bool(self.rows) or not results <= self.used

    def results(self) -> Results | None:
        """The results in use from the reduced loop; None where nothing is reduced."""
        if not self._gains():
            return None
        loop = self.loop
        outer = Builder.current()
        carried = [
            i
            for i, x in enumerate(loop.inner.carry)
            if x in self.live and not self.fixed[i] and i not in self.counting
        ]
        needed = {self._row(i) for i in self.used}
        rows = [i for i in range(loop.stacked) if loop.first_row + i in needed]
        groups = [k for k in range(len(loop.saves)) if loop.first_stack + k in self.used]
        limit, go = (loop.limit, loop.go) if self.bound is None else bounded(loop, self.bound)
        slices = {
            node: rows_from(x, first, loop.trips or 0)
            for node, (x, first) in self.sliced.items()
            if node in self.live
        }
        with LoopBuilder(loop.body.name) as inside:
            new = self._inputs(inside, carried)
            for node in loop.body.nodes:
                if node in slices:
                    new[node] = inside.slice(slices[node], "row")
                elif node in self.live:
                    new[node] = inside.body.adopt(node, [new[x] for x in node.inputs])
            made = loop.made
            ends = self.bound is not None and self.bound.remaining is None
            smaller = inside.finish(
                limit,
                go,
                Made(
                    inside.body.constant(True) if ends else new[self.go],
                    tuple(new[made.carry[i]] for i in carried),
                    tuple(new[made.rows[i]] for i in rows),
                    tuple(tuple(new[x] for x in made.saved[k]) for k in groups),
                ),
                length=loop.trips if slices else loop.length,
                reverse=loop.reverse,
                remat=loop.remat,
                origin=loop.body.origin,
            )
        node = smaller.append()
        places = [
            0,
            *(1 + i for i in carried),
            *(loop.first_row + i for i in rows),
            *(loop.first_stack + k for k in groups),
        ]
        results = {old: item(node, index=i) for i, old in enumerate(places) if old in needed}
        for i in self.rows.keys() & self.used:
            source = self.rows[i]
            results[i] = source if isinstance(source, Node) else results[source]
        for i in self.used - results.keys():
            counter = self.counting.get(i - 1)
            count = outer.append(item, (node,), {"index": 0})
            results[i] = loop.carry[i - 1] if counter is None else counter.after(count)
        return results

    def _row(self, index: int) -> int:
        """The result that a result is the same as."""
        source = self.rows.get(index, index)
        return source if isinstance(source, int) else 0

    def _inputs(self, inside: LoopBuilder, carried: Sequence[int]) -> dict[Node, Node]:
        """What the body's inputs that are needed are in the body of the reduced loop."""
        loop = self.loop
        inner = loop.inner
        new: dict[Node, Node] = {inner.position: inside.position}
        for i, x in enumerate(inner.carry):
            if x not in self.live:
                continue
            if i in carried:
                new[x] = inside.carry(loop.carry[i], _name(x))
                continue
            new[x] = self._const(inside, loop.carry[i], x)
            if i in self.counting:
                counter = self.counting[i]
                new[x] = Counter(new[x], counter.step).after(inside.position)
        for outside, x in zip(loop.consts, inner.consts, strict=True):
            if x in self.live:
                new[x] = self._const(inside, outside, x)
        for outside, x in zip(loop.xs, inner.slices, strict=True):
            if x in self.live:
                new[x] = self._slice(inside, outside, x)
        for outside, frame in zip(loop.stacks, inner.frames, strict=True):
            if self.live.intersection(frame):
                new.update(zip(frame, inside.frame(outside, "saved"), strict=True))
        return new

    def _slice(self, inside: LoopBuilder, outside: Node, x: Node) -> Node:
        value = uniform_value(outside)
        if value is not None:
            return uniform(inside.body, value, row_of(outside.type))
        if not _repeats(outside):
            return inside.slice(outside, _name(x))
        # All slices are the same.
        (row,) = outside.inputs
        inner = inside.const(row, _name(x))
        if row.ndim == outside.ndim:
            inner = OPS["reshape"](inner, shape=row.shape[1:])
        return inner if inner.shape == x.shape else OPS["broadcast_to"](inner, shape=x.shape)

    def _const(self, inside: LoopBuilder, outside: Node, x: Node) -> Node:
        value = uniform_value(outside)
        if value is None:
            return inside.const(outside, _name(x))
        return uniform(inside.body, value, x.type)


def _repeats(x: Node) -> bool:
    """Whether `x` is something broadcast along its leading axis."""
    if x.op.name != "broadcast_to":
        return False
    (source,) = x.inputs
    return source.ndim < x.ndim or source.shape[0] != x.shape[0]


def _rows_elsewhere(loop: Loop) -> dict[int, Node | int]:
    """The stacked rows that are what another result is, or a sliced operand, by their index."""
    found: dict[int, Node | int] = {}
    first: dict[Node, int] = {}
    complete = loop.trips is not None
    for i, row in enumerate(loop.made.rows, loop.first_row):
        if complete and row in loop.inner.slices:
            found[i] = loop.xs[loop.inner.slices.index(row)]
        elif first.setdefault(row, i) != i:
            found[i] = first[row]
    return found


def _sliced(loop: Loop) -> dict[Node, tuple[Node, int]]:
    """What in the body is the row at the position, or a fixed distance after it, of an operand that
    stays the same: the operand, and the number of its first row that is read.

    Of an operand of which most is not read this would be no gain: its cotangent is made of rows,
    and zeros for all the others.
    """
    if loop.trips is None:
        return {}
    outside = dict(zip(loop.inner.consts, loop.consts, strict=True))
    found = {}
    for node in loop.body.nodes:
        if node.op.name == "gather" and len(node.inputs) == 2 and node.inputs[0] in outside:
            source, index = node.inputs
            first = _distance(index, loop.inner.position)
            rest = source.shape[0] - loop.trips
            if first is not None and 0 <= first <= rest <= loop.trips:
                found[node] = outside[source], first
    return found


def _distance(index: Node, position: Node) -> int | None:
    """How much larger an index is than the position, if that is a number."""
    if index is position:
        return 0
    if index.op.name in ("add", "sub") and index.inputs[0] is position:
        number = scalar_value(index.inputs[1])
        if number is not None:
            return int(number if index.op.name == "add" else -number)
    return None


def _name(x: Node) -> str:
    return str(x.params["name"])


def _is_fixed(loop: Loop, i: int) -> bool:
    """Whether a carry keeps the value that it starts with."""
    new = loop.made.carry[i]
    if new is loop.inner.carry[i]:
        return True
    value = uniform_value(new)
    return value is not None and value == uniform_value(loop.carry[i])
