"""Tensors that are taken apart and put together again.

A loop's rows come out of it as one tensor, and reach the user's program as a list of parts of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from tracegrad.ir.graph import Node
from tracegrad.ir.op import OPS

_Shape = tuple[int, ...]
_Origin = tuple[Node, int] | None


def join_rows(node: Node) -> Node | None:
    """What is joined of rows of a tensor that follow each other there is a part of that tensor, its
    axes in another order perhaps; what is joined of one tensor several times is a broadcast.
    """
    name = node.op.name
    if name not in ("concatenate", "stack") or len(node.inputs) < 2:
        return None
    axis = node.params["axis"]
    parts: list[Node] = []
    for run, origin in _runs(node.inputs):
        shape = run[0].shape
        if name == "stack":
            shape = (*shape[:axis], 1, *shape[axis:])
        if origin is not None:
            parts.append(_together(origin, len(run), shape, axis))
        elif len(run) > 1 and shape[axis] == 1:
            repeated = (*shape[:axis], len(run), *shape[axis + 1 :])
            parts.append(OPS["broadcast_to"](_reshape(run[0], shape), shape=repeated))
        else:
            parts += [_reshape(x, shape) for x in run]
    if len(parts) == len(node.inputs):
        return None
    return parts[0] if len(parts) == 1 else OPS["concatenate"](*parts, axis=axis)


def _runs(parts: Sequence[Node]) -> Iterator[tuple[list[Node], _Origin]]:
    """The parts in groups: rows that follow each other, with where they begin; equal ones; single
    ones.
    """
    origins = [_origin(x) for x in parts]

    def kind(i: int) -> tuple[Node, int, _Shape]:
        origin = origins[i]
        if origin is None:
            return parts[i], len(parts), ()
        return origin[0], origin[1] - i, parts[i].shape

    for _, numbers in groupby(range(len(parts)), kind):
        run = list(numbers)
        yield [parts[i] for i in run], origins[run[0]] if len(run) > 1 else None


def _origin(x: Node) -> _Origin:
    """The tensor of which `x` is one row, perhaps reshaped, and the number of that row."""
    while x.op.name == "reshape":
        x = x.inputs[0]
    if x.op.name != "slice" or not x.shape or x.shape[0] != 1:
        return None
    (whole,) = x.inputs
    starts = x.params["starts"]
    if x.shape[1:] != whole.shape[1:] or any(n != 1 for n in x.params["strides"][1:]):
        return None
    return whole, starts[0]


def _together(origin: tuple[Node, int], count: int, shape: _Shape, axis: int) -> Node:
    """So many rows from `origin` on, each of a shape, along an axis."""
    whole, first = origin
    rows = _reshape(rows_from(whole, first, count), (count, *shape))
    if axis:
        rows = OPS["transpose"](rows, axes=(*range(1, axis + 1), 0, *range(axis + 1, rows.ndim)))
    return _reshape(rows, (*shape[:axis], count * shape[axis], *shape[axis + 1 :]))


def rows_from(whole: Node, first: int, count: int) -> Node:
    """So many rows of a tensor from number `first` on; itself where these are all."""
    if count == whole.shape[0]:
        return whole
    return OPS["slice"](
        whole,
        starts=(first, *(0,) * (whole.ndim - 1)),
        limits=(first + count, *whole.shape[1:]),
        strides=(1,) * whole.ndim,
    )


def _reshape(x: Node, shape: _Shape) -> Node:
    return x if x.shape == shape else OPS["reshape"](x, shape=shape)
