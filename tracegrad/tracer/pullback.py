"""The backward of one call as a small graph, made once for all calls of equal types and
parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.differentiate import pullback, zeros
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.op import Array, Op
from tracegrad.ir.types import TensorType
from tracegrad.ir.vjp_graphs import vjp_graph
from tracegrad.runtime.cuda import availability
from tracegrad.tracer.device import cuda, device_among, transfer

# What an input of the graph is: the cotangent, its mask, the output, or (X + i) input i.
G = 0
MASK = 1
Y = 2
X = 3

_CODES = {"g": G, "mask": MASK, "y": Y}


class Pullback:
    """The vector-Jacobian product of one call.

    graph     reads values in the order of `reads`; `saves` are those of them that the forward call
    has.
    results   for each input of the call the position of its cotangent among the graph's outputs, or
    -1.
    masks     the same for the mask of that cotangent, see `ir.masking`.
    type      the type of the call's output.
    """

    __slots__ = (
        "_moves",
        "_positions",
        "_program",
        "graph",
        "masks",
        "reads",
        "results",
        "saves",
        "type",
    )

    def __init__(
        self,
        graph: Graph,
        reads: tuple[int, ...],
        results: tuple[int, ...],
        masks: tuple[int, ...],
        type: TensorType,
    ) -> None:
        self.graph = graph
        self.reads = reads
        self.results = results
        self.masks = masks
        self.saves = tuple(read for read in reads if read >= Y)
        self.type = type
        # What `run` does, made when it first does it: a recording runs no pullback.
        self._program: tuple[Any, ...] | None = None

    def _prepare(self) -> tuple[Any, ...]:
        slot: dict[Node, int] = {node: i for i, node in enumerate(self.graph.inputs)}
        program = []
        self._moves = False
        for node in self.graph.nodes:
            inputs = tuple(slot[x] for x in node.inputs)
            slot[node] = len(slot)
            moves = node.op.name == "transfer"
            self._moves |= moves
            evaluate = transfer if moves else node.op.evaluate
            program.append((evaluate, inputs, dict(node.params), node.dtype.numpy))
        self._positions = tuple(slot[node] for node in self.graph.outputs)
        return tuple(program)

    def run(self, values: list[Any]) -> list[Array]:
        """The graph's outputs on arrays, given in the order of `reads`."""
        if self._program is None:
            self._program = self._prepare()
        if availability.used and not self._moves and device_among(values) is cuda:
            from tracegrad.runtime.cuda.operations import run_graph

            return run_graph(self.graph, values)
        for evaluate, inputs, params, dtype in self._program:
            result = evaluate(*[values[i] for i in inputs], **params)
            if type(result) is not np.ndarray or result.dtype is not dtype:
                result = np.asanyarray(result, dtype)
            values.append(result)
        return [values[i] for i in self._positions]


def of_call(
    op: Op,
    types: Sequence[TensorType],
    params: dict[str, Any],
    needs: Sequence[bool],
    carry: Sequence[bool],
    masked: bool = False,
) -> Pullback:
    """The pullback of an op for the inputs that `needs` marks.

    `carry` marks the inputs whose cotangent may come with a mask; `masked`: the output's does.
    """
    made = vjp_graph(op, types, params, needs, masked=masked, carry=carry)
    reads = tuple(X + read if isinstance(read, int) else _CODES[read] for read in made.reads)
    results = tuple(-1 if i is None else i for i in made.cotangents)
    masks = tuple(-1 if i is None else i for i in made.masks)
    return Pullback(made.graph, reads, results, masks, made.type)


def of_function(
    forward: Callable[[list[Node]], Node], types: Sequence[TensorType], needs: Sequence[bool]
) -> Pullback:
    """The pullback of a function of nodes that only moves elements, so that it reads just `g`.

    Every input that `needs` marks gets a cotangent: zeros where the function overwrites all of it,
    as in PyTorch.
    """
    with Builder("vjp") as builder:
        xs = [builder.input(t) for t in types]
        y = forward(xs)
        g = builder.input(y.type, "g")
        found = iter(pullback(y, g, [x for x, need in zip(xs, needs, strict=True) if need]))
        cotangents = [
            next(found) or zeros(builder, type) if need else None
            for type, need in zip(types, needs, strict=True)
        ]
        outputs = [node for node in cotangents if node is not None]
        whole = builder.finish(outputs, "vjp")
    graph = Graph(whole.name, (g,), whole.nodes, whole.outputs, whole.origin)
    positions = iter(range(len(outputs)))
    results = tuple(-1 if node is None else next(positions) for node in cotangents)
    return Pullback(graph, (G,), results, (-1,) * len(results), y.type)
