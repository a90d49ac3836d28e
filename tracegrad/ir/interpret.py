"""A graph evaluated node by node in NumPy: the reference that all compiled code must agree with."""

from __future__ import annotations

from collections.abc import Sequence

from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.op import Array, evaluate


def interpret(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    """The outputs of `graph` on `arrays`. Values are dropped after their last use."""
    last: dict[Node, int] = {}
    for i, node in enumerate(graph.nodes):
        for x in node.inputs:
            last[x] = i
    keep = set(graph.outputs)
    values: dict[Node, Array] = dict(zip(graph.inputs, arrays, strict=True))
    for i, node in enumerate(graph.nodes):
        values[node] = evaluate(
            node.op, [values[x] for x in node.inputs], dict(node.params), node.dtype
        )
        for x in node.inputs:
            if last[x] == i and x not in keep:
                values.pop(x, None)
    return [values[x] for x in graph.outputs]
