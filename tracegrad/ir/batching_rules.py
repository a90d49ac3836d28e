"""How each op acts on a batch: one rule for a family, or for an op that is alone in its kind.

A rule gets a `Call`, in which at least one operand has the axis of rows in front, and returns the
result with that axis in front. An op that has no rule here is a composition of others, or is
applied to one row after the other (see `batching`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracegrad.ir.families import Shape, broadcast, permuted
from tracegrad.ir.graph import Node
from tracegrad.ir.op import OPS, Op
from tracegrad.ir.types import TensorType, int64


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an op, with the operands that it has in the graph for a batch.

    xs      the operands; those flagged in `batched` have the axis of rows in front.
    types   the operands' types for one row, `type` that of the result.
    size    the number of rows.
    """

    op: Op
    xs: Sequence[Node]
    batched: Sequence[bool]
    types: Sequence[TensorType]
    params: Mapping[str, Any]
    type: TensorType
    size: int

    def shaped(self, i: int, shape: Shape) -> Node:
        """Operand i in another shape of one row."""
        whole = (self.size, *shape) if self.batched[i] else shape
        x = self.xs[i]
        return x if x.shape == whole else OPS["reshape"](x, shape=whole)

    def aligned(self, i: int, ndim: int) -> Node:
        """Operand i such that it broadcasts to rows of `ndim` axes: those that a row lacks come
        after the axis of rows.
        """
        if not self.batched[i]:
            return self.xs[i]
        shape = self.types[i].shape
        return self.shaped(i, (1,) * (ndim - len(shape)) + shape)

    def whole(self, i: int) -> Node:
        """Operand i with the axis of rows, repeated where it has none."""
        return broadcast(self.xs[i], (self.size, *self.types[i].shape))

    def wholes(self) -> list[Node]:
        """Every operand with the axis of rows."""
        return [self.whole(i) for i in range(len(self.xs))]


Rule = Callable[[Call], Node]


def _shifted(axes: Shape) -> Shape:
    return tuple(axis + 1 for axis in axes)


def elementwise(call: Call) -> Node:
    """Rows broadcast as they do alone."""
    operands = [call.aligned(i, call.type.ndim) for i in range(len(call.xs))]
    return call.op(*operands, **call.params)


def over_axes(call: Call) -> Node:
    """An op of one operand along the `axes` or the `axis` of its params."""
    return call.op(call.xs[0], **_along(call.params))


def _along(params: Mapping[str, Any]) -> dict[str, Any]:
    moved = dict(params)
    for name in ("axis", "axis1", "axis2"):
        if name in moved:
            moved[name] += 1
    if "axes" in moved:
        moved["axes"] = _shifted(moved["axes"])
    return moved


def joined(call: Call) -> Node:
    """An op whose operands all have the axis of rows, along an axis of its params."""
    return call.op(*call.wholes(), **_along(call.params))


def _reshape(call: Call) -> Node:
    return OPS["reshape"](call.xs[0], shape=(call.size, *call.type.shape))


def _transpose(call: Call) -> Node:
    return OPS["transpose"](call.xs[0], axes=(0, *_shifted(call.params["axes"])))


def _broadcast_to(call: Call) -> Node:
    return broadcast(call.aligned(0, call.type.ndim), (call.size, *call.type.shape))


def _window(params: Mapping[str, Any], size: int) -> dict[str, Shape]:
    return {
        "starts": (0, *params["starts"]),
        "limits": (size, *params["limits"]),
        "strides": (1, *params["strides"]),
    }


def _windowed(call: Call) -> Node:
    return call.op(*call.wholes(), **_window(call.params, call.size))


def _pad(call: Call) -> Node:
    widths = {name: (0, *call.params[name]) for name in ("low", "high", "interior")}
    return call.op(call.xs[0], **widths, value=call.params["value"])


def _tile(call: Call) -> Node:
    repeats = call.params["repeats"]
    return call.op(call.aligned(0, len(repeats)), repeats=(1, *repeats))


def _same(call: Call) -> Node:
    return call.op(*call.wholes(), **call.params)


def _swap(x: Node) -> Node:
    lead = tuple(range(x.ndim - 2))
    return permuted(x, (*lead, x.ndim - 1, x.ndim - 2))


