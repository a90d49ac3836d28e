"""Reverse mode: rules against differences, to second order; masks; the tape's small graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from tests.gradient_check import check_gradient
from tests.op_samples import Call, calls
from tests.random_graphs import graphs, inputs_of
from tracegrad.errors import GraphError
from tracegrad.ir.differentiate import gradient_graph, joint_graph
from tracegrad.ir.graph import Builder, Graph, Loc, Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import NONDIFFERENTIABLE, OPS, Array, Rule
from tracegrad.ir.types import TensorType, bool_, float32, float64, int64
from tracegrad.ir.vjp_graphs import vjp_graph

DIFFERENTIABLE = [call for call in calls(float64) if call.op.vjp is not NONDIFFERENTIABLE]


def vector(*shape: int) -> TensorType:
    return TensorType(float64, shape)


def build(function: Callable[..., Node], *types: TensorType) -> Graph:
    with Builder() as builder:
        return builder.finish([function(*(builder.input(t) for t in types))])


@pytest.mark.parametrize("call", DIFFERENTIABLE, ids=str)
def test_rules_of_every_op_to_second_order(call: Call) -> None:
    graph = call.graph()
    if graph.outputs[0].dtype is not float64:
        pytest.skip("the result is not float64")
    check_gradient(graph, call.arrays)


@given(graphs(smooth=True, steps=8))
def test_random_graphs_to_second_order(graph: Graph) -> None:
    check_gradient(graph, inputs_of(graph), directions=1)


def wrong(rule: Rule) -> Rule:
    return lambda *args, **params: None if (g := rule(*args, **params)) is None else g * 1.001


@pytest.mark.parametrize("name", ["mul", "tanh", "sum", "matmul", "where", "reshape"])
def test_check_catches_a_rule_wrong_by_a_thousandth(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = next(c for c in DIFFERENTIABLE if c.op.name == name)
    assert isinstance(call.op.vjp, tuple)
    rules = tuple(rule and wrong(rule) for rule in call.op.vjp)
    corrupt = replace(call, op=replace(call.op, vjp=rules))
    with pytest.raises(AssertionError, match="derivative of order 1"):
        check_gradient(corrupt.graph(), call.arrays)


def test_check_catches_a_second_derivative_that_is_missing() -> None:
    # The rule is right in value, but a factor of it is hidden from the second differentiation.
    square = OPS["square"]
    rule: Rule = lambda g, y, x: g * OPS["detach"](x) * 2.0  # noqa: E731
    hidden = replace(square, vjp=(rule,))
    graph = build(lambda x: Builder.current().append(hidden, [x], {}), vector(3))
    x = np.array([1.0, 2.0, -0.5])
    check_gradient(graph, [x], order=1)
    with pytest.raises(AssertionError, match="derivative of order 2"):
        check_gradient(graph, [x], order=2)


def gradient_at(function: Callable[..., Node], *arrays: Array) -> list[Array]:
    graph = build(function, *(vector(*a.shape) for a in arrays))
    flags = [True] * len(arrays)
    (y,) = graph.outputs
    return interpret(gradient_graph(graph, flags, [True]), [*arrays, np.ones(y.shape)])


def positive(x: Node) -> Node:
    return OPS["gt"](x, 0.0)


def test_branch_not_taken_brings_in_no_nan() -> None:
    where, sqrt, log = OPS["where"], OPS["sqrt"], OPS["log"]
    x = np.array([0.0, 4.0, -1.0])
    (dx,) = gradient_at(lambda x: where(positive(x), sqrt(x), 0.0), x)
    np.testing.assert_array_equal(dx, [0.0, 0.25, 0.0])
    (dx,) = gradient_at(lambda x: where(positive(x), 0.0, sqrt(-x)), x[1:])
    np.testing.assert_array_equal(dx, [0.0, -0.5])
    # Through a chain, through a value with two users, and where both branches count.
    (dx,) = gradient_at(lambda x: where(positive(x), sqrt(x * 2.0) * log(x), x), x)
    assert np.isfinite(dx).all()
    np.testing.assert_array_equal(dx[[0, 2]], [1.0, 1.0])


def test_branch_not_taken_with_broadcasting_and_nesting() -> None:
    where, sqrt = OPS["where"], OPS["sqrt"]
    x = np.array([[0.0], [4.0]])
    s = np.array([1.0, 0.0, 4.0])
    # The divisor's gradient is summed over a masked row of infinities.
    dx, _ = gradient_at(lambda x, s: where(positive(x), s / x, s), x, s)
    np.testing.assert_array_equal(dx, [[0.0], [-5.0 / 16]])
    (dx,) = gradient_at(
        lambda x: where(OPS["gt"](x, 1.0), where(positive(x), sqrt(x), 1.0), 0.0), x
    )
    np.testing.assert_array_equal(dx, [[0.0], [0.25]])
    (dx,) = gradient_at(
        lambda x: where(positive(x), where(OPS["gt"](x, -1.0), sqrt(x), 1.0), 0.0), x
    )
    np.testing.assert_array_equal(dx, [[0.0], [0.25]])


def test_masks_differentiate_again() -> None:
    where, sqrt = OPS["where"], OPS["sqrt"]
    graph = build(lambda x: where(positive(x), sqrt(x), 0.0), vector(2))
    second = gradient_graph(gradient_graph(graph, [True], [True]), [True, True], [True])
    one = np.ones(2)
    dx, dg = interpret(second, [np.array([0.0, 4.0]), one, one])
    np.testing.assert_array_equal(dx, [0.0, -1 / 32])
    np.testing.assert_array_equal(dg, [0.0, 0.25])


def test_inputs_without_a_gradient_are_zeros_and_not_present() -> None:
    with Builder() as builder:
        x, z = (builder.input(vector(3)) for _ in range(2))
        n = builder.input(TensorType(int64, (3,)))
        graph = builder.finish([x * 2.0, OPS["detach"](z)])
    joint, present = joint_graph(graph, [True, True, False], [True, True])
    assert present == (True, False)
    assert len(joint.outputs) == 3
    ones = np.ones(3)
    found = interpret(
        gradient_graph(graph, [True, True, False], [True, True]),
        [ones, ones, np.zeros(3, np.int64), ones, ones],
    )
    np.testing.assert_array_equal(found, [[2.0] * 3, [0.0] * 3])
    assert n.dtype is int64
    with pytest.raises(GraphError, match="not floating"):
        gradient_graph(graph, [False, False, True], [True, True])


def test_outputs_may_repeat_and_may_be_inputs() -> None:
    with Builder() as builder:
        x = builder.input(vector(2))
        y = x * 3.0
        graph = builder.finish([y, x, y])
    gs = [np.array([1.0, 2.0]) * k for k in (1, 10, 100)]
    (dx,) = interpret(gradient_graph(graph, [True], [True] * 3), [np.ones(2), *gs])
    np.testing.assert_array_equal(dx, 3 * gs[0] + gs[1] + 3 * gs[2])


def test_backward_keeps_the_line_of_the_program() -> None:
    with Builder() as builder:
        x = builder.input(vector(2))
        builder.loc = Loc("model.py", 7)
        graph = builder.finish([OPS["tanh"](x)])
    nodes = gradient_graph(graph, [True], [True]).nodes
    assert {str(node.loc) for node in nodes if node.op.name != "constant"} == {"model.py:7"}


def test_vjp_graph_reads_what_its_rule_reads() -> None:
    types = [vector(3, 1), vector(4)]
    both = vjp_graph(OPS["mul"], types, {}, [True, True])
    assert both.reads == ("g", 0, 1)
    assert [x.type for x in both.graph.outputs] == types
    assert vjp_graph(OPS["mul"], types, {}, [True, False]).reads == ("g", 1)
    assert vjp_graph(OPS["add"], types, {}, [True, True]).reads == ("g",)
    assert vjp_graph(OPS["exp"], types[:1], {}, [True]).reads == ("g", "y")
    assert vjp_graph(OPS["mul"], types, {}, [True, True]) is both


def test_vjp_graph_says_what_has_no_gradient() -> None:
    found = vjp_graph(OPS["lt"], [vector(3)] * 2, {}, [True, True])
    assert found.cotangents == (None, None)
    types = [TensorType(bool_, (3,)), vector(3), vector(3)]
    found = vjp_graph(OPS["where"], types, {}, [False, False, True])
    assert found.cotangents == (None, None, 0)


def test_vjp_graph_of_equal_looking_parameters_differ() -> None:
    types = [vector(2)]
    params = {"low": (1,), "high": (0,), "interior": (0,)}
    a = vjp_graph(OPS["pad"], types, {**params, "value": 0.0}, [True])
    b = vjp_graph(OPS["pad"], types, {**params, "value": -0.0}, [True])
    assert a is not b


@pytest.mark.parametrize("call", DIFFERENTIABLE, ids=str)
def test_vjp_graph_is_the_gradient_graph(call: Call) -> None:
    graph = call.graph()
    (y,) = graph.outputs
    if not y.dtype.is_floating_point:
        pytest.skip("the result is not floating")
    needs = [x.dtype.is_floating_point for x in graph.inputs]
    types = [x.type for x in graph.inputs]
    rng = np.random.default_rng(3)
    g = np.asarray(rng.normal(size=y.shape), y.dtype.numpy)
    mask = np.asarray(rng.integers(0, 2, y.shape), bool)
    values = {
        "g": g,
        "mask": mask,
        "y": interpret(graph, call.arrays)[0],
        **dict(enumerate(call.arrays)),
    }
    reference = gradient_graph(graph, needs, [True])
    for masked in (False, True):
        incoming = np.where(mask, g, 0) if masked else g
        expected = interpret(reference, [*call.arrays, incoming])
        for carry in ([False] * len(needs), needs):
            found = vjp_graph(call.op, types, call.params, needs, masked=masked, carry=carry)
            outputs = interpret(found.graph, [values[r] for r in found.reads])
            wanted = [i for i, flag in enumerate(needs) if flag]
            assert all(found.cotangents[i] is None for i in set(range(len(needs))) - {*wanted})
            for i, right in zip(wanted, expected, strict=True):
                position, place = found.cotangents[i], found.masks[i]
                assert carry[i] or place is None
                result = np.zeros(types[i].shape) if position is None else outputs[position]
                if place is not None:
                    result = np.where(outputs[place], result, 0)
                np.testing.assert_allclose(result, right, rtol=1e-12, atol=1e-14)


def test_wrong_types_of_a_rule_are_told() -> None:
    cast: Rule = lambda g, y, x: OPS["cast"](g, dtype=float32)  # noqa: E731
    narrow = replace(OPS["neg"], vjp=(cast,))
    graph = build(lambda x: Builder.current().append(narrow, [x], {}), vector(3))
    with pytest.raises(GraphError, match=r"the gradient of neg is f32\[3\]"):
        gradient_graph(graph, [True], [True])
