"""From a graph for one row to the graph for a batch of rows (`vmap`).

The walk goes over the nodes once. What does not differ from row to row is computed once, as it
was; what does gets a leading axis. Each op has a rule for that (`batching_rules`); a composite op
without one is expanded, and any other op is applied to one row after the other by a loop. Loops and
branches are in `batching_control`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracegrad.errors import GraphError
from tracegrad.ir.batched import Spread, Value, batch_type, spread_out
from tracegrad.ir.batching_control import batch_control, row_by_row
from tracegrad.ir.batching_rules import FAMILIES, RULES, Call
from tracegrad.ir.differentiate import expansion
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.ops.control import is_control
from tracegrad.ir.types import TensorType


def batch(graph: Graph, batched: Sequence[bool], size: int) -> tuple[Graph, tuple[bool, ...]]:
    """`graph` for `size` rows, and which of its outputs have the axis of rows.

    `batched` flags the inputs that differ from row to row: they get a new leading axis of `size`.
    An output that depends on none of them has no such axis.
    """
    with Builder(graph.name) as builder:
        arguments = []
        for x, flag in zip(graph.inputs, batched, strict=True):
            spread: Spread = bool(flag)
            type = batch_type(x.type, spread, size)
            assert isinstance(type, TensorType)
            node = builder.input(type, x.params["name"], x.loc)
            arguments.append(Value(x.type, node, spread))
        found = walk(graph, arguments, size)
        outputs = [value.only for value in found]
        whole = builder.finish(outputs, f"{size} rows")
    return whole, tuple(value.batched for value in found)


def walk(graph: Graph, arguments: Sequence[Value], size: int) -> list[Value]:
    """Append `graph` for a batch to the current builder; its outputs."""
    builder = Builder.current()
    outer = builder.loc
    values = dict(zip(graph.inputs, arguments, strict=True))
    for node in graph.nodes:
        builder.loc = node.loc or outer
        values[node] = _apply(builder, node, [values[x] for x in node.inputs], size)
    builder.loc = outer
    return [values[x] for x in graph.outputs]


def _apply(builder: Builder, node: Node, operands: Sequence[Value], size: int) -> Value:
    if node.op.name == "item" and operands[0].items is not None:
        index: int = node.params["index"]
        return operands[0].items[index]
    if node.op.name == "depth" and isinstance(operands[0].spread, tuple):
        return Value(node.type, builder.adopt(node, [operands[0].only]))
    if not any(x.batched for x in operands):
        return Value(node.type, builder.adopt(node, [x.only for x in operands]))
    if is_control(node):
        return Value(node.type, None, items=batch_control(node, operands, size, walk))
    if not isinstance(node.type, TensorType):
        raise GraphError(f"{node.op.name} makes a {node.type}, which cannot be batched")
    return Value(node.type, _batch(node, operands, size), True)


def _batch(node: Node, operands: Sequence[Value], size: int) -> Node:
    rule = RULES.get(node.op.name) or FAMILIES.get(node.op.family)
    if rule is not None:
        call = Call(
            node.op,
            [x.only for x in operands],
            [x.batched for x in operands],
            [x.type for x in node.inputs],
            node.params,
            node.type,
            size,
        )
        found = rule(call)
        if found is not None:
            return found
    if node.op.expand is not None:
        graph = expansion(node.op, [x.type for x in node.inputs], node.params)
        (value,) = walk(graph, operands, size)
        return spread_out(value, True, size)
    (value,) = row_by_row(operands, size, lambda xs: [node.op(*xs, **node.params)])
    return value.only
