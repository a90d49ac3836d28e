"""Forward and backward by partition are the joint graph, and keep the bytes down."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given

from tests.op_samples import Call, calls
from tests.random_graphs import graphs, inputs_of
from tracegrad.errors import GraphError
from tracegrad.ir.differentiate import gradient_graph
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import NONDIFFERENTIABLE, OPS, Array
from tracegrad.ir.partition import Partition, Saved, partition
from tracegrad.ir.types import TensorType, float32, float64, int64
from tracegrad.ir.verifier import verify


def run(parts: Partition, inputs: Sequence[Array], cotangents: Sequence[Array]) -> list[Array]:
    """What backward gives, fed by what forward keeps."""
    outputs = interpret(parts.forward, inputs)
    places = {"input": inputs, "output": outputs}
    saved = [places[s.kind][s.index] for s in parts.saved]
    return interpret(parts.backward, [*saved, *cotangents])


def assert_same(graph: Graph, arrays: Sequence[Array], tolerance: float = 1e-11) -> Partition:
    wrt = [x.dtype.is_floating_point for x in graph.inputs]
    given_flags = [y.dtype.is_floating_point for y in graph.outputs]
    rng = np.random.default_rng(1)
    cotangents = [
        np.asarray(rng.normal(size=y.shape), y.dtype.numpy)
        for y, flag in zip(graph.outputs, given_flags, strict=True)
        if flag
    ]
    parts = partition(graph, wrt, given_flags)
    verify(parts.forward)
    verify(parts.backward)
    n = len(graph.outputs)
    assert [x.type for x in parts.forward.inputs] == [x.type for x in graph.inputs]
    assert [x.type for x in parts.forward.outputs[:n]] == [x.type for x in graph.outputs]
    assert len(set(parts.saved)) == len(parts.saved)
    with np.errstate(all="ignore"):
        before, after = interpret(graph, arrays), interpret(parts.forward, arrays)
        for a, b in zip(before, after[:n], strict=True):
            np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)
        found = iter(run(parts, arrays, cotangents))
        reference = interpret(gradient_graph(graph, wrt, given_flags), [*arrays, *cotangents])
    for right, there in zip(reference, parts.present, strict=True):
        value = next(found) if there else np.zeros_like(right)
        np.testing.assert_allclose(value, right, rtol=tolerance, atol=tolerance)
    assert next(found, None) is None
    return parts


@given(graphs())
def test_random_graphs(graph: Graph) -> None:
    assert_same(graph, inputs_of(graph))


@given(graphs(dtype=float32, steps=20))
def test_longer_random_graphs_in_single_precision(graph: Graph) -> None:
    assert_same(graph, inputs_of(graph), tolerance=5e-4)


@pytest.mark.parametrize(
    "call", [c for c in calls(float64) if c.op.vjp is not NONDIFFERENTIABLE], ids=str
)
def test_every_op(call: Call) -> None:
    if not call.graph().outputs[0].dtype.is_floating_point:
        pytest.skip("the result is not floating")
    assert_same(call.graph(), call.arrays)


def build(function: Callable[..., Node | tuple[Node, ...]], *shapes: tuple[int, ...]) -> Graph:
    with Builder() as builder:
        result = function(*(builder.input(TensorType(float32, s)) for s in shapes))
        return builder.finish(result if isinstance(result, tuple) else (result,))


def split(graph: Graph) -> Partition:
    return partition(graph, [True] * len(graph.inputs), [True] * len(graph.outputs))


def total(x: Node) -> Node:
    return OPS["sum"](x, axes=tuple(range(x.ndim)), keepdims=False)


def test_inputs_and_results_are_kept_for_nothing() -> None:
    parts = split(build(lambda x: OPS["exp"](x), (1000,)))
    assert parts.saved == (Saved("output", 0),)
    assert len(parts.forward.outputs) == 1
    parts = split(build(lambda x: total(x * x), (1000,)))
    assert parts.saved == (Saved("input", 0),)
    assert len(parts.forward.outputs) == 1


def test_a_chain_of_cheap_ops_is_recomputed_from_its_inputs() -> None:
    def function(x: Node, y: Node) -> Node:
        z = (x * y + x) * (x - y)
        return total(z * z)

    parts = split(build(function, (10000,), (10000,)))
    assert parts.saved == (Saved("input", 0), Saved("input", 1))


def test_contractions_and_reductions_are_never_recomputed() -> None:
    def function(x: Node, w: Node) -> Node:
        y = OPS["tanh"](OPS["matmul"](x, w))
        s = OPS["sum"](OPS["exp"](y), axes=(1,), keepdims=True)
        return total(OPS["log"](s) * y)

    parts = split(build(function, (64, 32), (32, 16)))
    names = [node.op.name for node in parts.backward.nodes]
    # The two of backward are the cotangents of x and w; its sum is that of broadcasting s.
    assert names.count("matmul") == 2
    assert names.count("sum") <= 1
    assert "tanh" not in names


def test_a_broadcast_value_is_saved_small() -> None:
    def function(x: Node, w: Node) -> Node:
        s = OPS["sum"](OPS["exp"](x), axes=(1,), keepdims=True)
        wide = OPS["broadcast_to"](s, shape=(100, 100))
        return total(wide * w)

    parts = split(build(function, (100, 100), (100, 100)))
    extras = parts.forward.outputs[1:]
    assert all(x.shape == (100, 1) for x in extras if x.op.name != "exp")
    assert parts.saved_bytes <= 4 * (100 * 100 * 2 + 100)


def test_a_mask_is_saved_rather_than_what_it_was_made_of() -> None:
    def function(x: Node, w: Node) -> Node:
        y = OPS["matmul"](x, w)
        return OPS["matmul"](OPS["where"](y > 0.0, y, 0.0), w)

    parts = split(build(function, (300, 300), (300, 300)))
    kept = [parts.forward.outputs[s.index] for s in parts.saved if s.kind == "output"]
    # Backward reads where(...) for the cotangent of w; for that of x the mask, or y again.
    assert sum(x.type.nbytes for x in kept) <= 300 * 300 * 5


def test_inputs_without_a_gradient_and_outputs_without_a_cotangent() -> None:
    with Builder() as builder:
        x = builder.input(TensorType(float64, (3,)), "x")
        z = builder.input(TensorType(float64, (3,)), "z")
        n = builder.input(TensorType(int64, (3,)), "n")
        graph = builder.finish([x * x, n + n, OPS["detach"](z), x + 1.0])
    parts = partition(graph, [True, True, False], [True, False, True, False])
    assert parts.present == (True, False)
    assert [x.params["name"] for x in parts.backward.inputs] == ["x", "g0", "g2"]
    x_value, g = np.array([1.0, 2.0, 3.0]), np.ones(3)
    (dx,) = run(parts, [x_value, x_value, np.zeros(3, np.int64)], [g, g])
    np.testing.assert_array_equal(dx, 2 * x_value)
    with pytest.raises(GraphError, match="not floating"):
        partition(graph, [False, False, True], [True, False, False, False])


def test_nothing_wanted() -> None:
    parts = partition(build(lambda x: x * x, (3,)), [False], [True])
    assert parts.saved == ()
    assert parts.backward.outputs == ()
    assert len(parts.backward.inputs) == 1


def test_gradient_that_passes_a_cotangent_through() -> None:
    parts = split(build(lambda x: x, (3,)))
    assert parts.saved == ()
    assert parts.backward.outputs == parts.backward.inputs


def test_gradient_that_depends_on_no_cotangent() -> None:
    parts = split(build(lambda x: OPS["floor"](x), (3,)))
    assert parts.saved == ()
    (found,) = run(parts, [np.ones(3, np.float32)], [np.ones(3, np.float32)])
    np.testing.assert_array_equal(found, np.zeros(3))


def test_a_wrong_cut_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def reorder(*arguments: object) -> list[Node]:
        inputs, *_ = arguments
        return list(inputs)[::-1]  # type: ignore[call-overload]

    graph = build(lambda x, y: x / (y * y + 1.0), (3,), (3,))
    assert_same(graph, inputs_of(graph), tolerance=1e-5)
    monkeypatch.setattr("tracegrad.ir.partition._minimum_cut", reorder)
    assert_same(graph, inputs_of(graph), tolerance=1e-5)
    monkeypatch.setattr("tracegrad.ir.partition.Saved", lambda kind, i: Saved(kind, 1 - i))
    with pytest.raises(AssertionError):
        assert_same(graph, inputs_of(graph), tolerance=1e-5)


def test_recomputed_values_stand_before_their_first_use() -> None:
    def function(x: Node) -> Node:
        for _ in range(4):
            x = (x + 1.0) * (x - 0.5) * 0.25
        return total(x)

    backward = split(build(function, (5000,))).backward
    place = {node: i for i, node in enumerate(backward.nodes)}
    first_use = {}
    for node in backward.nodes:
        for x in node.inputs:
            first_use.setdefault(x, place[node])
    gaps = [first_use[node] - place[node] for node in backward.nodes if node in first_use]
    assert np.mean(gaps) < len(backward.nodes) / 4


def test_sizes_of_gigabytes_do_not_overflow_the_flow() -> None:
    def function(x: Node, w: Node) -> Node:
        return total(OPS["tanh"](OPS["matmul"](x, w)) * x)

    parts = split(build(function, (50000, 50000), (50000, 50000)))
    assert {s.kind for s in parts.saved} == {"input", "output"}


def saved_beside(parts: Partition) -> int:
    """Bytes that forward keeps besides its one result and its inputs."""
    return sum(x.type.nbytes for x in parts.forward.outputs[1:])


def test_a_chain_of_functions_saves_its_input_alone() -> None:
    def function(x: Node) -> Node:
        for name in ("tanh", "exp", "sin", "tanh", "sigmoid"):
            x = OPS[name](x)
        return total(x)

    # To compute five functions again costs less than to write and read five arrays.
    parts = split(build(function, (1 << 20,)))
    assert parts.saved == (Saved("input", 0),)


def test_layer_norm_saves_its_input_and_numbers_of_each_row() -> None:
    def function(x: Node, w: Node, b: Node, t: Node) -> Node:
        y = OPS["layer_norm"](x, w, b, axes=(1,), eps=1e-5)
        return total(OPS["tanh"](y) * t)

    rows, columns = 512, 1024
    parts = split(build(function, (rows, columns), (columns,), (columns,), (rows, columns)))
    names = [parts.forward.inputs[s.index].params["name"] for s in parts.saved if s.kind == "input"]
    assert names == ["x0", "x1", "x2", "x3"]
    assert saved_beside(parts) <= 2 * 4 * rows


def mlp(x: Node, *weights: Node) -> Node:
    for w in weights:
        x = OPS["tanh"](OPS["matmul"](x, w))
    return total(x)


def test_a_budget_bounds_what_is_saved() -> None:
    layers, rows, width = 4, 48, 32
    graph = build(mlp, (rows, width), *[(width, width)] * layers)
    wrt = [True] * len(graph.inputs)
    whole = partition(graph, wrt, [True])
    one = 4 * rows * width
    assert saved_beside(whole) == layers * one
    assert [x.op.name for x in whole.backward.nodes].count("matmul") == 2 * layers
    random = np.random.default_rng(0)
    arrays = [random.normal(size=x.shape).astype(np.float32) / 6 for x in graph.inputs]
    cotangent = [np.ones((), np.float32)]
    expected = run(whole, arrays, cotangent)
    products = []
    for budget in (3 * one, 2 * one, 0):
        parts = partition(graph, wrt, [True], memory_budget=budget)
        assert saved_beside(parts) <= budget
        products.append([x.op.name for x in parts.backward.nodes].count("matmul"))
        for a, b in zip(run(parts, arrays, cotangent), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    # Less memory costs more products, but never more than the forward pass once more.
    assert 2 * layers < products[0] <= products[1] <= products[2] == 3 * layers
    assert partition(graph, wrt, [True], memory_budget=layers * one).saved == whole.saved


def test_a_budget_recomputes_what_costs_least() -> None:
    def function(x: Node, w: Node) -> Node:
        wide = OPS["matmul"](x, w)
        s = OPS["sum"](OPS["exp"](x), axes=(1,), keepdims=True)
        return total(OPS["log"](s) * OPS["tanh"](wide))

    graph = build(function, (256, 512), (512, 8))
    # The product is small and dear: it stays, and the sum, which is smaller still, as well.
    parts = partition(graph, [True, True], [True], memory_budget=256 * 8 * 4 + 256 * 4)
    assert saved_beside(parts) > 0
    backward = [x.op.name for x in parts.backward.nodes]
    assert backward.count("matmul") == 2
    none = partition(graph, [True, True], [True], memory_budget=0)
    assert saved_beside(none) == 0
    assert [x.op.name for x in none.backward.nodes].count("matmul") == 3
