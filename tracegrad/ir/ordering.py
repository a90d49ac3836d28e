"""The order of the nodes of a body, so that updates can be made in place."""

from __future__ import annotations

from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.loops import Loop
from tracegrad.ir.ops.control import while_loop

_UPDATES = frozenset({"scatter", "scatter_add", "update_slice"})


def read_before_update(graph: Graph) -> Graph:
    """`graph` with what reads an array standing before what updates it, where it can.

    The array is dead then when it is updated, and the update needs no copy of it.
    """
    nodes = list(graph.nodes)
    for update in graph.nodes:
        for base in _updated(update):
            _move_readers(nodes, update, base)
    if tuple(nodes) == graph.nodes:
        return graph
    return Graph(graph.name, graph.inputs, tuple(nodes), graph.outputs, graph.origin)


def _updated(node: Node) -> list[Node]:
    """The arrays that a node may write to instead of making new ones."""
    if node.op.name in _UPDATES:
        return [node.inputs[0]]
    if node.op is while_loop:
        return [x for x in Loop.of(node).carry if x.shape]
    return []


def _move_readers(nodes: list[Node], update: Node, base: Node) -> None:
    at = nodes.index(update)
    after = nodes[at + 1 :]
    depends = {update}
    readers = []
    for node in after:
        if any(x in depends for x in node.inputs):
            depends.add(node)
        elif base in node.inputs:
            readers.append(node)
    if not readers:
        return
    later = set(after)
    moved: set[Node] = set()
    work = list(readers)
    while work:
        node = work.pop()
        if node in later and node not in moved:
            moved.add(node)
            work.extend(node.inputs)
    nodes[at:] = [
        *(x for x in after if x in moved),
        update,
        *(x for x in after if x not in moved),
    ]
