"""Loops and branches in the IR: gradients against differences, passes that keep the meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracegrad.ir.ops  # noqa: F401  (registers every op)
from tests.gradient_check import check_gradient
from tests.random_graphs import inputs_of
from tests.random_loops import looped_graphs
from tests.test_partition import assert_same
from tracegrad.ir.checkpointing import within_budget
from tracegrad.ir.differentiate import gradient_graph
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.loops import LoopBuilder, Made
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.ops.control import cond, item
from tracegrad.ir.partition import partition
from tracegrad.ir.passes import optimize
from tracegrad.ir.types import TensorType, Type, bool_, float64, int64
from tracegrad.ir.verifier import verify

SCALAR = TensorType(float64, ())
INTEGER = TensorType(int64, ())
FLAG = TensorType(bool_, ())


def vector(*shape: int) -> TensorType:
    return TensorType(float64, shape)


def number(value: float) -> Array:
    return np.asarray(value)


def always() -> Node:
    return Builder.current().constant(True)


def build(function: Callable[..., Sequence[Node]], *types: Type) -> Graph:
    with Builder("program") as builder:
        return builder.finish(function(*(builder.input(t) for t in types)))


def for_loop(
    limit: int | Node,
    body: Callable[..., tuple[Sequence[Node], Sequence[Node]]],
    carry: Sequence[Node],
    consts: Sequence[Node] = (),
    xs: Sequence[Node] = (),
    *,
    length: int | None = None,
    reverse: bool = False,
    go: Callable[..., Node] | None = None,
) -> list[Node]:
    """Final carries and stacked rows of a loop over `body(position, *carry, *consts, *slices) ->
    carry, rows`; `go` of the new carries says whether it goes on.
    """
    builder = Builder.current()
    first = builder.constant(limit) if isinstance(limit, int) else limit
    start = always()
    with LoopBuilder("body") as inside:
        old = [inside.carry(x, "c") for x in carry]
        fixed = [inside.const(x, "k") for x in consts]
        slices = [inside.slice(x, "x") for x in xs]
        new, rows = body(inside.position, *old, *fixed, *slices)
        going = inside.body.constant(True) if go is None else go(*new)
        made = Made(going, tuple(new), tuple(rows))
        loop = inside.finish(first, start, made, length=length, reverse=reverse)
    node = loop.append()
    return [item(node, index=i) for i in range(1, 1 + len(new) + len(rows))]


def branches(index: Node, operands: Sequence[Node], *functions: Callable[..., Node]) -> Node:
    """The result of the function number `index` on the operands."""
    graphs = []
    for function in functions:
        with Builder("branch") as builder:
            graphs.append(builder.finish([function(*(builder.input(x.type) for x in operands))]))
    return item(cond(index, *operands, branches=tuple(graphs)), index=0)


def sin(x: Node) -> Node:
    return OPS["sin"](x)


def cast(x: Node) -> Node:
    return OPS["cast"](x, dtype=float64)


# Programs, with the inputs to try them on.


def _power(x: Node, w: Node) -> list[Node]:
    return for_loop(5, lambda t, y, k: ([sin(y * k) + y], [y * y]), [x], [w], length=5)


def _dynamic(n: Node, x: Node) -> list[Node]:
    return for_loop(n, lambda t, y: ([sin(y) * y + cast(t)], []), [x])


def _stops(x: Node) -> list[Node]:
    # Doubles until it is large: how often is known when it runs.
    return for_loop(2**63 - 1, lambda t, y: ([y * 2.0 + sin(y)], []), [x], go=lambda y: y < 9.0)


def _stops_within(x: Node, xs: Node) -> list[Node]:
    # Rows that are not reached stay zero.
    return for_loop(
        6, lambda t, y, v: ([y * v], [y + v * v]), [x], [], [xs], length=6, go=lambda y: y < 3.0
    )


def _scan(x: Node, xs: Node) -> list[Node]:
    step = lambda t, y, v: ([sin(y * v)], [y * v, v * v])  # noqa: E731
    return for_loop(4, step, [x], [], [xs], length=4)


def _scan_back(x: Node, xs: Node) -> list[Node]:
    step = lambda t, y, v: ([sin(y * v) + cast(t)], [y * v])  # noqa: E731
    return for_loop(4, step, [x], [], [xs], length=4, reverse=True)


def _nested(x: Node, w: Node) -> list[Node]:
    def inner(t: Node, y: Node, k: Node) -> tuple[list[Node], list[Node]]:
        return [sin(y * k) + y], [y]

    def outer(t: Node, y: Node, k: Node) -> tuple[list[Node], list[Node]]:
        # The inner loop runs 0, 1 and 2 times.
        z, rows = for_loop(t, inner, [y], [k], length=3)
        return [z + OPS["sum"](rows, axes=(0,))], [z * k]

    return for_loop(3, outer, [x], [w], length=3)


def _nested_stops(x: Node) -> list[Node]:
    def outer(t: Node, y: Node) -> tuple[list[Node], list[Node]]:
        (z,) = for_loop(2**63 - 1, lambda s, v: ([v * 1.5 + sin(v)], []), [y], go=lambda v: v < 4.0)
        return [OPS["sqrt"](z) * y], [z]

    return for_loop(3, outer, [x], length=3)


def _matrix(x: Node, w: Node) -> list[Node]:
    step = lambda t, h, k: ([OPS["tanh"](OPS["matmul"](h, k) + h)], [h])  # noqa: E731
    return for_loop(3, step, [x], [w], length=3)


def _update(x: Node) -> list[Node]:
    # Each element from its updated neighbours.
    def step(t: Node, a: Node) -> tuple[list[Node], list[Node]]:
        i = t + 1
        left, right = OPS["gather"](a, i - 1), OPS["gather"](a, i + 1)
        return [OPS["scatter"](a, sin(left * right), i)], []

    return for_loop(4, step, [x])


def _sweeps(x: Node) -> list[Node]:
    def sweep(t: Node, a: Node) -> tuple[list[Node], list[Node]]:
        return _update(a), []

    return for_loop(3, sweep, [x])


def _product(a: Node, x: Node) -> list[Node]:
    # A matrix times a vector, element by element.
    def row(i: Node, y: Node, m: Node, v: Node) -> tuple[list[Node], list[Node]]:
        def column(j: Node, s: Node, m: Node, v: Node, i: Node) -> tuple[list[Node], list[Node]]:
            return [s + OPS["gather"](m, i, j) * sin(OPS["gather"](v, j))], []

        (s,) = for_loop(4, column, [Builder.current().constant(0.0)], [m, v, i])
        return [OPS["scatter"](y, s * s, i)], []

    zero = OPS["broadcast_to"](Builder.current().constant(0.0), shape=(3,))
    return for_loop(3, row, [zero], [a, x])


def _heat(u: Node, k: Node) -> list[Node]:
    def part(x: Node, start: int, limit: int) -> Node:
        return OPS["slice"](x, starts=(start,), limits=(limit,), strides=(1,))

    def step(t: Node, u: Node, k: Node) -> tuple[list[Node], list[Node]]:
        bend = part(u, 2, 6) - 2.0 * part(u, 1, 5) + part(u, 0, 4)
        inside = {"starts": (1,), "limits": (5,), "strides": (1,)}
        return [OPS["update_slice"](u, part(u, 1, 5) + k * bend, **inside)], []

    return for_loop(3, step, [u], [k])


def _choice(i: Node, x: Node, w: Node) -> list[Node]:
    return [branches(i, [x, w], lambda a, b: sin(a * b), lambda a, b: b * b, lambda a, b: a)]


def _choice_in_loop(x: Node, xs: Node) -> list[Node]:
    def step(t: Node, y: Node, v: Node) -> tuple[list[Node], list[Node]]:
        index = OPS["cast"](OPS["remainder"](t, 3), dtype=int64)
        z = branches(index, [y, v], lambda a, b: sin(a * b), lambda a, b: a + b, lambda a, b: b * b)
        return [z], [y]

    return for_loop(5, step, [x], [], [xs], length=5)


def _loop_in_choice(i: Node, x: Node) -> list[Node]:
    def looped(a: Node) -> Node:
        return for_loop(3, lambda t, y: ([sin(y) * y], []), [a])[0]

    return [branches(i, [x], looped, lambda a: a * a, lambda a: Builder.current().constant(2.0))]


def _integers(x: Node) -> list[Node]:
    # A counter and a flag among the carries.
    def step(t: Node, y: Node, n: Node, flag: Node) -> tuple[list[Node], list[Node]]:
        factor = OPS["where"](flag, cast(n), cast(t))
        return [sin(y * factor), n + 2, OPS["logical_not"](flag)], []

    builder = Builder.current()
    return for_loop(4, step, [x, builder.constant(1), builder.constant(True)])[:1]


def _swap(x: Node, y: Node) -> list[Node]:
    # A cotangent that is only there after some iterations.
    return for_loop(3, lambda t, a, b, c: ([b, c, sin(a)], []), [x, y, x * y])[:1]


def _unused(x: Node, y: Node) -> list[Node]:
    return for_loop(3, lambda t, a, b: ([sin(a), b * a], []), [x, y])[:1]


def _gathered(x: Node, table: Node) -> list[Node]:
    def step(t: Node, y: Node, table: Node) -> tuple[list[Node], list[Node]]:
        return [sin(y * OPS["gather"](table, t)) + OPS["gather"](table, t + 1)], []

    return for_loop(3, step, [x], [table])


RNG = np.random.default_rng(3)

PROGRAMS: dict[str, tuple[Callable[..., Sequence[Node]], list[Array]]] = {
    "power": (_power, [number(0.3), number(0.7)]),
    "dynamic": (_dynamic, [np.asarray(4), number(0.3)]),
    "dynamic, no trip": (_dynamic, [np.asarray(0), number(0.3)]),
    "dynamic, negative": (_dynamic, [np.asarray(-2), number(0.3)]),
    "stops": (_stops, [number(0.3)]),
    "stops at once": (_stops, [number(30.0)]),
    "stops within": (_stops_within, [number(0.7), np.linspace(1.0, 2.0, 6)]),
    "scan": (_scan, [number(0.4), RNG.normal(size=4)]),
    "scan in reverse": (_scan_back, [number(0.4), RNG.normal(size=4)]),
    "nested": (_nested, [number(0.3), number(0.7)]),
    "nested, stops": (_nested_stops, [number(0.9)]),
    "matrix": (_matrix, [RNG.normal(size=(2, 3)), RNG.normal(size=(3, 3))]),
    "update": (_update, [RNG.normal(size=6)]),
    "sweeps": (_sweeps, [RNG.normal(size=6)]),
    "product": (_product, [RNG.normal(size=(3, 4)), RNG.normal(size=4)]),
    "heat": (_heat, [RNG.normal(size=6), number(0.2)]),
    "choice 0": (_choice, [np.asarray(0), number(0.4), number(0.6)]),
    "choice 1": (_choice, [np.asarray(1), number(0.4), number(0.6)]),
    "choice 2": (_choice, [np.asarray(7), number(0.4), number(0.6)]),
    "choice in a loop": (_choice_in_loop, [number(0.4), RNG.normal(size=5)]),
    "loop in a choice, 0": (_loop_in_choice, [np.asarray(0), number(0.6)]),
    "loop in a choice, 1": (_loop_in_choice, [np.asarray(1), number(0.6)]),
    "loop in a choice, 2": (_loop_in_choice, [np.asarray(2), number(0.6)]),
    "integers": (_integers, [number(0.4)]),
    "swap": (_swap, [number(0.4), number(0.6)]),
    "unused": (_unused, [number(0.4), number(0.6)]),
    "gathered": (_gathered, [number(0.4), RNG.normal(size=5)]),
}


def program(name: str) -> tuple[Graph, list[Array]]:
    function, arrays = PROGRAMS[name]
    types = [TensorType(int64 if a.dtype.kind == "i" else float64, a.shape) for a in arrays]
    return build(function, *types), arrays


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradient_to_second_order(name: str) -> None:
    check_gradient(*program(name), directions=1)


@pytest.mark.parametrize("name", ["power", "nested", "choice in a loop", "loop in a choice, 0"])
def test_gradient_to_third_order(name: str) -> None:
    check_gradient(*program(name), order=3, directions=1)


@pytest.mark.parametrize("name", PROGRAMS)
def test_cut_in_forward_and_backward(name: str) -> None:
    assert_same(*program(name))


@pytest.mark.parametrize("name", PROGRAMS)
def test_passes_keep_the_meaning(name: str) -> None:
    graph, arrays = program(name)
    wrt = [x.dtype is float64 for x in graph.inputs]
    gradient = gradient_graph(graph, wrt, [True] * len(graph.outputs))
    cotangents = [np.ones(y.shape) for y in graph.outputs]
    for before, inputs in ((graph, arrays), (gradient, [*arrays, *cotangents])):
        expected = interpret(before, inputs)
        for a, b in zip(expected, interpret(optimize(before), inputs), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-12)


@pytest.mark.parametrize("budget", [1, 40, 100])
@pytest.mark.parametrize("name", PROGRAMS)
def test_loops_in_blocks_within_a_budget(name: str, budget: int) -> None:
    graph, arrays = program(name)
    blocks = within_budget(graph, budget)
    verify(blocks)
    for a, b in zip(interpret(graph, arrays), interpret(blocks, arrays), strict=True):
        np.testing.assert_array_equal(b, a)
    check_gradient(blocks, arrays, directions=1, order=2 if budget == 40 else 1)
    assert_same(blocks, arrays)


def bytes_in(value: Any) -> int:
    """The bytes of an array, or of all frames of a stack."""
    return sum(map(bytes_in, value)) if isinstance(value, list) else value.nbytes


@pytest.mark.parametrize("budget", [3000, 12000, 50000])
def test_a_budget_bounds_what_is_saved(budget: int) -> None:
    def step(t: Node, y: Node) -> tuple[list[Node], list[Node]]:
        return [sin(y) * OPS["cos"](y)], []

    graph = build(lambda x: for_loop(1000, step, [x]), vector(10))
    parts = partition(graph, [True], [True], memory_budget=budget)
    saved = interpret(parts.forward, [np.linspace(0.0, 1.0, 10)])[1:]
    assert 0 < sum(map(bytes_in, saved)) <= budget
    plain = partition(graph, [True], [True])
    assert sum(map(bytes_in, interpret(plain.forward, [np.linspace(0.0, 1.0, 10)])[1:])) > budget


def test_a_loop_that_fits_is_left_alone() -> None:
    graph, _ = program("power")
    assert within_budget(graph, 10**6) is graph or "remat" not in str(within_budget(graph, 10**6))


@given(looped_graphs())
def test_random_loops_to_second_order(graph: Graph) -> None:
    check_gradient(graph, inputs_of(graph), directions=1)


@given(looped_graphs())
def test_passes_keep_the_meaning_of_random_loops(graph: Graph) -> None:
    arrays = inputs_of(graph)
    better = optimize(graph)
    verify(better)
    for a, b in zip(interpret(graph, arrays), interpret(better, arrays), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


@given(looped_graphs(), st.integers(1, 200))
def test_random_loops_cut_within_a_budget(graph: Graph, budget: int) -> None:
    arrays = inputs_of(graph)
    assert_same(graph, arrays)
    assert_same(within_budget(graph, budget), arrays)
