"""Normalisation of activations over axes."""

from __future__ import annotations

from tracegrad.ir.families import Shape, composite, unbroadcast
from tracegrad.ir.graph import Node
from tracegrad.ir.op import Sample
from tracegrad.ir.ops.exponential import rsqrt
from tracegrad.ir.ops.statistics import mean_of


def _centered(x: Node, axes: Shape, eps: float) -> tuple[Node, Node]:
    """`x` normalised to mean 0 and variance 1 over `axes`, and the factor that did it."""
    distance = x - mean_of(x, axes)
    factor = rsqrt(mean_of(distance * distance, axes) + eps)
    return distance * factor, factor


def _layer_norm(x: Node, *affine: Node, eps: float, axes: Shape) -> Node:
    y, _ = _centered(x, axes, eps)
    if affine:
        y = y * affine[0]
    return y + affine[1] if len(affine) > 1 else y


def _layer_norm_vjp(
    i: int, g: Node, y: Node, x: Node, *affine: Node, eps: float, axes: Shape
) -> Node:
    if i == 2:
        return unbroadcast(g, affine[1].shape)
    normal, factor = _centered(x, axes, eps)
    if i == 1:
        return unbroadcast(g * normal, affine[0].shape)
    if affine:
        g = g * affine[0]
    along = mean_of(g * normal, axes)
    return factor * (g - mean_of(g, axes) - normal * along)


# Inputs: x, then the scale and the offset of its last axes; both or the offset may be missing.
layer_norm = composite(
    "layer_norm",
    expand=_layer_norm,
    vjp=_layer_norm_vjp,
    arity=None,
    samples=[
        Sample(((3, 4),), {"eps": 1e-5, "axes": (1,)}),
        Sample(((3, 4), (4,)), {"eps": 1e-5, "axes": (1,)}),
        Sample(((2, 3, 4), (3, 4), (3, 4)), {"eps": 1e-3, "axes": (1, 2)}),
        Sample(((0, 4), (4,), (4,)), {"eps": 1e-5, "axes": (1,)}),
    ],
    grad_name="NativeLayerNormBackward0",
)


def _rms_norm(x: Node, *scale: Node, eps: float, axes: Shape) -> Node:
    y = x * rsqrt(mean_of(x * x, axes) + eps)
    return y * scale[0] if scale else y


rms_norm = composite(
    "rms_norm",
    expand=_rms_norm,
    arity=None,
    samples=[
        Sample(((3, 4),), {"eps": 1e-5, "axes": (1,)}),
        Sample(((2, 3, 4), (3, 4)), {"eps": 1e-5, "axes": (1, 2)}),
    ],
    grad_name="MulBackward0",
)
