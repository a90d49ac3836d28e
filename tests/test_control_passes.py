"""What is left in the bodies of optimised loops: nothing that touches a whole array for the sake of
one element; and intervals of integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.gradient_check import check_gradient
from tests.test_control_ir import SCALAR, branches, build, cast, for_loop, sin, vector
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.intervals import inside, intervals_of, stays_within
from tracegrad.ir.loops import Loop, LoopBuilder, Made
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.ops.control import item, while_loop
from tracegrad.ir.parser import parse
from tracegrad.ir.partition import partition
from tracegrad.ir.passes import optimize
from tracegrad.ir.printer import text
from tracegrad.ir.structure import equal
from tracegrad.ir.types import TensorType, float64, int64

gather, scatter = OPS["gather"], OPS["scatter"]

# Ops that read or write as much as an array has, and take as long.
WHOLE = ("broadcast_to", "pad", "add", "mul", "where", "transpose", "concatenate")


def loops_of(graph: Graph) -> list[Loop]:
    """All loops of a graph, the outer ones first."""
    found = []
    for node in graph.nodes:
        if node.op is while_loop:
            loop = Loop.of(node)
            found += [loop, *loops_of(loop.body)]
    return found


def whole_array_ops(graph: Graph) -> list[str]:
    """The ops in bodies of loops that make a whole array anew."""
    return [
        node.op.name
        for loop in loops_of(graph)
        for node in loop.body.nodes
        if node.op.name in WHOLE and node.type.size > 1
    ]


def halves(graph: Graph) -> tuple[Graph, Graph]:
    """The optimised forward and backward of the gradient by all floating inputs."""
    wrt = [x.dtype is float64 for x in graph.inputs]
    parts = partition(graph, wrt, [y.dtype is float64 for y in graph.outputs])
    return parts.forward, optimize(parts.backward)


def _sweep(x: Node, b: Node) -> list[Node]:
    """Gauss-Seidel: each element from its updated neighbours."""

    def column(j: Node, x: Node, b: Node, i: Node) -> tuple[list[Node], list[Node]]:
        p, q = i + 1, j + 1
        around = gather(x, p - 1, q) + gather(x, p + 1, q) + gather(x, p, q - 1)
        around = around + gather(x, p, q + 1) + gather(b, p, q)
        return [scatter(x, around * 0.25, p, q)], []

    def row(i: Node, x: Node, b: Node) -> tuple[list[Node], list[Node]]:
        return for_loop(3, column, [x], [b, i]), []

    return for_loop(3, row, [x], [b])


def _cholesky(a: Node) -> list[Node]:
    n = a.shape[0]

    def dot(start: Node, lower: Node, i: Node, j: Node) -> Node:
        def step(k: Node, s: Node, l: Node, i: Node, j: Node) -> tuple[list[Node], list[Node]]:  # noqa: E741
            return [s - gather(l, i, k) * gather(l, j, k)], []

        return for_loop(j, step, [start], [lower, i, j])[0]

    def column(j: Node, lower: Node, a: Node) -> tuple[list[Node], list[Node]]:
        diagonal = OPS["sqrt"](dot(gather(a, j, j), lower, j, j))
        lower = scatter(lower, diagonal, j, j)

        def row(r: Node, l: Node, a: Node, j: Node, d: Node) -> tuple[list[Node], list[Node]]:  # noqa: E741
            i = r + j + 1
            return [scatter(l, dot(gather(a, i, j), l, i, j) / d, i, j)], []

        return for_loop((n - 1) - j, row, [lower], [a, j, diagonal]), []

    zeros = OPS["broadcast_to"](Builder.current().constant(0.0), shape=(n, n))
    return for_loop(n, column, [zeros], [a])


def _shortest(d: Node) -> list[Node]:
    """Floyd-Warshall, element by element."""
    n = d.shape[0]

    def inner(j: Node, d: Node, k: Node, i: Node) -> tuple[list[Node], list[Node]]:
        through = gather(d, i, k) + gather(d, k, j)
        return [scatter(d, OPS["minimum"](gather(d, i, j), through), i, j)], []

    def middle(i: Node, d: Node, k: Node) -> tuple[list[Node], list[Node]]:
        return for_loop(n, inner, [d], [k, i]), []

    return for_loop(n, lambda k, d: (for_loop(n, middle, [d], [k]), []), [d])


def _product(a: Node, x: Node) -> list[Node]:
    def row(i: Node, y: Node, m: Node, v: Node) -> tuple[list[Node], list[Node]]:
        def column(j: Node, s: Node, m: Node, v: Node, i: Node) -> tuple[list[Node], list[Node]]:
            return [s + gather(m, i, j) * sin(gather(v, j))], []

        (s,) = for_loop(4, column, [Builder.current().constant(0.0)], [m, v, i])
        return [scatter(y, s * s, i)], []

    zeros = OPS["broadcast_to"](Builder.current().constant(0.0), shape=(3,))
    return for_loop(3, row, [zeros], [a, x])


def _some(x: Node) -> list[Node]:
    """One element is read in one of two branches."""

    def step(t: Node, y: Node, x: Node) -> tuple[list[Node], list[Node]]:
        first = lambda y, x, t: sin(y * gather(x, t))  # noqa: E731
        return [branches(OPS["remainder"](t, 2), [y, x, t], first, lambda y, x, t: y * y)], []

    return for_loop(4, step, [Builder.current().constant(0.3)], [x])


def _corner(x: Node) -> list[Node]:
    def step(t: Node, y: Node, x: Node) -> tuple[list[Node], list[Node]]:
        where = {"starts": (1,), "limits": (2,), "strides": (1,)}
        return [sin(y + OPS["reshape"](OPS["slice"](x, **where), shape=()))], []

    return for_loop(4, step, [Builder.current().constant(0.3)], [x])


RNG = np.random.default_rng(0)
SQUARE = RNG.normal(size=(5, 5))
POSITIVE = SQUARE @ SQUARE.T + 5.0 * np.eye(5)

ELEMENT_BY_ELEMENT: dict[str, tuple[Callable[..., list[Node]], list[Array], int]] = {
    "Gauss-Seidel": (_sweep, [SQUARE, SQUARE.T.copy()], 2),
    "Cholesky": (_cholesky, [POSITIVE], 2),
    "Floyd-Warshall": (_shortest, [RNG.uniform(1.0, 2.0, (4, 4))], 1),
    "product": (_product, [RNG.normal(size=(3, 4)), RNG.normal(size=4)], 2),
    "branches": (_some, [RNG.normal(size=4)], 2),
    "corner": (_corner, [RNG.normal(size=12)], 2),
}


@pytest.mark.parametrize("name", ELEMENT_BY_ELEMENT)
def test_an_iteration_touches_elements_only(name: str) -> None:
    function, arrays, order = ELEMENT_BY_ELEMENT[name]
    graph = build(function, *(vector(*a.shape) for a in arrays))
    forward, backward = halves(graph)
    assert whole_array_ops(forward) == []
    # The inner loop of the product walks over all of what is added up.
    assert whole_array_ops(backward) == (["add"] if name == "product" else []), text(backward)
    for loop in loops_of(forward):
        # Elements are saved, not arrays.
        assert not any(x.shape for group in loop.made.saved for x in group)
    check_gradient(graph, arrays, order=order, directions=1)


def test_backward_of_a_sweep_is_minimal() -> None:
    _, backward = halves(build(_sweep, vector(5, 5), vector(5, 5)))
    body = text(loops_of(backward)[-1].body).splitlines()[2:]
    assert body == [
        "    v0: i64[()] = add(k_2, 1)",
        "    v1: i64[()] = add(position, 1)",
        "    v2: f64[()] = gather(g, v0, v1)",
        "    v3: f64[5, 5] = scatter(g, 0.0, v0, v1)",
        "    v4: f64[()] = mul(v2, 0.25)",
        "    v5: i64[()] = add(position, 2)",
        "    v6: i64[()] = add(k_2, 2)",
        "    v7: f64[5, 5] = scatter_add(v3, v4, v0, v5)",
        "    v8: f64[5, 5] = scatter_add(v7, v4, v6, v1)",
        "    v9: f64[5, 5] = scatter_add(v8, v4, v0, position)",
        "    v10: f64[5, 5] = scatter_add(v9, v4, k_2, v1)",
        "    v11: f64[5, 5] = scatter_add(sum, v4, v0, v1)",
        "    return b1(True), v10, v11",
    ]


@pytest.mark.parametrize("is_indexed", [False, True])
def test_a_recurrent_network_multiplies_once_in_each_iteration(is_indexed: bool) -> None:
    """Whether its input is sliced, or indexed by what counts."""

    def network(xs: Node, h: Node, w: Node, u: Node, b: Node) -> Sequence[Node]:
        def step(t: Node, h: Node, *given: Node) -> tuple[list[Node], list[Node]]:
            w, u, b, x = given
            if is_indexed:
                x = gather(x, t)
            h = OPS["tanh"](OPS["matmul"](x, w) + OPS["matmul"](h, u) + b)
            return [h], [h]

        if is_indexed:
            return for_loop(6, step, [h], [w, u, b, xs], length=6)
        return for_loop(6, step, [h], [w, u, b], [xs], length=6)

    shapes = ((6, 2, 3), (2, 4), (3, 4), (4, 4), (4,))
    graph = build(network, *(vector(*shape) for shape in shapes))
    for half in halves(graph):
        (loop,) = loops_of(half)
        assert [node.op.name for node in loop.body.nodes].count("matmul") == 1
    arrays = [np.random.default_rng(1).normal(size=shape) for shape in shapes]
    check_gradient(graph, arrays, directions=1)
    check_gradient(optimize(graph), arrays, directions=1)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("size", "index", "is_sliced"),
    [
        (4, lambda t: t, True),
        (6, lambda t: t + 2, True),
        (5, lambda t: t, True),
        (6, lambda t: t - 1, False),
        (6, lambda t: t + 3, False),
        (6, lambda t: 3 - t, False),
        # Most of it is not read.
        (9, lambda t: t, False),
    ],
)
def test_rows_by_the_position_are_slices(
    size: int, index: Callable[[Node], Node], is_sliced: bool, reverse: bool
) -> None:
    def walk(x: Node, y: Node) -> Sequence[Node]:
        def step(t: Node, y: Node, x: Node) -> tuple[list[Node], list[Node]]:
            row = gather(x, index(t))
            return [sin(y * row + OPS["sum"](x, axes=(0, 1), keepdims=False))], [row * row]

        return for_loop(4, step, [y], [x], length=4, reverse=reverse)

    graph = build(walk, vector(size, 3), vector(3))
    (loop,) = loops_of(optimize(graph))
    assert len(loop.xs) == is_sliced
    arrays = [np.random.default_rng(2).normal(size=shape) for shape in ((size, 3), (3,))]
    check_gradient(graph, arrays, order=2, directions=1)
    for found, expected in zip(
        interpret(optimize(graph), arrays), interpret(graph, arrays), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_what_a_loop_saves_is_stacked_where_its_length_is_known() -> None:
    def walk(trips: int | None) -> Callable[..., Sequence[Node]]:
        def step(t: Node, y: Node) -> tuple[list[Node], list[Node]]:
            return [sin(y)], []

        return lambda y, n: for_loop(n if trips is None else trips, step, [y])

    for trips in (5, None):
        graph = build(walk(trips), vector(3), TensorType(int64, ()))
        forward, backward = halves(graph)
        (there,), (back,) = loops_of(forward), loops_of(backward)
        assert (there.stacked, sum(there.saves)) == ((1, 0) if trips else (0, 1))
        assert (len(back.xs), len(back.stacks)) == ((1, 0) if trips else (0, 1))
        check_gradient(graph, [np.linspace(0.1, 0.8, 3), np.asarray(5)], order=3, directions=1)


def test_parts_of_an_array_are_joined() -> None:
    def gates(x: Node) -> Sequence[Node]:
        def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
            a, b = (OPS["slice"](x, starts=(i,), limits=(i + 2,), strides=(1,)) for i in (0, 2))
            return [OPS["concatenate"](sin(a) * b, b, axis=0)], []

        return for_loop(3, step, [x])

    graph = build(gates, vector(4))
    _, backward = halves(graph)
    names = [node.op.name for node in loops_of(backward)[0].body.nodes]
    assert "concatenate" in names
    assert "pad" not in names
    check_gradient(graph, [np.linspace(0.1, 0.8, 4)])


BEFORE = """
def program(n: i64[()], x: f64[()], unused: f64[3]) -> (f64[()], i64[()]):
    v0: f64[3] = broadcast_to(f64(2.0), shape=(3,))
    v1: b1[()] = gt(n, 0)
    def body_2(position: i64[()], i: i64[()], y: f64[()], same: f64[()], dead: f64[()], two: f64[3], k: f64[3], m: i64[()]) -> (b1[()], i64[()], f64[()], f64[()], f64[()], f64[3]):
        v0: i64[()] = add(i, 1)
        v1: b1[()] = lt(v0, m)
        v2: f64[()] = gather(two, position)
        v3: f64[()] = mul(y, v2)
        v4: f64[()] = add(v3, same)
        v5: f64[()] = sin(dead)
        return v1, v0, v4, same, v5, k
    v2: (i64[()], i64[()], f64[()], f64[()], f64[()], stack[f64[3]]) = while_loop(i64(9223372036854775807), v1, i64(0), x, x, x, v0, unused, n, body=body_2, carries=4, slices=0, frames=0, stacked=0, length=None, saves=(1,), reverse=False)
    v3: f64[()] = item(v2, index=2)
    v4: i64[()] = item(v2, index=1)
    return v3, v4
