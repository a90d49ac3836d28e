"""Loops and branches for a batch of rows.

A loop that makes as many iterations for every row stays one loop, with a body for the batch. Where
rows stop at different times it runs while any row goes. A row that is done keeps what it carries,
stacks zeros, and computes on what a row that still goes computes on: never on values that the
program would not have come to, where a division by zero, or an inner loop without end, may lurk.

A branch that all rows take stays a branch. Where each row takes its own, cheap branches are all
computed and the results chosen by `where`, provided that every mask of a gradient comes through
(see `masking`). Any other is taken row by row, in a loop over the rows: so each row computes only
its own branch, as it does alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracegrad.errors import GraphError
from tracegrad.ir.batched import (
    ROWS,
    Spread,
    Value,
    Walk,
    batched_graph,
    in_rows,
    masks_come_through,
    one_row,
    spread_out,
    union,
)
from tracegrad.ir.batching_loops import BatchedLoop
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.loops import LoopBuilder, Made
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import checkpoint, cond, items, while_loop
from tracegrad.ir.types import TensorType, int64

# How many operations a branch may have to be computed for rows that do not take it.
_CHEAP = 16


def batch_control(
    node: Node, operands: Sequence[Value], size: int, walk: Walk
) -> tuple[Value, ...]:
    """The results of a loop or a branch for a batch, appended to the current builder."""
    if node.op is while_loop:
        loop = BatchedLoop(node, operands, size, walk)
        if loop.possible:
            return loop.append()
        return row_by_row(operands, size, lambda xs: items(while_loop(*xs, **node.params)))
    if node.op is checkpoint:
        return _batch_checkpoint(node, operands, size, walk)
    return _batch_cond(node, operands, size, walk)


# ------------------------------------------------------------------------------ row by row


def row_by_row(
    operands: Sequence[Value], size: int, make: Callable[[list[Node]], list[Node]]
) -> tuple[Value, ...]:
    """`make`, which appends something for one row to the current builder, in a loop over the rows.

    Stacks that `make` gives are kept one for each row.
    """
    outer = Builder.current()
    go, limit = outer.constant(True), outer.constant(size, int64)
    with LoopBuilder("row") as inside:
        given = [_in_row(inside, x) for x in operands]
        made = make(given)
        rows = tuple(x for x in made if isinstance(x.type, TensorType))
        kept = tuple((x,) for x in made if not isinstance(x.type, TensorType))
        result = Made(inside.body.constant(True), rows=rows, saved=kept)
        loop = inside.finish(limit, go, result, length=size)
    found = items(loop.append())
    results, groups = iter(found[loop.first_row :]), iter(found[loop.first_stack :])
    return tuple(
        Value(x.type, next(results), True)
        if isinstance(x.type, TensorType)
        else Value(x.type, next(groups), ROWS)
        for x in made
    )


def _in_row(inside: LoopBuilder, operand: Value) -> Node:
    """The operand in the body of a loop over the rows."""
    if operand.spread is True:
        return inside.slice(operand.only, "row")
    if operand.spread is ROWS:
        return inside.frame(operand.only, "row")[0]
    shared = inside.const(operand.only, "shared")
    return one_row(Value(operand.type, shared, operand.spread), inside.position)


# ---------------------------------------------------------------------------------- branches


def _batch_cond(node: Node, operands: Sequence[Value], size: int, walk: Walk) -> tuple[Value, ...]:
    index, *values = operands
    branches: tuple[Graph, ...] = node.params["branches"]
    if not index.batched:
        found = _one_branch(index, values, branches, size, walk)
        if found is not None:
            return found
    elif all(isinstance(x.type, TensorType) for x in values) and all(
        masks_come_through(x) and len(x.nodes) <= _CHEAP for x in branches
    ):
        return _select(index, values, branches, size, walk)
    return row_by_row(operands, size, lambda xs: items(cond(*xs, branches=branches)))


def _batch_checkpoint(
    node: Node, operands: Sequence[Value], size: int, walk: Walk
) -> tuple[Value, ...]:
    """One checkpoint for all rows."""
    body: Graph = node.params["body"]
    wanted: list[Spread] = [False] * len(body.outputs)
    graph, made = batched_graph(body, [x.spread for x in operands], wanted, size, walk)
    found = items(checkpoint(*(x.only for x in operands), body=graph))
    types = [x.type for x in body.outputs]
    return tuple(Value(type, x, spread) for type, x, spread in zip(types, found, made, strict=True))


def _one_branch(
    index: Value, values: Sequence[Value], branches: Sequence[Graph], size: int, walk: Walk
) -> tuple[Value, ...] | None:
    """All rows take the same branch. None where a branch cannot give what another one gives."""
    spreads = [x.spread for x in values]
    wanted: list[Spread] = [False] * len(branches[0].outputs)
    for branch in branches:
        _, made = batched_graph(branch, spreads, wanted, size, walk)
        wanted = [union(a, b) for a, b in zip(wanted, made, strict=True)]
    try:
        graphs = [batched_graph(x, spreads, wanted, size, walk)[0] for x in branches]
    except GraphError:
        return None
    chosen = cond(index.only, *(x.only for x in values), branches=tuple(graphs))
    types = [x.type for x in branches[0].outputs]
    return tuple(
        Value(type, x, spread) for type, x, spread in zip(types, items(chosen), wanted, strict=True)
    )


def _select(
    index: Value, values: Sequence[Value], branches: Sequence[Graph], size: int, walk: Walk
) -> tuple[Value, ...]:
    """Each row's own branch, with all of them computed."""
    # What all rows share is spread out first: else a branch would compute with it once for all,
    # and the mask of the rows that do not take the branch would end there.
    spread = [Value(x.type, spread_out(x, True, size), True) for x in values]
    made = [[spread_out(x, True, size) for x in walk(graph, spread, size)] for graph in branches]
    chosen = made[-1]
    for i in reversed(range(len(branches) - 1)):
        here = OPS["le"](index.only, i)
        chosen = [in_rows(here, a, b) for a, b in zip(made[i], chosen, strict=True)]
    types = [x.type for x in branches[0].outputs]
    return tuple(Value(type, x, True) for type, x in zip(types, chosen, strict=True))
