"""The passes in order, and what runs them.

A pass is a function `Graph -> Graph` that keeps inputs, outputs and meaning; nodes that it leaves
alone are shared between the two. Every pass rebuilds the graph through a `Builder`, so that common
subexpressions and dead code never survive one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tracegrad.config import config
from tracegrad.ir.canonical import CANONICAL, NodeRule, fold
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.printer import text
from tracegrad.ir.rewrites import EXACT, INEXACT, RuleTable
from tracegrad.ir.verifier import verify
from tracegrad.log import dump, log

# A phase is repeated while it changes something; no graph has been seen to need more.
_ROUNDS = 4

# One node is rewritten at most so often in one pass, in case two rules undo each other.
_REWRITES = 16

_EXACT = RuleTable(EXACT)
_INEXACT = RuleTable(INEXACT)


class Pass(NamedTuple):
    """One step of optimisation."""

    phase: str
    name: str
    run: Callable[[Graph], Graph]
    exact: bool = True


def rewrite(graph: Graph, rule: NodeRule) -> Graph:
    """`graph` with `rule` applied at every node, operands first, until it says None."""
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        new: dict[Node, Node] = {x: x for x in graph.inputs}
        for node in graph.nodes:
            builder.loc = node.loc
            inputs = [new[x] for x in node.inputs]
            same = all(x is y for x, y in zip(inputs, node.inputs, strict=True))
            made = builder.keep(node) if same else builder.adopt(node, inputs)
            for _ in range(_REWRITES):
                better = rule(made)
                if better is None:
                    break
                made = better
            new[node] = made
        return builder.finish([new[x] for x in graph.outputs], graph.origin)


def expand_composites(graph: Graph) -> Graph:
    """Say every composite op in the ops that it is a name for."""

    def expand(node: Node) -> Node | None:
        return node.op.expand(*node.inputs, **node.params) if node.op.expand else None

    # An expansion may have composites inside.
    while any(node.op.expand for node in graph.nodes):
        graph = rewrite(graph, expand)
    return graph


def canonicalize(graph: Graph) -> Graph:
    """One form for what can be said in several: see `tracegrad.ir.canonical`."""

    def apply(node: Node) -> Node | None:
        return next((new for rule in CANONICAL if (new := rule(node)) is not None), None)

    return rewrite(graph, apply)


def fold_constants(graph: Graph) -> Graph:
    """Compute what depends on constants alone, where the result is small."""
    return rewrite(graph, fold)


def simplify(graph: Graph) -> Graph:
    """Algebra that keeps every bit: see `tracegrad.ir.rewrites`."""
    return rewrite(graph, _EXACT.apply)


def simplify_inexactly(graph: Graph) -> Graph:
    """Algebra that changes values, for those who asked for it."""
    return rewrite(graph, _INEXACT.apply)


def eliminate(graph: Graph) -> Graph:
    """Drop what no output needs, and compute equal things once."""
    return rewrite(graph, lambda node: None)


PASSES: tuple[Pass, ...] = (
    Pass("lower", "expand composites", expand_composites),
    Pass("simplify", "canonicalize", canonicalize),
    Pass("simplify", "fold constants", fold_constants),
    Pass("simplify", "exact algebra", simplify),
    Pass("simplify", "inexact algebra", simplify_inexactly, exact=False),
    Pass("clean", "dead code and common subexpressions", eliminate),
)


def optimize(graph: Graph, fastmath: bool = False) -> Graph:
    """Run all passes; those that change values only with `fastmath`.

    In check mode the verifier runs before the first and after every one; GraphError names the pass.
    """
    before = len(graph.nodes)
    _check(graph, "input")
    for phase in dict.fromkeys(p.phase for p in PASSES):
        steps = [p for p in PASSES if p.phase == phase and (p.exact or fastmath)]
        for _ in range(_ROUNDS):
            start = graph
            for step in steps:
                graph = _run(step, graph)
            if len(steps) == 1 or start.nodes == graph.nodes:
                break
    log("passes", lambda: f"{graph.name}: {before} -> {len(graph.nodes)} nodes\n{text(graph)}")
    return graph


def _run(step: Pass, graph: Graph) -> Graph:
    result = step.run(graph)
    _check(result, step.name)
    log(
        "passes",
        lambda: f"{graph.name}: {step.name}: {len(graph.nodes)} -> {len(result.nodes)} nodes",
    )
    if config.dump is not None:
        dump(step.name, graph.name, text(result, elide=True))
    return result


def _check(graph: Graph, after: str) -> None:
    if config.check:
        try:
            verify(graph)
        except Exception as error:
            error.add_note(f"after the pass {after!r}")
            raise
