"""Elements that a loop reads and does not write again: which they are, that they come out as they
were read, and that the gradient is the same whether they are saved or found in what comes out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.test_control_ir import build, for_loop, sin, vector
from tests.test_control_passes import _cholesky, _shortest, _sweep, halves, loops_of
from tracegrad.ir import loop_gradient
from tracegrad.ir.differentiate import joint_graph
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.interpret import interpret, watching
from tracegrad.ir.loops import Loop
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.ops.control import while_loop
from tracegrad.ir.passes import optimize, prepare
from tracegrad.ir.settled import settled_reads
from tracegrad.ir.types import TensorType
from tracegrad.runtime.executor import compile_graph

gather, scatter = OPS["gather"], OPS["scatter"]


def reads_of(graph: Graph) -> tuple[Node, dict[int, list[Node]]]:
    """The outermost loop of a graph, and what is settled in it."""
    (loop,) = [node for node in graph.nodes if node.op is while_loop]
    return loop, settled_reads(loop)


def _recurrence(x: Node) -> list[Node]:
    """Each element from the two before it."""

    def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
        value = sin(gather(x, t + 1)) * gather(x, t)
        return [scatter(x, value, t + 2)], []

    return for_loop(7, step, [x])


def _backward_recurrence(x: Node) -> list[Node]:
    def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
        return [scatter(x, sin(gather(x, t + 1)) * gather(x, t + 2), t)], []

    return for_loop(7, step, [x], reverse=True)


def _against_the_order(x: Node) -> list[Node]:
    """What is read here is written later."""

    def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
        return [scatter(x, sin(gather(x, t + 1)) * gather(x, t + 2), t)], []

    return for_loop(7, step, [x])


def _table(d: Node) -> list[Node]:
    """A table filled row by row, each cell from three that were filled before."""

    def row(i: Node, d: Node) -> tuple[list[Node], list[Node]]:
        def cell(j: Node, d: Node, i: Node) -> tuple[list[Node], list[Node]]:
            above, beside = gather(d, i, j + 1), gather(d, i + 1, j)
            value = sin(above) * beside + gather(d, i, j)
            return [scatter(d, value, i + 1, j + 1)], []

        return for_loop(4, cell, [d], [i]), []

    return for_loop(4, row, [d])


def _rows(x: Node) -> list[Node]:
    """A row at a time."""

    def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
        return [scatter(x, sin(gather(x, t)) * 0.5, t + 1)], []

    return for_loop(4, step, [x])


def _corner(x: Node) -> list[Node]:
    """A loop that writes one row of many: not worth it to keep the array."""

    def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
        first = Builder.current().constant(0)
        return [scatter(x, sin(gather(x, first, t)), first, t + 1)], []

    return for_loop(4, step, [x])


def _in_place(x: Node) -> list[Node]:
    def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
        return [scatter(x, sin(gather(x, t)), t)], []

    return for_loop(5, step, [x])


def _read_after(x: Node) -> list[Node]:
    def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
        x = scatter(x, sin(gather(x, t)), t)
        again = gather(x, (t + 1) - 1)
        return [x], [again * again]

    return for_loop(5, step, [x], length=5)


PROGRAMS: dict[str, tuple[Callable[[Node], list[Node]], TensorType, int]] = {
    "recurrence": (_recurrence, vector(9), 2),
    "backward recurrence": (_backward_recurrence, vector(9), 2),
    "against the order": (_against_the_order, vector(9), 0),
    "table": (_table, vector(5, 5), 3),
    "rows": (_rows, vector(5, 3), 1),
    "corner": (_corner, vector(5, 5), 0),
    "in place": (_in_place, vector(5), 0),
    "read after": (_read_after, vector(5), 1),
    "Cholesky": (_cholesky, vector(6, 6), 3),
    "shortest paths": (_shortest, vector(4, 4), 0),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_settled(name: str) -> None:
    program, type, count = PROGRAMS[name]
    _, reads = reads_of(prepare(build(program, type)))
    assert sum(map(len, reads.values())) == count


def _inputs(types: Sequence[TensorType]) -> list[Array]:
    rng = np.random.default_rng(0)
    arrays = [0.3 + 0.1 * rng.normal(size=type.shape) for type in types]
    return [
        a + 2 * np.eye(len(a)) if a.ndim == 2 and a.shape[0] == a.shape[1] else a for a in arrays
    ]


def assert_same_gradient(
    graph: Graph, arrays: list[Array], monkeypatch: pytest.MonkeyPatch, native: bool = False
) -> None:
    """The gradient with what is settled read again, and with all of it saved."""
    given = [y.dtype.is_floating_point for y in graph.outputs]
    wrt = [x.dtype.is_floating_point for x in graph.inputs]
    cotangents = [np.ones(y.shape) for y, flag in zip(graph.outputs, given, strict=True) if flag]
    joint, _ = joint_graph(graph, wrt, given)
    monkeypatch.setattr(loop_gradient, "settled_reads", lambda node: {})
    saving, _ = joint_graph(graph, wrt, given)
    monkeypatch.undo()
    inputs = [*arrays, *cotangents]
    wanted = interpret(saving, inputs)
    better = optimize(joint)
    for a, b in zip(wanted, interpret(better, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-13)
    assert not any(node.op.name == "settled" for node in better.nodes)
    if native:
        for a, b in zip(wanted, compile_graph(better)(inputs), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, type, _ = PROGRAMS[name]
    assert_same_gradient(build(program, type), _inputs([type]), monkeypatch, native=True)


def test_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build(_table, vector(5, 5))
    joint, _ = joint_graph(graph, [True], [True])
    assert_same_gradient(joint, [*_inputs([vector(5, 5)]), np.ones((5, 5))], monkeypatch)


def test_gauss_seidel_saves_what_the_next_sweep_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    def sweeps(x: Node, b: Node) -> list[Node]:
        return for_loop(3, lambda t, x, b: (_sweep(x, b), []), [x], [b])

    graph = build(sweeps, vector(5, 5), vector(5, 5))
    assert reads_of(prepare(graph))[1] == {}
    assert_same_gradient(graph, _inputs([vector(5, 5)] * 2), monkeypatch)


def test_cholesky_saves_numbers_of_its_loops_over_elements_only() -> None:
    forward, backward = halves(build(_cholesky, vector(6, 6)))
    depths = []
    for loop in loops_of(forward):
        inner = any(node.op is while_loop for node in loop.body.nodes)
        depths.append((inner, bool(loop.saves)))
    # The loops over products, the innermost ones, save nothing.
    assert (False, True) not in depths
    assert not any(loop.stacks for loop in loops_of(backward) if not _has_loop(loop))


def test_what_a_budget_counts_is_what_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
        return [scatter(x, gather(x, t) * gather(x, t + 1), t + 2)], []

    loop = Loop.of(reads_of(build(lambda x: for_loop(7, step, [x]), vector(9)))[0])
    assert loop_gradient.frame_bytes(loop) == 0
    monkeypatch.setattr(loop_gradient, "settled_reads", lambda node: {})
    assert loop_gradient.frame_bytes(loop) == 16


def _has_loop(loop: Loop) -> bool:
    return any(node.op is while_loop for node in loop.body.nodes)


# -------------------------------------------------------------------------------- random programs


def _random_index(rng: random.Random, numbers: list[Node], least: int) -> Node:
    index = rng.choice(numbers)
    kind = rng.randrange(6)
    if kind == 0:
        index = index + rng.choice(numbers)
    elif kind == 1:
        index = index - rng.choice(numbers)
    return index + (least + rng.randint(0, 2))


def _random_program(rng: random.Random, size: int) -> Graph:
    two = rng.random() < 0.5

    def at(numbers: list[Node], least: int = 0) -> list[Node]:
        return [_random_index(rng, numbers, least) for _ in range(2 if two else 1)]

    def level(depth: int, x: Node, numbers: list[Node]) -> Node:
        total = Builder.current().constant(0.1)
        for _ in range(rng.randint(1, 3)):
            kind = rng.random()
            if kind < 0.5:
                total = total + sin(gather(x, *at(numbers)))
            elif kind < 0.6 or depth == 3:
                update = OPS["scatter_add"] if rng.random() < 0.2 else scatter
                x = update(x, sin(total) * 0.5, *at(numbers, 2))
            else:
                limit = rng.choice([3, 4, *numbers])
                if not isinstance(limit, int) and rng.random() < 0.5:
                    limit = limit + 1

                def body(
                    t: Node, x: Node, total: Node, *outer: Node
                ) -> tuple[list[Node], list[Node]]:
                    del total
                    return [level(depth + 1, x, [t, *outer]), sin(gather(x, *at([t])))], []

                reverse = rng.random() < 0.3
                x, total = for_loop(limit, body, [x, total], numbers, reverse=reverse)
        return x

    def program(x: Node) -> list[Node]:
        def body(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
            return [level(1, x, [t])], []

        return for_loop(rng.randint(3, 4), body, [x], reverse=rng.random() < 0.3)

    return build(program, vector(*((size,) * (2 if two else 1))))


def _size(seed: int) -> int:
    """Of arrays where most indices are within, and of some where many are not and are clamped."""
    return 14 if seed % 2 else 5


@pytest.mark.parametrize("seed", range(160))
def test_what_is_settled_comes_out_as_it_was_read(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = _random_program(random.Random(seed), _size(seed))
    loop, reads = reads_of(graph)
    wanted = {node: i for i, nodes in reads.items() for node in nodes}
    values: dict[Node, Array] = {}
    read: list[tuple[int, tuple[int, ...], Array]] = []

    def see(graph: Graph, node: Node, value: Array) -> None:
        values[node] = value
        if node in wanted:
            index = tuple(int(values[x]) for x in node.inputs[1:])
            read.append((wanted[node], index, value))

    (type,) = (x.type for x in graph.inputs)
    arrays = [np.random.default_rng(seed).normal(size=type.shape)]
    with watching(see):
        interpret(graph, arrays)
    finals = values[graph.outputs[0]]
    for i, index, value in read:
        assert i == 0
        place = tuple(min(max(k, 0), n - 1) for k, n in zip(index, finals.shape, strict=True))
        assert finals[place] == value
    if wanted:
        assert_same_gradient(graph, arrays, monkeypatch)
    assert loop.op is while_loop


def test_random_programs_have_settled_reads_and_others() -> None:
    """Or the test above would say nothing."""
    counts = [
        (sum(map(len, reads_of(graph)[1].values())), _gathers(graph))
        for graph in (_random_program(random.Random(seed), _size(seed)) for seed in range(160))
    ]
    assert sum(settled > 0 for settled, _ in counts) > 20
    assert sum(settled < all for settled, all in counts) > 20


def _gathers(graph: Graph) -> int:
    return sum(node.op is gather for loop in loops_of(graph) for node in loop.body.nodes)


def test_nothing_is_settled_where_an_index_is_clamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two different indices that lie behind the end both are the last element."""

    def program(x: Node) -> list[Node]:
        def step(t: Node, x: Node) -> tuple[list[Node], list[Node]]:
            return [scatter(x, sin(gather(x, t)), t + 2)], []

        return for_loop(6, step, [x])

    for size, count in ((8, 1), (4, 0)):
        graph = build(program, vector(size))
        assert len(reads_of(graph)[1]) == count
        assert_same_gradient(graph, _inputs([vector(size)]), monkeypatch)
