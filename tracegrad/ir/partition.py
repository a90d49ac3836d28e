"""The joint graph of forward and backward cut in two: what forward saves and what backward
recomputes.

The cut is a minimum cut of a flow network over the values that do not depend on a cotangent. Each
is two vertices, and may be cut in one of two ways, at a price in bytes moved:

    between its two vertices      it is saved by forward
    from the source to it         it is computed once more in backward, from its own operands

The values that the backward part reads hang on the sink. See Jain et al., "Checkmate" (2020), for
the problem, and the partitioner of functorch for its solution by flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tracegrad.ir.differentiate import joint_graph
from tracegrad.ir.graph import Builder, Graph, Node, reachable
from tracegrad.ir.passes import optimize
from tracegrad.ir.prices import WHOLE_PROGRAM, Prices, scarce_prices
from tracegrad.ir.types import TupleType

# Capacities are int32: the sum of all finite ones stays below this, and infinity is above it.
_FINITE = 2**29
_INFINITE = 2**30

# Where saving costs so many times what it costs, nothing is saved that can be computed.
_SCARCEST = 4.0**8


@dataclass(frozen=True, slots=True)
class Saved:
    """A value that backward gets from forward: forward's input or output at `index`."""

    kind: Literal["input", "output"]
    index: int


@dataclass(frozen=True, eq=False)
class Partition:
    """A forward and a backward graph.

    forward   Outputs: those of the original graph, then the values that are saved besides.
    saved     Where to find what backward reads. Nothing stands there twice.
    backward  Inputs: the saved values in the order of `saved`, then a cotangent for each output
    that has one given.
              Outputs: the cotangents of the inputs that were asked for and have one.
    present   For each input asked for (`wrt`), whether it has a gradient.
    """

    forward: Graph
    saved: tuple[Saved, ...]
    backward: Graph
    present: tuple[bool, ...]

    @property
    def saved_bytes(self) -> int:
        """Bytes of everything that backward reads from forward."""
        return sum(x.type.nbytes for x in self.backward.inputs[: len(self.saved)])


def partition(
    graph: Graph,
    wrt: Sequence[bool],
    given: Sequence[bool],
    *,
    fastmath: bool = False,
    memory_budget: int | None = None,
) -> Partition:
    """Differentiate `graph`, optimise the joint graph, and cut it into forward and backward.

    `wrt` flags the inputs whose cotangents are wanted, `given` the outputs whose cotangents
    backward gets. GraphError if a flag stands at a value that is not floating. For `memory_budget`
    see `joint_graph` and `cut`.
    """
    joint, present = joint_graph(graph, wrt, given, memory_budget=memory_budget)
    joint = optimize(joint, fastmath)
    n_inputs, n_outputs = len(graph.inputs), len(graph.outputs)
    return cut(joint, n_inputs, n_outputs, present, memory_budget=memory_budget)


def cut(
    joint: Graph,
    n_inputs: int,
    n_outputs: int,
    present: tuple[bool, ...],
    prices: Prices = WHOLE_PROGRAM,
    memory_budget: int | None = None,
) -> Partition:
    """Cut a joint graph whose first inputs and outputs are those of forward.

    What is saved besides these takes at most `memory_budget` bytes, if that can be had by computing
    more in backward: then also what else is never done twice.
    """
    inputs = joint.inputs[:n_inputs]
    outputs = joint.outputs[:n_outputs]
    backward_nodes = _dependent(joint, joint.inputs[n_inputs:])
    forward_nodes = [x for x in joint.nodes if x not in backward_nodes]
    used = {x for node in joint.nodes if node in backward_nodes for x in node.inputs}
    used.update(joint.outputs[n_outputs:])
    read = [x for x in (*inputs, *forward_nodes) if x in used]
    kept = set(outputs)
    chosen = _minimum_cut(inputs, forward_nodes, kept, read, prices)
    scarcity = 1.0
    while memory_budget is not None and _bytes_beside(chosen, kept) > memory_budget:
        if scarcity > _SCARCEST:
            break
        chosen = _minimum_cut(inputs, forward_nodes, kept, read, scarce_prices(scarcity))
        scarcity *= 4

    position_of_input = {x: i for i, x in enumerate(inputs)}
    position_of_output = {x: i for i, x in reversed(list(enumerate(outputs)))}
    extras = [x for x in chosen if x not in position_of_input and x not in position_of_output]
    position_of_output.update((x, n_outputs + i) for i, x in enumerate(extras))
    saved = tuple(
        Saved("input", position_of_input[x])
        if x in position_of_input
        else Saved("output", position_of_output[x])
        for x in chosen
    )
    forward = _copy(joint.name, inputs, forward_nodes, (*outputs, *extras), "forward")
    backward = _copy(
        f"{joint.name}_backward",
        (*chosen, *joint.inputs[n_inputs:]),
        _late(joint.nodes, backward_nodes, joint.outputs[n_outputs:], set(chosen)),
        joint.outputs[n_outputs:],
        "backward",
    )
    return Partition(forward, saved, backward, present)


