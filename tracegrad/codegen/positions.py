"""Where the extreme of many elements is: the extreme first, then the first position that has it.

A comparison that carries the position along does one element after the other; two reductions do a
whole vector at a time.
"""

from __future__ import annotations

import math

from tracegrad.codegen.affine import Shape, row_major
from tracegrad.codegen.stages import in_stages, is_whole
from tracegrad.ir.graph import Builder, Node
from tracegrad.ir.op import OPS
from tracegrad.ir.types import int64

# A row of fewer elements is not worth two passes.
MIN_ELEMENTS = 64
_EXTREMES = {"argmax": "amax", "argmin": "amin"}


def is_search(node: Node) -> bool:
    """Whether a node looks for the position of an extreme among many elements."""
    if node.op.name not in _EXTREMES:
        return False
    sizes = [node.inputs[0].shape[i] for i in node.params["axes"]]
    return bool(math.prod(sizes) >= MIN_ELEMENTS)


def searched(node: Node, x: Node) -> Node:
    """The position as reductions of `x`, the operand of `node`."""
    axes = node.params["axes"]
    extreme = _reduced(_EXTREMES[node.op.name], x, axes, True)
    found = OPS["eq"](x, extreme)
    if x.dtype.kind == "f":
        # NaN is the extreme wherever there is one, and equals nothing.
        found = OPS["bitwise_or"](found, OPS["ne"](x, x))
    sizes = tuple(x.shape[i] for i in axes)
    position: Node | None = None
    for axis, stride in zip(axes, row_major(sizes), strict=True):
        params = {"shape": x.shape, "axis": axis, "dtype": int64}
        steps = Builder.current().append(OPS["iota"], [], params) * stride
        position = steps if position is None else position + steps
    assert position is not None
    candidates = OPS["where"](found, position, math.prod(sizes))
    return _reduced("amin", candidates, axes, node.params.get("keepdims", False))


def _reduced(name: str, x: Node, axes: Shape, keepdims: bool) -> Node:
    node = OPS[name](x, axes=axes, keepdims=keepdims)
    return in_stages(node, x) if is_whole(node) else node