"""  # noqa: E501

AFTER = """
def program(n: i64[()], x: f64[()], unused: f64[3]) -> (f64[()], i64[()]):
    v0: b1[()] = gt(n, 0)
    v1: i64[()] = maximum(n, 1)
    v2: i64[()] = where(v0, v1, 0)
    def body_3(position: i64[()], y: f64[()], same: f64[()]) -> (b1[()], f64[()]):
        v0: f64[()] = mul(y, 2.0)
        v1: f64[()] = add(v0, same)
        return b1(True), v1
    v3: (i64[()], f64[()]) = while_loop(v2, b1(True), x, x, body=body_3, carries=1, slices=0, frames=0, stacked=0, length=None, saves=(), reverse=False)
    v4: f64[()] = item(v3, index=1)
    v5: i64[()] = item(v3, index=0)
    return v4, v5
"""  # noqa: E501


def test_what_does_not_change_is_not_carried() -> None:
    before, after = parse(BEFORE), optimize(parse(BEFORE))
    assert equal(after, parse(AFTER)), text(after)
    for n in (-1, 0, 1, 4):
        inputs = [np.asarray(n), np.asarray(0.3), np.zeros(3)]
        for a, b in zip(interpret(before, inputs), interpret(after, inputs), strict=True):
            np.testing.assert_array_equal(b, a)


def test_a_loop_without_a_trip_and_a_known_branch_are_none() -> None:
    def program(x: Node) -> list[Node]:
        (y,) = for_loop(0, lambda t, y: ([sin(y)], []), [x])
        (z,) = for_loop(1, lambda t, y: ([sin(y)], []), [y])
        one = Builder.current().constant(1)
        return [branches(one, [z], sin, lambda a: a * a)]

    better = optimize(build(program, SCALAR))
    assert [node.op.name for node in better.nodes] == ["sin", "mul"]


def test_values_that_no_one_reads_are_not_saved() -> None:
    def program(x: Node) -> list[Node]:
        builder = Builder.current()
        go, limit = builder.constant(True), builder.constant(3)
        with LoopBuilder("first") as one:
            y = one.carry(x, "y")
            saved = (sin(y), y * 2.0, OPS["cos"](y))
            first = one.finish(limit, go, Made(one.body.constant(True), (y * y,), saved=(saved,)))
        stack = item(first.append(), index=2)
        with LoopBuilder("second") as two:
            z = two.carry(x, "z")
            _, middle, _ = two.frame(stack, "saved")
            second = two.finish(limit, go, Made(two.body.constant(True), (z * middle,)))
        return [item(second.append(), index=1)]

    graph = build(program, SCALAR)
    better = optimize(graph)
    assert [loop.saves for loop in loops_of(better)] == [(1,), ()]
    inputs = [np.asarray(0.7)]
    np.testing.assert_array_equal(interpret(better, inputs), interpret(graph, inputs))


def _indexed(n: int, index: Callable[[Node], Node], trips: int | None) -> Graph:
    """A loop that reads the element `index(position)` of `n`."""

    def program(x: Node, m: Node) -> list[Node]:
        step = lambda t, y, x: ([y + gather(x, index(t))], [])  # noqa: E731
        limit = m if trips is None else trips
        return for_loop(limit, step, [Builder.current().constant(0.0)], [x])

    return build(program, vector(n), TensorType(int64, ()))


def _wrapped(i: Node) -> Node:
    return OPS["where"](i < 0, i + 8, i)


@pytest.mark.parametrize(
    ("index", "trips", "known"),
    [
        (lambda t: t, 8, True),
        (lambda t: t, 9, False),
        (lambda t: t, None, False),
        (lambda t: 7 - t, 8, True),
        (lambda t: t - 1, 8, False),
        (lambda t: _wrapped(t - 1), 8, True),
        (lambda t: _wrapped(t - 9), 9, False),
        (lambda t: OPS["remainder"](t * 3 - 5, 8), None, True),
        (lambda t: OPS["minimum"](t * 3, 7), None, True),
        (lambda t: OPS["floor_divide"](t, 2), 16, True),
        (lambda t: OPS["floor_divide"](t, 2), 17, False),
        (lambda t: OPS["cast"](cast(t), dtype=int64), 8, False),
    ],
)
def test_intervals_of_indices(
    index: Callable[[Node], Node], trips: int | None, known: bool
) -> None:
    graph = _indexed(8, index, trips)
    (loop,) = [node for node in graph.nodes if node.op is while_loop]
    (inputs,) = inside(loop, intervals_of(graph))
    body = loop.params["body"]
    ranges = intervals_of(body, inputs)
    (read,) = [node for node in body.nodes if node.op is gather]
    assert stays_within(read.inputs[1], 8, ranges) is known


def test_checks_of_bounds_fall_away() -> None:
    def program(x: Node) -> list[Node]:
        def step(t: Node, x: Node, fault: Node) -> tuple[list[Node], list[Node]]:
            i = t + 1
            bad = fault | (i < -8) | (i >= 8)
            i = _wrapped(i)
            return [scatter(x, sin(gather(x, i)), i), bad], []

        return for_loop(7, step, [x, Builder.current().constant(False)])

    graph = build(program, vector(8))
    better = optimize(graph)
    (loop,) = loops_of(better)
    names = {node.op.name for node in loop.body.nodes}
    assert names == {"constant", "add", "gather", "sin", "scatter"}
    inputs = [np.linspace(0.0, 1.0, 8)]
    for a, b in zip(interpret(graph, inputs), interpret(better, inputs), strict=True):
        np.testing.assert_array_equal(b, a)


def test_an_interval_that_may_wrap_around_is_not_known() -> None:
    with Builder() as builder:
        x = builder.input(TensorType(int64, ()))
        far = OPS["minimum"](OPS["maximum"](x, 2**62), 2**62 + 1)
        graph = builder.finish([far * 4 < 0])
    # 2**62 * 4 is 0.
    better = optimize(graph)
    for value in (0, 2**62 + 1):
        inputs = [np.asarray(value)]
        np.testing.assert_array_equal(interpret(better, inputs), interpret(graph, inputs))
