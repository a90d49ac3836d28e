"""A graph printed and parsed is the same graph."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given

from tests.op_samples import calls
from tests.random_graphs import graphs
from tracegrad.errors import GraphError
from tracegrad.ir.differentiate import joint_graph
from tracegrad.ir.graph import Builder, Graph, Loc
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.parser import parse
from tracegrad.ir.printer import text
from tracegrad.ir.structure import equal, structural_key
from tracegrad.ir.types import DTYPES, DType, TensorType, float16, float32, float64, int64


def assert_round_trip(graph: Graph) -> None:
    printed = text(graph)
    again = parse(printed)
    assert equal(graph, again), printed
    assert text(again) == printed


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.short)
def test_every_op(dtype: DType) -> None:
    for call in calls(dtype):
        assert_round_trip(call.graph())


@given(graphs())
def test_random_graphs(graph: Graph) -> None:
    assert_round_trip(graph)


@given(graphs(dtype=float16, steps=6))
def test_random_gradients(graph: Graph) -> None:
    flags = [True] * len(graph.inputs)
    joint, _ = joint_graph(graph, flags, [True] * len(graph.outputs))
    assert_round_trip(joint)


EXAMPLE = """\
# loss, forward
# after simplify
def forward(w: f32[784, 10], x: f32[64, 784]) -> (f32[()], f32[64, 10], f32[2]):
    v0: f32[64, 10] = matmul(x, w)                      # train.py:12
    v1: f32[64, 10] = mul(v0, 0.1)                      # train.py:13
    v2: b1[64, 10] = gt(v1, -0.0)
    v3: f32[64, 10] = where(v2, v1, -inf)               # train.py:13
    v4: i64[()] = cast(f32(nan), dtype=i64)
    v5: f32[2] = constant(array([1.0, 2.5], f32[2]))
    v6: f32[()] = sum(v3, axes=(0, 1), keepdims=False)  # train.py:14
    return v6, v3, v5