def _matmul(call: Call) -> Node:
    a, b = call.types
    if not call.batched[1] and b.ndim == 2:
        # One product of many rows, in place of many products.
        merged = OPS["matmul"](_merged(call.xs[0]), call.xs[1])
        return OPS["reshape"](merged, shape=(call.size, *call.type.shape))
    if not call.batched[0] and a.ndim == 2 and b.shape[-1] == 1:
        # A matrix that is the same for all, times a vector for each.
        vectors = OPS["reshape"](
            call.xs[1], shape=(call.size * math.prod(b.shape[:-2]), a.shape[1])
        )
        merged = OPS["matmul"](vectors, _swap(call.xs[0]))
        return OPS["reshape"](merged, shape=(call.size, *call.type.shape))
    return elementwise(call)


def _merged(x: Node) -> Node:
    """All axes but the last as one."""
    return OPS["reshape"](x, shape=(math.prod(x.shape[:-1]), x.shape[-1]))


def _linear(call: Call) -> Node | None:
    if any(call.batched[1:]):
        return None
    merged = call.op(_merged(call.xs[0]), *call.xs[1:])
    return OPS["reshape"](merged, shape=(call.size, *call.type.shape))


def _normalized(call: Call) -> Node | None:
    return None if any(call.batched[1:]) else call.op(*call.xs, **_along(call.params))


def _row_numbers(size: int, ndim: int) -> Node:
    """The number of the row, to be an index beside others of `ndim` axes for one row."""
    return OPS["iota"](shape=(size, *(1,) * ndim), axis=0, dtype=int64)


def _indices(call: Call, first: int) -> list[Node]:
    """The indices, which are the operands from `first` on, such that they broadcast together."""
    ndim = max(type.ndim for type in call.types[first:])
    return [call.aligned(i, ndim) for i in range(first, len(call.xs))]


def _gather(call: Call) -> Node:
    indices = _indices(call, 1)
    if not call.batched[0]:
        return call.op(call.xs[0], *indices)
    ndim = max(type.ndim for type in call.types[1:])
    return call.op(call.xs[0], _row_numbers(call.size, ndim), *indices)


def _scatter(call: Call) -> Node:
    indices = _indices(call, 2)
    ndim = max(type.ndim for type in call.types[2:])
    return call.op(call.whole(0), call.whole(1), _row_numbers(call.size, ndim), *indices)


def _loss(call: Call) -> Node:
    params = dict(call.params)
    reduction = params.pop("reduction")
    if len({type.shape for type in call.types}) == 1:
        # Some of their gradients count on operands of one shape.
        operands = call.wholes()
    else:
        ndim = max(type.ndim for type in call.types)
        operands = [call.aligned(i, ndim) for i in range(len(call.xs))]
    each = call.op(*operands, **params, reduction="none")
    if reduction == "none":
        return each
    axes = tuple(range(1, each.ndim))
    name = "sum" if reduction == "sum" else "mean"
    return OPS[name](each, axes=axes, keepdims=False)


FAMILIES: dict[str, Rule] = {
    "elementwise": elementwise,
    "reduction": over_axes,
    "scan": over_axes,
    "sort": over_axes,
}
"""Rules by family."""


def _after(call: Call) -> Node:
    return OPS["after"](call.whole(0), *call.xs[1:])


RULES: dict[str, Callable[[Call], Node | None]] = {
    "after": _after,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "slice": _windowed,
    "update_slice": _windowed,
    "pad": _pad,
    "flip": over_axes,
    "concatenate": joined,
    "matmul": _matmul,
    "gather": _gather,
    "scatter": _scatter,
    "scatter_add": _scatter,
    "roll": over_axes,
    "stack": joined,
    "tile": _tile,
    "tril": _same,
    "triu": _same,
    "diagonal": over_axes,
    "update_diagonal": joined,
    "overwrite": _same,
    "linear": _linear,
    "layer_norm": _normalized,
    "rms_norm": _normalized,
    **dict.fromkeys(("lerp", "addcmul", "addcdiv", "logaddexp"), elementwise),
    **dict.fromkeys(
        (
            "gelu",
            "log_sigmoid",
            "leaky_relu",
            "elu",
            "softsign",
            "mish",
            "hardtanh",
            "hardsigmoid",
            "hardswish",
            "softshrink",
            "hardshrink",
            "threshold",
        ),
        elementwise,
    ),
    **dict.fromkeys(
        ("mean", "var", "std", "norm", "logsumexp", "softmax", "log_softmax"), over_axes
    ),
    **dict.fromkeys(
        (
            "mse_loss",
            "l1_loss",
            "huber_loss",
            "smooth_l1_loss",
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
            "kl_div",
        ),
        _loss,
    ),
}
"""Rules by op, before those of its family. None: the op is expanded into others."""
