"""Passes as text before and after, also evaluated, so that a stable wrong answer fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given

from tests.op_samples import calls
from tests.random_graphs import graphs, inputs_of
from tracegrad.config import config
from tracegrad.ir.differentiate import joint_graph
from tracegrad.ir.graph import Builder, Graph
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.parser import parse
from tracegrad.ir.passes import (
    PASSES,
    canonicalize,
    eliminate,
    expand_composites,
    fold_constants,
    optimize,
    rewrite,
    simplify,
    turn_products,
)
from tracegrad.ir.printer import text
from tracegrad.ir.rewrites import EXACT, INEXACT, Rule, RuleTable
from tracegrad.ir.structure import equal
from tracegrad.ir.types import DTYPES, DType, TensorType, bool_, float32, float64, int32, type_of
from tracegrad.log import enabled

# Signed zeros, infinities, NaN, subnormals: what algebra goes wrong on.
HARD = (0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 3e-45, 1e38, 0.1)


def same_bits(a: Array, b: Array) -> bool:
    """Equal to the bit, all NaN being one."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind == "f":
        both = np.isnan(a) & np.isnan(b)
        a, b = np.where(both, 0, a), np.where(both, 0, b)
    return a.tobytes() == b.tobytes()


def hard_inputs(graph: Graph) -> list[Array]:
    """Every input filled with the hard values, each input beginning elsewhere, so that all pairs
    meet.
    """
    rng = np.random.default_rng(0)
    inputs = []
    for x in graph.inputs:
        if x.dtype.kind == "f":
            values = rng.choice(HARD, x.shape)
        elif x.dtype.kind == "b":
            values = rng.integers(0, 2, x.shape)
        else:
            values = rng.integers(0, 120, x.shape)
        inputs.append(np.asarray(values).astype(x.dtype.numpy))
    return inputs


def assert_becomes(before: str, expected: str, run: Callable[[Graph], Graph]) -> None:
    graph = parse(before)
    result = run(graph)
    wanted = parse(expected)
    assert equal(result, wanted), text(result)
    inputs = hard_inputs(graph)
    with np.errstate(all="ignore"):
        for a, b in zip(interpret(graph, inputs), interpret(result, inputs), strict=True):
            assert same_bits(a, b), (a, b)


