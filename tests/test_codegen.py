"""Compiled graphs: the same values as the interpreter's, in few kernels, with nothing compiled
twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.unjitted as unjitted
from tests.random_graphs import graphs
from tracegrad.ir.differentiate import pullback
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import OPS
from tracegrad.ir.types import float32, type_of
from tracegrad.runtime.executor import Executable, compile_graph
from tracegrad.runtime.kernels import statistics

Array = np.ndarray[Any, Any]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3}


def graph_of(build: Callable[..., Any], arrays: Sequence[Array]) -> Graph:
    with Builder() as builder:
        outputs = build(*(builder.input(type_of(array)) for array in arrays))
        return builder.finish(outputs if isinstance(outputs, (list, tuple)) else [outputs])


def strides_of(array: Array) -> tuple[int, ...] | None:
    if array.flags.c_contiguous:
        return None
    return tuple(step // array.itemsize for step in array.strides)


def agree(found: Sequence[Array], expected: Sequence[Array]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        tolerance = TOLERANCE.get(b.dtype.name, 0)
        scale = np.max(np.abs(b), initial=1.0, where=np.isfinite(b)) if b.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def check(build: Callable[..., Any], *arrays: Array) -> Executable:
    graph = graph_of(build, arrays)
    compiled = compile_graph(graph, [strides_of(array) for array in arrays])
    before = [array.copy() for array in arrays]
    found = compiled(arrays)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    for output in found:
        assert not any(np.shares_memory(output, array) for array in arrays)
    agree(found, interpret(graph, arrays))
    return compiled


def normal(*shape: int, dtype: str = "float64") -> Array:
    rng = np.random.default_rng(sum(shape))
    return np.asarray(rng.standard_normal(shape), dtype)


def total(x: Node, *axes: int, keepdims: bool = False) -> Node:
    return OPS["sum"](x, axes=axes, keepdims=keepdims)


def softmax(x: Node) -> Node:
    top = OPS["amax"](x, axes=(1,), keepdims=True)
    e = OPS["exp"](x - top)
    return e / total(e, 1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((30, 40), (1,)),
        ((30, 40), (0,)),
        ((30, 40), (0, 1)),
        ((7, 5, 6), (1,)),
        ((7, 5, 6), (0, 2)),
        ((7, 5, 6), (0, 1)),
        ((9000,), (0,)),
        ((300, 400), (0, 1)),
        ((200_001,), (0,)),
        ((65_537,), (0,)),
        ((3, 70_000), (1,)),
        ((70_000, 3), (0,)),
        ((0, 4), (0,)),
        ((4, 0), (1,)),
        ((0, 4), (1,)),
        ((1, 1), (0, 1)),
        ((), ()),
    ],
)
def test_sums_over_any_axes(shape: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> None:
    check(lambda x: total(x * x + 1.0, *axes), normal(*shape, dtype=dtype))


def test_long_float32_sum_is_as_accurate_as_numpy() -> None:
    x = np.random.default_rng(0).random(3_000_000, np.float32)
    exact = float(np.sum(x, dtype=np.float64))
    (found,) = compile_graph(graph_of(lambda x: total(x, 0), [x]))([x])
    assert abs(float(found) - exact) <= abs(float(np.sum(x)) - exact) + exact * 1e-7


@pytest.mark.parametrize("name", ["amax", "amin", "prod", "argmax", "argmin"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_other_reductions(name: str, axes: tuple[int, ...]) -> None:
    x = normal(6, 5)
    check(lambda x: OPS[name](x, axes=axes, keepdims=False), x)
    x[2, 3] = np.nan
    check(lambda x: OPS[name](x, axes=axes, keepdims=False), x)


@pytest.mark.parametrize("dtype", ["float16", "int32", "int64", "uint8"])
def test_products_of_dtypes_that_blas_does_not_know(dtype: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, (4, 3)).astype(dtype)
    b = rng.integers(0, 5, (2, 3, 5)).astype(dtype)
    check(lambda a, b: OPS["matmul"](a, b), a, b)


@pytest.mark.parametrize(
    "arrays",
    [
        (normal(5, 6), normal(6, 7)),
        (normal(6, 5).T, normal(7, 6).T),
        (normal(5, 12)[:, ::2], normal(6, 7)),
        (normal(3, 5, 6), normal(6, 7)),
        (normal(2, 1, 5, 6), normal(3, 6, 7)),
        (normal(5, 6), normal(6, 1)),
        (normal(1, 6), normal(6, 7)),
        (normal(5, 0), normal(0, 7)),
        (normal(0, 6), normal(6, 7)),
        (normal(64, 33), normal(33, 40)),
    ],
)
def test_matrix_products_of_any_layout(arrays: tuple[Array, Array]) -> None:
    check(lambda a, b: OPS["matmul"](OPS["tanh"](a), b), *arrays)
    check(lambda a, b: OPS["matmul"](a, b) * 2.0, *arrays)


def test_views_cost_no_kernel() -> None:
    def build(x: Node) -> Node:
        turned = OPS["transpose"](x, axes=(1, 0))
        part = OPS["slice"](turned, starts=(1, 0), limits=(4, 6), strides=(2, 3))
        mirrored = OPS["flip"](part, axes=(1,))
        thick = OPS["reshape"](mirrored, shape=(2, 1, 2))
        return OPS["exp"](OPS["broadcast_to"](thick, shape=(2, 5, 2)))

    assert len(check(build, normal(6, 5)).kernels) == 1


def test_reshape_of_a_transpose_is_copied_where_it_must() -> None:
    check(
        lambda x: OPS["reshape"](OPS["transpose"](x, axes=(1, 0)), shape=(30,)) + 1.0, normal(5, 6)
    )
    check(lambda x: OPS["reshape"](x, shape=(30,)) + 1.0, normal(6, 5).T)
    check(lambda x: OPS["reshape"](x, shape=(2, 15)) + 1.0, normal(10, 6)[::2])


def test_outputs_are_copies() -> None:
    def build(x: Node) -> list[Node]:
        y = x * 2.0
        return [x, y, y, OPS["transpose"](x, axes=(1, 0)), OPS["transpose"](y, axes=(1, 0))]

    found = check(build, normal(3, 4))([normal(3, 4)])
    for i, a in enumerate(found):
        assert not any(np.shares_memory(a, b) for b in found[i + 1 :])


def test_softmax_is_one_kernel() -> None:
    assert len(check(softmax, normal(64, 10)).kernels) == 1


def test_exponentials_of_a_softmax_wait_in_its_memory() -> None:
    (kernel,) = check(softmax, normal(9, 10)).kernels
    assert kernel.source.count("exp(") == 1

    # And so do those of its gradient, where the result is written.
    def loss(x: Node, target: Node) -> list[Node | None]:
        value = -total(OPS["log"](softmax(x)) * target, 0, 1)
        return [value, *pullback(value, Builder.current().constant(1.0, x.dtype), [x])]

    kernels = check(loss, normal(9, 10), normal(9, 10)).kernels
    assert sum(kernel.source.count("exp(") for kernel in kernels) <= 2


def test_memory_that_is_read_is_not_lent() -> None:
    """The result of the second pass goes where others look: nothing waits there."""

    def build(x: Node) -> list[Node]:
        e = OPS["exp"](x)
        first = e + 1.0
        share = e / total(e, 1, keepdims=True)
        return [first, share * first, first * total(first, 1, keepdims=True)]

    check(build, normal(9, 10))


def test_a_layer_norm_with_its_gradient_makes_few_passes() -> None:
    def build(x: Node, g: Node) -> list[Node | None]:
        n = float(x.shape[1])
        centered = x - total(x, 1, keepdims=True) / n
        variance = total(centered * centered, 1, keepdims=True) / n
        y = centered / OPS["sqrt"](variance + 1e-5)
        return [y, *pullback(y, g, [x])]

    assert len(check(build, normal(50, 30), normal(50, 30)).kernels) <= 2


def test_taking_one_class_of_each_row_fuses_with_the_softmax_and_its_gradient() -> None:
    def build(x: Node, target: Node) -> list[Node | None]:
        rows = Builder.current().append(
            OPS["iota"], [], {"shape": (x.shape[0],), "axis": 0, "dtype": target.dtype}
        )
        picked = OPS["gather"](OPS["log"](softmax(x)), rows, target)
        value = -total(picked, 0)
        return [value, *pullback(value, Builder.current().constant(1.0, x.dtype), [x])]

    target = np.array([0, 3, 9, -4, 12, 5, 5, 1])
    assert len(check(build, normal(8, 10), target).kernels) <= 3


def test_large_whole_row_kernels_keep_their_passes_apart() -> None:
    x = normal(2, 100_000)
    kernels = check(lambda x: x / total(x * x, 1, keepdims=True), x).kernels
    assert len(kernels) == 2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_new_size_compiles_nothing(dtype: str) -> None:
    def build(x: Node, w: Node) -> list[Node | None]:
        y = softmax(OPS["tanh"](OPS["matmul"](x, w)))
        value = total(y * y, 0, 1)
        one = Builder.current().constant(1.0, x.dtype)
        return [value, *pullback(value, one, [w])]

    check(build, normal(32, 8, dtype=dtype), normal(8, 6, dtype=dtype))
    compiled = statistics.compiled + statistics.loaded
    check(build, normal(50, 9, dtype=dtype), normal(9, 7, dtype=dtype))
    check(build, normal(3, 11, dtype=dtype), normal(11, 5, dtype=dtype))
    assert statistics.compiled + statistics.loaded == compiled


def test_equal_layers_share_their_kernels() -> None:
    def build(x: Node, *weights: Node) -> Node:
        for w in weights:
            x = OPS["tanh"](OPS["matmul"](x, w))
        return x

    weights = [normal(8, 8) for _ in range(20)]
    compiled = check(build, normal(4, 8), *weights)
    assert len({info.name for info in compiled.kernels}) == 2


@pytest.mark.parametrize("readers", [1, 2])
def test_a_deep_chain_is_cut_into_kernels_of_bounded_size(readers: int) -> None:
    def build(x: Node) -> Node:
        for i in range(1000):
            y = OPS["sin"](x) * 0.99
            x = y + 0.01 * (i % 7) if readers == 1 else y * y + y
        return x

    kernels = check(build, normal(5)).kernels
    assert max(info.source.count(" = ") for info in kernels) < 450
    # Equal pieces of the chain are one kernel.
    assert len({info.name for info in kernels}) <= 6


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["tanh"], 1),
        (["tanh", "square", "exp"], 4),
        (["tanh", "exp", "exp"], 8),
        (["tanh", "exp", "sin"], 4),
    ],
)
@pytest.mark.parametrize("form", ["map", "rows", "columns"])
def test_long_chains_of_functions_are_computed_side_by_side(
    names: list[str], count: int, form: str
) -> None:
    def build(x: Node) -> Node:
        for name in names:
            x = OPS[name](x)
        return x if form == "map" else total(x, 1 if form == "rows" else 0)

    # A whole number of the vectors side by side, and one more element.
    (kernel,) = check(build, normal(5, 257).astype(np.float32)).kernels
    assert re.findall(r"interleave\((\d+)\)", kernel.source) == [str(count)] * (count > 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 5, 70])
def test_sums_of_products_are_added_up_in_place(n: int, dtype: str) -> None:
    shapes = ((6, 7), (7, n), (6, 3), (3, n), (6, 90), (90, n))
    arrays = [normal(*shape).astype(dtype) for shape in shapes]

    def three(a: Node, b: Node, c: Node, d: Node, e: Node, f: Node) -> Node:
        matmul = OPS["matmul"]
        return OPS["sin"](matmul(a, b) + (matmul(c, d) + matmul(e, f)))

    compiled = check(three, *arrays)
    assert [" ".join(kernel.does.ops) for kernel in compiled.kernels] == [
        "matmul",
        "matmul add",
        "matmul add",
        "sin",
    ]

    def read_elsewhere(a: Node, b: Node, c: Node, d: Node, e: Node, f: Node) -> list[Node]:
        matmul = OPS["matmul"]
        first, second = matmul(a, b), matmul(c, d)
        both, third = matmul(e, f) + second, matmul(e, f)
        return [first + second, both, third + third, first]

    check(read_elsewhere, *arrays)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_positions_of_extremes_in_long_rows(name: str, dtype: str) -> None:
    """The first of equals, the first NaN before all, over any axes."""
    x = np.random.default_rng(1).integers(-3, 4, (5, 70, 3)).astype(dtype)
    if dtype == "float32":
        x[1, 20, 1] = x[1, 30, 1] = np.nan
        x[2, :, 2] = -np.inf
        x[3, :, 0] = np.inf

    def build(x: Node) -> list[Node]:
        return [
            OPS[name](x, axes=axes, keepdims=keepdims)
            for axes, keepdims in (
                ((1,), False),
                ((1, 2), True),
                ((0, 1), False),
                ((0, 1, 2), True),
            )
        ]

    check(build, x)


def test_indices_that_are_computed_themselves() -> None:
    def build(x: Node, base: Node) -> list[Node]:
        order = OPS["argsort"](x, axis=0, descending=False, stable=True)
        moved = OPS["scatter_add"](base, x * 2.0, order)
        again = OPS["scatter"](base, OPS["gather"](moved, order), order)
        return [moved, again, OPS["gather"](again * 3.0, order)]

    check(build, normal(9), np.zeros(9))


def test_temporaries_share_memory() -> None:
    def build(x: Node, w: Node) -> Node:
        for _ in range(30):
            x = OPS["matmul"](x, w)
        return x

    compiled = check(build, normal(16, 16) / 4, normal(16, 16) / 4)
    assert compiled._arena <= 3 * 16 * 16 * 8


@pytest.mark.parametrize("shape", [(300_000,), (600, 500), (3, 100_000)])
def test_threads_change_no_bit(shape: tuple[int, ...]) -> None:
    from tracegrad.runtime.program import get_num_threads, set_num_threads

    x = normal(*shape, dtype="float32")
    graph = graph_of(lambda x: [OPS["tanh"](x), total(x, *range(len(shape))), total(x, 0)], [x])
    compiled = compile_graph(graph)
    threads = get_num_threads()
    first = compiled([x])
    again = compiled([x])
    set_num_threads(1)
    try:
        alone = compiled([x])
    finally:
        set_num_threads(threads)
    for a, b, c in zip(first, again, alone, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_special_values_pass_through() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310, 1.0])
    check(lambda x: [x * 0.0, x - x, x / 0.0, -x, OPS["exp"](x), OPS["maximum"](x, 0.0)], x)


@settings(max_examples=60)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_random_graphs_unjitted(graph: Graph, seed: int) -> None:
    arrays = _inputs(graph, seed)
    found = unjitted.run(graph, arrays)
    if found is not None:
        agree(found, interpret(graph, arrays))


@settings(max_examples=25)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_random_graphs_compiled(graph: Graph, seed: int) -> None:
    arrays = _inputs(graph, seed)
    agree(compile_graph(graph)(arrays), interpret(graph, arrays))


@settings(max_examples=10)
@given(graphs(dtype=float32), st.integers(0, 2**32 - 1))
def test_random_float32_graphs_compiled(graph: Graph, seed: int) -> None:
    arrays = _inputs(graph, seed)
    agree(compile_graph(graph)(arrays), interpret(graph, arrays))


def _inputs(graph: Graph, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(x.shape), x.dtype.numpy) for x in graph.inputs]
