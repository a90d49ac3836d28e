"""Rewrites that look at shapes, dtypes and parameters: one form for what can be said in several.

Each rule is a function `rule(node) -> Node | None` that appends to the current builder what
replaces `node`, or says None. All are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from functools import cache

import numpy as np

from tracegrad.ir.graph import Builder, Node, scalar_value
from tracegrad.ir.joining import join_rows
from tracegrad.ir.op import OPS, Op, evaluate
from tracegrad.ir.reading_back import changes_nothing
from tracegrad.ir.types import DType

NodeRule = Callable[[Node], Node | None]

# A folded constant may have this many bytes; a larger one is cheaper to compute than to keep.
FOLDED_BYTES = 1024

_COMMUTATIVE = frozenset(
    ("add", "mul", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor", "eq", "ne")
)
_MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def constants_right(node: Node) -> Node | None:
    """`add(2, x)` is `add(x, 2)`, and `lt(2, x)` is `gt(x, 2)`."""
    a, b = node.inputs
    if a.op.name != "constant" or b.op.name == "constant":
        return None
    name = node.op.name
    return OPS[_MIRRORED.get(name, name)](b, a)


def step_once(node: Node) -> Node | None:
    """An integer plus a constant plus a constant is that integer plus one constant."""
    if not node.dtype.is_integral:
        return None
    x, b = node.inputs
    if x.op.name not in ("add", "sub") or x.shape != node.shape:
        return None
    y, a = x.inputs
    first, second = scalar_value(a), scalar_value(b)
    if first is None or second is None:
        return None
    total = (first if x.op.name == "add" else -first) + (
        second if node.op.name == "add" else -second
    )
    # Integers wrap around, a constant as well as a sum.
    step = np.asarray(total % 2**64, np.uint64).astype(node.dtype.numpy)
    return y if step == 0 else OPS["add"](y, Builder.current().constant(step))


def uniform_constant(node: Node) -> Node | None:
    """An array constant of one value is that value broadcast."""
    if not node.shape or not node.type.size:
        return None
    array = node.params["value"].array
    first = array.reshape(-1)[:1]
    if array.tobytes() != first.tobytes() * array.size:
        return None
    value = Builder.current().constant(first.reshape(()))
    return OPS["broadcast_to"](value, shape=node.shape)


def fold(node: Node) -> Node | None:
    """An op on constants alone is a constant, if a small one."""
    if not node.inputs or not node.op.pure or node.op.family == "control":
        return None
    if node.type.nbytes > FOLDED_BYTES:
        return None
    if any(x.op.name != "constant" for x in node.inputs):
        return None
    if node.op.name == "broadcast_to":
        # That is the canonical form of a uniform constant.
        return None
    arrays = [x.params["value"].array for x in node.inputs]
    return Builder.current().constant(evaluate(node.op, arrays, dict(node.params), node.dtype))


def reshape_once(node: Node) -> Node | None:
    """A reshape of a reshape is one, and one to the same shape is none."""
    (x,) = node.inputs
    if x.shape == node.shape:
        return x
    if x.op.name == "reshape":
        return OPS["reshape"](x.inputs[0], shape=node.shape)
    if x.op.name == "broadcast_to" and x.inputs[0].type.size == 1:
        return _broadcast(_reshape(x.inputs[0], ()), node.shape)
    return None


def transpose_once(node: Node) -> Node | None:
    """A transpose of a transpose is one, and one that keeps the order of all sizes but 1 is none,
    or a reshape.
    """
    (x,) = node.inputs
    axes = node.params["axes"]
    if axes == tuple(range(x.ndim)):
        return x
    if x.op.name == "transpose":
        return OPS["transpose"](x.inputs[0], axes=tuple(x.params["axes"][i] for i in axes))
    long = [i for i in axes if x.shape[i] != 1]
    return OPS["reshape"](x, shape=node.shape) if long == sorted(long) else None


def broadcast_once(node: Node) -> Node | None:
    """A broadcast of a broadcast is one, and one that repeats nothing is a reshape or none."""
    (x,) = node.inputs
    if x.shape == node.shape:
        return x
    if x.op.name == "broadcast_to":
        return OPS["broadcast_to"](x.inputs[0], shape=node.shape)
    if x.type.size == node.type.size and x.op.name != "constant":
        return OPS["reshape"](x, shape=node.shape)
    if x.op.name == "reshape" and _only_adds_leading_ones(x.inputs[0].shape, x.shape):
        return OPS["broadcast_to"](x.inputs[0], shape=node.shape)
    return None


def _only_adds_leading_ones(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    lead = len(new) - len(old)
    return lead >= 0 and new[lead:] == old and all(n == 1 for n in new[:lead])


def broadcast_last(node: Node) -> Node | None:
    """Elementwise ops broadcast their operands by themselves, and compute before they broadcast."""
    operands = []
    for x in node.inputs:
        while x.op.name == "broadcast_to" or (
            x.op.name == "reshape" and _only_adds_leading_ones(x.inputs[0].shape, x.shape)
        ):
            x = x.inputs[0]
        operands.append(x)
    if all(x is y for x, y in zip(operands, node.inputs, strict=True)):
        return None
    made = Builder.current().append(node.op, operands, node.params)
    return _broadcast(made, node.shape)


def move_uniform(node: Node) -> Node | None:
    """What is moved of a tensor that is the same everywhere is the same everywhere."""
    x = node.inputs[0]
    if x.op.name != "broadcast_to" or x.inputs[0].shape:
        return None
    return _broadcast(x.inputs[0], node.shape)


def move_nothing(node: Node) -> Node | None:
    """A slice of everything, a pad by nothing, a flip of nothing, a concatenation of one."""
    name, params = node.op.name, node.params
    if node.shape != node.inputs[0].shape:
        return None
    if name == "slice":
        idle = not any(params["starts"])
    elif name == "pad":
        idle = not any((*params["low"], *params["high"], *params["interior"]))
    elif name == "flip":
        idle = all(node.shape[i] == 1 for i in params["axes"])
    else:
        idle = len(node.inputs) == 1
    return node.inputs[0] if idle else None


def cast_once(node: Node) -> Node | None:
    """A cast to the same dtype is none; one that widened first changes nothing."""
    if node.op.name != "cast":
        return None
    (x,) = node.inputs
    if x.dtype is node.dtype:
        return x
    if x.op.name == "cast" and holds(x.dtype, x.inputs[0].dtype):
        return OPS["cast"](x.inputs[0], dtype=node.dtype)
    return None


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    return np.can_cast(narrow.numpy, wide.numpy, "safe") and narrow.kind != "b"


def reduce_nothing(node: Node) -> Node | None:
    """A fold over no axes, or over axes of size 1, is a reshape."""
    (x,) = node.inputs
    if x.dtype is not node.dtype or any(x.shape[i] != 1 for i in node.params["axes"]):
        return None
    return _reshape(x, node.shape)


def divide_by_power_of_two(node: Node) -> Node | None:
    """Dividing by a power of two is multiplying by its inverse, which is as exact, and faster."""
    x, y = node.inputs
    value = scalar_value(y)
    if value is None or not math.isfinite(value) or value == 0:
        return None
    mantissa, exponent = math.frexp(value)
    # The inverse must be a normal number, so that no one loses bits of it.
    lowest = {"f16": -13, "f32": -125, "f64": -1021}[y.dtype.short]
    if abs(mantissa) != 0.5 or not lowest + 2 < exponent < -lowest:
        return None
    return OPS["mul"](x, 1.0 / value)


def _reshape(x: Node, shape: tuple[int, ...]) -> Node:
    return x if x.shape == shape else OPS["reshape"](x, shape=shape)


def _broadcast(x: Node, shape: tuple[int, ...]) -> Node:
    return x if x.shape == shape else OPS["broadcast_to"](x, shape=shape)


# The rules, each with the ops or the family that it is for.
_RULES: tuple[tuple[Set[str], NodeRule], ...] = (
    (_COMMUTATIVE | _MIRRORED.keys(), constants_right),
    ({"add", "sub"}, step_once),
    ({"constant"}, uniform_constant),
    ({"reshape"}, reshape_once),
    ({"transpose"}, transpose_once),
    ({"broadcast_to"}, broadcast_once),
    ({"elementwise"}, broadcast_last),
    ({"slice", "gather", "flip", "transpose"}, move_uniform),
    ({"slice", "pad", "flip", "concatenate"}, move_nothing),
    ({"slice", "update_slice", "gather", "scatter"}, changes_nothing),
    ({"concatenate", "stack"}, join_rows),
    ({"cast"}, cast_once),
    ({"sum", "prod", "amax", "amin", "any", "all"}, reduce_nothing),
    ({"div"}, divide_by_power_of_two),
)


@cache
def canonical_rules(op: Op) -> tuple[NodeRule, ...]:
    """The rules that may change a node of `op`, in order."""
    return tuple(rule for names, rule in _RULES if op.name in names or op.family in names)
