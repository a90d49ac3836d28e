"""What the cotangent of a value is: its type, zeros of it, and the sum of two.

A floating tensor has a cotangent of its own type. A stack has a stack with as many frames, and in
each the cotangents of those of its values that have one. Nothing else has any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracegrad.ir.families import fill
from tracegrad.ir.graph import Builder, Node
from tracegrad.ir.loops import LoopBuilder, Made
from tracegrad.ir.ops.control import depth, item
from tracegrad.ir.types import StackType, TensorType, Type


def cotangent_type(type: Type) -> TensorType | StackType | None:
    """The type of the cotangent of a value of `type`; None where it has none."""
    if isinstance(type, TensorType):
        return type if type.dtype.is_floating_point else None
    if isinstance(type, StackType):
        elements = tuple(x for x in map(cotangent_type, type.elements) if x is not None)
        return StackType(elements) if elements else None
    return None


def has_cotangent(x: Node) -> bool:
    """Whether the value is of a type that has cotangents."""
    return cotangent_type(x.type) is not None


def zero_cotangent(x: Node) -> Node:
    """The cotangent zero of `x`; of a stack it has as many frames as `x`."""
    if not isinstance(x.type, StackType):
        return fill(0, x.type)
    return _each_frame([x], lambda frames: [zero_cotangent(v) for v in frames if has_cotangent(v)])


def add_cotangents(a: Node, b: Node) -> Node:
    """The sum of two cotangents of one value."""
    if not isinstance(a.type, StackType):
        return a + b
    half = len(a.type.elements)
    return _each_frame(
        [a, b],
        lambda frames: [
            add_cotangents(x, y) for x, y in zip(frames[:half], frames[half:], strict=True)
        ],
    )


def _each_frame(stacks: Sequence[Node], function: Callable[[Sequence[Node]], list[Node]]) -> Node:
    """The stack of what `function` makes of the frames of all `stacks`, which are equally deep."""
    go = Builder.current().constant(True)
    limit = depth(stacks[0])
    with LoopBuilder("frames") as inside:
        frames = [x for stack in stacks for x in inside.frame(stack, "frame")]
        saved = (tuple(function(frames)),)
        loop = inside.finish(limit, go, Made(inside.body.constant(True), saved=saved))
    return item(loop.append(), index=loop.first_stack)
