"""Whole reductions of large arrays, and their elementwise neighbours, in one pass over memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.unjitted as unjitted
import tracegrad as tg
from tests.random_graphs import graphs
from tests.test_codegen import _inputs, agree, check, graph_of, normal, total
from tracegrad.codegen import stages
from tracegrad.codegen.legalize import legalize
from tracegrad.ir.differentiate import pullback
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import OPS


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a few elements are cut as large ones are."""
    monkeypatch.setattr(stages, "LARGE", 4)
    monkeypatch.setattr(stages, "MIN_ROWS", 2)
    monkeypatch.setattr(stages, "BLOCK", 2)


def chain(x: Node) -> list[Node | None]:
    """A value and its gradient; both need the square roots."""
    root = OPS["sqrt"](x * x + 1.0)
    value = total(OPS["sin"](root) * root, *range(x.ndim))
    return [value, *pullback(value, Builder.current().constant(1.0, x.dtype), [x])]


def temporaries(build: Any, *arrays: Any) -> int:
    """The bytes that a compiled graph moves beyond its inputs and outputs."""
    compiled = check(build, *arrays)
    ends = [*compiled.graph.inputs, *compiled.graph.outputs]
    return sum(info.bytes for info in compiled.kernels) - sum(x.type.nbytes for x in ends)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("shape", [(24,), (3, 8), (4, 2, 3), (1, 12, 1), (2, 1, 30)])
def test_a_sum_and_what_shares_its_terms_are_one_pass(shape: tuple[int, ...]) -> None:
    # Only the rows' sums, written by the first kernel and read by the second, are moved besides.
    assert temporaries(chain, normal(*shape)) <= 2 * 8 * stages.rows_of(shape)[0]  # type: ignore[index]


@pytest.mark.usefixtures("small")
def test_a_size_that_does_not_divide_stays_whole() -> None:
    assert stages.rows_of((23,)) is None
    check(chain, normal(23))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("other", ["rows", "columns", "slice", "product", "broadcast", "moved"])
def test_neighbours_of_another_shape_keep_theirs(other: str) -> None:
    """Where someone looks at single elements in their own shape, nothing is computed in rows."""

    def build(x: Node, y: Node) -> list[Node | None]:
        z = OPS["tanh"](x) * 2.0
        more = {
            "rows": lambda: total(z, 1),
            "columns": lambda: total(z, 0),
            "slice": lambda: OPS["slice"](z, starts=(1, 0), limits=(3, 7), strides=(1, 2)),
            "product": lambda: OPS["matmul"](z, OPS["transpose"](y, axes=(1, 0))),
            "broadcast": lambda: z * total(y, 1, keepdims=True),
            "moved": lambda: OPS["transpose"](y, axes=(1, 0)) * total(z, 0, 1),
        }
        return [total(z, 0, 1), more[other](), z + y]

    check(build, normal(3, 8), normal(3, 8))


@pytest.mark.usefixtures("small")
@settings(max_examples=60)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_random_graphs(graph: Graph, seed: int) -> None:
    arrays = _inputs(graph, seed)
    found = unjitted.run(graph, arrays)
    if found is not None:
        agree(found, interpret(graph, arrays))


def test_neighbours_are_found_in_linear_time() -> None:
    def build(x: Node) -> Node:
        for i in range(4000):
            x = OPS["sin"](x) + float(i)
        return total(x, 0)

    graph = graph_of(build, [np.zeros(1 << 17)])
    assert len(stages.neighbours(graph)) == 8000
    assert all(x.shape != (1 << 17,) for x in legalize(graph).nodes if x.op.name == "sin")


def test_value_and_gradient_of_a_long_chain_read_and_write_once() -> None:
    x = tg.rand(1 << 17)
    f = tg.compile(tg.value_and_grad(lambda x: ((x * 3 + 1) * x - 2).mean()))
    value, gradient = f(x)
    np.testing.assert_allclose(gradient.numpy(), (6 * x.numpy() + 1) / x.numel(), rtol=1e-5)
    np.testing.assert_allclose(
        value.item(), ((x.numpy() * 3 + 1.0) * x.numpy() - 2).mean(), rtol=1e-5
    )
    lines = f.source().splitlines()
    (big,) = (line for line in lines if line.startswith("# k") and "over 8x" in line)
    # x; its gradient, and eight sums.
    assert "524,288 bytes read, 524,320 written" in big