"""


def test_form() -> None:
    assert text(parse(EXAMPLE)) == EXAMPLE


def scalar_round_trip(array: Array) -> Array:
    with Builder() as builder:
        x = builder.input(TensorType(int64, ()))
        graph = builder.finish([builder.constant(array), x])
    again = parse(text(graph)).outputs[0].params["value"].array
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes(), text(graph)
    return again


@pytest.mark.parametrize("dtype", [float16, float32, float64], ids=lambda t: t.short)
def test_constants_keep_every_bit(dtype: DType) -> None:
    info = np.finfo(dtype.numpy)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 0.1, 1 / 3, 1e-5]
    values = [*special, info.max, info.tiny, info.smallest_subnormal, np.nextafter(1, 2)]
    for value in values:
        scalar_round_trip(np.asarray(value, dtype.numpy))
    scalar_round_trip(np.asarray(values, dtype.numpy))
    # NaN with a payload.
    width = dtype.itemsize
    payload = (np.frombuffer(np.asarray(np.nan, dtype.numpy).tobytes(), f"u{width}") + 1).view(
        dtype.numpy
    )
    scalar_round_trip(payload.reshape(()))
    scalar_round_trip(np.concatenate([payload, payload, np.zeros(1, dtype.numpy)]))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.short)
def test_array_constants(dtype: DType) -> None:
    rng = np.random.default_rng(0)
    for shape in [(), (0,), (0, 3), (1,), (2, 3), (2, 1, 3), (40, 50)]:
        array = np.asarray(rng.normal(size=shape) * 100, dtype.numpy)
        scalar_round_trip(array)
        scalar_round_trip(np.ones(shape, dtype.numpy))
    if dtype.kind in "iu":
        info = np.iinfo(dtype.numpy)
        scalar_round_trip(np.array([info.min, info.max], dtype.numpy))


def test_scalars_beside_bools_and_other_scalars_keep_their_dtype() -> None:
    with Builder() as builder:
        c = builder.input(TensorType(DTYPES[0], (3,)))
        y = OPS["where"](c, builder.constant(1.0, float16), builder.constant(0.5, float16))
        one = builder.constant(1, float32)
        graph = builder.finish([y, one + builder.constant(2.0, float32), one])
    assert_round_trip(graph)


def test_names_that_python_or_the_text_cannot_have() -> None:
    with Builder("<lambda>") as builder:
        names = ["b1", "params['w'][0]", "v0", "inf", "class", "sum", "f32", "1st", "λ", "v0"]
        inputs = [builder.input(TensorType(float32, (2,)), name) for name in names]
        total = inputs[0]
        for x in inputs[1:]:
            total = total + x * float("inf")
        graph = builder.finish([total])
    assert_round_trip(graph)


def test_lines_and_comments_survive() -> None:
    graph = parse(EXAMPLE)
    assert graph.origin == "loss, forward\nafter simplify"
    assert [str(node.loc) for node in graph.nodes if node.op.name in ("matmul", "sum")] == [
        "train.py:12",
        "train.py:14",
    ]
    with Builder() as builder:
        builder.loc = Loc("/home/user/model.py", 3)
        x = builder.input(TensorType(float32, ()))
        assert "# model.py:3" in text(builder.finish([x + 1.0]))


def test_no_inputs_and_no_outputs() -> None:
    with Builder() as builder:
        assert_round_trip(builder.finish([]))
    with Builder() as builder:
        assert_round_trip(builder.finish([builder.constant(2.0, float32)]))


def test_equality_sees_every_difference() -> None:
    base = parse(EXAMPLE)
    changes = [
        ("0.1", "0.2"),
        ("-0.0)", "0.0)"),
        ("-inf)", "v0)"),
        ("return v6, v3", "return v6, v1"),
        ("gt(v1", "ge(v1"),
        ("gt(v1", "gt(v0"),
        ("2.5", "2.25"),
        ("def forward", "def backward"),
    ]
    changed = [EXAMPLE.replace(old, new) for old, new in changes]
    changed.append(EXAMPLE.replace("x: f32", "y: f32").replace("matmul(x", "matmul(y"))
    for other in changed:
        assert other != EXAMPLE
        assert not equal(base, parse(other)), other


def test_structural_key_ignores_names_and_lines_alone() -> None:
    renamed = EXAMPLE.replace("w:", "weights:").replace(", w)", ", weights)").replace("12", "99")
    assert structural_key(parse(renamed)) == structural_key(parse(EXAMPLE))
    assert hash(structural_key(parse(renamed))) == hash(structural_key(parse(EXAMPLE)))
    keys = set()
    for value in (1, 1.0, True, 0.0, -0.0):
        with Builder() as builder:
            x = builder.input(TensorType(float32, (2,)))
            params = {"low": (1,), "high": (0,), "interior": (0,), "value": value}
            keys.add(structural_key(builder.finish([OPS["pad"](x, **params)])))
    assert len(keys) == 5


def test_builder_tells_parameters_apart_that_python_says_are_equal() -> None:
    with Builder() as builder:
        x = builder.input(TensorType(float32, (2,)))
        params = {"low": (1,), "high": (0,), "interior": (0,)}
        assert OPS["pad"](x, **params, value=0.0) is not OPS["pad"](x, **params, value=-0.0)
        assert OPS["pad"](x, **params, value=0.0) is OPS["pad"](x, value=0.0, **params)


def test_long_constants_may_be_left_out() -> None:
    with Builder() as builder:
        graph = builder.finish([builder.constant(np.arange(1000.0))])
    assert "array(..., f64[1000])" in text(graph, elide=True)
    with pytest.raises(GraphError, match="left out"):
        parse(text(graph, elide=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "one function"),
        ("def f(x: f32[2]) -> f32[2]\n  return x", "line 1: not Python"),
        ("def f(x: f32[2]) -> f32[2]:\n  y: f32[2] = nosuch(x)\n  return y", "line 2: nosuch"),
        ("def f(x: f32[2]) -> f32[2]:\n  y: f32[3] = neg(x)\n  return y", r"is f32\[2\], not"),
        ("def f(x: f32[2]) -> f32[2]:\n  y: f32[2] = neg(z)\n  return y", "z is not defined"),
        ("def f(x: f32[2]) -> f32[2]:\n  y: f32[2] = add(x)\n  return y", "takes 2 inputs, not 1"),
        ("def f(x: f32[2]) -> f32[2]:\n  x: f32[2] = neg(x)\n  return x", "defined twice"),
        ("def f(x: f32[2]) -> f32[3]:\n  return x", "do not have the types"),
        ("def f(x: float) -> f32[3]:\n  return x", "a type is written"),
        ("def f(x: f32[2]) -> f32[2]:\n  y = neg(x)\n  return y", "expected `name: type"),
        ("def f(x: f32[2]) -> f32[2]:\n  y: f32[2] = neg(x)", "not `return`"),
        ("def f(x: f32[2]) -> f32[1]:\n  y: f32[1] = sum(x, axis=0)\n  return y", "line 2"),
    ],
)
def test_bad_text_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse(text)


def test_cost_is_linear() -> None:
    def seconds(n: int) -> float:
        with Builder() as builder:
            x = builder.input(TensorType(float32, (3, 4)))
            for i in range(n):
                x = OPS["tanh"](x * 2.0) if i % 2 else x + 1.0
            graph = builder.finish([x])
        start = time.perf_counter()
        parse(text(graph))
        return time.perf_counter() - start

    # 10 times the nodes may cost 10 times as much, with room for a busy machine; not 100 times.
    assert seconds(8000) < 40 * max(min(seconds(800) for _ in range(3)), 0.005)
