"""A backward graph for the case that some outputs got no cotangent: their terms fall away."""

from __future__ import annotations

from collections.abc import Sequence

from tracegrad.ir.differentiate import zeros
from tracegrad.ir.graph import Builder, Graph, Node, scalar_value

# Zero if this operand is, whatever the others are: the term stands for no cotangent at all, so not
# even infinity times it counts.
_LINEAR = frozenset(
    {"neg", "cast", "reshape", "transpose", "broadcast_to", "sum", "slice", "pad", "flip", "detach"}
)
_BILINEAR = frozenset({"mul", "matmul"})


def without_cotangents(graph: Graph, saved: int, mask: Sequence[bool]) -> Graph:
    """`graph` without those of its cotangent inputs, which follow `saved` inputs, not in `mask`."""
    with Builder(graph.name) as builder:
        new: dict[Node, Node] = {}
        zero: set[Node] = set()
        for i, x in enumerate(graph.inputs):
            if i < saved or mask[i - saved]:
                new[x] = builder.input(x.type, x.params["name"], x.loc)
            else:
                zero.add(x)
        for node in graph.nodes:
            if _is_zero(node, zero):
                zero.add(node)
                continue
            alone = _other_operand(node, zero)
            if alone is not None and alone.type == node.type:
                new[node] = new[alone]
                continue
            operands = [zeros(builder, x.type) if x in zero else new[x] for x in node.inputs]
            new[node] = builder.adopt(node, operands)
        outputs = [zeros(builder, x.type) if x in zero else new[x] for x in graph.outputs]
        return builder.finish(outputs, graph.origin)


def _other_operand(node: Node, zero: set[Node]) -> Node | None:
    """What a sum comes down to when one of its two terms is zero."""
    if node.op.name == "add" and node.inputs[0] in zero:
        return node.inputs[1]
    if node.op.name in ("add", "sub") and node.inputs[1] in zero:
        return node.inputs[0]
    return None


def _is_zero(node: Node, zero: set[Node]) -> bool:
    name = node.op.name
    if name in _LINEAR or (name == "div" and node.inputs[1] not in zero):
        return node.inputs[0] in zero
    if name in _BILINEAR:
        return any(x in zero for x in node.inputs)
    if name == "where" and scalar_value(node.inputs[2]) == 0:
        return node.inputs[1] in zero
    if name in ("add", "sub"):
        return all(x in zero for x in node.inputs)
    return False
