"""Loops that run side by side over the same things, as one; and so with branches.

The gradient of a loop inside of a traced function comes with a forward loop of its own, which saves
what backward reads. It does what the user's loop does, and one of the two is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

from tracegrad.ir.graph import Builder, Graph, Node, inline, reachable
from tracegrad.ir.loops import Loop, LoopBuilder, Made, split
from tracegrad.ir.ops.control import cond, has_control, item, while_loop


@dataclass(frozen=True)
class _Merged:
    """One node that does what two do: for each result of the two its index in the one."""

    node: Node
    first: list[int]
    second: list[int]


def merge_control(graph: Graph) -> Graph:
    """Loops that carry the same run once, branches of the same choice are chosen once."""
    while has_control(graph):
        pair = _pair(graph)
        if pair is None:
            break
        graph = _with_one(graph, *pair)
    return graph


def _pair(graph: Graph) -> tuple[Node, Node, _Merged] | None:
    """Two nodes that can be one, at the place of the first."""
    found: dict[tuple[object, ...], list[Node]] = {}
    before: dict[Node, int] = dict.fromkeys(graph.inputs, -1)
    # Which of the graph's inputs a value depends on, a bit for each: one node in place of two must
    # not make anything depend on more, or what is forward would depend on a cotangent.
    needs: dict[Node, int] = {x: 1 << i for i, x in enumerate(graph.inputs)}
    for place, node in enumerate(graph.nodes):
        before[node] = place
        needs[node] = reduce(or_, (needs[x] for x in node.inputs), 0)
        if node.op is not while_loop and node.op is not cond:
            continue
        loop = node.op is while_loop
        key: tuple[object, ...] = (node.op, node.inputs[0])
        if loop:
            key = (*key, node.inputs[1], node.params["reverse"], node.params.get("remat"))
        for other in found.setdefault(key, []):
            # What depends on no input can be computed at the place of the other.
            early = all(before[x] < before[other] or not needs[x] for x in node.inputs)
            if early and not needs[node] & ~needs[other]:
                merged = _merged_loops(other, node) if loop else _merged_branches(other, node)
                if merged is not None:
                    return other, node, merged
        found[key].append(node)
    return None


def _with_one(graph: Graph, first: Node, second: Node, merged: _Merged) -> Graph:
    indices = {first: merged.first, second: merged.second}
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        new: dict[Node, Node] = {x: x for x in graph.inputs}
        at = graph.nodes.index(first)
        needed = reachable(merged.node.inputs)
        moved = [x for x in graph.nodes[at:] if x in needed]
        for node in (*graph.nodes[:at], *moved, *graph.nodes[at:]):
            if node in new:
                continue
            if node is second:
                new[node] = new[first]
                continue
            source = merged.node if node is first else node
            params = dict(source.params)
            inputs = [new[x] for x in source.inputs]
            if node.op is item and node.inputs[0] in indices:
                params["index"] = indices[node.inputs[0]][params["index"]]
            elif node is not first and all(
                x is y for x, y in zip(inputs, node.inputs, strict=True)
            ):
                new[node] = builder.keep(node)
                continue
            new[node] = builder.append(source.op, inputs, params, node.loc)
        return builder.finish([new[x] for x in graph.outputs], graph.origin)


# ------------------------------------------------------------------------------------------ loops


def _merged_loops(first: Node, second: Node) -> _Merged | None:
    """Two loops with the same limit and the same flag at the beginning, as one.

    They have to go on alike, so everything that their conditions depend on has to be the same; and
    all that one of them carries the other has to carry too.
    """
    a, b = Loop.of(first), Loop.of(second)
    if a.length is not None and b.length is not None and a.length != b.length:
        return None
    if not set(a.operands) & set(b.operands):
        return None
    same = _by_first_value(a, b)
    while len(same) == min(len(a.carry), len(b.carry)):
        with LoopBuilder(a.body.name) as making:
            inside = [making.carry(x, "carry") for x in a.carry]
            own = {j: making.carry(x, "carry") for j, x in enumerate(b.carry) if j not in same}
            other = [inside[same[j]] if j in same else own[j] for j in range(len(b.carry))]
            made_a = _made(making, a, inside)
            made_b = _made(making, b, other)
        made_a, made_b = _merged_within(making, made_a, made_b)
        differing = [j for j, i in same.items() if made_a.carry[i] is not made_b.carry[j]]
        if not differing:
            return _one_loop(making, a, b, made_a, made_b, same)
        for j in differing:
            del same[j]
    return None


def _by_first_value(a: Loop, b: Loop) -> dict[int, int]:
    """For carries of `b` those of `a` that begin alike."""
    free = dict(enumerate(a.carry))
    same: dict[int, int] = {}
    for j, x in enumerate(b.carry):
        i = next((i for i, y in free.items() if y is x), None)
        if i is not None:
            del free[i]
            same[j] = i
    return same


def _made(making: LoopBuilder, loop: Loop, carry: list[Node]) -> Made:
    """What the body of a loop makes, within another body."""
    inner = loop.inner
    known: dict[Node, Node] = {inner.position: making.position}
    known.update(zip(inner.carry, carry, strict=True))
    for x, inside in zip(loop.consts, inner.consts, strict=True):
        known[inside] = making.const(x, inside.params["name"])
    for x, inside in zip(loop.xs, inner.slices, strict=True):
        known[inside] = making.slice(x, inside.params["name"])
    for stack, frame in zip(loop.stacks, inner.frames, strict=True):
        known.update(zip(frame, making.frame(stack, "saved"), strict=True))
    arguments = [known[x] for x in loop.body.inputs]
    outputs = inline(making.body, loop.body, arguments)
    go, carried, rows, rest = split(outputs, (1, len(loop.carry), loop.stacked))
    return Made(go[0], carried, rows, tuple(split(rest, loop.saves)[:-1]))


def _merged_within(making: LoopBuilder, *made: Made) -> list[Made]:
    """The two bodies in one, where loops and branches within them are merged likewise: what they
    make is the same only then.
    """
    outputs = [x for each in made for x in each.all]
    graph = merge_control(making.body.finish(outputs))
    making.body.nodes = list(graph.nodes)
    return [each.replaced(dict(zip(outputs, graph.outputs, strict=True))) for each in made]


def _one_loop(
    making: LoopBuilder, a: Loop, b: Loop, made_a: Made, made_b: Made, same: Mapping[int, int]
) -> _Merged | None:
    if made_a.go is not made_b.go:
        return None
    more = [j for j in range(len(b.carry)) if j not in same]
    carry = (*made_a.carry, *(made_b.carry[j] for j in more))
    rows = list(made_a.rows)
    rows += [x for x in dict.fromkeys(made_b.rows) if x not in rows]
    saved = list(made_a.saved)
    saved += [group for group in dict.fromkeys(made_b.saved) if group not in saved]
    length = a.length if a.length is not None else b.length
    made = Made(made_a.go, carry, tuple(rows), tuple(saved))
    with Builder("merged"):
        loop = making.finish(a.limit, a.go, made, length=length, reverse=a.reverse, remat=a.remat)
        node = loop.append()
    place = {j: len(a.carry) + k for k, j in enumerate(more)} | dict(same)
    first_row, first_stack = loop.first_row, loop.first_stack
    return _Merged(
        node,
        [
            *range(1 + len(a.carry)),
            *(first_row + rows.index(x) for x in made_a.rows),
            *(first_stack + saved.index(x) for x in made_a.saved),
        ],
        [
            0,
            *(1 + place[j] for j in range(len(b.carry))),
            *(first_row + rows.index(x) for x in made_b.rows),
            *(first_stack + saved.index(x) for x in made_b.saved),
        ],
    )


# --------------------------------------------------------------------------------------- branches


def _merged_branches(first: Node, second: Node) -> _Merged | None:
    """Two choices by the same index, as one."""
    pairs = list(zip(first.params["branches"], second.params["branches"], strict=False))
    if len(first.params["branches"]) != len(second.params["branches"]):
        return None
    operands = list(dict.fromkeys((*first.inputs[1:], *second.inputs[1:])))
    branches = []
    for a, b in pairs:
        with Builder(a.name) as builder:
            inside = {x: builder.input(x.type) for x in operands}
            outputs = [
                made
                for graph, node in ((a, first), (b, second))
                for made in inline(builder, graph, [inside[x] for x in node.inputs[1:]])
            ]
            branches.append(merge_control(builder.finish(outputs, a.origin)))
    with Builder("merged"):
        node = cond(first.inputs[0], *operands, branches=tuple(branches))
    # What is the same whichever branch is taken is one result.
    number: dict[tuple[Node, ...], int] = {}
    outputs_of = zip(*(branch.outputs for branch in branches), strict=True)
    places = [number.setdefault(each, i) for i, each in enumerate(outputs_of)]
    count = len(pairs[0][0].outputs)
    return _Merged(node, places[:count], places[count:])
