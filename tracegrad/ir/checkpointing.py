"""Loops in blocks, so that what reverse mode saves stays within a budget of memory.

A loop of T iterations that save F bytes each needs T * F bytes. In blocks of K iterations, with the
carries of C bytes saved at the beginning of each block alone, and a block run again when its turn
comes in backward, it is K * F + T / K * C; least for K = sqrt(T * C / F). See Griewank and Walther,
"Evaluating Derivatives" (2008), chapter 12. The price is to run the loop twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from functools import partial

from tracegrad.ir.control_passes import rewrite_control
from tracegrad.ir.counting import FOREVER
from tracegrad.ir.graph import Builder, Graph, Node, inline, scalar_value
from tracegrad.ir.joining import rows_from
from tracegrad.ir.loop_gradient import frame_bytes
from tracegrad.ir.loop_reduction import Results
from tracegrad.ir.loops import Loop, LoopBuilder, Made, elements, split
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import item, while_loop
from tracegrad.ir.types import int64


def within_budget(graph: Graph, budget: float) -> Graph:
    """`graph` with those loops in blocks whose gradient would save more than `budget` bytes.

    A loop whose number of trips is not known before it runs gets blocks that take half of the
    budget, and leaves the other half to the carries. Where a single iteration saves more than half,
    the loops in the body are looked at first.
    """

    def change(node: Node, used: Set[int]) -> Results | None:
        return _within(Loop.of(node), budget) if node.op is while_loop else None

    return rewrite_control(graph, change)


def _within(loop: Loop, budget: float) -> Results | None:
    """The results of the loop in blocks; None for one that has no need of it."""
    if loop.stacks or loop.saves or loop.remat or (loop.reverse and not loop.goes_on):
        return None
    frame = frame_bytes(loop)
    limit = scalar_value(loop.limit)
    trips = loop.length if limit is None or limit >= FOREVER else int(limit)
    if not frame or (trips is not None and trips * frame <= budget):
        return None
    if frame > budget / 2:
        loop = replace(loop, body=within_budget(loop.body, budget / 2))
        frame = frame_bytes(loop)
    return _in_blocks(loop, frame, trips, budget)


def _in_blocks(loop: Loop, frame: float, trips: int | None, budget: float) -> Results:
    carry = max(sum(x.type.nbytes for x in loop.carry), 1)
    if trips is None:
        return _Blocks(loop, max(int(budget / 2 / frame), 1)).results()
    size = min(max(round(math.sqrt(trips * carry / frame)), 1), trips)
    if size * frame + trips / size * carry <= budget:
        return _Blocks(loop, size).results()
    # As many carries as fit into half of the budget; the blocks are too large for the other half,
    # and are loops of blocks themselves.
    size = min(math.ceil(2 * trips * carry / budget), trips)
    inner = None
    if size < trips:
        inner = partial(_in_blocks, frame=frame, trips=size, budget=budget / 2)
    return _Blocks(loop, size, inner).results()


class _Blocks:
    """A loop as a loop over blocks of at most `size` iterations.

    `inner` makes the results of the loop within a block; the loop itself by default.
    """

    def __init__(
        self, loop: Loop, size: int, inner: Callable[[Loop], Results] | None = None
    ) -> None:
        self.loop = loop
        self.size = size
        self.inner = inner or _plainly
        length = loop.length or 0
        self.blocks = -(-length // size)

    def results(self) -> Results:
        """All results of the loop by their index."""
        loop, size = self.loop, self.size
        builder = Builder.current()
        # Rounded up; written so that the largest limit does not wrap around.
        limit = OPS["floor_divide"](loop.limit - 1, size) + 1
        xs = [self._split(x) for x in loop.xs]
        zero = builder.constant(0, int64)
        with LoopBuilder("blocks") as outer:
            carry = [outer.carry(x, "carry") for x in loop.carry]
            done = None if loop.goes_on else outer.carry(zero, "done")
            consts = [outer.const(x, "const") for x in loop.consts]
            slices = [outer.slice(x, "block") for x in xs]
            first = outer.position * size
            left = outer.const(loop.limit, "limit") - first
            block = self._block(OPS["minimum"](left, size), first, carry, consts, slices)
            made = self.inner(block)
            n = len(carry)
            after = [made[1 + i] for i in range(n)]
            rows = [made[block.first_row + i] for i in range(loop.stacked)]
            if done is not None:
                after.append(done + made[0])
            going = outer.body.constant(True) if done is None else made[1 + n]
            whole = outer.finish(
                limit,
                loop.go,
                Made(going, tuple(after), tuple(rows)),
                length=self.blocks if loop.length is not None else None,
                reverse=loop.reverse,
                remat=True,
                origin="blocks",
            )
        node = whole.append()
        count = OPS["maximum"](loop.limit, 0) if loop.goes_on else item(node, index=1 + n)
        results = {0: count}
        results.update({1 + i: item(node, index=1 + i) for i in range(n)})
        for i in range(loop.stacked):
            results[loop.first_row + i] = self._joined(item(node, index=whole.first_row + i))
        return results

    def _block(
        self,
        limit: Node,
        first: Node,
        carry: Sequence[Node],
        consts: Sequence[Node],
        slices: Sequence[Node],
    ) -> Loop:
        """The loop over one block. Whether it goes on is one carry more where that is open."""
        loop = self.loop
        always = Builder.current().constant(True)
        with LoopBuilder(loop.body.name) as inside:
            position = inside.position + inside.const(first, "first")
            values = [inside.carry(x, "carry") for x in carry]
            if not loop.goes_on:
                inside.carry(always, "going")
            fixed = [inside.const(x, "const") for x in consts]
            parts = [inside.slice(x, "x") for x in slices]
            made = inline(inside.body, loop.body, [position, *values, *fixed, *parts])
            going, after, rows = split(made, (1, len(carry)))
            flags = () if loop.goes_on else going
            return inside.finish(
                limit,
                always,
                Made(going[0], (*after, *flags), rows),
                length=self.size if loop.length is not None else None,
                reverse=loop.reverse,
                origin=loop.body.origin,
            )

    def _split(self, x: Node) -> Node:
        """A sliced operand in blocks, the last one filled up with zeros."""
        missing = self.blocks * self.size - x.shape[0]
        if missing:
            none = (0,) * x.ndim
            high = (missing, *none[1:])
            x = OPS["pad"](x, low=none, high=high, interior=none, value=0)
        return OPS["reshape"](x, shape=(self.blocks, self.size, *x.shape[1:]))

    def _joined(self, rows: Node) -> Node:
        """Stacked rows out of blocks."""
        shape = (self.blocks * self.size, *rows.shape[2:])
        return rows_from(OPS["reshape"](rows, shape=shape), 0, self.loop.length or 0)


def _plainly(loop: Loop) -> Results:
    node = loop.append()
    return {i: item(node, index=i) for i in range(len(elements(node)))}
