"""A graph for a batch of rows, and its gradient, compared with one row after the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tracegrad.ir.batching import batch
from tracegrad.ir.differentiate import gradient_graph
from tracegrad.ir.graph import Graph
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import Array
from tracegrad.ir.verifier import verify

ROWS = 3


def assert_close(found: Array, wanted: Array, what: str, tolerance: float = 1e-12) -> None:
    assert found.dtype == wanted.dtype, what
    assert found.shape == wanted.shape, what
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted, err_msg=what)
        return
    # A product of many rows at once rounds differently.
    tolerance = {8: tolerance, 4: 1e-5, 2: 1e-2}[wanted.dtype.itemsize]
    np.testing.assert_allclose(
        found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True, err_msg=what
    )


def row(arrays: Sequence[Array], flags: Sequence[bool], i: int) -> list[Array]:
    return [np.asarray(a[i]) if flag else a for a, flag in zip(arrays, flags, strict=True)]


def run(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return interpret(graph, arrays)


def check(graph: Graph, flags: Sequence[bool], arrays: Sequence[Array], size: int = ROWS) -> Graph:
    """The graph for a batch gives for each row what the graph gives for that row alone."""
    whole, batched = batch(graph, flags, size)
    verify(whole)
    found = run(whole, arrays)
    alone = [run(graph, row(arrays, flags, i)) for i in range(size)]
    for k, (mine, flag) in enumerate(zip(found, batched, strict=True)):
        what = f"output {k} of {graph.name}, {flags}"
        for i, wanted in enumerate(alone):
            assert_close(
                np.asarray(mine[i]) if flag else mine,
                np.asarray(wanted[k]),
                what,
            )
        if flag:
            assert mine.shape == (size, *graph.outputs[k].shape), what
    return whole


def choices(count: int) -> list[tuple[bool, ...]]:
    return [c for c in itertools.product((False, True), repeat=count) if any(c)]


def operands(rows: Sequence[Sequence[Array]], flags: Sequence[bool]) -> list[Array]:
    return [
        np.stack([each[i] for each in rows]) if flag else rows[0][i] for i, flag in enumerate(flags)
    ]


def check_gradient(
    graph: Graph, flags: Sequence[bool], arrays: Sequence[Array], wrt: Sequence[bool]
) -> None:
    """The batch of the gradient, and the gradient of the batch, are the gradient of each row.

    `arrays` end with a batch of cotangents for each output.
    """
    given = [True] * len(graph.outputs)
    size = len(arrays[-1])
    gradient = gradient_graph(graph, wrt, given)
    everything = (*flags, *given)
    check(gradient, everything, arrays, size)
    whole, batched = batch(graph, flags, size)
    # An output that all rows share gets the sum of what they give it.
    cotangents = [
        g if flag else np.asarray(g.sum(0), g.dtype)
        for g, flag in zip(arrays[len(flags) :], batched, strict=True)
    ]
    of_batch = run(gradient_graph(whole, wrt, given), [*arrays[: len(flags)], *cotangents])
    alone = [run(gradient, row(arrays, everything, i)) for i in range(size)]
    differ = [flag for flag, want in zip(flags, wrt, strict=True) if want]
    for j, (mine, flag) in enumerate(zip(of_batch, differ, strict=True)):
        theirs = [each[j] for each in alone]
        combined = np.stack(theirs) if flag else np.sum(theirs, axis=0)
        assert_close(mine, np.asarray(combined, mine.dtype), f"{graph.name} {flags}", 1e-11)
