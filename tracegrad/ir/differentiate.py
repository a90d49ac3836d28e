"""Symbolic reverse mode: from a graph to the graph of its vector-Jacobian product.

The walk is one reverse pass over the nodes; each node's own rule (`Op.vjp`) says the local part.
Since rules are built from ops, a backward graph is an ordinary graph and differentiates again, to
any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from tracegrad.errors import GraphError
from tracegrad.ir.cotangents import add_cotangents, cotangent_type, zero_cotangent
from tracegrad.ir.families import unbroadcast
from tracegrad.ir.graph import Builder, Graph, Node, inline
from tracegrad.ir.masking import Masked, add, peel
from tracegrad.ir.op import OPS, Op, _NonDifferentiable
from tracegrad.ir.ops.control import checkpoint, item, while_loop
from tracegrad.ir.passes import prepare
from tracegrad.ir.reading import PricesOfReading, prices_of_reading
from tracegrad.ir.types import StackType, TensorType, Type


def local_cotangent(
    op: Op, i: int, g: Masked, y: Node, xs: Sequence[Node], params: Mapping[str, Any]
) -> Masked | None:
    """The cotangent of input `i` of one op call, given the cotangent `g` of its output; None where
    it is zero.

    Through an elementwise op the mask of `g` travels on; for any other it is applied first.
    """
    x = xs[i]
    if isinstance(op.vjp, _NonDifferentiable) or not x.dtype.is_floating_point:
        return None
    if op.expand is not None and g.mask:
        # The op's own rule would need the mask applied first; the ops that it stands for may not.
        graph = expansion(op, [x.type for x in xs], params)
        cotangent = expansion_cotangent(graph, i, g, xs)
        return None if cotangent is None else peel(cotangent)
    if isinstance(op.vjp, tuple):
        rule = op.vjp[i]
        if rule is None:
            return None
        if op.family == "elementwise":
            return _elementwise_cotangent(rule, i, g, y, xs, params)
        cotangent = rule(g.node(), y, *xs, **params)
    else:
        cotangent = op.vjp(i, g.node(), y, *xs, **params)
    if cotangent is None:
        return None
    _check_type(op, cotangent, x)
    return peel(cotangent)


def _elementwise_cotangent(
    rule: Any, i: int, g: Masked, y: Node, xs: Sequence[Node], params: Mapping[str, Any]
) -> Masked | None:
    x = xs[i]
    # A mask has the output's shape, so it must be applied before the sum that undoes
    # broadcasting. That
    # sum is within the rule; to an input that has the output's own shape it does nothing.
    early = bool(g.mask) and x.shape != y.shape
    whole = OPS["broadcast_to"](x, shape=y.shape) if early else x
    cotangent = rule(g.value, y, *xs[:i], whole, *xs[i + 1 :], **params)
    if cotangent is None:
        return None
    masked = peel(cotangent).under(g.mask)
    if early:
        masked = Masked(unbroadcast(masked.node(), x.shape))
    _check_type(y.op, masked.value, x)
    return masked


def _check_type(op: Op, cotangent: Node, x: Node) -> None:
    if cotangent.type != x.type:
        raise GraphError(f"the gradient of {op.name} is {cotangent.type} for an input {x.type}")


def pullback(
    y: Node | Sequence[Node], g: Node | Sequence[Node | None], xs: Sequence[Node]
) -> list[Node | None]:
    """Append to the current builder the cotangents of `xs`, given cotangents `g` of `y`; None where
    zero.

    One of `xs` may depend on another; each gets the cotangent of all paths to it.
    """
    ys = [y] if isinstance(y, Node) else list(y)
    gs = [g] if isinstance(g, Node) else list(g)
    return _walk(ys, gs, xs, None)[0]


def _walk(
    ys: Sequence[Node],
    gs: Sequence[Node | None],
    xs: Sequence[Node],
    again: PricesOfReading,
) -> tuple[list[Node | None], dict[Node, Node]]:
    """The cotangents of `xs`, and the loops and branches that save what their backward reads by
    those that they are to stand in place of.

    `again` is the price of reading values of forward in backward.
    """
    builder = Builder.current()
    nodes = order(ys)
    depends = set(xs)
    for node in nodes:
        if any(x in depends for x in node.inputs):
            depends.add(node)
    received: dict[Node, list[Masked]] = {}
    total: dict[Node, Masked] = {}
    # The cotangents of the results of loops and branches, by their index.
    results: dict[Node, dict[int, Node]] = {}
    replaced: dict[Node, Node] = {}
    for node, cotangent in zip(ys, gs, strict=True):
        if cotangent is not None and node in depends:
            received.setdefault(node, []).append(peel(cotangent))
    outer_loc = builder.loc
    for node in reversed(nodes):
        # A line of backward belongs to the line of the user's program that it differentiates.
        builder.loc = node.loc or outer_loc
        if node in results:
            wanted = [x in depends for x in node.inputs]
            replaced[node], found = control_cotangents(node, results.pop(node), wanted, again)
            for x, cotangent in zip(node.inputs, found, strict=True):
                if cotangent is not None:
                    received.setdefault(x, []).append(peel(cotangent))
            continue
        if node not in received:
            continue
        total[node] = _sum(received.pop(node))
        if node.op is item:
            # All results of a loop or of branches are looked at together.
            results.setdefault(node.inputs[0], {})[node.params["index"]] = total[node].node()
            continue
        for i, x in enumerate(node.inputs):
            if x in depends:
                local = local_cotangent(node.op, i, total[node], node, node.inputs, node.params)
                if local is not None:
                    received.setdefault(x, []).append(local)
    builder.loc = outer_loc
    return [total[x].node() if x in total else None for x in xs], replaced


def _sum(contributions: list[Masked]) -> Masked:
    if isinstance(contributions[0].value.type, StackType):
        return Masked(reduce(add_cotangents, (x.value for x in contributions)))
    return add(contributions)


def control_cotangents(
    node: Node, given: Mapping[int, Node], wanted: Sequence[bool], again: PricesOfReading
) -> tuple[Node, list[Node | None]]:
    """Reverse mode through a loop or branches: the node that saves what backward reads, to stand in
    place of `node`, and the cotangents of the inputs flagged in `wanted`.

    `given` has the cotangents of results by their index, `again` is the price of reading values of
    forward in backward.
    """
    # Not above: these differentiate the graphs inside, and so need this module.
    from tracegrad.ir.branch_gradient import branch_cotangents
    from tracegrad.ir.loop_gradient import loop_cotangents
    from tracegrad.ir.recomputation import checkpoint_cotangents

    if node.op is checkpoint:
        return node, checkpoint_cotangents(node, given, wanted)
    if node.op is while_loop:
        return loop_cotangents(node, given, wanted, again)
    return branch_cotangents(node, given, wanted, again)


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


def joint_graph(
    graph: Graph,
    wrt: Sequence[bool],
    given: Sequence[bool],
    *,
    again: Sequence[float | None] | None = None,
    memory_budget: int | None = None,
) -> tuple[Graph, tuple[bool, ...]]:
    """Forward and backward in one graph, and whether each input flagged in `wrt` has a gradient.

    Inputs: those of `graph`, then a cotangent for each output flagged in `given`. Outputs: those of
    `graph`, then the cotangents of the inputs in `wrt` that have one. GraphError if a flag stands
    at a value that has no cotangent. `again` matters to what loops and branches save, see
    `tracegrad.ir.reading`: it has the price of each input, None for one that has to be saved.
    Loops that would save more than `memory_budget` bytes run in blocks, each block once more in
    backward.
    """
    if memory_budget is not None:
        from tracegrad.ir.checkpointing import within_budget

        graph = within_budget(prepare(graph), memory_budget)
    return _differentiated(graph, wrt, given, primal=True, again=again)


def gradient_graph(graph: Graph, wrt: Sequence[bool], given: Sequence[bool]) -> Graph:
    """The vector-Jacobian product of `graph` as a graph of its own.

    Inputs: those of `graph`, then a cotangent for each output flagged in `given`. Outputs: the
    cotangent of each input flagged in `wrt`, zeros for one that no such output depends on.
    """
    reduced, present = _differentiated(graph, wrt, given, primal=False)
    with Builder(f"{graph.name}_gradient") as builder:
        inputs = [builder.input(x.type, x.params["name"], x.loc) for x in reduced.inputs]
        values = iter(inline(builder, reduced, inputs))
        targets = [x for x, flag in zip(inputs, wrt, strict=False) if flag]
        outputs = [
            next(values) if there else zero_cotangent(x)
            for x, there in zip(targets, present, strict=True)
        ]
        return builder.finish(outputs, "gradient")


def cotangent_graph(
    graph: Graph, wrt: Sequence[bool], given: Sequence[bool]
) -> tuple[Graph, tuple[bool, ...]]:
    """The joint graph without the outputs of `graph` among its own."""
    return _differentiated(graph, wrt, given, primal=False)


def _differentiated(
    graph: Graph,
    wrt: Sequence[bool],
    given: Sequence[bool],
    *,
    primal: bool,
    again: Sequence[float | None] | None = None,
) -> tuple[Graph, tuple[bool, ...]]:
    if len(wrt) != len(graph.inputs) or len(given) != len(graph.outputs):
        raise GraphError(f"{graph.name}: one flag for each input and each output is needed")
    graph = prepare(graph)
    with Builder(graph.name) as builder:
        xs = [builder.input(x.type, x.params["name"], x.loc) for x in graph.inputs]
        ys = inline(builder, graph, xs)
        gs: list[Node | None] = [
            builder.input(_cotangent_type(graph, y), f"g{i}") if flag else None
            for i, (y, flag) in enumerate(zip(ys, given, strict=True))
        ]
        targets = [x for x, flag in zip(xs, wrt, strict=True) if flag]
        for x in targets:
            _cotangent_type(graph, x)
        prices = None if again is None else prices_of_reading(builder.nodes, xs, again)
        found, replaced = _walk(ys, gs, targets, prices)
        cotangents = [x for x in found if x is not None]
        joint = builder.finish((*ys, *cotangents) if primal else cotangents, "joint")
        return _substituted(joint, replaced), tuple(x is not None for x in found)


def _cotangent_type(graph: Graph, x: Node) -> Type:
    type = cotangent_type(x.type)
    if type is None:
        raise GraphError(f"{graph.name}: {x.type} has no gradient: it is not floating")
    return type


def _substituted(graph: Graph, replaced: Mapping[Node, Node]) -> Graph:
    """`graph` with other loops and branches in the places of those that they were made from, whose
    results they have too, at the same indices.
    """
    if all(old is new for old, new in replaced.items()):
        return graph
    with Builder(graph.name) as builder:
        builder.inputs.extend(graph.inputs)
        made: dict[Node, Node] = {x: x for x in graph.inputs}
        for node in graph.nodes:
            better = replaced.get(node, node)
            inputs = [made[x] for x in node.inputs]
            made[node] = builder.append(better.op, inputs, better.params, node.loc)
        return builder.finish([made[x] for x in graph.outputs], graph.origin)


def zeros(builder: Builder, type: TensorType) -> Node:
    """Zeros of a type."""
    zero = builder.constant(0, type.dtype)
    return OPS["broadcast_to"](zero, shape=type.shape) if type.shape else zero


def expansion(op: Op, types: Sequence[TensorType], params: Mapping[str, Any]) -> Graph:
    """What a composite op stands for, as a graph. GraphError for any other op."""
    if op.expand is None:
        raise GraphError(f"{op.name} is not a composite op")
    with Builder(op.name) as builder:
        inputs = [builder.input(type) for type in types]
        return builder.finish([op.expand(*inputs, **params)])


def expansion_cotangent(graph: Graph, i: int, g: Node | Masked, xs: Sequence[Node]) -> Node | None:
    """The cotangent of input `i` of a composite op whose expansion is `graph`, called on `xs`."""
    masked = g if isinstance(g, Masked) else Masked(g)
    conditions = [condition for condition, _ in masked.mask]
    with Builder(graph.name) as builder:
        # Inputs of its own: two of `xs` may be one value, and each has its own cotangent.
        inputs = [builder.input(x.type) for x in xs]
        value = builder.input(masked.value.type)
        mask = [builder.input(x.type) for x in conditions]
        truths = [truth for _, truth in masked.mask]
        own = Masked(value, tuple(zip(mask, truths, strict=True)))
        (cotangent,) = pullback(inline(builder, graph, inputs), [own.node()], [inputs[i]])
        if cotangent is None:
            return None
        backward = builder.finish([cotangent])
    return inline(Builder.current(), backward, [*xs, masked.value, *conditions])[0]
