"""Products of matrices in the layout that is asked for.

The gradient of `k` in `x @ k.mT` is the transpose of a product. As the product of the transposes in
the other order it needs no copy: to read an operand the other way costs a product nothing.
"""

from __future__ import annotations

from tracegrad.ir.canonical import NodeRule
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.ops.contraction import matmul, swap, swapped
from tracegrad.ir.sparse import uses_of


def transposes_inside(graph: Graph) -> NodeRule:
    """The rule that makes the transpose of a product which nobody else reads a product itself."""
    uses = uses_of(graph)

    def turn(node: Node) -> Node | None:
        if node.op.name != "transpose":
            return None
        (x,) = node.inputs
        if x.op is not matmul or uses[x] != 1 or node.params["axes"] != swapped(x.ndim):
            return None
        a, b = x.inputs
        return matmul(swap(b), swap(a))

    return turn
