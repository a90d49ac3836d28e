"""Symbolic reverse mode: from a graph to the graph of its vector-Jacobian product.

The walk is one reverse pass over the nodes; each node's own rule (`Op.vjp`) says the local part. Since rules are
built from ops, a backward graph is an ordinary graph and differentiates again, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tracegrad.ir.graph import Builder, Graph, Node, inline, reachable
from tracegrad.ir.op import OPS, Op, _NonDifferentiable


def cotangents(node: Node, g: Node, wanted: Sequence[bool]) -> list[Node | None]:
    """The cotangent of each wanted input of `node`, given its own `g`; None where zero or not wanted."""
    op = node.op
    if isinstance(op.vjp, _NonDifferentiable):
        return [None] * len(node.inputs)
    found: list[Node | None] = []
    for i, (x, want) in enumerate(zip(node.inputs, wanted, strict=True)):
        if not want or not x.dtype.is_floating_point:
            found.append(None)
        elif isinstance(op.vjp, tuple):
            rule = op.vjp[i]
            found.append(rule and rule(g, node, *node.inputs, **node.params))
        else:
            found.append(op.vjp(i, g, node, *node.inputs, **node.params))
    return found


def order(roots: Sequence[Node]) -> list[Node]:
    """Everything the roots depend on, inputs before users. Iterative: graphs can be deep."""
    seen: set[Node] = set()
    listed: list[Node] = []
    work: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while work:
        node, expanded = work.pop()
        if expanded:
            listed.append(node)
        elif node not in seen:
            seen.add(node)
            work.append((node, True))
            work.extend((x, False) for x in reversed(node.inputs) if x not in seen)
    return listed


def pullback(
    y: Node | Sequence[Node], g: Node | Sequence[Node | None], xs: Sequence[Node]
) -> list[Node | None]:
    """Append to the current builder the cotangents of `xs`, given cotangents `g` of `y`; None where zero."""
    ys = [y] if isinstance(y, Node) else list(y)
    gs = [g] if isinstance(g, Node) else list(g)
    targets = set(xs)
    nodes = order(ys)
    depends = set(targets)
    for node in nodes:
        if any(x in depends for x in node.inputs):
            depends.add(node)
    total: dict[Node, Node] = {}

    def accumulate(node: Node, cotangent: Node | None) -> None:
        if cotangent is not None:
            total[node] = total[node] + cotangent if node in total else cotangent

    for node, cotangent in zip(ys, gs, strict=True):
        accumulate(node, cotangent)
    for node in reversed(nodes):
        if node in depends and node in total and node not in targets and node.inputs:
            wanted = [x in depends for x in node.inputs]
            for x, cotangent in zip(node.inputs, cotangents(node, total[node], wanted), strict=True):
                accumulate(x, cotangent)
        elif node in targets and node.inputs and node in total:
            # A target may itself depend on another target.
            wanted = [x in depends for x in node.inputs]
            if any(wanted):
                for x, c in zip(node.inputs, cotangents(node, total[node], wanted), strict=True):
                    accumulate(x, c)
    return [total.get(x) for x in xs]
