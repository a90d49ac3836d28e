"""Graphs for a batch of rows: every op, against one row after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.batch_check import ROWS, check, check_gradient, choices, operands
from tests.op_samples import arrays_of
from tracegrad.ir.graph import Builder, Graph
from tracegrad.ir.op import OPS, Array, Op, Sample
from tracegrad.ir.types import DType, float64, type_of

# What a random op draws is a function of its seed, which a batch of rows shares.
TABLE = {
    f"{op.name}-{i}": (op, sample)
    for op in OPS.values()
    for i, sample in enumerate(op.samples)
    if op.family != "random"
}


def dtype_for(op: Op) -> DType:
    assert op.sample_dtypes is not None
    return float64 if float64 in op.sample_dtypes else op.sample_dtypes[-1]


def graph_of(op: Op, params: dict[str, Any], arrays: Sequence[Array]) -> Graph:
    with Builder(op.name) as builder:
        inputs = [builder.input(type_of(a)) for a in arrays]
        return builder.finish([builder.append(op, inputs, params)])


def calls_of(op: Op, sample: Sample) -> tuple[Graph, list[list[Array]]]:
    rows = [
        [a.copy() for a in arrays_of(op, sample, dtype_for(op), np.random.default_rng(seed))]
        for seed in range(ROWS)
    ]
    return graph_of(op, sample.params, rows[0]), rows


@pytest.mark.parametrize("name", TABLE)
def test_every_op(name: str) -> None:
    op, sample = TABLE[name]
    graph, rows = calls_of(op, sample)
    for flags in choices(len(graph.inputs)):
        whole = check(graph, flags, operands(rows, flags))
        if not _loops(op):
            assert not any(node.op.name == "while_loop" for node in whole.nodes), flags


def _loops(op: Op) -> bool:
    """Whether an op is applied row by row, for lack of a rule."""
    return op.name == "nonzero"


@pytest.mark.parametrize("name", TABLE)
def test_the_gradient_of_every_op(name: str) -> None:
    op, sample = TABLE[name]
    graph, rows = calls_of(op, sample)
    wrt = [x.dtype.is_floating_point for x in graph.inputs]
    if not graph.outputs[0].dtype.is_floating_point or not any(wrt):
        return
    rng = np.random.default_rng(7)
    for arrays in rows:
        arrays.append(np.asarray(rng.normal(size=graph.outputs[0].shape), arrays[0].dtype))
    for flags in choices(len(graph.inputs)):
        check_gradient(graph, flags, operands(rows, (*flags, True)), wrt)
