"""Values of many rows at once: how a value of a graph for one row stands in the graph for a batch.

A tensor that differs from row to row gets a new leading axis, the rows; one that does not stays as
it is. A stack of frames says the same of each element of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tracegrad.errors import GraphError
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.loops import LoopBuilder, Made
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import depth, item
from tracegrad.ir.types import StackType, TensorType, Type


class _Rows:
    def __repr__(self) -> str:
        return "ROWS"


ROWS: Final = _Rows()
"""Said of a stack that has one frame for each row, in which that row's own stack lies."""

Spread = bool | tuple["Spread", ...] | _Rows
"""Whether a tensor has the axis of rows; of a stack, the same for each element of its frames."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the graph for a batch.

    type    what it is for one row.
    spread  how it differs from row to row.
    items   the results of an op that has several, where they are known one by one; `node` is then
            None.
    """

    type: Type
    node: Node | None
    spread: Spread = False
    items: tuple[Value, ...] | None = None

    @property
    def batched(self) -> bool:
        """Whether it differs from row to row."""
        if self.items is not None:
            return any(x.batched for x in self.items)
        return is_batched(self.spread)

    @property
    def only(self) -> Node:
        """The node of a value that is no tuple."""
        if self.node is None:
            raise GraphError("a tuple of results was used as one value")
        return self.node


Walk = Callable[[Graph, Sequence[Value], int], list[Value]]
"""`walk(graph, arguments, size)` appends `graph` for a batch to the current builder."""


def is_batched(spread: Spread) -> bool:
    """Whether anything of a value differs from row to row."""
    return any(map(is_batched, spread)) if isinstance(spread, tuple) else spread is not False


def batch_type(type: Type, spread: Spread, size: int) -> Type:
    """The type of a value in the graph for a batch of `size` rows."""
    if spread is False:
        return type
    if isinstance(spread, _Rows):
        return StackType((type,))
    if isinstance(spread, tuple):
        assert isinstance(type, StackType)
        elements = zip(type.elements, spread, strict=True)
        return StackType(tuple(batch_type(x, s, size) for x, s in elements))
    return TensorType(type.dtype, (size, *type.shape))


def union(a: Spread, b: Spread) -> Spread:
    """The spread that holds values of both."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return tuple(union(x, y) for x, y in zip(a, b, strict=True))
    return b if a is False else a


def spread_out(value: Value, spread: Spread, size: int) -> Node:
    """The node of a value, made to differ from row to row as `spread` says: more than it does.

    GraphError for a stack that is to lie in rows of its own.
    """
    if value.spread == spread:
        return value.only
    node = value.only
    if spread is True:
        return OPS["broadcast_to"](node, shape=(size, *node.shape))
    if node.op.name == "unset":
        return OPS["unset"](type=batch_type(value.type, spread, size))
    if not isinstance(spread, tuple) or value.spread is ROWS:
        raise GraphError(f"a {value.type} cannot be put into rows of its own")
    each = spread
    return _each_frame(
        value,
        lambda _, frame: [spread_out(x, s, size) for x, s in zip(frame, each, strict=True)],
    )


def one_row(value: Value, row: Node) -> Node:
    """What a value is for the row of a number, int64[].

    GraphError for a stack that lies in rows of its own: it is read as the frame of a loop.
    """
    if value.spread is True:
        return OPS["gather"](value.only, row)
    if value.spread is ROWS:
        raise GraphError(f"a {value.type} in rows of its own cannot be indexed")
    if not isinstance(value.spread, tuple):
        return value.only

    def of_frame(inside: LoopBuilder, frame: Sequence[Value]) -> list[Node]:
        number = inside.const(row, "row")
        return [one_row(x, number) for x in frame]

    return _each_frame(value, of_frame)


def _each_frame(
    stack: Value, function: Callable[[LoopBuilder, Sequence[Value]], Sequence[Node]]
) -> Node:
    """The stack of what `function` makes of the frames of another."""
    assert isinstance(stack.type, StackType)
    types = stack.type.elements
    spreads = stack.spread if isinstance(stack.spread, tuple) else (False,) * len(types)
    limit, go = depth(stack.only), Builder.current().constant(True)
    with LoopBuilder("frames") as inside:
        nodes = inside.frame(stack.only, "frame")
        frame = [Value(t, x, s) for t, x, s in zip(types, nodes, spreads, strict=True)]
        saved = (tuple(function(inside, frame)),)
        loop = inside.finish(limit, go, Made(inside.body.constant(True), saved=saved))
    return item(loop.append(), index=loop.first_stack)


def in_rows(condition: Node, a: Node, b: Node | float) -> Node:
    """`a` in the rows where `condition` is true, else `b`."""
    if a.ndim > 1:
        condition = OPS["reshape"](condition, shape=(*condition.shape, *(1,) * (a.ndim - 1)))
    return OPS["where"](condition, a, b)


def masks_come_through(graph: Graph) -> bool:
    """Whether a mask on the cotangents of the outputs is applied after all local derivatives.

    So it is where every operation is elementwise, and no intermediate result is broadcast: the sum
    that undoes broadcasting ends the mask.
    """
    own = set(graph.nodes)
    return all(
        node.op.family in ("elementwise", "source")
        and all(
            x.shape == node.shape or x not in own or x.op.name == "constant" for x in node.inputs
        )
        for node in graph.nodes
    )


def batched_graph(
    graph: Graph, spreads: Sequence[Spread], wanted: Sequence[Spread], size: int, walk: Walk
) -> tuple[Graph, list[Spread]]:
    """`graph` for a batch whose inputs differ as `spreads` says, and how its outputs do: at least
    as `wanted` says.
    """
    with Builder(graph.name) as builder:
        arguments = batched_inputs(builder, graph.inputs, spreads, size)
        found = walk(graph, arguments, size)
        made = [union(x.spread, want) for x, want in zip(found, wanted, strict=True)]
        outputs = [spread_out(x, spread, size) for x, spread in zip(found, made, strict=True)]
        return builder.finish(outputs), made


def batched_inputs(
    builder: Builder, nodes: Sequence[Node], spreads: Sequence[Spread], size: int
) -> list[Value]:
    """Inputs of a graph for a batch, for those of the graph for one row."""
    return [
        Value(x.type, builder.input(batch_type(x.type, s, size), x.params["name"], x.loc), s)
        for x, s in zip(nodes, spreads, strict=True)
    ]
