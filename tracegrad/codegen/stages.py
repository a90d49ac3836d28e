"""Reductions of whole large arrays in two stages, and what is computed beside them.

One row would leave one thread all the work, so the array is cut into rows: their results first,
then the column of these. An elementwise neighbour over the array's own shape would then be another
kernel, with everything that the two share written to memory. So the neighbours are computed in the
shape of the rows as well, as long as nobody but them, the reductions and the outputs sees one of
their elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tracegrad.codegen.affine import Shape
from tracegrad.codegen.fusion import LARGE, MIN_ROWS
from tracegrad.codegen.placement import CALLS
from tracegrad.codegen.steps import SEARCHES
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.op import OPS

# Elements that one row covers, about.
BLOCK = 1 << 14


def is_whole(node: Node) -> bool:
    """Whether one reduction of a large array would be left to a single row."""
    if node.op.family != "reduction" or node.op.name in SEARCHES:
        return False
    return node.inputs[0].type.size > LARGE and node.type.size == 1


def rows_of(shape: Shape) -> Shape | None:
    """The shape in which an array is reduced by rows first; None where it does not divide."""
    shape = tuple(size for size in shape if size != 1)
    size = math.prod(shape)
    rows = shape[0]
    if len(shape) == 1 or not rows >= MIN_ROWS or size // rows > 16 * BLOCK:
        rows = _row_count(size)
        return None if rows == 1 else (rows, size // rows)
    return shape


def _row_count(size: int) -> int:
    """A divisor of `size` that cuts it into rows of about BLOCK elements; 1 when there is none
    near.
    """
    wanted = size // BLOCK
    for rows in range(wanted, min(4 * wanted, math.isqrt(size)) + 1):
        if size % rows == 0:
            return rows
    for rows in range(wanted, MIN_ROWS - 1, -1):
        if size % rows == 0:
            return rows
    return 1


def in_stages(node: Node, x: Node) -> Node:
    """A whole-array reduction as rows first, then the column of their results; `x` is its operand,
    in its own shape or in that of the rows.
    """
    shape = rows_of(node.inputs[0].shape)
    if shape is None:
        return Builder.current().append(node.op, [x], node.params, node.loc)
    partial = node.op(_reshaped(x, shape), axes=tuple(range(1, len(shape))), keepdims=False)
    total = node.op(partial, axes=(0,), keepdims=False)
    return _reshaped(total, node.shape)


class _Groups:
    """Sets of nodes, joined as they turn out to be neighbours."""

    def __init__(self) -> None:
        self.leaders: dict[Node, Node] = {}

    def find(self, node: Node) -> Node:
        """The node that stands for the set."""
        leader = self.leaders.setdefault(node, node)
        while leader is not self.leaders[leader]:
            self.leaders[leader] = self.leaders[self.leaders[leader]]
            leader = self.leaders[leader]
        self.leaders[node] = leader
        return leader

    def join(self, a: Node, b: Node) -> None:
        self.leaders[self.find(a)] = self.find(b)


def neighbours(graph: Graph) -> Mapping[Node, Shape]:
    """The elementwise nodes to compute in the shape of rows, with that shape."""
    staged: dict[Shape, Shape] = {}
    for node in graph.nodes:
        if is_whole(node):
            shape = node.inputs[0].shape
            rows = rows_of(shape)
            if rows is not None and rows != shape:
                staged[shape] = rows
    if not staged:
        return {}
    groups = _Groups()
    reduced: set[Node] = set()
    refused: set[Node] = set()
    for node in graph.nodes:
        inside = node.shape in staged and _is_pointwise(node)
        for x in node.inputs:
            beside = x.shape in staged and _is_pointwise(x)
            if inside and beside and x.shape == node.shape:
                groups.join(node, x)
            elif inside and not _can_be_rows(x, node.shape):
                refused.add(groups.find(node))
            elif beside and is_whole(node):
                reduced.add(x)
            elif beside and node.op.name not in CALLS:
                # A library call reads memory in any case, where one shape is as good as another.
                refused.add(x)
    wanted = {groups.find(x) for x in reduced} - {groups.find(x) for x in refused}
    return {x: staged[x.shape] for x in groups.leaders if groups.find(x) in wanted}


def _is_pointwise(node: Node) -> bool:
    """Whether an element depends on its operands' elements at the same place only."""
    spread = node.op.name == "broadcast_to" and node.inputs[0].type.size == 1
    return node.op.family == "elementwise" or spread


def _can_be_rows(x: Node, shape: Shape) -> bool:
    """Whether an operand of a pointwise node can be given in another shape: a number, or an array
    in memory.
    """
    if x.type.size == 1:
        return True
    in_memory = x.op.name in ("input", "constant") or x.op.name in CALLS
    return x.shape == shape and (in_memory or x.op.family == "reduction")


def in_rows(node: Node, inputs: list[Node], shape: Shape) -> Node:
    """A pointwise node over the shape of rows, of operands in any shape."""
    # A number is broadcast in whatever shape.
    taken = [_reshaped(x, () if x.type.size == 1 else shape) for x in inputs]
    if node.op.name == "broadcast_to":
        return OPS["broadcast_to"](*taken, shape=shape)
    return Builder.current().append(node.op, taken, node.params, node.loc)


def _reshaped(x: Node, shape: Shape) -> Node:
    return x if x.shape == shape else OPS["reshape"](x, shape=shape)
