"""CUDA kernels without a GPU: their meaning by numba-cuda's simulator, and their text.

Whether they compile is seen in `test_cuda_code.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.device_check import run_on_device as run
from tests.test_ops import (
    BY_OP,
    DIFFERENTIABLE,
    arrangements,
    assert_close,
    gradient_cases,
    tolerance_of,
)
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import OPS, evaluate
from tracegrad.ir.passes import optimize
from tracegrad.ir.types import TensorType, bool_, float32, int64

pytest.importorskip("cuda.bindings", reason="numba-cuda is not installed")

from tracegrad.codegen.cuda import DeviceLaunch, lanes
from tracegrad.codegen.legalize import legalize
from tracegrad.codegen.schedule import schedule
from tracegrad.runtime.cuda.executor import launches_of

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", BY_OP)
def test_values(name: str) -> None:
    for call in BY_OP[name]:
        graph = call.graph()
        (output,) = graph.outputs
        for arrays in arrangements(call):
            wanted = evaluate(call.op, arrays, call.params, output.dtype)
            (found,) = run(graph, arrays)
            assert_close(found, wanted, tolerance_of(graph), str(call))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str) -> None:
    for call, gradient, arrays, wanted, tolerance in gradient_cases(name):
        for mine, reference in zip(run(optimize(gradient), arrays), wanted, strict=True):
            assert_close(mine, reference, tolerance, str(call))


# ----------------------------------------------------------- longer than what a block takes at once


def graph_of(build: Callable[..., Sequence[Node]], *types: TensorType) -> Graph:
    with Builder("f") as builder:
        inputs = [builder.input(type, f"x{i}") for i, type in enumerate(types)]
        return optimize(builder.finish(build(*inputs)))


def f32(*shape: int) -> TensorType:
    return TensorType(float32, shape)


def row_softmax(x: Node) -> list[Node]:
    shifted = OPS["exp"](x - OPS["amax"](x, axes=(1,), keepdims=True))
    return [shifted / OPS["sum"](shifted, axes=(1,), keepdims=True)]


def column_sums(x: Node) -> list[Node]:
    return [OPS["sum"](x, axes=(0,), keepdims=False), OPS["argmin"](x, axes=(0,), keepdims=False)]


LONG = {
    "rows": (row_softmax, [f32(13, 101)]),
    "long rows": (row_softmax, [f32(2, 1100)]),
    "short rows": (row_softmax, [f32(70, 3)]),
    "columns": (column_sums, [f32(77, 37)]),
    "a whole": (lambda x: [OPS["sum"](x, axes=(0, 1), keepdims=False)], [f32(50, 70)]),
    "a map of three": (
        lambda x, y: [OPS["transpose"](x, axes=(2, 0, 1)) * y],
        [f32(4, 5, 6), f32(5)],
    ),
    "matmul": (lambda a, b: [OPS["matmul"](a, b)], [f32(9, 11), f32(11, 7)]),
    "batch": (lambda a, b: [OPS["matmul"](a, b)], [f32(2, 1, 5, 4), f32(3, 4, 5)]),
    "cumsum": (lambda x: [OPS["cumsum"](x, axis=0)], [f32(45, 11)]),
    "long cumsum": (lambda x: [OPS["cumsum"](x, axis=1)], [f32(3, 150)]),
    "sort": (lambda x: [OPS["sort"](x, axis=1, descending=True)], [f32(3, 100)]),
    "argsort": (lambda x: [OPS["argsort"](x, axis=0, descending=False)], [f32(37, 5)]),
    "nonzero": (lambda x: [OPS["nonzero"](x > 0.0, count=90)], [f32(17, 11)]),
}


@pytest.mark.parametrize("name", LONG)
def test_longer_than_a_block(name: str) -> None:
    build, types = LONG[name]
    graph = graph_of(build, *types)
    random = np.random.default_rng(1)
    arrays = [random.normal(size=x.shape).astype(x.dtype.numpy) for x in types]
    for mine, reference in zip(run(graph, arrays), interpret(graph, arrays), strict=True):
        assert_close(mine, reference, 1e-5, name)


def test_sorting_keeps_the_order_of_equal_elements() -> None:
    keys = np.random.default_rng(2).integers(0, 4, (2, 60))
    for descending in (False, True):
        graph = graph_of(
            lambda x, down=descending: [OPS["argsort"](x, axis=1, descending=down)],
            TensorType(int64, (2, 60)),
        )
        (found,) = run(graph, [keys])
        ordered = -keys if descending else keys
        np.testing.assert_array_equal(found, np.argsort(ordered, axis=1, kind="stable"))


def test_sums_that_meet_are_all_counted() -> None:
    base = np.zeros(5, np.float32)
    at = np.random.default_rng(0).integers(0, 5, 400)
    ones = np.ones(400, np.float32)
    with Builder("f") as builder:
        nodes = [builder.input(TensorType(t, a.shape)) for t, a in ((float32, base), (int64, at))]
        nodes.append(builder.input(TensorType(float32, ones.shape)))
        graph = builder.finish([OPS["scatter_add"](nodes[0], nodes[2], nodes[1])])
    (found,) = run(graph, [base, at, ones])
    np.testing.assert_array_equal(found, np.bincount(at, minlength=5))


# ------------------------------------------------------------------------------------------ threads


def threads(rows: int, inner: int, along_rows: bool = False) -> tuple[int, int]:
    return lanes(DeviceLaunch("", (), [], rows, inner, along_rows))


def test_threads_of_a_block() -> None:
    # A map; a block, a warp and a thread for a row; columns; a square.
    assert threads(1 << 20, 0) == (256, 1)
    assert threads(64, 4096) == (1, 256)
    assert threads(64, 128) == (1, 32)
    assert threads(64, 5) == (256, 1)
    assert threads(1024, 4096, along_rows=True) == (32, 8)
    assert threads(1024, 4, along_rows=True) == (32, 1)
    assert threads(1024, -1) == (16, 16)


# --------------------------------------------------------------------------------------------- text

FAMILIES = {
    "map": (lambda x, y: [OPS["tanh"](x * 2.0 + y)], [f32(8, 16), f32(16)]),
    "rows": (row_softmax, [f32(8, 64)]),
    "search": (lambda x: [OPS["argmax"](x, axes=(0,), keepdims=False)], [f32(8, 64)]),
    "gather": (
        lambda x, i: [OPS["gather"](x, i)],
        [f32(8, 16), TensorType(int64, (5,))],
    ),
    "scatter": (
        lambda x, i, y: [OPS["scatter_add"](x, y, i)],
        [f32(8, 16), TensorType(int64, (5,)), f32(5, 16)],
    ),
    "random": (
        lambda s, o: [OPS["uniform"](s, o, shape=(8, 16), dtype=float32)],
        [TensorType(int64, ()), TensorType(int64, ())],
    ),
    "product": (lambda a, b: [OPS["matmul"](a, b)], [f32(2, 5, 4), f32(4, 3)]),
    "scan": (lambda x: [OPS["cumsum"](x, axis=1)], [f32(4, 100)]),
    "sort": (lambda x: [OPS["sort"](x, axis=1, descending=False)], [f32(4, 4)]),
    "positions": (lambda x: [OPS["nonzero"](x, count=9)], [TensorType(bool_, (4, 5))]),
}


def launches(name: str) -> list[DeviceLaunch]:
    build, types = FAMILIES[name]
    graph = graph_of(build, *types)
    planned = schedule(legalize(graph), [None] * len(graph.inputs))
    return [launch for step in planned.steps for launch in launches_of(step, planned)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_of_a_family(name: str) -> None:
    """One kernel a family as it is printed; delete the file to have it written anew."""
    path = GOLDEN / f"cuda_{name}.txt"
    text = "\n\n".join(launch.source for launch in launches(name))
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path.name} was not there and has been written")
    assert text == path.read_text(encoding="utf-8")


def test_sizes_are_no_part_of_the_text() -> None:
    small, large = (graph_of(row_softmax, f32(*shape)) for shape in ((8, 64), (300, 4100)))
    sources = [
        [x.source for step in plan.steps for x in launches_of(step, plan)]
        for plan in (schedule(legalize(graph), [None]) for graph in (small, large))
    ]
    assert sources[0] == sources[1]
