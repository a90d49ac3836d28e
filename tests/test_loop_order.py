"""Loops along memory, whatever the order of the axes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.test_codegen import check, normal, total
from tracegrad.ir.graph import Node
from tracegrad.ir.op import OPS


def turned(x: Node, *axes: int) -> Node:
    return OPS["transpose"](x, axes=axes or (1, 0))


CASES: dict[str, Callable[[Node], Node]] = {
    "rows of a transpose": lambda x: total(turned(x, 2, 1, 0), 2) / 5.0,
    "columns of a transpose": lambda x: total(turned(x, 2, 1, 0), 0),
    "middle of a transpose": lambda x: total(turned(x, 2, 0, 1), 1),
    "two of a transpose": lambda x: total(turned(x, 1, 2, 0), 0, 2),
    "mean and use": lambda x: turned(x, 0, 2, 1) - total(turned(x, 0, 2, 1), 2, keepdims=True),
    "elementwise": lambda x: turned(x, 2, 1, 0) * 2.0,
    "both ways": lambda x: (
        OPS["exp"](turned(x, 0, 2, 1)) + turned(turned(x, 0, 2, 1) * 3.0, 0, 1, 2)
    ),
    "maximum": lambda x: OPS["amax"](turned(x, 2, 1, 0), axes=(1,), keepdims=False),
    "flipped": lambda x: OPS["flip"](turned(x, 2, 1, 0), axes=(0,)) + 1.0,
}


@pytest.mark.parametrize("name", CASES)
def test_results_do_not_depend_on_the_order(name: str) -> None:
    """More columns than a strip of columns, or a tile, has."""
    check(CASES[name], normal(5, 33, 70))


def test_a_reduction_over_rows_of_a_transpose_adds_up_rows_of_memory() -> None:
    (info,) = check(lambda x: total(turned(x), 1) / 7.0, normal(40, 90)).kernels
    # The innermost loop steps by one element; the sums grow in memory.
    assert re.search(r"load\(p\d+, j0 \+ j1 \* s\d+\)", info.source)
    assert "load_output" in info.source


def test_a_reduction_over_columns_of_a_transpose_stays_in_a_register() -> None:
    (info,) = check(lambda x: total(turned(x), 0), normal(40, 90)).kernels
    assert "load_output" not in info.source


def test_a_transposition_walks_tiles() -> None:
    (info,) = check(lambda x: turned(x) * 2.0, normal(70, 45)).kernels
    assert info.source.count("for ") == 4
    (info,) = check(lambda x: x * 2.0, normal(70, 45)).kernels
    assert info.source.count("for ") == 1


def test_strided_arrays_are_walked_along_memory() -> None:
    """The same without any transposition in the graph: the array's own strides say it."""
    x = np.asfortranarray(normal(40, 90))
    (info,) = check(lambda x: total(x, 1), x).kernels
    assert "load_output" in info.source
