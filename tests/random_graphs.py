"""Random graphs for hypothesis: every kind of op, shapes that broadcast, values that stay tame."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

import tracegrad.ir.ops  # noqa: F401  (registers every op)
from tracegrad.ir.graph import Builder, Graph, Loc, Node
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.types import DType, TensorType, float32, float64

SHAPES = ((), (1,), (3,), (2, 3), (2, 1), (1, 3), (4, 2, 3), (0, 3))
UNARY = ("tanh", "sin", "neg", "sigmoid", "square", "exp", "cos")
BINARY = ("add", "sub", "mul", "maximum", "minimum")
COMPARISONS = ("lt", "ge")
CONSTANTS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.3)


@st.composite
def graphs(
    draw: st.DrawFn, *, dtype: DType = float64, steps: int = 12, smooth: bool = False
) -> Graph:
    """A graph with one to three inputs and outputs of `dtype`.

    `smooth`: without comparisons and maxima, so that differences measure its derivatives anywhere.
    """
    kinds = ["unary", "binary", "constant", "move", "reduce", "matmul", "divide"]
    if not smooth:
        kinds += ["where", "cast"]
    with Builder("random") as builder:
        for _ in range(draw(st.integers(1, 3))):
            builder.input(TensorType(dtype, draw(st.sampled_from(SHAPES))))
        values = list(builder.inputs)
        for i in range(draw(st.integers(1, steps))):
            builder.loc = Loc("model.py", i + 1)
            values.append(_step(draw, values, draw(st.sampled_from(kinds)), smooth))
        n_outputs = draw(st.integers(1, 3))
        outputs = [values[-1], *(draw(st.sampled_from(values)) for _ in range(n_outputs - 1))]
        return builder.finish(outputs)


def _step(draw: st.DrawFn, values: list[Node], kind: str, smooth: bool) -> Node:
    x: Node = draw(st.sampled_from(values))
    if kind == "unary":
        return _tame(OPS[draw(st.sampled_from(UNARY))](x))
    if kind == "binary":
        names = BINARY[:3] if smooth else BINARY
        return _tame(OPS[draw(st.sampled_from(names))](x, _partner(draw, values, x)))
    if kind == "constant":
        name = draw(st.sampled_from(BINARY[:3]))
        number = draw(st.sampled_from(CONSTANTS))
        return OPS[name](x, number) if draw(st.booleans()) else OPS[name](number, x)
    if kind == "divide":
        # A divisor of at least 1.
        return x / (OPS["square"](_partner(draw, values, x)) + 1.0)
    if kind == "where":
        condition = OPS[draw(st.sampled_from(COMPARISONS))](x, _partner(draw, values, x))
        return OPS["where"](condition, x, _partner(draw, values, condition))
    if kind == "cast":
        other = float32 if x.dtype is float64 else float64
        return OPS["cast"](OPS["cast"](x, dtype=other), dtype=x.dtype)
    if kind == "matmul":
        if x.ndim < 2:
            return OPS["tanh"](x)
        last = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
        return _tame(OPS["matmul"](x, OPS["transpose"](x, axes=last)))
    if kind == "reduce":
        axes = tuple(i for i in range(x.ndim) if draw(st.booleans()))
        return _tame(OPS["sum"](x, axes=axes, keepdims=draw(st.booleans())))
    return _move(draw, x)


def _partner(draw: st.DrawFn, values: list[Node], x: Node) -> Node:
    """A value whose shape broadcasts with that of `x`."""
    fitting = [v for v in values if _broadcast(v.shape, x.shape)]
    return draw(st.sampled_from(fitting))


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    pairs = zip(reversed(a), reversed(b), strict=False)
    return all(m == n or 1 in (m, n) for m, n in pairs)


def _move(draw: st.DrawFn, x: Node) -> Node:
    kind = draw(st.sampled_from(("transpose", "flatten", "lead", "broadcast", "flip")))
    if kind == "transpose":
        return OPS["transpose"](x, axes=tuple(draw(st.permutations(range(x.ndim)))))
    if kind == "flatten":
        return OPS["reshape"](x, shape=(x.type.size,))
    if kind == "lead":
        return OPS["reshape"](x, shape=(1, *x.shape))
    if kind == "flip":
        return OPS["flip"](x, axes=tuple(range(x.ndim)))
    return OPS["broadcast_to"](x, shape=(2, *x.shape)) if x.ndim < 4 else x


def _tame(x: Node) -> Node:
    """`x` squeezed into [-1, 1], so that no chain of ops overflows."""
    return OPS["sin"](x) if x.op.name not in ("tanh", "sin", "sigmoid", "cos", "neg") else x


def inputs_of(graph: Graph, seed: int = 0) -> list[Array]:
    """Normal inputs for `graph`."""
    rng = np.random.default_rng(seed)
    values: list[Any] = [rng.normal(size=x.shape) for x in graph.inputs]
    return [np.asarray(v, x.dtype.numpy) for v, x in zip(values, graph.inputs, strict=True)]