CASES = {
    "what is read where it was stored": (
        optimize,
        """
def f(x: f32[6], y: f32[4], s: f32[()], i: i64[()]) -> (f32[6], f32[()], f32[6]):
    v0: f32[6] = update_slice(x, y, starts=(1,), limits=(5,), strides=(1,))
    v1: f32[4] = slice(v0, starts=(1,), limits=(5,), strides=(1,))
    v2: f32[6] = update_slice(v0, v1, starts=(1,), limits=(5,), strides=(1,))
    v3: f32[6] = scatter(x, s, i)
    v4: f32[()] = gather(v3, i)
    v5: f32[()] = gather(x, i)
    v6: f32[6] = scatter(x, v5, i)
    return v2, v4, v6
""",
        """
def f(x: f32[6], y: f32[4], s: f32[()], i: i64[()]) -> (f32[6], f32[()], f32[6]):
    v0: f32[6] = update_slice(x, y, starts=(1,), limits=(5,), strides=(1,))
    return v0, s, x
""",
    ),
    "what is read elsewhere than it was stored": (
        optimize,
        """
def f(x: f32[6], y: f32[4], s: f32[3], i: i64[3], j: i64[()]) -> (f32[4], f32[3], f32[()]):
    v0: f32[6] = update_slice(x, y, starts=(1,), limits=(5,), strides=(1,))
    v1: f32[4] = slice(v0, starts=(2,), limits=(6,), strides=(1,))
    v2: f32[6] = scatter(x, s, i)
    v3: f32[3] = gather(v2, i)
    v4: f32[()] = gather(v2, j)
    return v1, v3, v4
""",
        """
def f(x: f32[6], y: f32[4], s: f32[3], i: i64[3], j: i64[()]) -> (f32[4], f32[3], f32[()]):
    v0: f32[6] = update_slice(x, y, starts=(1,), limits=(5,), strides=(1,))
    v1: f32[4] = slice(v0, starts=(2,), limits=(6,), strides=(1,))
    v2: f32[6] = scatter(x, s, i)
    v3: f32[3] = gather(v2, i)
    v4: f32[()] = gather(v2, j)
    return v1, v3, v4
""",
    ),
    "constants to the right": (
        canonicalize,
        """
def f(x: f32[50]) -> (f32[50], b1[50], b1[50]):
    v0: f32[50] = mul(2.0, x)
    v1: b1[50] = lt(2.0, x)
    v2: b1[50] = ge(2.0, x)
    return v0, v1, v2
""",
        """
def f(x: f32[50]) -> (f32[50], b1[50], b1[50]):
    v0: f32[50] = mul(x, 2.0)
    v1: b1[50] = gt(x, 2.0)
    v2: b1[50] = le(x, 2.0)
    return v0, v1, v2
""",
    ),
    "uniform arrays are scalars": (
        optimize,
        """
def f(x: f32[2, 3]) -> (f32[2, 3], f32[4]):
    v0: f32[2, 3] = constant(array(2.0, f32[2, 3]))
    v1: f32[2, 3] = mul(x, v0)
    v2: f32[4] = constant(array([0.5, 0.5, 0.5, 0.5], f32[4]))
    return v1, v2
""",
        """
def f(x: f32[2, 3]) -> (f32[2, 3], f32[4]):
    v0: f32[2, 3] = mul(x, 2.0)
    v1: f32[4] = broadcast_to(f32(0.5), shape=(4,))
    return v0, v1
""",
    ),
    "movement merges": (
        optimize,
        """
def f(x: f32[2, 3, 4]) -> (f32[24], f32[2, 3, 4], f32[2, 3, 4], f32[5, 2, 3, 4], f32[2, 3, 4]):
    v0: f32[6, 4] = reshape(x, shape=(6, 4))
    v1: f32[24] = reshape(v0, shape=(24,))
    v2: f32[2, 3, 4] = reshape(v0, shape=(2, 3, 4))
    v3: f32[4, 2, 3] = transpose(x, axes=(2, 0, 1))
    v4: f32[2, 3, 4] = transpose(v3, axes=(1, 2, 0))
    v5: f32[1, 2, 3, 4] = broadcast_to(x, shape=(1, 2, 3, 4))
    v6: f32[5, 2, 3, 4] = broadcast_to(v5, shape=(5, 2, 3, 4))
    v7: f32[2, 3, 4] = slice(x, starts=(0, 0, 0), limits=(2, 3, 4), strides=(1, 1, 1))
    return v1, v2, v4, v6, v7
""",
        """
def f(x: f32[2, 3, 4]) -> (f32[24], f32[2, 3, 4], f32[2, 3, 4], f32[5, 2, 3, 4], f32[2, 3, 4]):
    v0: f32[24] = reshape(x, shape=(24,))
    v1: f32[5, 2, 3, 4] = broadcast_to(x, shape=(5, 2, 3, 4))
    return v0, x, x, v1, x
""",
    ),
    "a slice that cuts stays": (
        optimize,
        """
def f(x: f32[3]) -> (f32[3], f32[1]):
    v0: f32[3] = flip(x, axes=(0,))
    v1: f32[1] = slice(x, starts=(1,), limits=(2,), strides=(1,))
    return v0, v1
""",
        """
def f(x: f32[3]) -> (f32[3], f32[1]):
    v0: f32[3] = flip(x, axes=(0,))
    v1: f32[1] = slice(x, starts=(1,), limits=(2,), strides=(1,))
    return v0, v1
""",
    ),
    "transposing sizes of 1 is a reshape": (
        canonicalize,
        """
def f(x: f32[3, 1, 2]) -> f32[1, 3, 2]:
    v0: f32[1, 3, 2] = transpose(x, axes=(1, 0, 2))
    return v0
""",
        """
def f(x: f32[3, 1, 2]) -> f32[1, 3, 2]:
    v0: f32[1, 3, 2] = reshape(x, shape=(1, 3, 2))
    return v0
""",
    ),
    "compute, then broadcast": (
        optimize,
        """
def f(x: f32[3], y: f32[2, 3]) -> (f32[2, 3], f32[2, 3]):
    v0: f32[2, 3] = broadcast_to(x, shape=(2, 3))
    v1: f32[2, 3] = exp(v0)
    v2: f32[2, 3] = mul(v0, y)
    return v1, v2
""",
        """
def f(x: f32[3], y: f32[2, 3]) -> (f32[2, 3], f32[2, 3]):
    v0: f32[3] = exp(x)
    v1: f32[2, 3] = broadcast_to(v0, shape=(2, 3))
    v2: f32[2, 3] = mul(x, y)
    return v1, v2
""",
    ),
    "casts that widen and come back": (
        canonicalize,
        """
def f(x: f32[9], n: i32[9]) -> (f32[9], f32[9], f32[9], i32[9]):
    v0: f64[9] = cast(x, dtype=f64)
    v1: f32[9] = cast(v0, dtype=f32)
    v2: f16[9] = cast(x, dtype=f16)
    v3: f32[9] = cast(v2, dtype=f32)
    v4: f32[9] = cast(n, dtype=f32)
    v5: i32[9] = cast(v4, dtype=i32)
    return v1, v3, v4, v5
""",
        """
def f(x: f32[9], n: i32[9]) -> (f32[9], f32[9], f32[9], i32[9]):
    v0: f16[9] = cast(x, dtype=f16)
    v1: f32[9] = cast(v0, dtype=f32)
    v2: f32[9] = cast(n, dtype=f32)
    v3: i32[9] = cast(v2, dtype=i32)
    return x, v1, v2, v3
""",
    ),
    "division by powers of two": (
        canonicalize,
        """
def f(x: f32[90]) -> (f32[90], f32[90], f32[90], f32[90]):
    v0: f32[90] = div(x, 4.0)
    v1: f32[90] = div(x, -0.5)
    v2: f32[90] = div(x, 3.0)
    v3: f32[90] = div(x, 1e-45)
    return v0, v1, v2, v3
""",
        """
def f(x: f32[90]) -> (f32[90], f32[90], f32[90], f32[90]):
    v0: f32[90] = mul(x, 0.25)
    v1: f32[90] = mul(x, -2.0)
    v2: f32[90] = div(x, 3.0)
    v3: f32[90] = div(x, 1e-45)
    return v0, v1, v2, v3
""",
    ),
    "folds over nothing": (
        canonicalize,
        """
def f(x: f32[3, 1]) -> (f32[3], f32[3, 1], f32[3, 1]):
    v0: f32[3] = amax(x, axes=(1,), keepdims=False)
    v1: f32[3, 1] = prod(x, axes=(1,), keepdims=True)
    v2: f32[3, 1] = amin(x, axes=(), keepdims=False)
    return v0, v1, v2
""",
        """
def f(x: f32[3, 1]) -> (f32[3], f32[3, 1], f32[3, 1]):
    v0: f32[3] = reshape(x, shape=(3,))
    return v0, x, x
""",
    ),
    "constants fold": (
        fold_constants,
        """
def f(x: f32[2]) -> f32[2]:
    v0: f32[2] = constant(array([1.0, 2.0], f32[2]))
    v1: f32[2] = mul(v0, 3.0)
    v2: f32[()] = sum(v1, axes=(0,), keepdims=False)
    v3: f32[2] = add(x, v2)
    return v3
""",
        """
def f(x: f32[2]) -> f32[2]:
    v0: f32[2] = add(x, 9.0)
    return v0
""",
    ),
    "large constants do not fold": (
        fold_constants,
        """
def f() -> i64[1000]:
    v0: i64[1000] = iota(shape=(1000,), axis=0, dtype=i64)
    v1: i64[1000] = mul(v0, 2)
    return v1
""",
        """
def f() -> i64[1000]:
    v0: i64[1000] = iota(shape=(1000,), axis=0, dtype=i64)
    v1: i64[1000] = mul(v0, 2)
    return v1
""",
    ),
    "signed zeros and infinities are kept": (
        optimize,
        """
def f(x: f32[90]) -> (f32[90], f32[90], f32[90], f32[90], f32[90], f32[90]):
    v0: f32[90] = add(x, 0.0)
    v1: f32[90] = add(x, -0.0)
    v2: f32[90] = mul(x, 0.0)
    v3: f32[90] = sub(x, x)
    v4: f32[90] = sub(0.0, x)
    v5: f32[90] = sub(x, 0.0)
    return v0, v1, v2, v3, v4, v5
""",
        """
def f(x: f32[90]) -> (f32[90], f32[90], f32[90], f32[90], f32[90], f32[90]):
    v0: f32[90] = add(x, 0.0)
    v1: f32[90] = mul(x, 0.0)
    v2: f32[90] = sub(x, x)
    v3: f32[90] = sub(0.0, x)
    return v0, x, v1, v2, v3, x
""",
    ),
    "signs": (
        simplify,
        """
def f(x: f32[90], y: f32[90]) -> (f32[90], f32[90], f32[90], f32[90], f32[90]):
    v0: f32[90] = neg(x)
    v1: f32[90] = neg(v0)
    v2: f32[90] = neg(y)
    v3: f32[90] = mul(v0, v2)
    v4: f32[90] = add(x, v2)
    v5: f32[90] = sub(x, v2)
    v6: f32[90] = mul(x, -1.0)
    return v1, v3, v4, v5, v6
""",
        """
def f(x: f32[90], y: f32[90]) -> (f32[90], f32[90], f32[90], f32[90], f32[90]):
    v0: f32[90] = neg(x)
    v1: f32[90] = mul(x, y)
    v2: f32[90] = sub(x, y)
    v3: f32[90] = add(x, y)
    return x, v1, v2, v3, v0
""",
    ),
    "the shape of what is dropped stays": (
        simplify,
        """
def f(c: b1[2, 3], x: f32[3]) -> f32[2, 3]:
    v0: f32[2, 3] = where(c, x, x)
    return v0
""",
        """
def f(c: b1[2, 3], x: f32[3]) -> f32[2, 3]:
    v0: f32[2, 3] = broadcast_to(x, shape=(2, 3))
    return v0
""",
    ),
    "the transpose of a product that nobody else reads": (
        turn_products,
        """
def f(a: f32[2, 3, 4], b: f32[2, 4, 5]) -> (f32[2, 5, 3], f32[2, 3, 5], f32[3, 2, 5]):
    v0: f32[2, 3, 5] = matmul(a, b)
    v1: f32[2, 5, 3] = transpose(v0, axes=(0, 2, 1))
    v2: f32[2, 3, 4] = neg(a)
    v3: f32[2, 3, 5] = matmul(v2, b)
    v4: f32[2, 5, 3] = transpose(v3, axes=(0, 2, 1))
    v5: f32[2, 5, 3] = add(v1, v4)
    v6: f32[2, 4, 5] = neg(b)
    v7: f32[2, 3, 5] = matmul(a, v6)
    v8: f32[3, 2, 5] = transpose(v7, axes=(1, 0, 2))
    return v5, v0, v8
""",
        """
def f(a: f32[2, 3, 4], b: f32[2, 4, 5]) -> (f32[2, 5, 3], f32[2, 3, 5], f32[3, 2, 5]):
    v0: f32[2, 3, 5] = matmul(a, b)
    v1: f32[2, 5, 3] = transpose(v0, axes=(0, 2, 1))
    v2: f32[2, 3, 4] = neg(a)
    v3: f32[2, 5, 4] = transpose(b, axes=(0, 2, 1))
    v4: f32[2, 4, 3] = transpose(v2, axes=(0, 2, 1))
    v5: f32[2, 5, 3] = matmul(v3, v4)
    v6: f32[2, 5, 3] = add(v1, v5)
    v7: f32[2, 4, 5] = neg(b)
    v8: f32[2, 3, 5] = matmul(a, v7)
    v9: f32[3, 2, 5] = transpose(v8, axes=(1, 0, 2))
    return v6, v0, v9
""",
    ),
    "dead code and common subexpressions": (
        eliminate,
        """
def f(x: f32[3], unused: f32[2]) -> (f32[3], f32[3]):
    v0: f32[3] = exp(x)
    v1: f32[3] = exp(x)
    v2: f32[3] = add(v0, v1)
    v3: f32[3] = sin(x)
    return v2, v0
""",
        """
def f(x: f32[3], unused: f32[2]) -> (f32[3], f32[3]):
    v0: f32[3] = exp(x)
    v1: f32[3] = add(v0, v0)
    return v1, v0
""",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text_before_and_after(name: str) -> None:
    run, before, expected = CASES[name]
    assert_becomes(before, expected, run)


def rule_graph(rule: Rule, dtype: DType) -> tuple[Graph, list[Array]] | None:
    """The pattern of a rule on all tuples of hard values of `dtype`; None where it has no such
    form.
    """
    names = sorted({word for word in _words(rule.pattern) if len(word) == 1})
    hard = HARD if dtype.kind == "f" else (0, 1) if dtype.kind == "b" else (0, 1, 7, 100)
    types = [bool_ if name == "c" else dtype for name in names]
    choices = [(False, True) if t is bool_ else hard for t in types]
    rows = list(itertools.product(*choices))
    columns = zip(*rows, strict=True)
    arrays = [np.array(column).astype(t.numpy) for column, t in zip(columns, types, strict=True)]
    with Builder() as builder:
        inputs = [builder.input(type_of(a), name) for name, a in zip(names, arrays, strict=True)]
        scope = dict(zip(names, inputs, strict=True))
        scope |= {"True": builder.constant(True), "False": builder.constant(False)}
        try:
            y = eval(_prefixed(rule.pattern), {"op": OPS, **scope})
        except (TypeError, RuntimeError, OverflowError):
            return None
        return builder.finish([y]), arrays


def _words(pattern: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in pattern).split()


def _prefixed(pattern: str) -> str:
    for word in set(_words(pattern)):
        if word in OPS:
            pattern = pattern.replace(f"{word}(", f"op[{word!r}](")
    return pattern


@pytest.mark.parametrize("rule", EXACT, ids=str)
def test_exact_rules_keep_every_bit(rule: Rule) -> None:
    fired = 0
    for dtype in (float32, float64, int32, bool_):
        made = rule_graph(rule, dtype)
        if made is None:
            continue
        graph, arrays = made
        result = rewrite(graph, RuleTable([rule]).apply)
        fired += not equal(graph, result)
        with np.errstate(all="ignore"):
            before, after = interpret(graph, arrays)[0], interpret(result, arrays)[0]
        if "pow" in rule.pattern:
            # NumPy's power is within a unit in the last place; what replaces it is
            # correctly rounded.
            np.testing.assert_array_max_ulp(before[~np.isnan(before)], after[~np.isnan(after)], 1)
            continue
        assert same_bits(before, after), (before, after)
    assert fired


@pytest.mark.parametrize("rule", INEXACT, ids=str)
def test_inexact_rules_are_true_of_numbers_and_off_by_default(rule: Rule) -> None:
    made = rule_graph(rule, float64)
    assert made is not None
    graph, arrays = made
    result = rewrite(graph, RuleTable([rule]).apply)
    assert not equal(graph, result)
    rng = np.random.default_rng(0)
    tame = [rng.uniform(0.5, 2.0, a.shape) for a in arrays]
    np.testing.assert_allclose(
        interpret(graph, tame)[0], interpret(result, tame)[0], rtol=1e-14, atol=1e-14
    )
    # It really is inexact: some hard value tells the two apart, or rounding does.
    with np.errstate(all="ignore"):
        before = interpret(graph, arrays)[0]
        hard = same_bits(before, interpret(result, arrays)[0])
        assert same_bits(before, interpret(optimize(graph), arrays)[0])
    assert not hard or not same_bits(interpret(graph, tame)[0], interpret(result, tame)[0])


def test_a_bad_rewrite_is_caught() -> None:
    """The two nets above hold: a wrong rule called exact fails the one, a stable wrong text the
    other.
    """
    with pytest.raises(AssertionError):
        test_exact_rules_keep_every_bit(Rule("add(x, 0.0)", "x"))
    with pytest.raises(AssertionError):
        test_exact_rules_keep_every_bit(Rule("sub(x, y)", "sub(y, x)"))
    before = "def f(x: f32[50]) -> f32[50]:\n    v0: f32[50] = mul(x, 0.0)\n    return v0\n"
    after = "def f(x: f32[50]) -> f32[50]:\n    v0: f32[50] = broadcast_to(f32(0.0), shape=(50,))\n"
    bad = RuleTable([Rule("mul(x, 0.0)", "0.0")])
    with pytest.raises(AssertionError):
        assert_becomes(before, after + "    return v0\n", lambda g: rewrite(g, bad.apply))


@pytest.mark.parametrize("step", [p for p in PASSES if p.exact], ids=lambda p: p.name)
@given(graph=graphs())
def test_random_graphs_keep_every_bit(step: object, graph: Graph) -> None:
    inputs = inputs_of(graph)
    result = step.run(graph)  # type: ignore[attr-defined]
    assert [x.type for x in result.outputs] == [x.type for x in graph.outputs]
    for a, b in zip(interpret(graph, inputs), interpret(result, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@given(graphs(dtype=float32, steps=8))
def test_random_joint_graphs(graph: Graph) -> None:
    joint, _ = joint_graph(graph, [True] * len(graph.inputs), [True] * len(graph.outputs))
    inputs = inputs_of(joint)
    with config.override(check=True):
        result = optimize(joint)
    assert len(result.nodes) <= 2 * len(joint.nodes)
    for a, b in zip(interpret(joint, inputs), interpret(result, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.short)
def test_every_op_keeps_its_meaning(dtype: DType) -> None:
    for call in calls(dtype):
        graph = call.graph()
        with config.override(check=True):
            result = optimize(graph)
        assert not any(node.op.expand for node in result.nodes)
        with np.errstate(all="ignore"):
            (before,), (after,) = (interpret(g, call.arrays) for g in (graph, result))
        tolerance = {"f16": 4e-3, "f32": 1e-5}.get(dtype.short, 1e-12)
        np.testing.assert_allclose(
            before, after, rtol=tolerance, atol=tolerance, err_msg=f"{call}\n{result}"
        )


def test_optimizing_twice_changes_nothing() -> None:
    for _, before, _ in CASES.values():
        once = optimize(parse(before))
        assert equal(once, optimize(once))


def test_composites_expand_to_the_bottom() -> None:
    composites = [call for call in calls(float64) if call.op.expand]
    assert composites
    for call in composites:
        result = expand_composites(call.graph())
        assert all(node.op.expand is None for node in result.nodes)


def test_impure_and_unused_inputs_stay() -> None:
    with Builder() as builder:
        x = builder.input(TensorType(float32, (2,)), "x")
        builder.input(TensorType(float32, (2,)), "unused")
        graph = builder.finish([x + -0.0])
    result = optimize(graph)
    assert [i.params["name"] for i in result.inputs] == ["x", "unused"]
    assert result.outputs == result.inputs[:1]


def test_passes_report_and_dump(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    graph = parse(CASES["signs"][1])
    with config.override(log=frozenset({"passes"}), dump=tmp_path):
        optimize(graph)
    assert "f: exact algebra: 8 -> " in capsys.readouterr().err
    assert enabled("passes") is False
    files = sorted(p.name for p in tmp_path.iterdir())  # type: ignore[attr-defined]
    assert files[0] == "0001-f-expand_composites.py"
