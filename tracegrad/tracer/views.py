"""Views: which ops make them, how a write through one reaches its base, and how it gets a new tape
node.

A view is its base and the steps (movement ops) that lead to it. Written functionally, an in-place
change of a view is `base = write_back(base, value, steps)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.errors import GraphError
from tracegrad.ir.families import fill, unbroadcast
from tracegrad.ir.graph import Node
from tracegrad.ir.op import OPS, Op
from tracegrad.ir.types import TensorType, bool_, int64
from tracegrad.tracer.pullback import Pullback, of_function

if TYPE_CHECKING:
    from tracegrad.tracer.tensor import Step, Tensor

VIEWS = frozenset({"reshape", "transpose", "broadcast_to", "slice", "diagonal"})
"""Ops whose output shares memory with their input where NumPy's strides allow."""

Frozen = tuple[tuple[Op, tuple[tuple[str, Any], ...]], ...]


def freeze(steps: Sequence[Step]) -> Frozen:
    """`steps` as a hashable value."""
    return tuple((op, tuple(params.items())) for op, params in steps)


def replay(node: Node, steps: Frozen) -> Node:
    """The view of `node` that the steps lead to."""
    for op, params in steps:
        node = op(node, **dict(params))
    return node


def write_back(base: Node, value: Node, steps: Frozen) -> Node:
    """`base` with the elements that the steps lead to replaced by `value`."""
    if not steps:
        return value
    (op, items), rest = steps[0], steps[1:]
    params = dict(items)
    if op.name == "broadcast_to" and params["shape"] != base.shape:
        return _write_through_repeats(base, value, params["shape"], rest)
    if rest:
        value = write_back(op(base, **params), value, rest)
    if op.name in ("reshape", "broadcast_to"):
        return OPS["reshape"](value, shape=base.shape)
    if op.name == "transpose":
        inverse = tuple(int(i) for i in np.argsort(params["axes"]))
        return OPS["transpose"](value, axes=inverse)
    if op.name == "slice":
        return OPS["update_slice"](base, value, **params)
    if op.name == "diagonal":
        return OPS["update_diagonal"](base, value, **params)
    raise GraphError(f"a view made by {op.name} cannot be written to")


def _write_through_repeats(base: Node, value: Node, shape: tuple[int, ...], rest: Frozen) -> Node:
    """A write to some of the repeats of each element of `base`: `x.expand(2, 3)[1].zero_()`.

    A view that is written to has no element twice, so at most one repeat of each is written, and a
    sum over the repeats finds it.
    """
    dtype = int64 if base.dtype is bool_ else base.dtype
    whole = TensorType(dtype, shape)
    given = OPS["cast"](value, dtype=dtype)
    found = unbroadcast(write_back(fill(0, whole), given, rest), base.shape)
    marks = write_back(fill(0, whole), fill(1, given.type), rest)
    count = unbroadcast(marks, base.shape)
    return OPS["where"](count > 0, OPS["cast"](found, dtype=base.dtype), base)


@lru_cache(maxsize=4096)
def view_pullback(base: TensorType, steps: Frozen) -> Pullback:
    """From a view's cotangent to the base's."""
    return of_function(lambda xs: replay(xs[0], steps), [base], [True])


@lru_cache(maxsize=4096)
def write_pullback(
    base: TensorType, value: TensorType, steps: Frozen, needs: tuple[bool, bool]
) -> Pullback:
    """From the cotangent of a base written through a view to those of the old base and of the
    value.
    """
    return of_function(lambda xs: write_back(xs[0], xs[1], steps), [base, value], needs)


def renew(view: Tensor) -> None:
    """Give a view whose memory was written a tape node that leads to its base as it is now."""
    from tracegrad.tracer.tape import edge_of, node_class

    base = view._base
    assert base is not None
    if base.requires_grad and view._array.dtype.kind == "f":
        pullback = view_pullback(base._type, freeze(view._steps))
        view._grad_fn = node_class("AsStridedBackward0")(pullback, (edge_of(base),), None)
        view._output_nr = 0
        view._requires_grad = True
    view._view_version = view._storage.version


def memory_root(tensor: Tensor) -> tuple[Tensor, tuple[Step, ...]]:
    """The tensor that first had this memory, and the steps from it, also across `detach` and
    `.data`.
    """
    steps: tuple[Step, ...] = ()
    while True:
        if tensor._base is not None:
            steps = tensor._steps + steps
            tensor = tensor._base
        elif tensor._alias is not None:
            source, lead = tensor._alias
            steps = lead + steps
            tensor = source
        else:
            return tensor, steps


def is_view(tensor: Tensor) -> bool:
    """Whether the tensor is a differentiable view of another."""
    return tensor._base is not None
