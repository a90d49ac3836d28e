"""Sums of products of matrices: each product after the first is added to the memory of the first.

The gradient of a weight that is used several times is such a sum, and so is what goes into a
recurrent cell. A product that adds to its result reads it once more; added up elsewhere, each
product would be written, and all of them read again.
"""

from __future__ import annotations

from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.ops.contraction import matmul
from tracegrad.ir.sparse import uses_of


def product_sums(graph: Graph) -> dict[Node, tuple[Node, Node]]:
    """For each sum the term that is computed first, into the memory of the sum, and the product
    that is added there.
    """
    uses = uses_of(graph)
    position = {x: i for i, x in enumerate(graph.nodes)}
    found: dict[Node, tuple[Node, Node]] = {}
    for node in graph.nodes:
        if node.op.name != "add" or not all(_is_term(x, node, found) for x in node.inputs):
            continue
        first, second = sorted(node.inputs, key=lambda x: (x not in found, position[x]))
        if uses[first] == uses[second] == 1 and second.op is matmul:
            found[node] = first, second
    return found


def _is_term(x: Node, total: Node, found: dict[Node, tuple[Node, Node]]) -> bool:
    return (x.op is matmul or x in found) and x.type == total.type
