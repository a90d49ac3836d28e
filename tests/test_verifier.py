"""Corrupt graphs, each of which the verifier must name; and sound ones, which it must let pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.op_samples import calls
from tests.random_graphs import graphs
from tracegrad.config import config
from tracegrad.errors import GraphError
from tracegrad.ir.differentiate import joint_graph
from tracegrad.ir.graph import Builder, Graph, Loc, Node
from tracegrad.ir.op import OPS
from tracegrad.ir.passes import PASSES, Pass, optimize
from tracegrad.ir.types import DTYPES, TensorType, float32, float64
from tracegrad.ir.verifier import verify

F32 = TensorType(float32, (2, 3))


def sound() -> Graph:
    with Builder("model") as builder:
        builder.loc = Loc("model.py", 4)
        x, y = (builder.input(F32, name) for name in "xy")
        return builder.finish([OPS["sum"](x * y, axes=(1,), keepdims=False)])


def changed(node: Node, **fields: Any) -> Node:
    """A copy of `node` with other fields, made without any check."""
    kept = {name: getattr(node, name) for name in ("op", "inputs", "params", "type", "loc")}
    return Node(**{**kept, **fields})


def with_last(graph: Graph, **fields: Any) -> Graph:
    last = changed(graph.nodes[-1], **fields)
    return replace(graph, nodes=(*graph.nodes[:-1], last), outputs=(last,))


def stranger() -> Node:
    with Builder() as builder:
        return builder.input(F32, "x")


CORRUPTIONS: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "order": (
        lambda g: replace(g, nodes=g.nodes[::-1]),
        r"model: node 0, sum: f32\[2\], from model.py:4: operand 0 .* does not come before it",
    ),
    "missing node": (lambda g: replace(g, nodes=g.nodes[1:]), "does not come before it"),
    "foreign operand": (
        lambda g: with_last(g, inputs=(stranger(),)),
        "does not come before it",
    ),
    "node twice": (lambda g: replace(g, nodes=(*g.nodes, g.nodes[-1])), "is there twice"),
    "wrong shape": (
        lambda g: with_last(g, type=TensorType(float32, (3,))),
        r"node 1, sum: f32\[3\].*gives f32\[2\]",
    ),
    "wrong dtype": (
        lambda g: with_last(g, type=TensorType(float64, (2,))),
        r"gives f32\[2\]",
    ),
    "no type": (
        lambda g: with_last(g, type=TensorType(float32, (np.int64(2),))),  # type: ignore[arg-type]
        "no proper type",
    ),
    "too many operands": (
        lambda g: with_last(g, inputs=g.nodes[-1].inputs * 2),
        "has 2 operands, not 1",
    ),
    "missing parameter": (lambda g: with_last(g, params={}), "do not fit"),
    "unknown parameter": (
        lambda g: with_last(g, params={**g.nodes[-1].params, "axis": 1}),
        "do not fit",
    ),
    "parameter that cannot be hashed": (
        lambda g: with_last(g, params={"axes": [1], "keepdims": False}),
        r"parameter axes=\[1\] is not a plain value",
    ),
    "NumPy integer as parameter": (
        lambda g: with_last(g, params={"axes": (np.int64(1),), "keepdims": False}),
        "is not a plain value",
    ),
    "negative axis": (
        lambda g: with_last(g, params={"axes": (-1,), "keepdims": False}),
        "are not different axes from 0 to 1",
    ),
    "unsorted axes": (
        lambda g: with_last(
            g, params={"axes": (1, 0), "keepdims": False}, type=TensorType(float32, ())
        ),
        "are not sorted",
    ),
    "axis twice": (
        lambda g: with_last(g, params={"axes": (1, 1), "keepdims": False}),
        "are not different axes",
    ),
    "unregistered op": (
        lambda g: with_last(g, op=replace(OPS["sum"])),
        "is not a registered op",
    ),
    "foreign output": (
        lambda g: replace(g, outputs=(stranger(),)),
        "output 0, input: .* is neither an input nor a node",
    ),
    "input that is a computation": (
        lambda g: replace(g, inputs=(*g.inputs, g.nodes[0])),
        "input 2, mul: .* is not an input node",
    ),
    "input twice": (lambda g: replace(g, inputs=(*g.inputs, g.inputs[0])), "is there twice"),
    "two inputs of one name": (
        lambda g: replace(g, inputs=(*g.inputs, stranger())),
        "the name of another input, 'x'",
    ),
    "input without a name": (
        lambda g: replace(g, inputs=(*g.inputs, changed(g.inputs[0], params={}))),
        "no name",
    ),
    "input among the nodes": (
        lambda g: replace(g, nodes=(stranger(), *g.nodes)),
        "an input that is not among the graph's inputs",
    ),
    "line that is no Loc": (lambda g: with_last(g, loc="model.py:4"), "is not a Loc"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_graph_is_caught(name: str) -> None:
    corrupt, message = CORRUPTIONS[name]
    verify(sound())
    with pytest.raises(GraphError, match=message):
        verify(corrupt(sound()))


def test_transpose_must_permute() -> None:
    with Builder() as builder:
        graph = builder.finish([OPS["transpose"](builder.input(F32), axes=(1, 0))])
    verify(graph)
    with pytest.raises(GraphError, match="are not a permutation"):
        verify(with_last(graph, params={"axes": (1,)}, type=TensorType(float32, (3,))))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.short)
def test_every_op_is_sound(dtype: Any) -> None:
    for call in calls(dtype):
        verify(call.graph())


@given(graphs())
def test_gradients_are_sound(graph: Graph) -> None:
    verify(graph)
    flags = [True] * len(graph.inputs)
    verify(joint_graph(graph, flags, [True] * len(graph.outputs))[0])


def test_check_mode_names_the_pass_that_broke_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking = Pass("break", "break", lambda g: replace(g, nodes=g.nodes[::-1]))
    monkeypatch.setattr("tracegrad.ir.passes.PASSES", (*PASSES, breaking))
    optimize(sound())
    with config.override(check=True), pytest.raises(GraphError, match="does not come") as caught:
        optimize(sound())
    assert caught.value.__notes__ == ["after the pass 'break'"]
