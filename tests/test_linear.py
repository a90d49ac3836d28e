"""Integers as sums: their bounds hold for every value, in random sums and in random nests of loops,
and loops over triangles need no checks.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from tests.test_control_ir import build, for_loop, vector
from tests.test_control_passes import loops_of
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.interpret import interpret, watching
from tracegrad.ir.intervals import Known, inside, intervals_of
from tracegrad.ir.linear import Linear, Symbol
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.ops.control import graphs_of
from tracegrad.ir.passes import optimize
from tracegrad.ir.types import TensorType, int8, int64

NUMBER = TensorType(int64, ())


def _random_sum(rng: random.Random, symbols: list[Symbol]) -> Linear:
    total = Linear(rng.randint(-3, 3))
    for symbol in rng.sample(symbols, min(len(symbols), 2)):
        total = total.plus(Linear.of(symbol), rng.randint(-2, 2))
    return total


def _value(total: Linear, values: dict[Symbol, int]) -> int:
    found = total.constant
    for x, factor in total.terms.items():
        found += values[x] * factor
    return found


@pytest.mark.parametrize("seed", range(60))
def test_bounds_of_random_sums_hold(seed: int) -> None:
    rng = random.Random(seed)
    symbols: list[Symbol] = []
    for _ in range(3):
        low = rng.randint(-3, 2)
        least = tuple(_random_sum(rng, symbols) for _ in range(rng.randint(0, 1)))
        most = tuple(_random_sum(rng, symbols) for _ in range(rng.randint(0, 1)))
        symbols.append(Symbol(low, low + rng.randint(0, 4), least, most))
    total = _random_sum(rng, symbols).plus(_random_sum(rng, symbols))
    low, high = total.smallest(), total.greatest()
    for chosen in itertools.product(*(range(x.low, x.high + 1) for x in symbols)):
        values = dict(zip(symbols, chosen, strict=True))
        if all(
            all(_value(least, values) <= values[x] for least in x.least)
            and all(values[x] <= _value(most, values) for most in x.most)
            for x in symbols
        ):
            assert low <= _value(total, values) <= high


def test_a_bound_that_is_a_sum_is_closer_than_an_interval() -> None:
    i = Symbol(0, 9)
    # j < i
    j = Symbol(0, 9, (), (Linear(-1).plus(Linear.of(i)),))
    apart = Linear.of(i).plus(Linear.of(j), -1)
    assert (apart.smallest(), apart.greatest()) == (1, 9)
    assert Linear.of(i).plus(Linear.of(j)).greatest() == 17
    assert apart.plus(apart, -1).greatest() == 0


# ------------------------------------------------------------------------------------------ loops


def _random_number(rng: random.Random, numbers: list[Node]) -> Node:
    x = rng.choice(numbers)
    y = rng.choice([*numbers, rng.randint(-3, 9)])
    kind = rng.randrange(10)
    if kind < 3:
        return x + y
    if kind < 6:
        return x - y
    if kind == 6:
        return x * rng.randint(-3, 3)
    if kind == 7:
        return -x
    if kind == 8:
        return OPS[rng.choice(("minimum", "maximum"))](x, y)
    return OPS["cast"](OPS["cast"](x, dtype=int8), dtype=int64)


def _random_nest(rng: random.Random, depth: int) -> Graph:
    def nest(level: int, numbers: list[Node]) -> Node:
        numbers = list(numbers)
        for _ in range(rng.randint(2, 5)):
            numbers.append(_random_number(rng, numbers))
        if level == depth:
            return OPS["minimum"](rng.choice(numbers), 1000) + numbers[-1] * 0

        def body(position: Node, carry: Node, *outer: Node) -> tuple[list[Node], list[Node]]:
            made = nest(level + 1, [position, carry, *outer])
            return [OPS["remainder"](made + carry, 11)], []

        limit = OPS["minimum"](rng.choice(numbers), rng.randint(2, 5))
        (last,) = for_loop(limit, body, [rng.choice(numbers)], numbers, reverse=rng.random() < 0.3)
        return last + _random_number(rng, numbers)

    return build(lambda n: [nest(0, [n])], NUMBER)


def _known(graph: Graph, inputs: Known | None = None) -> dict[Graph, Known]:
    found = {graph: intervals_of(graph, inputs)}
    for node in graph.nodes:
        bodies = graphs_of(node)
        ranges = inside(node, found[graph]) if bodies else []
        for body, around in zip(bodies, ranges, strict=True):
            found |= _known(body, around)
    return found


@pytest.mark.parametrize("seed", range(80))
def test_every_value_in_a_random_nest_is_within_its_interval(seed: int) -> None:
    graph = _random_nest(random.Random(seed), 3)
    better = optimize(graph)
    known = _known(graph)
    seen = 0

    def see(graph: Graph, node: Node, value: Array) -> None:
        nonlocal seen
        if graph in known and node in known[graph]:
            low, high = known[graph][node]
            assert low <= value.min() and value.max() <= high, node
            seen += 1

    for n in (-2, 0, 1, 3, 7, 200):
        with watching(see):
            expected = interpret(graph, [np.asarray(n)])
        np.testing.assert_array_equal(interpret(better, [np.asarray(n)]), expected)
    assert seen


def test_indices_of_triangles_need_no_check() -> None:
    def program(x: Node) -> list[Node]:
        n = 12

        def row(i: Node, x: Node) -> tuple[list[Node], list[Node]]:
            first = i + 1

            def cell(p: Node, x: Node, first: Node) -> tuple[list[Node], list[Node]]:
                j = first + p
                # Counted from the end where it is negative, as Python does.
                back = j - first
                back = OPS["where"](back < 0, back + n, back)
                bad = OPS["cast"](OPS["bitwise_or"](j >= n, j < 0), dtype=x.dtype)
                value = OPS["gather"](x, j) + OPS["gather"](x, back) + bad
                return [OPS["scatter"](x, value, first - 1)], []

            return for_loop(n - first, cell, [x], [first]), []

        return for_loop(n, row, [x])

    graph = build(program, vector(12))
    better = optimize(graph)
    inner = loops_of(better)[1].body
    names = {node.op.name for node in inner.nodes}
    assert not names & {"where", "lt", "ge", "bitwise_or", "cast"}
    known = _known(better)[inner]
    for node in inner.nodes:
        if node.op.name == "gather":
            low, high = known[node.inputs[1]]
            assert 0 <= low <= high < 12
    inputs = [np.linspace(0.0, 1.0, 12)]
    for a, b in zip(interpret(graph, inputs), interpret(better, inputs), strict=True):
        np.testing.assert_array_equal(b, a)
