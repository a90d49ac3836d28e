"""Derivatives against differences of values, along random directions, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracegrad.ir.differentiate import gradient_graph
from tracegrad.ir.graph import Graph
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import Array
from tracegrad.ir.types import float64

# The five-point rule: an error of the order of STEP**4 from the step, and of 1e-16 / STEP from
# rounding.
STEP = 1e-4
TOLERANCE = 1e-6


def check_gradient(
    graph: Graph, arrays: Sequence[Array], *, order: int = 2, directions: int = 2
) -> None:
    """Assert that the gradient graph of `graph` at `arrays` is the derivative of what it computes,
    and the gradient graph of that one, up to `order`.

    Every float64 input takes part. AssertionError tells the order, and the two numbers that differ.
    """
    _check(graph, arrays, order, directions, np.random.default_rng(7), 1)


def _check(
    graph: Graph,
    arrays: Sequence[Array],
    order: int,
    directions: int,
    rng: np.random.Generator,
    level: int,
) -> None:
    wrt = [x.dtype is float64 for x in graph.inputs]
    given = [y.dtype is float64 for y in graph.outputs]
    outputs = zip(graph.outputs, given, strict=True)
    cotangents = [rng.normal(size=y.shape) for y, flag in outputs if flag]
    gradient = gradient_graph(graph, wrt, given)
    inputs = [*arrays, *cotangents]
    found = interpret(gradient, inputs)
    if not any(g.size for g in found):
        # Nothing to differentiate by; the values may be infinite, as the maximum of nothing is.
        return
    for _ in range(directions):
        steps = [rng.normal(size=g.shape) for g in found]
        claimed = [g * d for g, d in zip(found, steps, strict=True)]
        total = sum(float(c.sum()) for c in claimed)
        scale = sum(float(np.abs(c).sum()) for c in claimed)
        measured, size = _difference(graph, arrays, wrt, given, steps, cotangents)
        bound = TOLERANCE * (scale + abs(measured)) + 1e-15 / STEP * size
        assert abs(total - measured) <= bound, (
            f"derivative of order {level} of {graph.name}: {total!r} by the gradient graph, "
            f"{measured!r} by differences\n{gradient}"
        )
    if order > 1:
        _check(gradient, inputs, order - 1, directions, rng, level + 1)


def _difference(
    graph: Graph,
    arrays: Sequence[Array],
    wrt: Sequence[bool],
    given: Sequence[bool],
    steps: Sequence[Array],
    cotangents: Sequence[Array],
) -> tuple[float, float]:
    """The derivative along `steps` of the outputs weighted by `cotangents`, and the size of what
    was subtracted.
    """
    weights = (1.0, -8.0, 8.0, -1.0)
    places = (-2.0, -1.0, 1.0, 2.0)
    measured = size = 0.0
    for weight, place in zip(weights, places, strict=True):
        step = iter(steps)
        moved = [
            np.asarray(a + place * STEP * next(step)) if flag else a
            for a, flag in zip(arrays, wrt, strict=True)
        ]
        values = interpret(graph, moved)
        floats = [v for v, flag in zip(values, given, strict=True) if flag]
        products = [v * g for v, g in zip(floats, cotangents, strict=True)]
        measured += weight * sum(float(p.sum()) for p in products) / (12 * STEP)
        size += sum(float(np.abs(p).sum()) for p in products)
    return measured, size
