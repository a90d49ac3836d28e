"""Passes on loops and branches as wholes: what nobody reads of their results is not made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from tracegrad.ir.branch_reduction import reduce_branches
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.loop_reduction import Results, reduce_loop
from tracegrad.ir.loops import Loop
from tracegrad.ir.ops.control import checkpoint, has_control, is_control, item, while_loop


def reduce_control(graph: Graph) -> Graph:
    """Loops and branches without what is dead in them, constant or known from outside."""

    def reduce(node: Node, used: set[int]) -> Results | None:
        if node.op is checkpoint:
            return None
        return reduce_loop(node, used) if node.op is while_loop else reduce_branches(node, used)

    return rewrite_control(graph, reduce)


def rewrite_control(graph: Graph, change: Callable[[Node, set[int]], Results | None]) -> Graph:
    """`graph` with the results of loops and branches taken from what `change` puts in their place.

    It is called with the node and the indices of the results that are read, appends to the current
    builder, and says None where it changes nothing.
    """
    if not has_control(graph):
        return graph
    used: dict[Node, set[int]] = defaultdict(set)
    for node in graph.nodes:
        if node.op is item:
            used[node.inputs[0]].add(node.params["index"])
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        new: dict[Node, Node] = {x: x for x in graph.inputs}
        results: dict[Node, Results] = {}
        for node in graph.nodes:
            builder.loc = node.loc
            if node.op is item and node.inputs[0] in results:
                new[node] = results[node.inputs[0]][node.params["index"]]
                continue
            inputs = [new[x] for x in node.inputs]
            same = all(x is y for x, y in zip(inputs, node.inputs, strict=True))
            made = node if same else Node(node.op, tuple(inputs), node.params, node.type, node.loc)
            if is_control(node):
                changed = change(made, used[node])
                if changed is not None:
                    results[node] = changed
                    continue
            new[node] = builder.keep(made)
        return builder.finish([new[x] for x in graph.outputs], graph.origin)


def reduce_stacks(graph: Graph) -> Graph:
    """Loops that save only what the loops that read their stacks have a use for, and once."""
    plans = _plans(graph) if while_loop in graph.ops else None
    if not plans:
        return graph
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        new: dict[Node, Node] = {x: x for x in graph.inputs}
        for node in graph.nodes:
            inputs = [new[x] for x in node.inputs]
            params = node.params
            if node.op is while_loop:
                # By the operands of the original graph: the plans are about those.
                loop = Loop.of(node)
                params = _saving_less(_reading_less(loop, plans), node, plans).params
            new[node] = builder.append(node.op, inputs, params, node.loc)
        return builder.finish([new[x] for x in graph.outputs], graph.origin)


# For each value of a frame the number of the one that stands for it; None for one that is dropped.
_Plan = list[int | None]


def _plans(graph: Graph) -> dict[Node, _Plan]:
    """What to keep of stacks that are read by loops of this graph alone, where that is not all."""
    readers: dict[Node, list[Node]] = defaultdict(list)
    others: set[Node] = set(graph.outputs)
    loops: dict[Node, Loop] = {}
    for node in graph.nodes:
        if node.op is while_loop:
            loop = loops[node] = Loop.of(node)
            stacks = set(loop.stacks)
            for x in stacks:
                readers[x].append(node)
            others.update(x for x in node.inputs[: len(node.inputs) - len(loop.stacks)])
        else:
            others.update(node.inputs)
    plans = {}
    for stack, users in readers.items():
        if stack in others or stack.op is not item or stack.inputs[0] not in loops:
            continue
        maker = loops[stack.inputs[0]]
        saved = maker.made.saved[stack.params["index"] - maker.first_stack]
        used = {e for user in users for e in _read_values(loops[user], stack)}
        first: dict[Node, int] = {}
        plan = [first.setdefault(x, e) if e in used else None for e, x in enumerate(saved)]
        if used and plan != list(range(len(saved))):
            plans[stack] = plan
    return plans


def _read_values(loop: Loop, stack: Node) -> set[int]:
    """The numbers of the values in the frames of `stack` that the body reads."""
    read = {x for node in loop.body.nodes for x in node.inputs} | set(loop.body.outputs)
    return {
        e
        for x, frame in zip(loop.stacks, loop.inner.frames, strict=True)
        if x is stack
        for e, value in enumerate(frame)
        if value in read
    }


def _saving_less(loop: Loop, node: Node, plans: dict[Node, _Plan]) -> Loop:
    made = loop.made
    groups = list(made.saved)
    for stack, plan in plans.items():
        if stack.inputs[0] is node:
            k = stack.params["index"] - loop.first_stack
            groups[k] = tuple(x for e, x in enumerate(groups[k]) if plan[e] == e)
    outputs = (made.go, *made.carry, *made.rows, *(x for group in groups for x in group))
    return replace(loop, body=replace(loop.body, outputs=outputs), saves=tuple(map(len, groups)))


def _reading_less(loop: Loop, plans: dict[Node, _Plan]) -> Loop:
    dropped: set[Node] = set()
    same: dict[Node, Node] = {}
    for stack, frame in zip(loop.stacks, loop.inner.frames, strict=True):
        for e, stands in enumerate(plans.get(stack, [])):
            if stands != e:
                dropped.add(frame[e])
                if stands is not None:
                    same[frame[e]] = frame[stands]
    if not dropped:
        return loop
    body = loop.body
    with Builder(body.name) as builder:
        builder.inputs.extend(x for x in body.inputs if x not in dropped)
        new: dict[Node, Node] = {x: same.get(x, x) for x in body.inputs}
        for node in body.nodes:
            new[node] = builder.adopt(node, [new[x] for x in node.inputs])
        graph = builder.finish([new[x] for x in body.outputs], body.origin)
    return replace(loop, body=graph)
