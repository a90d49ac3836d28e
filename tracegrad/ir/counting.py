"""Carries that count: integers that each iteration changes by the same step, and the number of
trips of a loop that such a counter ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracegrad.ir.graph import Builder, Node, scalar_value
from tracegrad.ir.loops import Loop
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import INDEX

_MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
# The limit of a loop that only a condition ends.
FOREVER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Counter:
    """A carry that is `first + step * (number of iterations done)`."""

    first: Node
    step: int

    def after(self, done: Node) -> Node:
        """Its value after `done` iterations; `first` and `done` belong to the current builder."""
        steps = (
            done if self.first.dtype is done.dtype else OPS["cast"](done, dtype=self.first.dtype)
        )
        if self.step != 1:
            steps = steps * self.step
        return steps if scalar_value(self.first) == 0 else steps + self.first


def counters(loop: Loop) -> dict[int, Counter]:
    """The carries that count, by their number among the carries."""
    if loop.reverse:
        return {}
    found = {}
    made = loop.made.carry
    for i, (inside, new) in enumerate(zip(loop.inner.carry, made, strict=True)):
        if inside.dtype.is_integral and not inside.shape:
            step = _step(inside, new)
            if step:
                found[i] = Counter(loop.carry[i], step)
    return found


def _step(inside: Node, new: Node) -> int | None:
    if new.op.name not in ("add", "sub"):
        return None
    a, b = new.inputs
    if new.op.name == "add" and b is inside:
        a, b = b, a
    value = scalar_value(b)
    if a is not inside or value is None:
        return None
    return int(value) if new.op.name == "add" else -int(value)


@dataclass(frozen=True, slots=True)
class Bound:
    """The condition of going on that a counter decides.

    trips      How many iterations there are until it fails, at least one: the first is not asked.
    remaining  What else the body asks for, a node of the body; None for nothing.
    """

    trips: Node
    remaining: Node | None


def bound_of(loop: Loop, counting: dict[int, Counter]) -> Bound | None:
    """What a counter says about the number of trips, where it says anything: `i < n`, alone or
    among other conditions, for an `n` that does not change. Appends to the current builder.
    """
    go = loop.made.go
    trips = _trips(loop, counting, go)
    if trips is not None:
        return Bound(trips, None)
    if go.op.name == "bitwise_and":
        for condition, other in (go.inputs, reversed(go.inputs)):
            trips = _trips(loop, counting, condition)
            if trips is not None:
                return Bound(trips, other)
    return None


def _trips(loop: Loop, counting: dict[int, Counter], condition: Node) -> Node | None:
    if condition.op.name not in _MIRRORED:
        return None
    a, b = condition.inputs
    name = condition.op.name
    if _fixed(loop, a) is not None:
        a, b, name = b, a, _MIRRORED[name]
    end = _fixed(loop, b)
    if end is None or end.type != INDEX:
        return None
    for i, counter in counting.items():
        if a is loop.inner.carry[i]:
            return _first_failure(counter, name, end, shift=0)
        if a is loop.made.carry[i]:
            return _first_failure(counter, name, end, shift=1)
    return None


def _fixed(loop: Loop, x: Node) -> Node | None:
    """What `x` of the body is outside of the loop, if it is the same in every iteration."""
    if x in loop.inner.consts:
        return loop.consts[loop.inner.consts.index(x)]
    value = scalar_value(x)
    return None if value is None else Builder.current().constant(value, x.dtype)


def _first_failure(counter: Counter, name: str, end: Node, shift: int) -> Node | None:
    """The number of iterations after which `counter name end` is false, asked at the end of each
    about the counter as it is `shift` steps after the beginning of that iteration.
    """
    up = name in ("lt", "le")
    if up != (counter.step > 0):
        return None
    distance = end - counter.first if up else counter.first - end
    if name in ("le", "ge"):
        distance = distance + 1
    size = abs(counter.step)
    steps = distance if size == 1 else OPS["floor_divide"](distance + (size - 1), size)
    # Asked first after one iteration.
    return OPS["maximum"](steps + (1 - shift), 1)


def bounded(loop: Loop, bound: Bound) -> tuple[Node, Node]:
    """`limit` and `go` of the loop whose body asks only for what remains beside `bound`."""
    builder = Builder.current()
    forever = scalar_value(loop.limit) == FOREVER
    limit = bound.trips if forever else OPS["minimum"](loop.limit, bound.trips)
    if bound.remaining is not None:
        return limit, loop.go
    if scalar_value(loop.go) is not True:
        limit = OPS["where"](loop.go, limit, 0)
    return limit, builder.constant(True)
