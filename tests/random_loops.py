"""Random programs with loops and branches for hypothesis: nested, with arrays that are read and
written by element, counters, rows, slices, and loops that stop early. Smooth, so that differences
measure their derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

import tracegrad.ir.ops  # noqa: F401  (registers every op)
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.loops import LoopBuilder, Made
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import cond, item
from tracegrad.ir.types import TensorType, float64

# All arrays have this many elements, and all loops at most as many trips.
SIZE = 4


@st.composite
def looped_graphs(draw: st.DrawFn, *, depth: int = 2) -> Graph:
    """A graph of one scalar and two arrays that returns a few scalars and arrays."""
    with Builder("looped") as builder:
        scalar = builder.input(TensorType(float64, ()), "a")
        arrays = [builder.input(TensorType(float64, (SIZE,)), name) for name in ("x", "y")]
        values = _block(draw, [scalar, *arrays], [builder.constant(0)], depth)
        outputs = [draw(st.sampled_from(_of(values, ndim))) for ndim in (0, 1, 1)]
        return builder.finish([values[-1], *outputs])


def _of(values: Sequence[Node], ndim: int) -> list[Node]:
    return [x for x in values if x.ndim == ndim]


def _block(draw: st.DrawFn, values: list[Node], indices: list[Node], depth: int) -> list[Node]:
    """`values` and what some random steps make of them; `indices` are integers in [0, SIZE)."""
    values = list(values)
    kinds = ["mix", "read", "write", "add", "whole", "slice"]
    if depth:
        kinds += ["loop", "loop", "branch"]
    for _ in range(draw(st.integers(1, 4))):
        values.append(_step(draw, draw(st.sampled_from(kinds)), values, indices, depth))
    return values


def _step(draw: st.DrawFn, kind: str, values: list[Node], indices: list[Node], depth: int) -> Node:
    scalar = draw(st.sampled_from(_of(values, 0)))
    array = draw(st.sampled_from(_of(values, 1)))
    index = draw(st.sampled_from(indices))
    if kind == "mix":
        return OPS["sin"](scalar * draw(st.sampled_from(_of(values, 0))) + 0.5)
    if kind == "read":
        return OPS["gather"](array, index)
    if kind == "write":
        return OPS["scatter"](array, OPS["sin"](scalar), index)
    if kind == "add":
        return OPS["scatter_add"](array, OPS["cos"](scalar), index)
    if kind == "whole":
        return OPS["sin"](array * draw(st.sampled_from(_of(values, 1))) + scalar)
    if kind == "slice":
        start = draw(st.integers(0, SIZE - 1))
        where = {"starts": (start,), "limits": (start + 1,), "strides": (1,)}
        part = OPS["slice"](array, **where)
        return OPS["update_slice"](draw(st.sampled_from(_of(values, 1))), part * scalar, **where)
    return (_loop if kind == "loop" else _branch)(draw, values, indices, depth - 1)


def _loop(draw: st.DrawFn, values: list[Node], indices: list[Node], depth: int) -> Node:
    builder = Builder.current()
    limit = draw(st.sampled_from([*indices, *(builder.constant(n) for n in (0, 1, SIZE))]))
    carried = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    sliced = draw(st.lists(st.sampled_from(_of(values, 1)), max_size=1))
    stops = draw(st.booleans())
    counts = draw(st.booleans())
    reverse = not stops and draw(st.booleans())
    go = builder.constant(True)
    zero = builder.constant(0)
    with LoopBuilder("body") as inside:
        count = inside.carry(zero, "count") if counts else None
        carry = [inside.carry(x, "c") for x in carried]
        consts = [inside.const(x, "k") for x in dict.fromkeys(values)]
        slices = [inside.slice(x, "s") for x in sliced]
        inner = [inside.position, *(inside.const(x, "i") for x in dict.fromkeys(indices))]
        found = _block(draw, [*carry, *consts, *slices], inner, depth)
        # What is carried on is a value of the body: often the same, or another carry.
        after = [draw(st.sampled_from(_of(found, x.ndim))) for x in carry]
        rows = draw(st.lists(st.sampled_from(_of(found, 0)), max_size=1))
        going = inside.body.constant(True)
        if stops:
            going = draw(st.sampled_from(_of(found, 0))) < 0.7
        if count is not None:
            after.insert(0, count + 1)
            inner.append(count)
        made = Made(going, tuple(after), tuple(rows))
        length = SIZE if rows or sliced else None
        loop = inside.finish(limit, go, made, length=length, reverse=reverse)
    node = loop.append()
    results = [item(node, index=i) for i in range(1, 1 + len(after) + len(rows))]
    floats = [x for x in results if x.dtype.is_floating_point]
    return draw(st.sampled_from(floats))


def _branch(draw: st.DrawFn, values: list[Node], indices: list[Node], depth: int) -> Node:
    index = draw(st.sampled_from(indices))
    operands = list(dict.fromkeys((*values, *indices)))
    ndim = draw(st.sampled_from((0, 1)))
    branches = []
    for _ in range(draw(st.integers(1, 3))):
        with Builder("branch") as builder:
            inner = dict(zip(operands, [builder.input(x.type) for x in operands], strict=True))
            mine = [inner[x] for x in values]
            found = _block(draw, mine, [inner[x] for x in indices], depth)
            branches.append(builder.finish([draw(st.sampled_from(_of(found, ndim)))]))
    return item(cond(index, *operands, branches=tuple(branches)), index=0)
