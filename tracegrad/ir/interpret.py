"""A graph evaluated node by node in NumPy: the reference that all compiled code must agree with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.op import Array, evaluate

Watcher = Callable[[Graph, Node, Array], None]


class _Watch(threading.local):
    see: Watcher | None = None


_watch = _Watch()


@contextmanager
def watching(see: Watcher) -> Iterator[None]:
    """Within, `see(graph, node, value)` is called for every value that this thread interprets."""
    before = _watch.see
    _watch.see = see
    try:
        yield
    finally:
        _watch.see = before


def interpret(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    """The outputs of `graph` on `arrays`. Values are dropped after their last use."""
    last: dict[Node, int] = {}
    for i, node in enumerate(graph.nodes):
        for x in node.inputs:
            last[x] = i
    keep = set(graph.outputs)
    values: dict[Node, Array] = dict(zip(graph.inputs, arrays, strict=True))
    see = _watch.see
    if see is not None:
        for x, value in values.items():
            see(graph, x, value)
    for i, node in enumerate(graph.nodes):
        values[node] = evaluate(
            node.op, [values[x] for x in node.inputs], dict(node.params), node.dtype
        )
        if see is not None:
            see(graph, node, values[node])
        for x in node.inputs:
            if last[x] == i and x not in keep:
                values.pop(x, None)
    return [values[x] for x in graph.outputs]
