"""A loop for a batch of rows: see `batching_control` for what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracegrad.ir.batched import (
    ROWS,
    Spread,
    Value,
    Walk,
    batched_graph,
    batched_inputs,
    in_rows,
    is_batched,
    masks_come_through,
    spread_out,
    union,
)
from tracegrad.ir.families import fill, permuted
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.loops import Loop, split
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import INDEX, items, while_loop
from tracegrad.ir.types import StackType, TensorType, TupleType, bool_, int64


@dataclass(frozen=True, slots=True)
class _Body:
    """A loop's body for the batch.

    extra   how many values are carried besides those that the body for one row carries.
    shared  how many constants come before its own.
    made    how what it makes differs from row to row: carried values, rows, what is saved.
    """

    graph: Graph
    extra: int
    shared: int
    made: Sequence[Spread]


class BatchedLoop:
    """One `while_loop` and its operands for a batch.

    apart     rows may stop at different times.
    spreads   how the carried values differ from row to row.
    possible  whether one loop can do it: what rows in it carry and read has to be their own.
    """

    def __init__(self, node: Node, operands: Sequence[Value], size: int, walk: Walk) -> None:
        self.loop = loop = Loop.of(node)
        self.types = node.type.elements if isinstance(node.type, TupleType) else ()
        self.size = size
        self.walk = walk
        sizes = (2, len(loop.carry), len(loop.consts), len(loop.xs))
        (self.limit, self.go), self.carry, self.consts, self.xs, self.stacks = split(
            operands, sizes
        )
        self.apart = self.limit.batched or self.go.batched
        self.spreads: list[Spread] = [x.spread for x in self.carry]
        self.possible = all(x.spread is not ROWS for x in self.stacks)
        if self.possible:
            self._settle()
            # `where` chooses between tensors.
            alone = any(isinstance(x.type, StackType) for x in self.carry)
            self.possible = not (self.apart and alone)

    def append(self) -> tuple[Value, ...]:
        """The results, appended to the current builder."""
        if self.loop.goes_on and self.limit.batched:
            return self._up_to_limits()
        return self._apart() if self.apart else self._together()

    def _settle(self) -> None:
        """What the body makes of what it carries decides what has to be carried."""
        carried = self.loop.inner.carry
        while True:
            if self.apart:
                # Rows stop at different values of what changes, even where it changes alike.
                self.spreads = [
                    spread if new is old else union(spread, True)
                    for spread, new, old in zip(
                        self.spreads, self.loop.made.carry, carried, strict=True
                    )
                ]
            nothing: list[Spread] = [False] * len(self.loop.body.outputs)
            _, made = batched_graph(self.loop.body, self._given(), nothing, self.size, self.walk)
            apart = self.apart or is_batched(made[0])
            spreads = [union(a, b) for a, b in zip(self.spreads, made[1:], strict=False)]
            if apart == self.apart and spreads == self.spreads:
                return
            self.apart, self.spreads = apart, spreads

    def _given(self) -> list[Spread]:
        """How the inputs of the body differ from row to row."""
        found = [False, *self.spreads, *(x.spread for x in (*self.consts, *self.xs))]
        for stack, size in zip(self.stacks, self.loop.frame_sizes, strict=True):
            found += stack.spread if isinstance(stack.spread, tuple) else (False,) * size
        return found

    def _first(self) -> list[Node]:
        return [spread_out(x, s, self.size) for x, s in zip(self.carry, self.spreads, strict=True)]

    # ------------------------------------------------------------------------- three cases

    def _together(self) -> tuple[Value, ...]:
        """All rows make the same number of iterations."""
        n = len(self.carry)
        nothing: list[Spread] = [False] * (len(self.loop.body.outputs) - 1 - n)
        wanted: list[Spread] = [False, *self.spreads, *nothing]
        graph, made = batched_graph(self.loop.body, self._given(), wanted, self.size, self.walk)
        body = _Body(graph, 0, 0, made[1:])
        found = self._loop(self.limit.only, self.go.only, self._first(), [], body)
        return self._results(found, body, Value(INDEX, found[0]))

    def _up_to_limits(self) -> tuple[Value, ...]:
        """Nothing but a limit of its own stops each row."""
        limits = self.limit.only
        body = self._body(goes_on=True)
        found = self._loop(self._largest(limits), self.go.only, self._first(), [limits], body)
        return self._results(found, body, Value(INDEX, OPS["maximum"](limits, 0), True))

    def _apart(self) -> tuple[Value, ...]:
        """Rows stop at different times."""
        going = spread_out(self.go, True, self.size)
        limit, go = self.limit.only, going
        shared = []
        if self.limit.batched:
            shared = [limit]
            go = OPS["bitwise_and"](going, OPS["gt"](limit, 0))
            limit = self._largest(limit)
        counts = fill(0, TensorType(int64, (self.size,)))
        body = self._body(goes_on=False)
        carry = [going, counts, *self._first()]
        found = self._loop(limit, _over_rows("any", go), carry, shared, body)
        return self._results(found, body, Value(INDEX, found[2], True))

    def _largest(self, limits: Node) -> Node:
        # The largest of nothing is an error.
        if not self.size:
            return Builder.current().constant(0, int64)
        return _over_rows("amax", limits)

    # ---------------------------------------------------------------------------- the parts

    def _body(self, *, goes_on: bool) -> _Body:
        """The body for rows that stop at different times.

        Unless every row goes on up to its limit, it carries besides whether each row goes on, and
        how many iterations it has done.
        """
        size = self.size
        rows = TensorType(bool_, (size,))
        inputs = self.loop.body.inputs
        given = self._given()
        end = 1 + len(self.carry)
        with Builder(self.loop.body.name) as builder:
            position = builder.input(INDEX, "position")
            own = []
            if not goes_on:
                own = [builder.input(rows, "going")]
                own.append(builder.input(TensorType(int64, (size,)), "count"))
            carry = batched_inputs(builder, inputs[1:end], given[1:end], size)
            limits = None
            if self.limit.batched:
                limits = builder.input(TensorType(int64, (size,)), "limits")
            active = _active(position, limits, own[0] if own else None)
            arguments = [*carry, *batched_inputs(builder, inputs[end:], given[end:], size)]
            if size and not masks_come_through(self.loop.body):
                arguments = _lent(arguments, active)
            made = self.walk(self.loop.body, [Value(INDEX, position), *arguments], size)
            kept = [
                in_rows(active, spread_out(new, s, size), old.only) if s is True else old.only
                for new, old, s in zip(made[1:end], carry, self.spreads, strict=True)
            ]
            stacked = made[end : end + self.loop.stacked]
            zeroed = [in_rows(active, spread_out(x, True, size), 0) for x in stacked]
            saved = made[end + len(stacked) :]
            outputs = [*kept, *zeroed, *(x.only for x in saved)]
            if goes_on:
                outputs = [builder.constant(True), *outputs]
            else:
                going = OPS["where"](active, spread_out(made[0], True, size), own[0])
                done = own[1] + OPS["cast"](active, dtype=int64)
                outputs = [self._any_left(going, position, limits), going, done, *outputs]
            graph = builder.finish(outputs)
        spreads = [*self.spreads, *(True for _ in stacked), *(x.spread for x in saved)]
        return _Body(graph, len(own), 0 if limits is None else 1, spreads)

    def _any_left(self, going: Node, position: Node, limits: Node | None) -> Node:
        """Whether a row has an iteration to do after this one."""
        if limits is not None and not self.loop.reverse:
            going = OPS["bitwise_and"](going, OPS["lt"](position + 1, limits))
        return _over_rows("any", going)

    def _loop(
        self, limit: Node, go: Node, carry: Sequence[Node], shared: Sequence[Node], body: _Body
    ) -> list[Node]:
        # The loop slices its leading axis, which has to come before that of the rows.
        xs = [_exchanged(x.only) if x.batched else x.only for x in self.xs]
        consts = [*shared, *(x.only for x in self.consts)]
        stacks = [x.only for x in self.stacks]
        params = {**self.loop.params, "body": body.graph, "carries": len(carry)}
        return items(while_loop(limit, go, *carry, *consts, *xs, *stacks, **params))

    def _results(self, found: Sequence[Node], body: _Body, count: Value) -> tuple[Value, ...]:
        """The results of the loop for one row, out of those of the loop for the batch."""
        n = len(self.carry)
        carry, rows, stacks = split(found[1 + body.extra :], (n, self.loop.stacked))
        of_carry, of_rows, rest = split(body.made, (n, self.loop.stacked))
        of_stacks = [s if is_batched(s) else False for s in split(rest, self.loop.saves)[:-1]]
        nodes = [
            *carry,
            *(_exchanged(x) if s is True else x for x, s in zip(rows, of_rows, strict=True)),
            *stacks,
        ]
        spreads = [*of_carry, *of_rows, *of_stacks]
        values = [
            Value(type, x, spread)
            for type, x, spread in zip(self.types[1:], nodes, spreads, strict=True)
        ]
        return (count, *values)


def _active(position: Node, limits: Node | None, going: Node | None) -> Node:
    """The rows for which the iteration at `position` counts."""
    if limits is None:
        assert going is not None
        return going
    within = OPS["lt"](position, limits)
    return within if going is None else OPS["bitwise_and"](going, within)


def _over_rows(name: str, x: Node) -> Node:
    return OPS[name](x, axes=(0,), keepdims=False)


def _exchanged(x: Node) -> Node:
    """`x` with its first two axes exchanged."""
    return permuted(x, (1, 0, *range(2, x.ndim)))


def _lent(values: Sequence[Value], active: Node) -> list[Value]:
    """What the body gets, where rows that are done are lent what the first active row has.

    Its gradient is none of theirs. Stacks in a frame need no lending: they are what such a row
    pushed when it was lent the same.
    """
    first = OPS["argmax"](active, axes=(0,), keepdims=False)
    found = []
    for value in values:
        if value.spread is True:
            x = value.only
            row = OPS["gather"](x, first)
            if x.dtype.is_floating_point:
                row = OPS["detach"](row)
            value = Value(value.type, in_rows(active, x, row), True)
        found.append(value)
    return found
