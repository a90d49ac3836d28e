"""Ops that compute nothing: they say to reverse mode what a program did, or what it is to do."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.families import composite, elementwise, floating, general
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Sample
from tracegrad.ir.types import TensorType, int64


def _expand(old: Node, new: Node) -> Node:
    return new


def _evaluate(old: Any, new: Any) -> Any:
    return new


# The value of memory that was written where autograd does not look (`with no_grad(): w -= ...`):
# the new value, whose gradient still goes to what was there before.
overwrite = composite(
    "overwrite",
    expand=_expand,
    evaluate=_evaluate,
    vjp=(lambda g, y, old, new: g, None),
    arity=2,
    samples=[Sample(((3, 4), (3, 4)), {})],
    # Its gradient is not the derivative of its value, on purpose: no dtype that has one.
    sample_dtypes=(int64,),
)


def _expand_carried(x: Node, number: int) -> Node:
    return x


def _evaluate_carried(x: Any, number: int) -> Any:
    return x


# What a loop that is being rolled carries, at the start of an iteration. `number` keeps equal
# values apart: they may differ in the next iteration.
carried = composite(
    "carried",
    expand=_expand_carried,
    evaluate=_evaluate_carried,
    vjp=(lambda g, y, x, number: g,),
    arity=1,
    samples=[Sample(((3, 4),), {"number": 0})],
)


def _infer_after(x: TensorType, *others: TensorType) -> TensorType:
    return x


def _vjp_after(i: int, g: Node, y: Node, *xs: Node) -> Node | None:
    return g if i == 0 else None


# The first operand, once the others are there. It is another value than the operand, so that what
# is computed of it is not what has been computed already.
after = general(
    "after",
    family="movement",
    infer=_infer_after,
    evaluate=lambda x, *others: x,
    vjp=_vjp_after,
    arity=None,
    samples=[Sample(((3, 4), (2,)), {}), Sample(((), (2,), (3,)), {})],
)


# An array in a loop, of which only elements are read that the `final` array has as well: backward
# may read them there.
settled = elementwise(
    "settled",
    types=floating,
    evaluate=lambda x, final: np.broadcast_arrays(x, final)[0].copy(),
    vjp=(lambda g, y, x, final: g, None),
    scalar="{x0} if True else {x1}",
)