def _bytes_beside(saved: Sequence[Node], outputs: set[Node]) -> int:
    """The bytes of what is saved that is neither an input nor an output of forward."""
    return sum(x.type.nbytes for x in saved if x.op.name != "input" and x not in outputs)


def _dependent(graph: Graph, roots: Iterable[Node]) -> set[Node]:
    """Everything in `graph` that depends on `roots`, themselves included."""
    found = set(roots)
    for node in graph.nodes:
        if any(x in found for x in node.inputs):
            found.add(node)
    return found


def _minimum_cut(
    inputs: Sequence[Node],
    nodes: Sequence[Node],
    outputs: set[Node],
    read: Sequence[Node],
    prices: Prices,
) -> list[Node]:
    """The values to save, in graph order, so that `read` can be had in backward at the lowest
    price.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    needed = reachable(read)
    values = [x for x in (*inputs, *nodes) if x in needed]
    if not values:
        return []
    number = {x: i for i, x in enumerate(values)}
    source, sink = 2 * len(values), 2 * len(values) + 1
    edges: list[tuple[int, int, float]] = []
    for x in values:
        entry, leave = 2 * number[x], 2 * number[x] + 1
        # The tuple that an op makes is no value; its items are.
        whole = isinstance(x.type, TupleType)
        edges.append((entry, leave, np.inf if whole else prices.saving(x, outputs)))
        price = prices.recomputing(x)
        if price:
            edges.append((source, entry, price))
        edges.extend((2 * number[y] + 1, entry, np.inf) for y in dict.fromkeys(x.inputs))
    edges.extend((2 * number[x] + 1, sink, np.inf) for x in read)
    starts, ends, costs = map(np.array, zip(*edges, strict=True))
    finite = np.isfinite(costs)
    scale = min(1.0, _FINITE / (costs[finite].sum() + len(edges)))
    capacities = np.full(len(edges), _INFINITE, np.int32)
    capacities[finite] = np.ceil(costs[finite] * scale)
    size = 2 * len(values) + 2
    network = csr_array((capacities, (starts, ends)), shape=(size, size))
    residual = network - maximum_flow(network, source, sink).flow
    # Of several minimum cuts the one nearest to the sink: it recomputes least.
    open_edges = csr_array(residual.T > 0).astype(np.int32)
    to_sink = set(breadth_first_order(open_edges, sink, return_predecessors=False).tolist())
    return [x for x in values if 2 * number[x] + 1 in to_sink and 2 * number[x] not in to_sink]


def _late(
    nodes: Sequence[Node], backward: set[Node], outputs: Sequence[Node], saved: set[Node]
) -> list[Node]:
    """The nodes of backward, what it recomputes standing right before its first use."""
    listed: list[Node] = []
    done = set(saved)

    def emit(root: Node) -> None:
        work = [(root, False)]
        while work:
            node, ready = work.pop()
            if node in done or node.op.name == "input":
                continue
            if ready:
                done.add(node)
                listed.append(node)
            else:
                work.append((node, True))
                work.extend((x, False) for x in reversed(node.inputs))

    for node in nodes:
        if node in backward:
            emit(node)
    for node in outputs:
        emit(node)
    return listed


def _copy(
    name: str,
    inputs: Sequence[Node],
    nodes: Sequence[Node],
    outputs: Sequence[Node],
    origin: str,
) -> Graph:
    """A graph of its own from a part of another one, where `inputs` may be any nodes of it."""
    with Builder(name) as builder:
        new: dict[Node, Node] = {}
        for i, x in enumerate(inputs):
            new[x] = builder.input(x.type, x.params.get("name", f"saved{i}"), x.loc)
        for node in nodes:
            new[node] = builder.adopt(node, [new[x] for x in node.inputs])
        return builder.finish([new[x] for x in outputs], origin)
