"""Between which bounds integers lie, as far as it can be told without running the program.

A value's interval holds for each of its elements. The position of a loop lies below its limit, and
so do the indices made from it: bounds checks of such indices, and the case of a negative one, fall
away. Values that are not in a result are anywhere in their dtype. Sound where sums wrap around: an
interval that does not fit into the dtype is not known.

Numbers of no dimensions are known as sums besides (`tracegrad.ir.linear`), where one is bounded by
others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tracegrad.ir.graph import Graph, Node, scalar_value
from tracegrad.ir.linear import Linear, Symbol
from tracegrad.ir.loops import Loop
from tracegrad.ir.ops.control import cond, graphs_of, item, while_loop
from tracegrad.ir.types import TensorType

# The least and the greatest value.
Interval = tuple[int, int]

# Nobody lives to see more trips of a loop: the position and what is added to it do not wrap around.
_TRIPS = 2**56

# How often the interval of a carry may grow before it counts as unknown.
_GROWTH = 3


class Known(dict[Node, Interval]):
    """Intervals by value; `sums`: what numbers of no dimensions are made of.

    Loops and branches are looked at once, however many results they have: `inner` keeps what is
    known of the inputs of their graphs, `made` of all that branches compute.
    """

    def __init__(self, known: Mapping[Node, Interval] | None = None) -> None:
        super().__init__(known or {})
        self.sums: dict[Node, Linear] = dict(known.sums) if isinstance(known, Known) else {}
        self.inner: dict[Node, list[Known]] = {}
        self.made: dict[Node, list[Known]] = {}

    def sum_of(self, x: Node) -> Linear:
        """What a number is made of: itself, if nothing else is known."""
        if x.op.name == "constant":
            return Linear(int(x.params["value"].array))
        if x not in self.sums:
            low, high = self.get(x) or _range_of(x)
            self.sums[x] = Linear.of(Symbol(low, high))
        return self.sums[x]

    def add(self, x: Node, interval: Interval, sum: Linear | None = None) -> None:
        """Note what is known of `x`."""
        self[x] = interval
        self.sums.pop(x, None)
        if sum is not None:
            self.sums[x] = sum


def intervals_of(graph: Graph, inputs: Mapping[Node, Interval] | None = None) -> Known:
    """The intervals of a graph's values, given those of its inputs; what is not known is not there.

    For graphs inside of loops and branches see `inside`.
    """
    known = Known(inputs)
    for node in graph.nodes:
        found = _interval(node, known)
        sum = _sum(node, known)
        if sum is not None:
            bounds = sum.smallest(), sum.greatest()
            found = bounds if found is None else _meet(found, bounds)
        if found is not None and _fits(node, found):
            known.add(node, found, sum)
    return known


def _is_number(x: Node) -> bool:
    return isinstance(x.type, TensorType) and not x.shape and x.dtype.is_integral


def _sum(node: Node, known: Known) -> Linear | None:
    """What a number is a sum of, or what bounds it, if its operation says so."""
    found = _sum_by_rule(node, known)
    return found if found is not None and found.is_short else None


def _sum_by_rule(node: Node, known: Known) -> Linear | None:
    if not _is_number(node) or not all(map(_is_number, node.inputs)):
        return _sum_of_count(node, known) if node.op is item and _is_number(node) else None
    name = node.op.name
    if name in ("add", "sub"):
        a, b = map(known.sum_of, node.inputs)
        return a.plus(b, 1 if name == "add" else -1)
    if name == "neg":
        return Linear(0).plus(known.sum_of(node.inputs[0]), -1)
    if name == "mul":
        a, b = map(known.sum_of, node.inputs)
        a, b = (a, b) if a.terms else (b, a)
        return None if b.terms else Linear(0).plus(a, b.constant)
    if name in ("cast", "detach"):
        return known.sum_of(node.inputs[0])
    if name in ("minimum", "maximum"):
        sums = tuple(map(known.sum_of, node.inputs))
        low, high = _range_of(node)
        one = Symbol(low, high, (), sums) if name == "minimum" else Symbol(low, high, sums)
        return Linear.of(one)
    return None


def _sum_of_count(node: Node, known: Known) -> Linear | None:
    """Of the number of trips of a loop: at most its limit, if that is none below zero."""
    if node.params["index"] != 0 or node.inputs[0].op is not while_loop:
        return None
    loop = Loop.of(node.inputs[0])
    limit = known.sum_of(loop.limit)
    if limit.smallest() < 0:
        return None
    return limit if loop.goes_on else Linear.of(Symbol(0, _TRIPS, (), (limit,)))


def _range_of(x: Node) -> Interval:
    bounds = np.iinfo(x.dtype.name)
    return int(bounds.min), int(bounds.max)


def _meet(a: Interval, b: Interval) -> Interval:
    # Where they have nothing in common the value is never computed.
    low, high = max(a[0], b[0]), min(a[1], b[1])
    return (low, high) if low <= high else a


def inside(node: Node, known: Mapping[Node, Interval]) -> list[Known]:
    """The intervals of the inputs of each graph of a loop or branch, given those around it."""
    if not isinstance(known, Known):
        known = Known(known)
    found = known.inner.get(node)
    if found is None:
        found = known.inner[node] = _inside(node, known)
    return found


def _inside(node: Node, known: Known) -> list[Known]:
    if node.op is while_loop:
        return [_inside_loop(Loop.of(node), known)]
    operands = node.inputs[1:] if node.op is cond else node.inputs
    return [_passed(operands, graph.inputs, known) for graph in graphs_of(node)]


def difference(x: Node, y: Node, known: Known) -> Interval | None:
    """Between which bounds `x - y` lies, without wrapping around."""
    found = None
    if x in known and y in known:
        a, b = known[x], known[y]
        found = a[0] - b[1], a[1] - b[0]
    if _is_number(x) and _is_number(y):
        sum = known.sum_of(x).plus(known.sum_of(y), -1)
        if sum.is_short:
            bounds = sum.smallest(), sum.greatest()
            found = bounds if found is None else _meet(found, bounds)
    return found


def stays_within(index: Node, size: int, known: Mapping[Node, Interval]) -> bool:
    """Whether every element of `index` is in [0, size)."""
    interval = _constant(index) if index.op.name == "constant" else known.get(index)
    return interval is not None and interval[0] >= 0 and interval[1] < size


def _fits(node: Node, interval: Interval) -> bool:
    bounds = np.iinfo(node.dtype.name)
    return bool(bounds.min <= interval[0] and interval[1] <= bounds.max)


def _constant(node: Node) -> Interval | None:
    array = node.params["value"].array
    if array.dtype.kind not in "iu" or not array.size:
        return None
    return int(array.min()), int(array.max())


def _passed(outer: Sequence[Node], inner: Sequence[Node], known: Known) -> Known:
    passed = Known({y: known[x] for x, y in zip(outer, inner, strict=True) if x in known})
    passed.sums.update(
        (y, known.sum_of(x)) for x, y in zip(outer, inner, strict=True) if _is_number(x)
    )
    return passed


def _hull(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])


def _interval(node: Node, known: Known) -> Interval | None:
    if not node.dtype.is_integral:
        return None
    if node.op is item:
        return _of_result(node.inputs[0], node.params["index"], known)
    if node.op.name == "cast" and node.inputs[0].dtype.kind == "b":
        return 0, 1
    if node.op.name == "constant":
        return _constant(node)
    if node.op.name == "iota":
        return 0, max(node.shape[node.params["axis"]] - 1, 0)
    operands = [known.get(x) for x in node.inputs]
    if node.op.name == "where":
        operands = _alternatives(node, known)
    rule = _RULES.get(node.op.name)
    if rule is None or None in operands:
        return _of_remainder(node)
    return rule(*operands)


def _alternatives(node: Node, known: Known) -> list[Interval | None]:
    """What the two operands of `where` are where they are chosen. An index `i` that counts from the
    end where it is negative, `where(i < 0, i + n, i)`, is looked at more closely.
    """
    condition, a, b = node.inputs
    chosen = [known.get(a), known.get(b)]
    negative = condition.op.name == "lt" and scalar_value(condition.inputs[1]) == 0
    if negative and condition.inputs[0] is b and b in known and b.type == node.type:
        low, high = known[b]
        chosen[1] = max(low, 0), max(high, 0)
        if a.op.name == "add" and a.inputs[0] is b and a.inputs[1] in known:
            least, most = known[a.inputs[1]]
            chosen[0] = min(low, -1) + least, min(high, -1) + most
    return chosen


def _of_remainder(node: Node) -> Interval | None:
    """Of the remainder of anything by a positive constant."""
    if node.op.name != "remainder":
        return None
    divisor = scalar_value(node.inputs[1])
    return (0, int(divisor) - 1) if divisor is not None and divisor > 0 else None


def _product(a: Interval, b: Interval) -> Interval:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _quotient(a: Interval, b: Interval) -> Interval | None:
    if b[0] <= 0:
        return None
    corners = [x // y for x in a for y in b]
    return min(corners), max(corners)


def _remainder(a: Interval, b: Interval) -> Interval | None:
    if b[0] <= 0:
        return None
    return a if a[0] >= 0 and a[1] < b[0] else (0, b[1] - 1)


_RULES: dict[str, Callable[..., Interval | None]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _product,
    "neg": lambda a: (-a[1], -a[0]),
    "floor_divide": _quotient,
    "remainder": _remainder,
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "where": _hull,
    "cast": lambda a: a,
    "detach": lambda a: a,
    "reshape": lambda a: a,
    "transpose": lambda a: a,
    "broadcast_to": lambda a: a,
    "slice": lambda a: a,
    "flip": lambda a: a,
}


def _inside_loop(loop: Loop, known: Known) -> Known:
    """The intervals of the inputs of a loop's body."""
    inner = loop.inner
    inputs = _passed(loop.consts, inner.consts, known)
    limit = known.sum_of(loop.limit)
    bounds = [limit.greatest(), _TRIPS, *([loop.length] if loop.length is not None else [])]
    last = max(min(bounds) - 1, 0)
    position = Symbol(0, last, (), (limit.plus(Linear(1), -1),))
    inputs.add(inner.position, (0, last), Linear.of(position))
    carried = {
        i: known[x]
        for i, x in enumerate(loop.carry)
        if x in known and inner.carry[i].dtype.is_integral
    }
    for _ in range(_GROWTH):
        if not carried:
            break
        for i, interval in carried.items():
            inputs.add(inner.carry[i], interval)
        made = intervals_of(loop.body, inputs)
        grown = {
            i: _hull(interval, made[loop.made.carry[i]])
            for i, interval in carried.items()
            if loop.made.carry[i] in made
        }
        if grown == carried:
            return inputs
        for i in carried:
            del inputs[inner.carry[i]]
        carried = grown
    return inputs


def _of_result(node: Node, index: int, known: Known) -> Interval | None:
    """Of a result of a loop or branch."""
    if node.op is while_loop:
        loop = Loop.of(node)
        if index == 0:
            return 0, max(min(known.sum_of(loop.limit).greatest(), _TRIPS), 0)
        if index >= loop.first_row:
            return None
        # Where the interval of a carry is known, it holds after the last iteration too.
        return inside(node, known)[0].get(loop.inner.carry[index - 1])
    total: Interval | None = None
    branches = graphs_of(node)
    if not branches:
        return None
    if node not in known.made:
        known.made[node] = list(map(intervals_of, branches, inside(node, known)))
    for branch, made in zip(branches, known.made[node], strict=True):
        found = made.get(branch.outputs[index])
        if found is None:
            return None
        total = found if total is None else _hull(total, found)
    return total
