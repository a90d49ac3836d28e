"""When two graphs are the same: equal structure, types and parameters, whatever the nodes are
called.
"""

from __future__ import annotations

from collections.abc import Hashable

from tracegrad.ir.graph import Graph, Node


def structural_key(graph: Graph) -> Hashable:
    """A hashable key, equal for two graphs exactly when they compute the same thing in the same
    way.

    It holds the inputs' types, each operation with its parameters and operands, and the outputs;
    not the names, the lines of the user's program, the origin, or where in the order a constant
    stands. Linear.
    """
    operand: dict[Node, Hashable] = {x: i for i, x in enumerate(graph.inputs)}
    steps: list[Hashable] = []
    for node in graph.nodes:
        if node.op.name == "constant":
            operand[node] = node.params["value"]
            continue
        operand[node] = len(graph.inputs) + len(steps)
        operands = tuple(operand[x] for x in node.inputs)
        steps.append((node.op.name, operands, node.frozen_params))
    outputs = tuple(operand[x] for x in graph.outputs)
    return (tuple(x.type for x in graph.inputs), tuple(steps), outputs)


def equal(a: Graph, b: Graph) -> bool:
    """Whether two graphs are the same: structure, types, parameters, and the printed names of graph
    and inputs.
    """
    from tracegrad.ir.printer import printed_names

    return printed_names(a) == printed_names(b) and structural_key(a) == structural_key(b)
