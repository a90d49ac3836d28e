"""Random graphs of loops and branches for hypothesis, made to be hard for the planner of memory:
arrays of several shapes and dtypes that are carried, exchanged, overwritten, sliced, stacked and
read through views, saved frames that other loops read, and results that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

import tracegrad.ir.ops  # noqa: F401  (registers every op)
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.loops import LoopBuilder, Made
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.ops.control import cond, item
from tracegrad.ir.types import StackType, TensorType, bool_, float32, float64, int64

SIZE = 3
TYPES = (
    TensorType(float64, ()),
    TensorType(float64, (SIZE,)),
    TensorType(float64, (SIZE, SIZE)),
    TensorType(float32, (SIZE, 1)),
    TensorType(int64, ()),
    TensorType(int64, (SIZE,)),
    TensorType(bool_, (SIZE,)),
    TensorType(float64, (0, SIZE)),
)
KINDS = ("make", "mix", "read", "write", "add", "put", "view", "view", "reduce", "row", "product")


@st.composite
def control_graphs(draw: st.DrawFn, *, depth: int = 2, outputs: int = 4) -> Graph:
    """A graph of one input of each type, and of `outputs` outputs or fewer."""
    with Builder("control") as builder:
        values = [builder.input(type) for type in TYPES]
        values.append(builder.constant(1))
        values.append(builder.constant(np.linspace(-1.0, 1.0, SIZE)))
        found = _block(draw, values, depth)
        tensors = [x for x in found if isinstance(x.type, TensorType)]
        new = tensors[len(values) :] or tensors
        chosen = draw(st.lists(st.sampled_from(new), min_size=1, max_size=outputs))
        return builder.finish([new[-1], *chosen])


def inputs_of(graph: Graph, seed: int) -> list[Array]:
    """An array for each input."""
    rng = np.random.default_rng(seed)
    result = []
    for x in graph.inputs:
        if x.dtype.is_floating_point:
            values = rng.normal(size=x.shape)
        else:
            values = rng.integers(0, 2 if x.dtype is bool_ else SIZE, size=x.shape)
        result.append(np.asarray(values, x.dtype.numpy))
    return result


def _pick(draw: st.DrawFn, values: Sequence[Node], type: TensorType) -> Node:
    """A value of a type, late ones first."""
    found = [x for x in values if x.type == type]
    return draw(st.sampled_from(found[::-1]))


def _block(draw: st.DrawFn, values: Sequence[Node], depth: int) -> list[Node]:
    """`values` and what some random steps make of them."""
    values = list(values)
    kinds = [*KINDS, *["loop"] * 4, *["branch"] * 3] if depth else list(KINDS)
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(kinds))
        if kind == "loop":
            values += _loop(draw, values, depth - 1)
        elif kind == "branch":
            values += _branch(draw, values, depth - 1)
        else:
            values.append(_step(draw, kind, values))
    return values


def _index(draw: st.DrawFn, values: Sequence[Node]) -> Node:
    """A position in an axis of SIZE elements."""
    number = _pick(draw, values, TYPES[4])
    return OPS["minimum"](OPS["maximum"](number, 0), SIZE - 1)


def _scalar(draw: st.DrawFn, values: Sequence[Node]) -> Node:
    return _pick(draw, values, TYPES[0])


def _step(draw: st.DrawFn, kind: str, values: Sequence[Node]) -> Node:
    vector, matrix = _pick(draw, values, TYPES[1]), _pick(draw, values, TYPES[2])
    if kind == "make":
        return _convert(draw, values, draw(st.sampled_from(TYPES)))
    if kind == "mix":
        x = draw(st.sampled_from([vector, matrix, _scalar(draw, values)]))
        return OPS["sin"](x * _scalar(draw, values) + _pick(draw, values, x.type))
    if kind == "read":
        if draw(st.booleans()):
            return OPS["gather"](vector, _index(draw, values))
        return OPS["gather"](matrix, _index(draw, values))
    if kind == "write":
        if draw(st.booleans()):
            return OPS["scatter"](matrix, vector, _index(draw, values))
        return OPS["scatter"](vector, _scalar(draw, values), _index(draw, values))
    if kind == "add":
        if draw(st.booleans()):
            where = OPS["minimum"](OPS["maximum"](_pick(draw, values, TYPES[5]), 0), SIZE - 1)
            return OPS["scatter_add"](vector, _pick(draw, values, TYPES[1]), where)
        return OPS["scatter_add"](matrix, _scalar(draw, values), *[_index(draw, values)] * 2)
    if kind == "put":
        start = draw(st.integers(0, SIZE - 1))
        where = {"starts": (start, 0), "limits": (start + 1, SIZE), "strides": (1, 1)}
        part = OPS["slice"](_pick(draw, values, TYPES[2]), **where)
        if draw(st.booleans()):
            start = draw(st.integers(0, SIZE - 1))
            where = {"starts": (start, 0), "limits": (start + 1, SIZE), "strides": (1, 1)}
        return OPS["update_slice"](matrix, part, **where)
    if kind == "view":
        if draw(st.booleans()):
            return OPS["transpose"](matrix, axes=(1, 0))
        if draw(st.booleans()):
            return OPS["flip"](vector, axes=(0,))
        start = draw(st.integers(0, SIZE - 1))
        where = {"starts": (start, 0), "limits": (start + 1, SIZE), "strides": (1, 1)}
        return OPS["reshape"](OPS["slice"](matrix, **where), shape=(SIZE,))
    if kind == "reduce":
        if draw(st.booleans()):
            return OPS["sum"](matrix, axes=(draw(st.integers(0, 1)),), keepdims=False) * 0.3
        return OPS["amax"](vector, axes=(0,), keepdims=False)
    if kind == "row":
        return OPS["broadcast_to"](vector, shape=(SIZE, SIZE))
    return OPS["sin"](OPS["matmul"](matrix, _pick(draw, values, TYPES[2])))


def _convert(draw: st.DrawFn, values: Sequence[Node], type: TensorType) -> Node:
    """A new value of a type."""
    x = _pick(draw, values, type)
    if type == TYPES[3]:
        start = draw(st.integers(0, SIZE - 1))
        where = {"starts": (0, start), "limits": (SIZE, start + 1), "strides": (1, 1)}
        return OPS["cast"](OPS["slice"](_pick(draw, values, TYPES[2]), **where), dtype=float32)
    if type == TYPES[4]:
        return OPS["minimum"](_pick(draw, values, type) + 1, SIZE)
    if type == TYPES[5]:
        return OPS["minimum"](x + _pick(draw, values, TYPES[4]), SIZE)
    if type == TYPES[6]:
        return _pick(draw, values, TYPES[1]) > _scalar(draw, values)
    if type == TYPES[1]:
        return OPS["where"](_pick(draw, values, TYPES[6]), x, _pick(draw, values, type) * 0.5)
    return OPS["cos"](x)


def _loop(draw: st.DrawFn, values: Sequence[Node], depth: int) -> list[Node]:
    builder = Builder.current()
    limits = [builder.constant(n) for n in (0, 1, SIZE)]
    limit = draw(st.sampled_from([_pick(draw, values, TYPES[4]), *limits]))
    limit = OPS["minimum"](limit, SIZE)
    tensors = [x for x in values if isinstance(x.type, TensorType)]
    carried = draw(st.lists(st.sampled_from(tensors[::-1]), max_size=4))
    long = [x for x in tensors if x.shape[:1] == (SIZE,)]
    sliced = draw(st.lists(st.sampled_from(long[::-1]), max_size=2))
    stacks = [x for x in values if isinstance(x.type, StackType)]
    stops = draw(st.booleans())
    reverse = draw(st.booleans())
    # Every frame that is read is there.
    read = draw(st.sampled_from(stacks)) if stacks and draw(st.booleans()) else None
    if read is not None:
        limit = OPS["depth"](read)
    with LoopBuilder("body") as inside:
        frames: list[Node] = []
        if read is not None:
            frames = list(inside.frame(read, "f"))
        carry = [inside.carry(x, "c") for x in carried]
        consts = [inside.const(x, "k") for x in _needed(draw, tensors, carried)]
        slices = [inside.slice(x, "s") for x in sliced]
        found = _block(draw, [inside.position, *slices, *consts, *frames, *carry], depth)
        after = [_pick(draw, found, x.type) for x in carry]
        inner = [x for x in found if isinstance(x.type, TensorType)]
        rows = draw(st.lists(st.sampled_from(inner[::-1]), max_size=2))
        saves = draw(st.lists(st.lists(st.sampled_from(found[::-1]), max_size=3), max_size=2))
        going = inside.body.constant(True)
        if stops:
            going = _scalar(draw, found) < draw(st.sampled_from((-0.5, 0.3, 2.0)))
        made = Made(going, tuple(after), tuple(rows), tuple(map(tuple, saves)))
    go = builder.constant(True)
    length = SIZE if rows or sliced else None
    node = inside.finish(limit, go, made, length=length, reverse=reverse).append()
    assert not isinstance(node.type, TensorType)
    count = len(node.type.elements)
    results = []
    for i in draw(st.permutations(range(count))):
        element = node.type.elements[i]
        if isinstance(element, StackType) and reverse and stops:
            # Its first frames may be missing.
            continue
        if draw(st.integers(0, 5)):
            results.append(item(node, index=i))
    return results


def _needed(draw: st.DrawFn, values: Sequence[Node], carried: Sequence[Node]) -> list[Node]:
    """Some values, such that there is one of each type with those that are carried.

    Few, since an array that is handed on can be overwritten only if nobody else reads it.
    """
    known = [x.type for x in carried]
    chosen = [_pick(draw, values, type) for type in TYPES if type not in known]
    return list(
        dict.fromkeys([*chosen, *draw(st.lists(st.sampled_from(values[::-1]), max_size=2))])
    )


def _branch(draw: st.DrawFn, values: Sequence[Node], depth: int) -> list[Node]:
    tensors = [x for x in values if isinstance(x.type, TensorType)]
    operands = _needed(draw, tensors, ())
    types = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=3))
    index = _pick(draw, values, TYPES[4])
    branches = []
    for _ in range(draw(st.integers(1, 3))):
        with Builder("branch") as builder:
            found = _block(draw, [builder.input(x.type) for x in operands], depth)
            branches.append(builder.finish([_pick(draw, found, type) for type in types]))
    node = cond(index, *operands, branches=tuple(branches))
    return [item(node, index=i) for i in draw(st.permutations(range(len(types))))]
