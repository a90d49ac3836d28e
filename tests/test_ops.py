"""Every op on every dtype that it takes: types, layouts, and compiled code, forward and backward.

There is no code for single ops here: what to call is said by each op's own record. The derivatives
themselves are checked against differences in `test_differentiate.py`, the text in
`test_ir_text.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from tests.op_samples import Call, calls
from tracegrad.ir.differentiate import gradient_graph
from tracegrad.ir.graph import Graph
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import NONDIFFERENTIABLE, OPS, Array, evaluate
from tracegrad.ir.passes import expand_composites
from tracegrad.ir.types import DTYPES, float16, float32, float64, type_of
from tracegrad.runtime.executor import compile_graph

BY_OP: dict[str, list[Call]] = {}
for _dtype in DTYPES:
    for _call in calls(_dtype):
        BY_OP.setdefault(f"{_call.op.name}-{_dtype.name}", []).append(_call)

TOLERANCE = {float64: 1e-12, float32: 1e-5, float16: 2e-2}


def strided(array: Array) -> Array:
    """Every second element of a longer array."""
    spread = np.zeros(tuple(2 * size for size in array.shape), array.dtype)
    view = spread[(slice(None, None, 2),) * array.ndim + (...,)]
    view[...] = array
    return view


def transposed(array: Array) -> Array:
    """The axes in reverse order in memory."""
    return np.asfortranarray(array) if array.ndim else array


def backwards(array: Array) -> Array:
    """Negative strides."""
    return np.flip(np.flip(array).copy()) if array.ndim else array


LAYOUTS: tuple[Callable[[Array], Array], ...] = (strided, transposed, backwards)


def run_compiled(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    layouts = [
        None
        if array.flags.c_contiguous
        else tuple(stride // array.itemsize for stride in array.strides)
        for array in arrays
    ]
    return compile_graph(expand_composites(graph), layouts)(arrays)


def assert_close(found: Array, wanted: Array, tolerance: float, what: str) -> None:
    assert found.dtype == wanted.dtype, what
    assert found.shape == wanted.shape, what
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted, err_msg=what)
        return
    finite = np.abs(wanted[np.isfinite(wanted)]).astype(np.float64)
    scale = max(1.0, float(finite.max())) if finite.size else 1.0
    np.testing.assert_allclose(
        found.astype(np.float64),
        wanted.astype(np.float64),
        rtol=tolerance,
        atol=tolerance * scale,
        equal_nan=True,
        err_msg=what,
    )


def tolerance_of(graph: Graph) -> float:
    """That of the least precise dtype in the graph."""
    used = {node.dtype for node in (*graph.inputs, *graph.outputs)}
    return max((TOLERANCE[dtype] for dtype in used if dtype in TOLERANCE), default=0.0)


def arrangements(call: Call) -> Iterator[tuple[Array, ...]]:
    """The arrays of a call as they are and, where that is new, in all layouts: code for addresses
    does not depend on the dtype, and a composite op has none of its own.
    """
    yield call.arrays
    if call.dtype is float32 and call.op.expand is None:
        for layout in LAYOUTS:
            yield tuple(layout(array) for array in call.arrays)


@pytest.mark.parametrize("name", BY_OP)
def test_values(name: str) -> None:
    for call in BY_OP[name]:
        graph = call.graph()
        (output,) = graph.outputs
        before = [array.copy() for array in call.arrays]
        for arrays in arrangements(call):
            wanted = evaluate(call.op, arrays, call.params, output.dtype)
            assert type_of(wanted) == output.type, call
            (found,) = run_compiled(graph, arrays)
            assert_close(found, wanted, tolerance_of(graph), str(call))
            assert not any(np.shares_memory(found, array) for array in arrays), call
            for array, copy in zip(arrays, before, strict=True):
                np.testing.assert_array_equal(array, copy, err_msg=f"{call} changed its input")


# Kernels of gradients are large and compile slowly: one dtype, and not every sample.
DIFFERENTIABLE = [
    name
    for name, listed in BY_OP.items()
    if listed[0].op.vjp is not NONDIFFERENTIABLE and listed[0].dtype is float64
]
SAMPLES = 3


def gradient_cases(name: str) -> Iterator[tuple[Call, Graph, list[Array], list[Array], float]]:
    """Calls of an op with the graph of their gradient, its arguments, the values wanted of it, and
    how near they must be.
    """
    rng = np.random.default_rng(3)
    for call in BY_OP[name][:SAMPLES]:
        graph = call.graph()
        (output,) = graph.outputs
        wrt = [x.dtype.is_floating_point for x in graph.inputs]
        if not output.dtype.is_floating_point or not any(wrt):
            continue
        gradient = gradient_graph(graph, wrt, [True])
        cotangent = np.asarray(rng.normal(size=output.shape), output.dtype.numpy)
        arrays = [*call.arrays, cotangent]
        with np.errstate(all="ignore"):
            wanted = interpret(gradient, arrays)
        # A few operations more than the op itself.
        yield call, gradient, arrays, wanted, 4 * tolerance_of(graph)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_compiled_gradients(name: str) -> None:
    for call, gradient, arrays, wanted, tolerance in gradient_cases(name):
        found = run_compiled(gradient, arrays)
        for mine, reference in zip(found, wanted, strict=True):
            assert_close(mine, reference, tolerance, str(call))


def test_every_op_says_what_it_needs() -> None:
    for op in OPS.values():
        # Control flow has graphs for parameters, and tests of its own.
        if op.family in ("source", "control"):
            continue
        assert op.samples, op
        assert op.sample_dtypes, op
        if isinstance(op.vjp, tuple):
            assert len(op.vjp) == op.arity, op
        if op.family in ("elementwise", "reduction") and op.name != "cast":
            assert op.scalar, op
