"""Loops and branches for a batch of rows, and their gradients, against one row after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.batch_check import ROWS, check, check_gradient, choices
from tracegrad.ir.batching import batch
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.loops import LoopBuilder, Made
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.ops.control import cond, items
from tracegrad.ir.types import TensorType, float64, int64

VECTOR = TensorType(float64, (2,))
SCALAR = TensorType(float64, ())
INTEGER = TensorType(int64, ())
LENGTH = 4


def recurrence(*, reverse: bool = False) -> Graph:
    """A loop up to a limit, over slices, with a constant, that stacks what it carries."""
    with Builder("recurrence") as builder:
        limit = builder.input(INTEGER, "limit")
        first = builder.input(VECTOR, "first")
        weight = builder.input(VECTOR, "weight")
        xs = builder.input(TensorType(float64, (LENGTH, 2)), "xs")
        go = builder.constant(True)
        with LoopBuilder("body") as inside:
            carry = inside.carry(first, "carry")
            w = inside.const(weight, "weight")
            x = inside.slice(xs, "x")
            new = OPS["tanh"](carry * w + x) * OPS["sum"](x, axes=(0,), keepdims=False)
            made = Made(inside.body.constant(True), (new,), (carry * x,))
            loop = inside.finish(limit, go, made, length=LENGTH, reverse=reverse)
        _, last, rows = items(loop.append())
        return builder.finish([last, rows])


def search() -> Graph:
    """A loop that stops when what it carries is large enough, and says after how many steps."""
    with Builder("search") as builder:
        start = builder.input(SCALAR, "start")
        bound = builder.input(SCALAR, "bound")
        factor = builder.input(VECTOR, "factor")
        limit = builder.constant(2**63 - 1, int64)
        go, spread = start < bound, OPS["broadcast_to"](start, shape=(2,))
        with LoopBuilder("body") as inside:
            x = inside.carry(start, "x")
            trail = inside.carry(spread, "trail")
            f = inside.const(factor, "factor")
            b = inside.const(bound, "bound")
            grown = x * 1.5 + OPS["exp"](-x)
            moved = trail * f + OPS["sqrt"](b - x)
            made = Made(grown < b, (grown, moved))
            loop = inside.finish(limit, go, made)
        count, last, trail_end = items(loop.append())
        steps = OPS["cast"](count, dtype=float64)
        return builder.finish([last * steps, trail_end])


def triangle() -> Graph:
    """A loop within a loop: the inner one makes a step more each time."""
    with Builder("triangle") as builder:
        limit = builder.input(INTEGER, "limit")
        first = builder.input(SCALAR, "first")
        slope = builder.input(SCALAR, "slope")
        go = builder.constant(True)
        with LoopBuilder("outer") as outer:
            x = outer.carry(first, "x")
            a = outer.const(slope, "slope")
            inner_go, steps = outer.body.constant(True), outer.position + 1
            with LoopBuilder("inner") as inner:
                y = inner.carry(x, "y")
                b = inner.const(a, "slope")
                made = Made(inner.body.constant(True), (OPS["sin"](y) * b,))
                loop = inner.finish(steps, inner_go, made)
            _, end = items(loop.append())
            loop = outer.finish(limit, go, Made(outer.body.constant(True), (end,)))
        return builder.finish([items(loop.append())[1]])


def branch(make: Callable[[Node, Node], Node], name: str) -> Graph:
    with Builder(name) as builder:
        x, w = builder.input(VECTOR, "x"), builder.input(VECTOR, "w")
        return builder.finish([make(x, w), x * 2.0])


def powers(x: Node, w: Node) -> Node:
    """x times w as often as the first element of |w| is large."""
    go = Builder.current().constant(True)
    size = OPS["sum"](OPS["abs"](w), axes=(0,), keepdims=False)
    limit = OPS["cast"](OPS["ceil"](size), dtype=int64)
    with LoopBuilder("powers") as inside:
        y = inside.carry(x, "y")
        made = Made(inside.body.constant(True), (OPS["sin"](y * inside.const(w, "w")),))
        loop = inside.finish(limit, go, made)
    return items(loop.append())[1]


CHEAP = (lambda x, w: OPS["sin"](x) * w, lambda x, w: x / w, lambda x, w: x - OPS["exp"](w))
DEAR = (
    lambda x, w: x * OPS["sum"](w, axes=(0,), keepdims=False),
    powers,
    lambda x, w: OPS["cumsum"](x, axis=0) - w,
)


def choice(branches: Sequence[Callable[[Node, Node], Node]]) -> Graph:
    with Builder("choice") as builder:
        index = builder.input(INTEGER, "index")
        x, w = builder.input(VECTOR, "x"), builder.input(VECTOR, "w")
        graphs = tuple(branch(make, f"branch{i}") for i, make in enumerate(branches))
        return builder.finish(items(cond(index, x, w, branches=graphs)))


def walk() -> Graph:
    """Branches within a loop, by a condition on what it carries; a loop in one of them."""
    with Builder("walk") as builder:
        limit = builder.input(INTEGER, "limit")
        x, w = builder.input(VECTOR, "x"), builder.input(VECTOR, "w")
        go = builder.constant(True)
        branches = (branch(powers, "up"), branch(lambda x, w: x - 0.3 * w, "down"))
        with LoopBuilder("body") as inside:
            y = inside.carry(x, "y")
            v = inside.const(w, "w")
            index = OPS["cast"](OPS["sum"](y, axes=(0,), keepdims=False) > 0.4, dtype=int64)
            new, _ = items(cond(index, y, v, branches=branches))
            made = Made(inside.body.constant(True), (new + 0.7 * v,))
            loop = inside.finish(limit, go, made)
        return builder.finish([items(loop.append())[1]])


rng = np.random.default_rng(5)


def normal(*shape: int) -> list[Array]:
    return [rng.normal(size=shape) for _ in range(ROWS)]


def integers(*values: int) -> list[Array]:
    return [np.asarray(value, np.int64) for value in values]


CASES: dict[str, tuple[Graph, list[list[Array]]]] = {
    "recurrence": (
        recurrence(),
        [integers(3, 0, 4), normal(2), normal(2), normal(LENGTH, 2)],
    ),
    "recurrence in reverse": (
        recurrence(reverse=True),
        [integers(1, 4, -2), normal(2), normal(2), normal(LENGTH, 2)],
    ),
    "search": (
        search(),
        [
            [np.asarray(x) for x in (0.3, 5.0, 0.01)],
            [np.asarray(x) for x in (4.0, 3.0, 7.0)],
            normal(2),
        ],
    ),
    "triangle": (
        triangle(),
        [integers(3, 1, 4), normal(), normal()],
    ),
    "cheap branches": (choice(CHEAP), [integers(2, -1, 1), normal(2), normal(2)]),
    "dear branches": (choice(DEAR), [integers(1, 0, 7), normal(2), normal(2)]),
    "the same branch": (choice(DEAR), [integers(1, 1, 1), normal(2), normal(2)]),
    "walk": (walk(), [integers(3, 1, 5), normal(2), normal(2)]),
}
EACH = [
    pytest.param(name, flags, id=f"{name}-{''.join('by'[not f] for f in flags)}")
    for name, (graph, _) in CASES.items()
    for flags in choices(len(graph.inputs))
]


def arrays_of(columns: Sequence[Sequence[Array]], flags: Sequence[bool]) -> list[Array]:
    return [np.stack(c) if flag else c[0] for c, flag in zip(columns, flags, strict=True)]


@pytest.mark.parametrize(("name", "flags"), EACH)
def test_values(name: str, flags: tuple[bool, ...]) -> None:
    graph, columns = CASES[name]
    check(graph, flags, arrays_of(columns, flags))


@pytest.mark.parametrize(("name", "flags"), EACH)
def test_gradients(name: str, flags: tuple[bool, ...]) -> None:
    graph, columns = CASES[name]
    draw = np.random.default_rng(3)
    cotangents = [draw.normal(size=(ROWS, *x.shape)) for x in graph.outputs]
    wrt = [x.dtype.is_floating_point for x in graph.inputs]
    check_gradient(graph, flags, [*arrays_of(columns, flags), *cotangents], wrt)


def ops_in(graph: Graph) -> set[str]:
    return {node.op.name for node in graph.nodes}


def test_rows_with_one_number_of_iterations_make_one_loop() -> None:
    graph = recurrence()
    whole, batched = batch(graph, (False, True, False, True), ROWS)
    assert batched == (True, True)
    (loop,) = [node for node in whole.nodes if node.op.name == "while_loop"]
    body = loop.params["body"]
    assert loop.params["carries"] == 1
    assert not any(node.op.name == "where" for node in body.nodes)


def test_what_no_row_changes_is_carried_once() -> None:
    graph = recurrence()
    _, batched = batch(graph, (False, False, False, False), ROWS)
    assert batched == (False, False)


def test_cheap_branches_are_chosen_from_and_others_taken() -> None:
    flags = (True, True, True)
    assert "cond" not in ops_in(batch(choice(CHEAP), flags, ROWS)[0])
    whole, _ = batch(choice(DEAR), flags, ROWS)
    (rows,) = [node for node in whole.nodes if node.op.name == "while_loop"]
    assert "cond" in ops_in(rows.params["body"])
    shared, _ = batch(choice(DEAR), (False, True, True), ROWS)
    assert "cond" in ops_in(shared)


def test_a_branch_not_taken_brings_in_no_nan() -> None:
    graph = choice((lambda x, w: OPS["sqrt"](x) * OPS["log"](w), lambda x, w: x * w))
    # No row takes the first branch, and the second row takes it alone.
    x = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, -1.0]])
    w = np.array([0.0, 2.0])
    for indices, shared in (([1, 1, 1], w), ([1, 0, 1], np.array([3.0, 2.0]))):
        cotangents = [np.ones((ROWS, 2)), np.zeros((ROWS, 2))]
        arrays = [np.array(indices), x, shared, *cotangents]
        for flags in ((True, True, False), (True, True, True)):
            rows = [*arrays[:2], np.stack([shared] * ROWS) if flags[2] else shared, *cotangents]
            check_gradient(graph, flags, rows, (False, True, True))


def test_a_row_that_is_done_computes_nothing_of_its_own() -> None:
    """One step further it would divide by zero, in the value and in the gradient of the weight."""
    with Builder("countdown") as builder:
        start = builder.input(SCALAR, "start")
        weight = builder.input(VECTOR, "weight")
        limit = builder.constant(2**63 - 1, int64)
        go, spread = start > 0.0, OPS["broadcast_to"](start, shape=(2,))
        with LoopBuilder("body") as inside:
            x = inside.carry(start, "x")
            total = inside.carry(spread, "total")
            share = OPS["sum"](inside.const(weight, "w") / x, axes=(0,), keepdims=False)
            made = Made(x - 1.0 > 0.0, (x - 1.0, total * share))
            loop = inside.finish(limit, go, made)
        graph = builder.finish([items(loop.append())[2]])
    arrays = [np.array([2.0, 5.0, 0.0]), np.array([0.5, 2.0]), np.ones((ROWS, 2))]
    check_gradient(graph, (True, False), arrays, (True, True))
    whole, _ = batch(graph, (True, False), ROWS)
    assert np.isfinite(interpret(whole, arrays[:2])[0]).all()


def test_no_rows() -> None:
    for name, (graph, columns) in CASES.items():
        flags = (True,) * len(graph.inputs)
        arrays = [np.stack(column)[:0] for column in columns]
        whole, batched = batch(graph, flags, 0)
        found = interpret(whole, arrays)
        for y, x, flag in zip(found, graph.outputs, batched, strict=True):
            assert y.shape == ((0, *x.shape) if flag else x.shape), name


def test_batches_of_batches() -> None:
    for name, (graph, columns) in CASES.items():
        once, batched = batch(graph, (True,) * len(graph.inputs), ROWS)
        assert all(batched), name
        arrays = [np.stack([np.stack(column), np.stack(column[::-1])]) for column in columns]
        check(once, (True,) * len(graph.inputs), arrays, 2)
