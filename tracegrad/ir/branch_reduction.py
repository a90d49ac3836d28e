"""A `cond` with less in it that has the same results."""

from __future__ import annotations

from collections.abc import Sequence, Set

from tracegrad.ir.graph import Builder, Graph, Node, inline, reachable, scalar_value
from tracegrad.ir.loop_reduction import Results, uniform, uniform_value
from tracegrad.ir.ops.control import cond, item


def reduce_branches(node: Node, used: Set[int]) -> Results | None:
    """The results of a `cond` that are in `used`, by their index, from a smaller one or none at
    all; None where there is nothing to gain.
    """
    index, *operands = node.inputs
    branches: tuple[Graph, ...] = node.params["branches"]
    chosen = scalar_value(index)
    if len(branches) == 1:
        chosen = 0
    if chosen is not None:
        branch = branches[min(max(int(chosen), 0), len(branches) - 1)]
        made = inline(Builder.current(), branch, operands)
        return {i: made[i] for i in used}
    same = {i: x for i in used if (x := _same_in_all(branches, operands, i)) is not None}
    # A result that all branches have twice is there once.
    first: dict[tuple[Node, ...], int] = {}
    kept = [i for i in range(len(branches[0].outputs)) if i in used and i not in same]
    for i in kept:
        first.setdefault(tuple(branch.outputs[i] for branch in branches), i)
    distinct = sorted(first.values())
    needed = _needed(branches, distinct)
    literals = {i for i in needed if uniform_value(operands[i]) is not None}
    passed = list(dict.fromkeys(operands[i] for i in needed if i not in literals))
    if len(distinct) == len(branches[0].outputs) and len(passed) == len(operands):
        return None
    if not distinct:
        return same
    smaller = tuple(_rebuilt(branch, operands, passed, distinct) for branch in branches)
    made_node = cond(index, *passed, branches=smaller)
    place = {i: k for k, i in enumerate(distinct)}
    results = dict(same)
    for i in kept:
        source = first[tuple(branch.outputs[i] for branch in branches)]
        results[i] = item(made_node, index=place[source])
    return results


def _same_in_all(branches: Sequence[Graph], operands: Sequence[Node], i: int) -> Node | None:
    """What every branch gives as its result `i`: an operand, or a constant; None where there is no
    such thing.
    """
    outputs = [branch.outputs[i] for branch in branches]
    value = uniform_value(outputs[0])
    if value is not None and all(uniform_value(x) == value for x in outputs):
        return uniform(Builder.current(), value, outputs[0].type)
    found = set()
    for branch in branches:
        x = branch.outputs[i]
        if x not in branch.inputs:
            return None
        found.add(operands[branch.inputs.index(x)])
    return found.pop() if len(found) == 1 else None


def _needed(branches: Sequence[Graph], outputs: Sequence[int]) -> list[int]:
    """The operands that some branch reads for these results."""
    needed: set[int] = set()
    for branch in branches:
        effects = [node for node in branch.nodes if not node.op.pure]
        live = reachable([*(branch.outputs[i] for i in outputs), *effects])
        needed.update(i for i, x in enumerate(branch.inputs) if x in live)
    return sorted(needed)


def _rebuilt(
    branch: Graph, operands: Sequence[Node], passed: Sequence[Node], outputs: Sequence[int]
) -> Graph:
    with Builder(branch.name) as inner:
        names = {x: str(i.params["name"]) for x, i in zip(operands, branch.inputs, strict=True)}
        inside = {x: inner.input(x.type, names[x]) for x in passed}
        new: dict[Node, Node] = {}
        for outside, x in zip(operands, branch.inputs, strict=True):
            value = uniform_value(outside)
            if value is not None:
                new[x] = uniform(inner, value, x.type)
            elif outside in inside:
                new[x] = inside[outside]
        effects = [node for node in branch.nodes if not node.op.pure]
        live = reachable([*(branch.outputs[i] for i in outputs), *effects])
        for node in branch.nodes:
            if node in live:
                new[node] = inner.adopt(node, [new[x] for x in node.inputs])
        return inner.finish([new[branch.outputs[i]] for i in outputs], branch.origin)
