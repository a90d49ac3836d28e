"""Which inputs of a graph the derivative of each output can reach.

A set of inputs is an integer with one bit for each: sets of all values of a graph are then found in
one pass over it, loops and branches included.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from tracegrad.ir.cotangents import has_cotangent
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.loops import Loop
from tracegrad.ir.op import _NonDifferentiable
from tracegrad.ir.ops.control import checkpoint, cond, item, while_loop

_found: WeakKeyDictionary[Graph, tuple[int, ...]] = WeakKeyDictionary()


def dependence(graph: Graph) -> tuple[int, ...]:
    """For each output the inputs that a cotangent of it can flow to. Linear, found once."""
    found = _found.get(graph)
    if found is None:
        found = _found[graph] = _dependence(graph)
    return found


def _dependence(graph: Graph) -> tuple[int, ...]:
    reached: dict[Node, int] = {
        x: 1 << i if has_cotangent(x) else 0 for i, x in enumerate(graph.inputs)
    }
    results: dict[Node, list[int]] = {}
    for node in graph.nodes:
        inputs = [reached[x] for x in node.inputs]
        if node.op is while_loop:
            results[node] = _of_loop(Loop.of(node), inputs)
        elif node.op is cond:
            results[node] = _of_branches(node.params["branches"], inputs[1:])
        elif node.op is checkpoint:
            results[node] = _of_branches([node.params["body"]], inputs)
        elif node.op is item and node.inputs[0] in results:
            reached[node] = results[node.inputs[0]][node.params["index"]]
            continue
        reached[node] = _through(node, inputs)
    return tuple(reached[x] for x in graph.outputs)


def _through(node: Node, inputs: Sequence[int]) -> int:
    if isinstance(node.op.vjp, _NonDifferentiable) or not has_cotangent(node):
        return 0
    rules = node.op.vjp if isinstance(node.op.vjp, tuple) else (True,) * len(inputs)
    total = 0
    for rule, found in zip(rules, inputs, strict=True):
        if rule is not None:
            total |= found
    return total


def composed(inside: int, outside: Sequence[int]) -> int:
    """The union of `outside[i]` over the bits `i` of `inside`."""
    total = 0
    while inside:
        lowest = inside & -inside
        total |= outside[lowest.bit_length() - 1]
        inside ^= lowest
    return total


def through_iterations(loop: Loop) -> list[int]:
    """For each of the body's outputs what its cotangent can flow to among the body's inputs, by way
    of any number of earlier iterations.

    The bit of a carry stands for its first value too.
    """
    direct = list(dependence(loop.body))
    n = len(loop.carry)
    outside = [1 << i for i in range(len(loop.body.inputs))]
    changed = True
    while changed:
        changed = False
        for i in range(n):
            grown = composed(direct[1 + i], outside) | (1 << (1 + i))
            if grown | outside[1 + i] != outside[1 + i]:
                outside[1 + i] |= grown
                changed = True
    return [composed(x, outside) for x in direct]


def _of_loop(loop: Loop, inputs: Sequence[int]) -> list[int]:
    """The dependence of each result of a loop; `inputs` is that of the node's inputs."""
    n = len(loop.carry)
    plain = len(loop.consts) + len(loop.xs)
    operands = list(inputs[2 : 2 + n + plain])
    for found, size in zip(inputs[2 + n + plain :], loop.frame_sizes, strict=True):
        operands += [found] * size
    outside = [0, *operands]
    flows = [composed(x, outside) for x in through_iterations(loop)]
    first = [flows[1 + i] | operands[i] for i in range(n)]
    rows = flows[1 + n : 1 + n + loop.stacked]
    groups = []
    at = 1 + n + loop.stacked
    for size in loop.saves:
        groups.append(composed((1 << size) - 1, flows[at : at + size]))
        at += size
    return [0, *first, *rows, *groups]


def _of_branches(branches: Sequence[Graph], operands: Sequence[int]) -> list[int]:
    total = [0] * len(branches[0].outputs)
    for branch in branches:
        for i, found in enumerate(dependence(branch)):
            total[i] |= composed(found, operands)
    return total
