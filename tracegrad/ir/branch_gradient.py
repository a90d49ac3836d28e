"""Reverse mode through `cond`: what the branches must save, and the `cond` of their backwards.

Each branch is differentiated and cut in two. What its backward half reads of the forward half is
among the results of the forward `cond`, in places that branches share where the types agree; a
branch that has nothing for a place leaves it unset, and its own backward does not read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracegrad.ir.cotangents import has_cotangent, zero_cotangent
from tracegrad.ir.dependence import dependence
from tracegrad.ir.differentiate import joint_graph
from tracegrad.ir.graph import Builder, Graph, Node, inline
from tracegrad.ir.loops import elements
from tracegrad.ir.ops.control import cond, item, unset
from tracegrad.ir.partition import Partition, cut
from tracegrad.ir.passes import optimize
from tracegrad.ir.prices import body_prices
from tracegrad.ir.reading import PricesOfReading, prices_of_reading
from tracegrad.ir.types import StackType, Type

# A value that a backward branch reads: an operand or result of the forward `cond`, by its number.
_Place = tuple[str, int]


def branch_cotangents(
    node: Node, given: Mapping[int, Node], wanted: Sequence[bool], again: PricesOfReading
) -> tuple[Node, list[Node | None]]:
    """The `cond` that saves what its backward reads, to stand in place of `node`, and the
    cotangents of the node's inputs.

    `given` has the cotangents of results by their index, `wanted` flags the inputs whose cotangents
    are asked for; `again` is the price of reading values of forward in backward. Both are appended
    to the current builder.
    """
    index, *operands = node.inputs
    branches: tuple[Graph, ...] = node.params["branches"]
    wrt = [flag and has_cotangent(x) for flag, x in zip(wanted[1:], operands, strict=True)]
    outputs = [i in given for i in range(len(branches[0].outputs))]
    if not _any_reached(branches, wrt, outputs):
        return node, [None] * len(node.inputs)
    prices = [0.0 if again is None else again.get(x) for x in operands]
    halves = [_halves(branch, wrt, outputs, prices) for branch in branches]
    augmented, places = _augmented(node, halves)
    found = [_positions(wrt, half) for half in halves]
    got = [i for i in range(len(operands)) if any(i in at for at in found)]
    # The zeros of a stack are made from it.
    stacks = [("operand", i) for i in got if isinstance(operands[i].type, StackType)]
    read = sorted({*stacks, *(place for listed in places for place in listed)})
    outer = Builder.current()
    values = [
        operands[i] if part == "operand" else outer.append(item, (augmented,), {"index": i})
        for part, i in read
    ]
    gs = [given[i] for i in sorted(given)]
    backward = []
    for half, listed, at in zip(halves, places, found, strict=True):
        with Builder(f"{half.forward.name}_backward") as inner:
            inside = dict(zip(read, [inner.input(x.type) for x in values], strict=True))
            cotangents = [inner.input(x.type, "g") for x in gs]
            made = inline(inner, half.backward, [*(inside[p] for p in listed), *cotangents])
            results = [
                made[at[i]] if i in at else zero_cotangent(inside.get(("operand", i), operands[i]))
                for i in got
            ]
            backward.append(inner.finish(results, "backward"))
    pulled = cond(index, *values, *gs, branches=tuple(backward))
    result = {i: item(pulled, index=k) for k, i in enumerate(got)}
    return augmented, [None, *(result.get(i) for i in range(len(operands)))]


def _any_reached(branches: Sequence[Graph], wrt: Sequence[bool], outputs: Sequence[bool]) -> bool:
    wanted = sum(1 << i for i, flag in enumerate(wrt) if flag)
    return any(
        flag and bits & wanted
        for branch in branches
        for bits, flag in zip(dependence(branch), outputs, strict=True)
    )


def _halves(
    branch: Graph,
    wrt: Sequence[bool],
    outputs: Sequence[bool],
    prices: Sequence[float | None],
) -> Partition:
    """The joint graph of one branch, cut. `prices` are those of reading the operands again."""
    joint, present = joint_graph(branch, wrt, outputs, again=prices)
    joint = optimize(joint)
    n_inputs = len(branch.inputs)
    again = prices_of_reading((), joint.inputs[:n_inputs], prices)
    return cut(joint, n_inputs, len(branch.outputs), present, body_prices(again, set()))


def _augmented(node: Node, halves: Sequence[Partition]) -> tuple[Node, list[list[_Place]]]:
    """The `cond` that saves, and for each branch where its backward half finds what it reads."""
    results = len(elements(node))
    slots: list[Type] = []
    places: list[list[_Place]] = []
    taken: list[dict[int, Node]] = []
    for half in halves:
        forward = half.forward
        mine: dict[int, Node] = {}
        listed: list[_Place] = []
        for saved in half.saved:
            if saved.kind == "input":
                listed.append(("operand", saved.index))
            elif saved.index < results:
                listed.append(("result", saved.index))
            else:
                x = forward.outputs[saved.index]
                slot = next(
                    (i for i, type in enumerate(slots) if type == x.type and i not in mine),
                    len(slots),
                )
                if slot == len(slots):
                    slots.append(x.type)
                mine[slot] = x
                listed.append(("result", results + slot))
        places.append(listed)
        taken.append(mine)
    if not slots:
        return node, places
    branches = []
    for half, mine in zip(halves, taken, strict=True):
        forward = half.forward
        with Builder(forward.name) as inner:
            inner.inputs.extend(forward.inputs)
            inner.nodes.extend(forward.nodes)
            extra = [mine.get(i) or unset(type=type) for i, type in enumerate(slots)]
            branches.append(inner.finish([*forward.outputs[:results], *extra], "forward"))
    return cond(*node.inputs, branches=tuple(branches)), places


def _positions(wrt: Sequence[bool], half: Partition) -> dict[int, int]:
    """The operands that have a cotangent, each with its number in the outputs of backward."""
    present = iter(half.present)
    there = [i for i, flag in enumerate(wrt) if flag and next(present)]
    return {i: k for k, i in enumerate(there)}
