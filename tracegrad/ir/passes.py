"""The passes in order, and what runs them.

A pass is a function `Graph -> Graph` that keeps inputs, outputs and meaning; nodes that it leaves
alone are shared between the two, and a graph in which it changes nothing is the result itself. A
pass that changes something rebuilds the graph through a `Builder`, so that it leaves neither common
subexpressions nor dead code.

The bodies of loops and branches go through the same passes, before the graph that they are in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakSet

from tracegrad.config import config
from tracegrad.ir.accumulation import add_in_place
from tracegrad.ir.canonical import NodeRule, canonical_rules, cast_once, fold
from tracegrad.ir.comparisons import fold_bounds
from tracegrad.ir.control_passes import reduce_control, reduce_stacks
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.hoisting import hoist_products
from tracegrad.ir.joining import join_rows
from tracegrad.ir.merging import merge_control
from tracegrad.ir.ops.contraction import matmul
from tracegrad.ir.ops.control import graphs_of, has_control, with_graphs
from tracegrad.ir.ordering import read_before_update
from tracegrad.ir.printer import text
from tracegrad.ir.reading_back import changes_nothing
from tracegrad.ir.rewrites import EXACT, INEXACT, RuleTable
from tracegrad.ir.transposing import transposes_inside
from tracegrad.ir.types import TensorType
from tracegrad.ir.verifier import verify
from tracegrad.log import dump, log

# A phase is repeated while it changes something; no graph has been seen to need more.
_ROUNDS = 8

# One node is rewritten at most so often in one pass, in case two rules undo each other.
_REWRITES = 16


class Pass(NamedTuple):
    """One step of optimisation."""

    phase: str
    name: str
    run: Callable[[Graph], Graph]
    exact: bool = True


class LocalRule:
    """A rule that looks at a node and at what it is computed from, and at nothing else.

    Nodes do not change: one that it leaves alone is known by a bit, and not looked at again.
    """

    _bits = itertools.count()

    def __init__(self, rule: NodeRule) -> None:
        self._rule = rule
        self._bit = 1 << next(self._bits)

    def __call__(self, node: Node) -> Node | None:
        if node.left_alone & self._bit:
            return None
        better = self._rule(node)
        if better is None:
            node.left_alone |= self._bit
        return better


def rewrite(graph: Graph, rule: NodeRule) -> Graph:
    """`graph` with `rule` applied at every node, operands first, until it says None."""
    with Builder(graph.name):
        for node in graph.nodes:
            if rule(node) is not None:
                return _rebuilt(graph, rule)
    return graph


def _rebuilt(graph: Graph, rule: NodeRule) -> Graph:
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        new: dict[Node, Node] = {x: x for x in graph.inputs}
        for node in graph.nodes:
            builder.loc = node.loc
            inputs = tuple([new[x] for x in node.inputs])
            made = builder.keep(node) if inputs == node.inputs else builder.adopt(node, inputs)
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
    while any(op.expand for op in graph.ops):
        graph = _rebuilt(graph, expand)
    return graph


@LocalRule
def _canonical(node: Node) -> Node | None:
    for rule in canonical_rules(node.op):
        better = rule(node)
        if better is not None:
            return better
    return None


_EXACT = LocalRule(RuleTable(EXACT).apply)
_INEXACT = LocalRule(RuleTable(INEXACT).apply)
_JOINED = LocalRule(join_rows)
_FOLDED = LocalRule(fold)


def canonicalize(graph: Graph) -> Graph:
    """One form for what can be said in several: see `tracegrad.ir.canonical`."""
    return rewrite(graph, _canonical)


@LocalRule
def _stored(node: Node) -> Node | None:
    return cast_once(node) if node.op.name == "cast" else changes_nothing(node)


def forget_stores(graph: Graph) -> Graph:
    """No store or cast that changes nothing, and no store that is read where it was made."""
    return rewrite(graph, _stored)


def join(graph: Graph) -> Graph:
    """What was taken apart and is put together again: see `tracegrad.ir.joining`."""
    return rewrite(graph, _JOINED)


def fold_constants(graph: Graph) -> Graph:
    """Compute what depends on constants alone, where the result is small."""
    return rewrite(graph, _FOLDED)


def simplify(graph: Graph) -> Graph:
    """Algebra that keeps every bit: see `tracegrad.ir.rewrites`."""
    return rewrite(graph, _EXACT)


def simplify_discrete(graph: Graph) -> Graph:
    """That algebra on what has no gradient: integers and flags."""
    return rewrite(graph, lambda x: None if _is_differentiable(x) else _EXACT(x))


def _is_differentiable(x: Node) -> bool:
    return not isinstance(x.type, TensorType) or x.dtype.is_floating_point


def simplify_inexactly(graph: Graph) -> Graph:
    """Algebra that changes values, for those who asked for it."""
    return rewrite(graph, _INEXACT)


def turn_products(graph: Graph) -> Graph:
    """Products of matrices in the layout in which they are read."""
    return rewrite(graph, transposes_inside(graph)) if matmul in graph.ops else graph


def eliminate(graph: Graph) -> Graph:
    """Drop what no output needs, and compute equal things once."""
    return _rebuilt(graph, lambda node: None)


PASSES: tuple[Pass, ...] = (
    Pass("lower", "expand composites", expand_composites),
    Pass("simplify", "canonicalize", canonicalize),
    Pass("simplify", "fold constants", fold_constants),
    Pass("simplify", "exact algebra", simplify),
    Pass("simplify", "inexact algebra", simplify_inexactly, exact=False),
    Pass("simplify", "transposed products", turn_products),
    Pass("simplify", "loops and branches", reduce_control),
    Pass("simplify", "loops and branches side by side", merge_control),
    Pass("simplify", "products out of loops", hoist_products),
    Pass("simplify", "stacks", reduce_stacks),
    Pass("simplify", "sums through loops", partial(add_in_place, inside=False)),
    Pass("clean", "dead code and common subexpressions", eliminate),
)


# Besides, in the bodies of loops and branches.
_INSIDE: tuple[Pass, ...] = (
    Pass("simplify", "sums in place", partial(add_in_place, inside=True)),
    Pass("order", "reads before updates", read_before_update),
)

# Besides, in the graph that is no body: from the outside in, since what is known of the position of
# a loop is known of the loops within it.
_BOUNDS = ("bounds of integers", fold_bounds)
_OUTSIDE: tuple[Pass, ...] = (Pass("simplify", *_BOUNDS),)

# What differentiation finds easier than what a user writes, and no more: composites keep their own
# gradients, and every formula stays as it was written.
_BEFORE_DIFFERENTIATION: tuple[Pass, ...] = (
    Pass("prepare", "join rows", join),
    Pass("prepare", "fold constants", fold_constants),
    Pass("prepare", "algebra of integers and flags", simplify_discrete),
    Pass("prepare", "stores and casts that change nothing", forget_stores),
    Pass("prepare", "loops and branches", reduce_control),
    Pass("prepare", "loops and branches side by side", merge_control),
)

# Bodies that all of the passes leave alone, by whether those that change values are among them.
_optimal: dict[bool, WeakSet[Graph]] = {False: WeakSet(), True: WeakSet()}
_prepared: WeakSet[Graph] = WeakSet()


def optimize(graph: Graph, fastmath: bool = False) -> Graph:
    """Run all passes; those that change values only with `fastmath`.

    In check mode the verifier runs before the first and after every one; GraphError names the pass.
    """
    return _optimize(graph, fastmath, (*PASSES, *_OUTSIDE) if has_control(graph) else PASSES)


def _optimize(graph: Graph, fastmath: bool, passes: Sequence[Pass]) -> Graph:
    before = len(graph.nodes)
    _check(graph, "input")
    inside = _in_bodies_once(
        _optimal[fastmath], lambda body: _optimize(body, fastmath, (*PASSES, *_INSIDE))
    )
    for phase in dict.fromkeys(p.phase for p in passes):
        steps = [p for p in passes if p.phase == phase and (p.exact or fastmath)]
        if phase == "simplify":
            steps = [Pass(phase, "bodies", inside), *steps]
        graph = _repeated(steps, graph)
    log("passes", lambda: f"{graph.name}: {before} -> {len(graph.nodes)} nodes\n{text(graph)}")
    return graph


def prepare(graph: Graph) -> Graph:
    """Loops and branches as differentiation wants them: what does not change is not carried."""
    if not has_control(graph):
        return graph
    return _repeated([*_before_differentiation(), Pass("prepare", *_BOUNDS)], graph)


def _prepare_body(graph: Graph) -> Graph:
    return _repeated(_before_differentiation(), graph)


def _before_differentiation() -> list[Pass]:
    inside = _in_bodies_once(_prepared, _prepare_body)
    return [Pass("prepare", "bodies", inside), *_BEFORE_DIFFERENTIATION]


def in_bodies(graph: Graph, change: Callable[[Graph], Graph]) -> Graph:
    """`graph` with `change` applied to the bodies of its loops and branches."""

    if not has_control(graph):
        return graph
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        new: dict[Node, Node] = {x: x for x in graph.inputs}
        for node in graph.nodes:
            inputs = tuple([new[x] for x in node.inputs])
            old = graphs_of(node)
            changed = [change(body) for body in old]
            if not all(a is b for a, b in zip(old, changed, strict=True)):
                params = with_graphs(node, changed)
                new[node] = builder.append(node.op, inputs, params, node.loc)
            elif inputs == node.inputs:
                new[node] = builder.keep(node)
            else:
                new[node] = builder.adopt(node, inputs)
        return builder.finish([new[x] for x in graph.outputs], graph.origin)


def expand_everywhere(graph: Graph) -> Graph:
    """`expand_composites`, in the bodies of loops and branches too."""
    return expand_composites(in_bodies(graph, expand_everywhere))


def rewrite_everywhere(graph: Graph, rule: NodeRule) -> Graph:
    """`rewrite`, in the bodies of loops and branches too."""
    return rewrite(in_bodies(graph, lambda body: rewrite_everywhere(body, rule)), rule)


def _in_bodies_once(
    done: WeakSet[Graph], change: Callable[[Graph], Graph]
) -> Callable[[Graph], Graph]:
    """The pass that makes `change` in bodies, but for those that it has made: these are `done`."""

    def apply(body: Graph) -> Graph:
        if body not in done:
            body = change(body)
            done.add(body)
        return body

    return lambda graph: in_bodies(graph, apply)


def _repeated(steps: Sequence[Pass], graph: Graph) -> Graph:
    for _ in range(_ROUNDS):
        start = graph
        for step in steps:
            graph = _run(step, graph)
        if len(steps) == 1 or start.nodes == graph.nodes:
            break
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
