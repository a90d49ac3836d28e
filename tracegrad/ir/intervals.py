"""Between which bounds integers lie, as far as it can be told without running the program.

A value's interval holds for each of its elements. The position of a loop lies below its limit, and
so do the indices made from it: bounds checks of such indices, and the case of a negative one, fall
away. Values that are not in a result are anywhere in their dtype. Sound where sums wrap around: an
interval that does not fit into the dtype is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tracegrad.ir.families import fill
from tracegrad.ir.graph import Builder, Graph, Node, scalar_value
from tracegrad.ir.loops import Loop
from tracegrad.ir.ops.control import cond, graphs_of, item, while_loop, with_graphs

# The least and the greatest value.
Interval = tuple[int, int]

# Nobody lives to see more trips of a loop: the position and what is added to it do not wrap around.
_TRIPS = 2**56
_ANY_LIMIT = (0, _TRIPS)

# How often the interval of a carry may grow before it counts as unknown.
_GROWTH = 3


def intervals_of(
    graph: Graph, inputs: Mapping[Node, Interval] | None = None
) -> dict[Node, Interval]:
    """The intervals of a graph's values, given those of its inputs; what is not known is not there.

    For graphs inside of loops and branches see `inside`.
    """
    known: dict[Node, Interval] = dict(inputs or {})
    for node in graph.nodes:
        found = _interval(node, known)
        if found is not None and _fits(node, found):
            known[node] = found
    return known


def inside(node: Node, known: Mapping[Node, Interval]) -> list[dict[Node, Interval]]:
    """The intervals of the inputs of each graph of a loop or branch, given those around it."""
    if node.op is while_loop:
        return [_inside_loop(Loop.of(node), known)]
    operands = node.inputs[1:]
    return [_passed(operands, branch.inputs, known) for branch in node.params["branches"]]


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


def _passed(
    outer: Sequence[Node], inner: Sequence[Node], known: Mapping[Node, Interval]
) -> dict[Node, Interval]:
    return {y: known[x] for x, y in zip(outer, inner, strict=True) if x in known}


def _hull(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])


def _interval(node: Node, known: Mapping[Node, Interval]) -> Interval | None:
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


def _alternatives(node: Node, known: Mapping[Node, Interval]) -> list[Interval | None]:
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


def _inside_loop(loop: Loop, known: Mapping[Node, Interval]) -> dict[Node, Interval]:
    """The intervals of the inputs of a loop's body."""
    inner = loop.inner
    inputs = _passed(loop.consts, inner.consts, known)
    limit = known.get(loop.limit, _ANY_LIMIT)
    bounds = [limit[1], _TRIPS, *([loop.length] if loop.length is not None else [])]
    inputs[inner.position] = (0, max(min(bounds) - 1, 0))
    carried = {
        i: known[x]
        for i, x in enumerate(loop.carry)
        if x in known and inner.carry[i].dtype.is_integral
    }
    for _ in range(_GROWTH):
        if not carried:
            break
        inputs.update((inner.carry[i], interval) for i, interval in carried.items())
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


def _of_result(node: Node, index: int, known: Mapping[Node, Interval]) -> Interval | None:
    """Of a result of a loop or branch."""
    if node.op is while_loop:
        loop = Loop.of(node)
        if index == 0:
            return 0, max(min(known.get(loop.limit, _ANY_LIMIT)[1], _TRIPS), 0)
        if index >= loop.first_row:
            return None
        # Where the interval of a carry is known, it holds after the last iteration too.
        return _inside_loop(loop, known).get(loop.inner.carry[index - 1])
    if node.op is not cond:
        return None
    total: Interval | None = None
    for branch, inputs in zip(node.params["branches"], inside(node, known), strict=True):
        found = intervals_of(branch, inputs).get(branch.outputs[index])
        if found is None:
            return None
        total = found if total is None else _hull(total, found)
    return total


def fold_bounds(graph: Graph, inputs: Mapping[Node, Interval] | None = None) -> Graph:
    """`graph` without comparisons and clamps of integers whose intervals say how they turn out, in
    the bodies of its loops and branches too.
    """
    known = intervals_of(graph, inputs)
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        new: dict[Node, Node] = {x: x for x in graph.inputs}
        for node in graph.nodes:
            builder.loc = node.loc
            outcome = _outcome(node, known)
            if isinstance(outcome, Node):
                new[node] = new[outcome]
                continue
            if outcome is not None:
                new[node] = fill(outcome, node.type)
                continue
            operands = [new[x] for x in node.inputs]
            old = graphs_of(node)
            ranges = inside(node, known) if old else []
            bodies = [fold_bounds(body, at) for body, at in zip(old, ranges, strict=True)]
            if not all(a is b for a, b in zip(old, bodies, strict=True)):
                params = with_graphs(node, bodies)
                new[node] = builder.append(node.op, operands, params, node.loc)
            elif all(x is y for x, y in zip(operands, node.inputs, strict=True)):
                new[node] = builder.keep(node)
            else:
                new[node] = builder.adopt(node, operands)
        result = builder.finish([new[x] for x in graph.outputs], graph.origin)
    same = result.nodes == graph.nodes and result.outputs == graph.outputs
    return graph if same else result


def _outcome(node: Node, known: Mapping[Node, Interval]) -> Node | bool | None:
    """What a comparison comes out as, or which operand is the result; None where it is open."""
    if len(node.inputs) != 2 or not all(x in known for x in node.inputs):
        return None
    x, y = node.inputs
    a, b = known[x], known[y]
    name = node.op.name
    if name in _DECIDED:
        holds, fails = _DECIDED[name]
        return True if holds(a, b) else False if fails(a, b) else None
    first, second = _CHOICES.get(name, (_never, _never))
    chosen = x if first(a, b) else y if second(a, b) else None
    return chosen if chosen is not None and chosen.type == node.type else None


_Test = Callable[[Interval, Interval], bool]


def _below(a: Interval, b: Interval) -> bool:
    return a[1] < b[0]


def _not_above(a: Interval, b: Interval) -> bool:
    return a[1] <= b[0]


def _apart(a: Interval, b: Interval) -> bool:
    return a[1] < b[0] or b[1] < a[0]


def _equal(a: Interval, b: Interval) -> bool:
    return a == b and a[0] == a[1]


def _above(a: Interval, b: Interval) -> bool:
    return _below(b, a)


def _not_below(a: Interval, b: Interval) -> bool:
    return _not_above(b, a)


def _never(a: Interval, b: Interval) -> bool:
    return False


# Of each choice when it is its first operand, and when it is the second.
_CHOICES: dict[str, tuple[_Test, _Test]] = {
    "maximum": (_not_below, _not_above),
    "minimum": (_not_above, _not_below),
    "clamp_min": (_not_below, _never),
    "clamp_max": (_not_above, _never),
    "remainder": (lambda a, b: a[0] >= 0 and a[1] < b[0], _never),
}

# Of each comparison when it is true for certain, and when it is false.
_DECIDED: dict[str, tuple[_Test, _Test]] = {
    "lt": (_below, _not_below),
    "le": (_not_above, _above),
    "gt": (_above, _not_above),
    "ge": (_not_below, _below),
    "eq": (_equal, _apart),
    "ne": (_apart, _equal),
}
