"""Buffers that are written by several stores, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracegrad.codegen.affine import Shape, View
from tracegrad.ir.graph import Builder, Node
from tracegrad.ir.op import OPS


@dataclass(frozen=True)
class Piece:
    """One store: `value` into `window`, at `indices` read from data where there are any."""

    value: Node
    window: View
    indices: tuple[Node, ...] = ()
    accumulate: bool = False


def pieces_of(node: Node, target: View) -> list[Piece]:
    """The stores of a concatenation, a padded array, an updated slice or a scatter, in order."""
    name = node.op.name
    if name == "concatenate":
        return _concatenated(node, target)
    if name == "pad":
        inside = node.inputs[0]
        steps = tuple(gap + 1 for gap in node.params["interior"])
        window = _window(target, node.params["low"], steps, inside.shape)
        return [Piece(_background(node, node.params["value"]), target), Piece(inside, window)]
    base, value = node.inputs[:2]
    if name == "update_slice":
        window = _window(target, node.params["starts"], node.params["strides"], value.shape)
        return [Piece(base, target), Piece(value, window)]
    indices = tuple(node.inputs[2:])
    return [Piece(base, target), Piece(value, target, indices, name == "scatter_add")]


def _concatenated(node: Node, target: View) -> list[Piece]:
    axis = node.params["axis"]
    pieces = []
    offset = 0
    for x in node.inputs:
        start = tuple(offset if i == axis else 0 for i in range(node.ndim))
        pieces.append(Piece(x, _window(target, start, (1,) * node.ndim, x.shape)))
        offset += x.shape[axis]
    return pieces


def _background(node: Node, value: Any) -> Node:
    """A constant of the node's shape, for filling."""
    with Builder() as builder:
        scalar = builder.constant(value, node.dtype)
        return OPS["broadcast_to"](scalar, shape=node.shape)


def _window(target: View, starts: Shape, steps: Shape, shape: Shape) -> View:
    """The part of `target` that begins at `starts` and takes every `steps`-th element."""
    offset = target.offset + sum(
        start * stride for start, stride in zip(starts, target.strides, strict=True)
    )
    strides = tuple(step * stride for step, stride in zip(steps, target.strides, strict=True))
    return View(target.buffer, offset, strides, shape)
