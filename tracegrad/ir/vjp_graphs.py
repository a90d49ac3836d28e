"""The backward of one op call as a small graph, for the tape."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracegrad.ir.differentiate import local_cotangent
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.masking import Masked, conjunction
from tracegrad.ir.op import Op
from tracegrad.ir.params import frozen_params
from tracegrad.ir.types import TensorType, bool_


@dataclass(frozen=True, slots=True)
class VjpGraph:
    """The backward of one op call as a small graph.

    graph       Its inputs are exactly the values that it reads.
    reads       What they are, in order: "g" the output's cotangent, "mask" that cotangent's mask,
    "y" the output,
                or the position of one of the op's inputs.
    cotangents  For each input of the op: which output of `graph` is its cotangent; None where it
    was not wanted or
                has no gradient.
    masks       For each input of the op: which output of `graph` is the bool mask of its cotangent,
    of the same
                shape; None where the cotangent is not masked.
    type        The type of the op's output.
    """

    graph: Graph
    reads: tuple[str | int, ...]
    cotangents: tuple[int | None, ...]
    masks: tuple[int | None, ...]
    type: TensorType


_VJP_GRAPHS: OrderedDict[Hashable, VjpGraph] = OrderedDict()
_VJP_GRAPHS_KEPT = 4096
_vjp_graphs_lock = threading.Lock()


def vjp_graph(
    op: Op,
    types: Sequence[TensorType],
    params: Mapping[str, Any],
    needs: Sequence[bool],
    *,
    masked: bool = False,
    carry: Sequence[bool] | None = None,
) -> VjpGraph:
    """The backward of the call `op(*inputs, **params)` for inputs of `types`; cached.

    `needs` flags the inputs whose cotangents are wanted.

    Masks, see `tracegrad.ir.masking`: a cotangent may come as a pair (value, mask) that stands for
    `where(mask, value, 0)`. The values outside of the mask are arbitrary, NaN included.
    `masked=True`: the output's cotangent is such a pair, and the graph has an input "mask", bool,
    of the output's shape. `carry` flags the inputs whose cotangents may be returned as such pairs
    (`masks`); all others are returned with the mask applied. Let it be true for an input that is
    itself the result of an elementwise op and only then: elsewhere nothing is won. A value that
    gets several cotangents adds pairs with the identical mask as pairs, and applies the mask of all
    others before it adds them. Whatever leaves the engine (`.grad`, hooks, results) has its mask
    applied.
    """
    types = tuple(types)
    needs = tuple(needs)
    carry = (False,) * len(types) if carry is None else tuple(carry)
    key = (op, types, frozen_params(params), needs, masked, carry)
    with _vjp_graphs_lock:
        found = _VJP_GRAPHS.get(key)
        if found is not None:
            _VJP_GRAPHS.move_to_end(key)
            return found
    made = _make_vjp_graph(op, types, params, needs, masked, carry)
    with _vjp_graphs_lock:
        _VJP_GRAPHS[key] = made
        if len(_VJP_GRAPHS) > _VJP_GRAPHS_KEPT:
            _VJP_GRAPHS.popitem(last=False)
    return made


def _make_vjp_graph(
    op: Op,
    types: tuple[TensorType, ...],
    params: Mapping[str, Any],
    needs: tuple[bool, ...],
    masked: bool,
    carry: tuple[bool, ...],
) -> VjpGraph:
    output = op.infer(*types, **params)
    with Builder(f"{op.name}_vjp") as builder:
        g = builder.input(output, "g")
        mask = builder.input(TensorType(bool_, output.shape), "mask") if masked else None
        y = builder.input(output, "y")
        xs = [builder.input(type, f"x{i}") for i, type in enumerate(types)]
        incoming = Masked(g) if mask is None else Masked(g, ((mask, True),))
        outputs: list[Node] = []
        cotangents: list[int | None] = []
        masks: list[int | None] = []
        for i, wanted in enumerate(needs):
            local = local_cotangent(op, i, incoming, y, xs, params) if wanted else None
            condition = None
            if local is not None and carry[i]:
                condition = conjunction(local.mask, local.value.shape)
            cotangents.append(None if local is None else len(outputs))
            if local is not None:
                outputs.append(local.value if carry[i] else local.node())
            masks.append(None if condition is None else len(outputs))
            if condition is not None:
                outputs.append(condition)
        graph = builder.finish(outputs, f"vjp of {op.name}")
    return _drop_unread_inputs(graph, tuple(cotangents), tuple(masks), output)


def _drop_unread_inputs(
    graph: Graph,
    cotangents: tuple[int | None, ...],
    masks: tuple[int | None, ...],
    type: TensorType,
) -> VjpGraph:
    read = {x for node in graph.nodes for x in node.inputs} | set(graph.outputs)
    inputs = tuple(x for x in graph.inputs if x in read)
    names: list[str] = [x.params["name"] for x in inputs]
    reads = tuple(int(name[1:]) if name.startswith("x") else name for name in names)
    only = Graph(graph.name, inputs, graph.nodes, graph.outputs, graph.origin)
    return VjpGraph(only, reads, cotangents, masks, type)
