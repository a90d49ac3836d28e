"""Comparisons and clamps of integers whose intervals say how they turn out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tracegrad.ir.families import fill
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.intervals import Interval, Known, difference, inside, intervals_of
from tracegrad.ir.ops.control import graphs_of, with_graphs


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


def _outcome(node: Node, known: Known) -> Node | bool | None:
    """What a comparison comes out as, or which operand is the result; None where it is open."""
    name = node.op.name
    if name not in _DECIDED and name not in _CHOICES:
        return None
    x, y = node.inputs
    apart = difference(x, y, known)
    if apart is None:
        return None
    if name in _DECIDED:
        holds, fails = _DECIDED[name]
        return True if holds(*apart) else False if fails(*apart) else None
    first, second = _CHOICES[name]
    positive = name != "remainder" or (x in known and known[x][0] >= 0)
    chosen = x if positive and first(*apart) else y if second(*apart) else None
    return chosen if chosen is not None and chosen.type == node.type else None


# A test of the least and the greatest difference of two operands.
_Test = Callable[[int, int], bool]


def _below(least: int, most: int) -> bool:
    return most < 0


def _not_above(least: int, most: int) -> bool:
    return most <= 0


def _above(least: int, most: int) -> bool:
    return least > 0


def _not_below(least: int, most: int) -> bool:
    return least >= 0


def _apart(least: int, most: int) -> bool:
    return most < 0 or least > 0


def _equal(least: int, most: int) -> bool:
    return least == most == 0


def _never(least: int, most: int) -> bool:
    return False


# Of each choice when it is its first operand, and when it is the second.
_CHOICES: dict[str, tuple[_Test, _Test]] = {
    "maximum": (_not_below, _not_above),
    "minimum": (_not_above, _not_below),
    "clamp_min": (_not_below, _never),
    "clamp_max": (_not_above, _never),
    # Where the first is not negative, which is looked at besides.
    "remainder": (_below, _never),
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
