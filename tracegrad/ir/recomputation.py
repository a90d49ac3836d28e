"""Checkpoints: a graph within a graph of which backward computes again whatever it needs.

A `checkpoint` node stands for the operations of its body. Its backward is the gradient of the body
on the operands, with the body's own operations in it once more. So nothing of the body is saved
but what it was given; operations outside save its results as they save anything.

What is computed again must not be found to be there already. Its operands are therefore the results
of `after`, which are equal to the operands but wait for the cotangents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracegrad.ir.cotangents import has_cotangent
from tracegrad.ir.dependence import dependence
from tracegrad.ir.differentiate import cotangent_graph
from tracegrad.ir.graph import Builder, Graph, Node, inline
from tracegrad.ir.ops.control import checkpoint, item
from tracegrad.ir.ops.tracing import after
from tracegrad.ir.passes import in_bodies


def checkpoint_cotangents(
    node: Node, given: Mapping[int, Node], wanted: Sequence[bool]
) -> list[Node | None]:
    """The cotangents of the operands of a checkpoint, appended to the current builder.

    `given` has the cotangents of results by their index, `wanted` flags the operands whose
    cotangents are asked for.
    """
    body: Graph = node.params["body"]
    wrt = [flag and has_cotangent(x) for flag, x in zip(wanted, node.inputs, strict=True)]
    reached = sum(1 << i for i, flag in enumerate(wrt) if flag)
    if not any(dependence(body)[i] & reached for i in given):
        return [None] * len(node.inputs)
    outputs = [i in given for i in range(len(body.outputs))]
    gradient, present = cotangent_graph(body, wrt, outputs)
    gs = [given[i] for i in sorted(given)]
    operands = [x if x.op.name == "constant" else after(x, *gs) for x in node.inputs]
    found = iter(inline(Builder.current(), gradient, [*operands, *gs]))
    there = iter(present)
    return [next(found) if flag and next(there) else None for flag in wrt]


def without_checkpoints(graph: Graph) -> Graph:
    """`graph` with the operations of checkpoints in their places, in loops and branches too."""
    graph = in_bodies(graph, without_checkpoints)
    if not any(node.op is checkpoint for node in graph.nodes):
        return graph
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        new: dict[Node, Node] = {x: x for x in graph.inputs}
        results: dict[Node, tuple[Node, ...]] = {}
        for node in graph.nodes:
            inputs = node.inputs
            if node.op is checkpoint:
                results[node] = inline(builder, node.params["body"], [new[x] for x in inputs])
            elif node.op is item and inputs[0] in results:
                new[node] = results[inputs[0]][node.params["index"]]
            else:
                new[node] = builder.adopt(node, [new[x] for x in inputs])
        return builder.finish([new[x] for x in graph.outputs], graph.origin)
