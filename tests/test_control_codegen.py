"""Loops and branches as native code agree with the interpreter of the IR."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.device_check import HAS_CUDA, run_on_device
from tests.random_control import control_graphs, inputs_of
from tracegrad.ir.graph import Builder
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import FLAG, INDEX, cond, items, while_loop
from tracegrad.ir.types import StackType, TensorType, bool_, float32, float64, int64
from tracegrad.runtime.executor import compile_graph

NEVER = 2**63 - 1


def f64(*shape):
    return TensorType(float64, shape)


def body_of(types, make, name="body"):
    """A graph of `make(*inputs)`."""
    with Builder(name) as builder:
        inputs = [builder.input(type) for type in types]
        return builder.finish(make(builder, *inputs))


def loop(builder, limit, go, operands, body, **params):
    defaults = {"carries": 0, "slices": 0, "frames": 0, "stacked": 0}
    defaults |= {"length": None, "saves": (), "reverse": False}
    if isinstance(limit, int):
        limit = builder.constant(limit, int64)
    if isinstance(go, bool):
        go = builder.constant(go, bool_)
    return items(while_loop(limit, go, *operands, body=body, **{**defaults, **params}))


def check(graph, *arrays):
    """Run `graph` natively, twice, and on the simulated device, and compare all results that are
    tensors.
    """
    wanted = interpret(graph, list(arrays))
    before = [array.copy() for array in arrays]
    executable = compile_graph(graph)
    found = [executable(list(arrays)) for _ in range(2)]
    if HAS_CUDA:
        found.append(run_on_device(graph, arrays))
    for results in found:
        for node, a, b in zip(graph.outputs, wanted, results, strict=True):
            if not isinstance(node.type, StackType):
                np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-12)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    return executable


def true(builder):
    return builder.constant(True, bool_)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_scalars_are_carried_and_counted(count):
    def make(b, t, i, x):
        return [i + 1 < count, i + 1, x * 0.5 + 1.0]

    body = body_of([INDEX, INDEX, f64()], make)
    with Builder() as b:
        x = b.input(f64(), "x")
        n = b.input(INDEX, "n")
        out = loop(b, NEVER, n > 0, [b.constant(0, int64), x], body, carries=2)
        graph = b.finish(out)
    check(graph, np.float64(3.0)[()] + np.zeros(()), np.asarray(count))


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_carried_arrays_change_places(steps):
    """A new array each time, two arrays exchanged, and one that is handed on unchanged."""

    def make(b, t, x, y, z, c):
        return [true(b), y, x * 0.5 + c, z]

    body = body_of([INDEX, f64(4), f64(4), f64(4), f64(4)], make)
    with Builder() as b:
        x, y, z, c = (b.input(f64(4), n) for n in "xyzc")
        out = loop(b, steps, True, [x, y, z, c], body, carries=3)
        graph = b.finish([*out, out[1] + out[2]])
    rng = np.random.default_rng(0)
    check(graph, *rng.normal(size=(4, 4)))


def test_two_carries_may_become_the_same_value():
    def make(b, t, x, y):
        z = x + y
        return [true(b), z, z]

    body = body_of([INDEX, f64(3), f64(3)], make)
    with Builder() as b:
        x, y = b.input(f64(3)), b.input(f64(3))
        graph = b.finish(loop(b, 4, True, [x, y], body, carries=2))
    check(graph, np.arange(3.0), np.ones(3))


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_are_read_and_stacked(reverse):
    def make(b, t, h, row, s):
        new = OPS["tanh"](h + row) * s
        return [true(b), new, new, row * 2.0, s, h + row]

    types = [INDEX, f64(3), f64(3), f64()]
    body = body_of(types, make)
    with Builder() as b:
        h, xs, s = b.input(f64(3)), b.input(f64(5, 3)), b.input(f64(5))
        out = loop(
            b,
            5,
            True,
            [h, xs, s],
            body,
            carries=1,
            slices=2,
            stacked=4,
            length=5,
            reverse=reverse,
        )
        graph = b.finish(out)
    rng = np.random.default_rng(1)
    check(graph, rng.normal(size=3), rng.normal(size=(5, 3)), rng.normal(size=5))


def test_rows_that_are_not_reached_are_zero():
    def make(b, t, x, row):
        return [x < 3.0, x + row, x]

    body = body_of([INDEX, f64(), f64()], make)
    with Builder() as b:
        x, xs = b.input(f64()), b.input(f64(6))
        graph = b.finish(loop(b, 6, True, [x, xs], body, carries=1, slices=1, stacked=1, length=6))
    check(graph, np.zeros(()), np.ones(6))


def gauss_seidel(n, sweeps):
    """x[i, j] from its neighbours, in place, as three nested loops."""

    def inner(b, t, x, i):
        j = t + 1
        around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        values = [OPS["gather"](x, p, q) for p, q in around]
        total = (values[0] + values[1] + values[2] + values[3]) * 0.25
        return [true(b), OPS["scatter"](x, total, i, j)]

    def middle(b, t, x):
        body = body_of([INDEX, f64(n, n), INDEX], inner)
        out = loop(b, n - 2, True, [x, t + 1], body, carries=1)
        return [true(b), out[1]]

    def outer(b, t, x):
        body = body_of([INDEX, f64(n, n)], middle)
        return [true(b), loop(b, n - 2, True, [x], body, carries=1)[1]]

    with Builder() as b:
        x = b.input(f64(n, n), "x")
        body = body_of([INDEX, f64(n, n)], outer)
        return b.finish([loop(b, sweeps, True, [x], body, carries=1)[1]])


def test_elements_are_updated_in_place():
    graph = gauss_seidel(6, 3)
    executable = check(graph, np.random.default_rng(2).normal(size=(6, 6)))
    # One copy before the loop; within it no loop over the array.
    assert sum("for " in line for line in executable.source.splitlines()) <= 2


def test_an_old_value_that_is_still_read_is_not_overwritten():
    def make(b, t, x):
        new = OPS["scatter"](x, OPS["sum"](x, axes=(0,), keepdims=False), t)
        return [true(b), new + x]

    body = body_of([INDEX, f64(4)], make)
    with Builder() as b:
        x = b.input(f64(4))
        graph = b.finish(loop(b, 4, True, [x], body, carries=1))
    check(graph, np.arange(4.0))


def test_a_reader_that_comes_later_in_the_graph_goes_before_the_update():
    def make(b, t, x, s):
        new = OPS["scatter"](x, s, t)
        old = OPS["gather"](x, t)
        return [true(b), new, s + old]

    body = body_of([INDEX, f64(4), f64()], make)
    with Builder() as b:
        x, s = b.input(f64(4)), b.input(f64())
        graph = b.finish(loop(b, 4, True, [x, s], body, carries=2))
    check(graph, np.arange(4.0), np.ones(()))


def test_windows_that_read_what_they_overwrite():
    def make(b, t, x):
        left = OPS["slice"](x, starts=(0,), limits=(4,), strides=(1,))
        right = OPS["slice"](x, starts=(2,), limits=(6,), strides=(1,))
        new = OPS["update_slice"](x, (left + right) * 0.5, starts=(1,), limits=(5,), strides=(1,))
        return [true(b), new]

    body = body_of([INDEX, f64(6)], make)
    with Builder() as b:
        x = b.input(f64(6))
        graph = b.finish(loop(b, 5, True, [x], body, carries=1))
    check(graph, np.arange(6.0) ** 2)


@pytest.mark.parametrize("index", [-1, 0, 1, 2, 5])
def test_branches(index):
    def first(b, x, s):
        return [x + s, s * 2.0, x]

    def second(b, x, s):
        return [x * s, s, OPS["scatter"](x, s, b.constant(1, int64))]

    def third(b, x, s):
        return [x, OPS["sum"](x, axes=(0,), keepdims=False), x]

    branches = tuple(body_of([f64(3), f64()], f) for f in (first, second, third))
    with Builder() as b:
        i, x, s = b.input(INDEX), b.input(f64(3)), b.input(f64())
        graph = b.finish(items(cond(i, x, s, branches=branches)))
    check(graph, np.asarray(index), np.arange(3.0), np.asarray(4.0))


def test_a_branch_in_a_loop_updates_in_place():
    def swap(b, x, t):
        a = OPS["gather"](x, t)
        c = OPS["gather"](x, t + 1)
        return [OPS["scatter"](OPS["scatter"](x, c, t), a, t + 1)]

    def keep(b, x, t):
        return [x]

    def other(b, x, t):
        return [x * 1.5]

    def make(b, t, x):
        a = OPS["gather"](x, t)
        c = OPS["gather"](x, t + 1)
        index = OPS["cast"](a > c, dtype=int64) + OPS["cast"](a > 2.5 * c, dtype=int64)
        branches = tuple(body_of([f64(6), INDEX], f) for f in (keep, swap, other))
        return [true(b), items(cond(index, x, t, branches=branches))[0]]

    body = body_of([INDEX, f64(6)], make)
    with Builder() as b:
        x = b.input(f64(6))
        graph = b.finish(loop(b, 5, True, [x], body, carries=1))
    check(graph, np.array([3.0, 1.0, 2.0, 9.0, 0.5, 4.0]))


def test_matrix_products_and_reductions_in_a_loop():
    def make(b, t, h, total, w, row):
        new = OPS["tanh"](OPS["matmul"](h, w) + row)
        return [true(b), new, total + OPS["sum"](new, axes=(0, 1), keepdims=False), new]

    types = [INDEX, f64(8, 16), f64(), f64(16, 16), f64(8, 16)]
    body = body_of(types, make)
    with Builder() as b:
        h, w, xs = b.input(f64(8, 16)), b.input(f64(16, 16)), b.input(f64(7, 8, 16))
        out = loop(
            b,
            7,
            True,
            [h, b.constant(0.0, float64), w, xs],
            body,
            carries=2,
            slices=1,
            stacked=1,
            length=7,
        )
        graph = b.finish(out)
    rng = np.random.default_rng(3)
    check(graph, rng.normal(size=(8, 16)), rng.normal(size=(16, 16)), rng.normal(size=(7, 8, 16)))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 200])
def test_frames_come_back(count):
    """What one loop saves, another reads: in one program, and as output and input."""

    def forward(b, t, x, a):
        return [x < float(count), x + 1.0, a * 0.9 + x, x, a]

    def backward(b, t, total, acc, x, a):
        return [true(b), total + x, acc * 0.5 + a]

    body = body_of([INDEX, f64(), f64(3)], forward)
    back = body_of([INDEX, f64(), f64(3), f64(), f64(3)], backward)
    with Builder() as b:
        x, a = b.input(f64()), b.input(f64(3))
        out = loop(b, NEVER, x < float(count), [x, a], body, carries=2, saves=(2,))
        zero = OPS["broadcast_to"](b.constant(0.0, float64), shape=(3,))
        again = loop(
            b,
            out[0],
            True,
            [b.constant(0.0, float64), zero, out[3]],
            back,
            carries=2,
            frames=1,
            reverse=True,
        )
        graph = b.finish(again)
    arrays = [np.zeros(()), np.arange(3.0)]
    check(graph, *arrays)
    with Builder() as b:
        x, a = b.input(f64()), b.input(f64(3))
        first = b.finish(loop(b, NEVER, x < float(count), [x, a], body, carries=2, saves=(2,)))
    with Builder() as b:
        n, stack = b.input(INDEX), b.input(StackType((f64(), f64(3))))
        zero = OPS["broadcast_to"](b.constant(0.0, float64), shape=(3,))
        second = b.finish(
            loop(
                b,
                n,
                True,
                [b.constant(0.0, float64), zero, stack],
                back,
                carries=2,
                frames=1,
                reverse=True,
            )
        )
    save, read = compile_graph(first), compile_graph(second)
    saved = [save(arrays) for _ in range(3)]
    wanted = interpret(graph, arrays)
    for done, *_, stack in saved:
        for a, b in zip(read([done, stack]), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("dtype", [float32, float64])
@pytest.mark.parametrize(
    ("step", "apart"),
    [
        (lambda s, a, b: s + a * b, "add_apart("),
        (lambda s, a, b: a * a + s, "add_apart("),
        (lambda s, a, b: s - a * b, "sub_apart("),
        (lambda s, a, b: (s * b - a * b) * a, "sub_apart("),
        # The product waits for the iteration before, or nothing does.
        (lambda s, a, b: s * a + b, None),
        (lambda s, a, b: s * a + s * b, None),
        (lambda s, a, b: OPS["maximum"](s, a * b + b), None),
    ],
)
def test_products_are_not_fused_into_sums_that_wait_for_each_other(dtype, step, apart):
    number, row = TensorType(dtype, ()), TensorType(dtype, (9,))

    def make(b, t, s, v, w):
        return [true(b), step(s, OPS["gather"](v, t), OPS["gather"](w, t))]

    body = body_of([INDEX, number, row, row], make)
    with Builder() as b:
        v, w = b.input(row, "v"), b.input(row, "w")
        out = loop(b, 9, True, [b.constant(0.5, dtype), v, w], body, carries=1)
        graph = b.finish(out[1:])
    rng = np.random.default_rng(0)
    source = check(graph, *rng.normal(size=(2, 9)).astype(dtype.numpy)).source
    assert ("_apart(" in source) == (apart is not None)
    assert apart is None or apart in source


def test_frames_without_arrays_follow_each_other_for_all_to_see():
    """LLVM vectorises what reads and writes frames only if it knows how far apart they are."""

    def build(type):
        body = body_of([INDEX, type], lambda b, t, x: [true(b), x * 0.5, x, x * x])
        with Builder() as b:
            x = b.input(type, "x")
            _, _, stack = loop(b, 5, True, [x], body, carries=1, saves=(2,))
            back = body_of([INDEX, type, type, type], lambda b, t, g, u, v: [true(b), g * u + v])
            graph = b.finish(loop(b, 5, True, [x, stack], back, carries=1, frames=1, reverse=True))
        return graph

    source = check(build(f64()), np.asarray(1.5)).source
    places = [line.split(",", 1)[1] for line in source.splitlines() if " = at_f64(" in line]
    assert len(places) == 4
    assert all("* 16" in place for place in places)
    assert sum(place.endswith("+ 8)") for place in places) == 2
    source = check(build(f64(3)), np.arange(3.0)).source
    assert not any("* 16" in line for line in source.splitlines() if " = at_f64(" in line)


def test_stacks_within_stacks():
    """The frames of an inner loop belong to the frame of the outer iteration."""

    def inner(b, t, x):
        return [true(b), x * 1.1, x]

    def inner_back(b, t, g, x):
        return [true(b), g + x]

    def outer(b, t, x):
        body = body_of([INDEX, f64()], inner)
        out = loop(b, t + 1, True, [x], body, carries=1, saves=(1,))
        return [true(b), out[1], out[0], out[2]]

    def outer_back(b, t, g, n, stack):
        body = body_of([INDEX, f64(), f64()], inner_back)
        out = loop(b, n, True, [g, stack], body, carries=1, frames=1, reverse=True)
        return [true(b), out[1]]

    stack = StackType((f64(),))
    with Builder() as b:
        x = b.input(f64())
        body = body_of([INDEX, f64()], outer)
        out = loop(b, 30, True, [x], body, carries=1, saves=(2,))
        back = body_of([INDEX, f64(), INDEX, stack], outer_back)
        again = loop(
            b,
            out[0],
            True,
            [b.constant(0.0, float64), out[2]],
            back,
            carries=1,
            frames=1,
            reverse=True,
        )
        graph = b.finish([out[1], again[1]])
    check(graph, np.asarray(0.01))


def test_a_stack_that_lives_within_an_iteration():
    def inner(b, t, x):
        return [true(b), x * 1.1, x]

    def inner_back(b, t, g, x):
        return [true(b), g * 0.5 + x]

    def outer(b, t, x):
        body = body_of([INDEX, f64()], inner)
        out = loop(b, t + 1, True, [x], body, carries=1, saves=(1,))
        back = body_of([INDEX, f64(), f64()], inner_back)
        out = loop(b, out[0], True, [x, out[2]], back, carries=1, frames=1, reverse=True)
        return [true(b), out[1]]

    with Builder() as b:
        x = b.input(f64())
        body = body_of([INDEX, f64()], outer)
        graph = b.finish(loop(b, 40, True, [x], body, carries=1))
    check(graph, np.asarray(0.01))


def test_float32_integers_and_flags_are_carried():
    def make(b, t, x, k, flag, h):
        return [true(b), x * 0.5 + h, k + OPS["cast"](flag, dtype=int64), x > h, h]

    types = [INDEX, TensorType(float32, ()), INDEX, FLAG, TensorType(float32, ())]
    body = body_of(types, make)
    with Builder() as b:
        x, h = b.input(TensorType(float32, ())), b.input(TensorType(float32, ()))
        inits = [x, b.constant(0, int64), b.constant(True, bool_), h]
        graph = b.finish(loop(b, 9, True, inits, body, carries=4))
    check(graph, np.asarray(8.0, np.float32), np.asarray(1.0, np.float32))


def test_large_steps_of_a_loop_are_kernels_of_their_own():
    """They may run in threads, and find what is in registers in memory."""
    n = 70_000

    def make(b, t, x, s):
        new = x * 0.5 + s
        return [true(b), new, s + OPS["sum"](new, axes=(0,), keepdims=False) * 1e-5]

    body = body_of([INDEX, f64(n), f64()], make)
    with Builder() as b:
        x, s = b.input(f64(n)), b.input(f64())
        graph = b.finish(loop(b, 5, True, [x, s], body, carries=2))
    executable = check(graph, np.random.default_rng(4).normal(size=n), np.asarray(0.25))
    assert "run_step(" in executable.source


def test_arrays_without_elements_are_carried():
    def make(b, t, x, y):
        return [true(b), y, x * 2.0]

    body = body_of([INDEX, f64(0, 3), f64(0, 3)], make)
    with Builder() as b:
        x, y = b.input(f64(0, 3)), b.input(f64(0, 3))
        graph = b.finish(loop(b, 4, True, [x, y], body, carries=2))
    check(graph, np.zeros((0, 3)), np.ones((0, 3)))


@pytest.mark.parametrize("sliced", [False, True])
def test_memory_is_not_handed_over_while_a_view_of_it_is_read(sliced):
    """The inner loop gets an array to change, and the same array from behind."""

    def inner(b, t, y, v):
        old = v if sliced else OPS["gather"](v, t)
        return [true(b), OPS["scatter"](y, OPS["gather"](y, t) + old, t)]

    inner_body = body_of([INDEX, f64(3), f64() if sliced else f64(3)], inner)

    def outer(b, t, x):
        operands = [x, OPS["flip"](x, axes=(0,))]
        params = {"carries": 1, "slices": 1, "length": 3} if sliced else {"carries": 1}
        return [true(b), loop(b, 3, True, operands, inner_body, **params)[1]]

    body = body_of([INDEX, f64(3)], outer)
    with Builder() as b:
        x = b.input(f64(3))
        graph = b.finish(loop(b, 2, True, [x], body, carries=1))
    check(graph, np.array([0.3, 0.5, 0.9]))


def test_a_branch_does_not_get_memory_while_a_view_of_it_is_read():
    where = {"strides": (1,)}

    def change(b, y, v):
        part = OPS["slice"](v, starts=(0,), limits=(2,), **where)
        return [OPS["update_slice"](y, part, starts=(1,), limits=(3,), **where)]

    branches = (body_of([f64(3)] * 2, change), body_of([f64(3)] * 2, lambda b, y, v: [y + v]))

    def outer(b, t, x):
        return [true(b), items(cond(t, x, OPS["flip"](x, axes=(0,)), branches=branches))[0]]

    body = body_of([INDEX, f64(3)], outer)
    with Builder() as b:
        x = b.input(f64(3))
        graph = b.finish(loop(b, 2, True, [x], body, carries=1))
    check(graph, np.array([0.3, 0.5, 0.9]))


def test_an_array_is_added_to_its_own_elements():
    def make(b, t, x, places):
        return [true(b), OPS["scatter_add"](x, x, places)]

    body = body_of([INDEX, f64(3), TensorType(int64, (3,))], make)
    with Builder() as b:
        x, places = b.input(f64(3)), b.input(TensorType(int64, (3,)))
        graph = b.finish(loop(b, 3, True, [x, places], body, carries=1))
    check(graph, np.array([1.0, 2.0, 3.0]), np.array([2, 0, 1]))


@settings(max_examples=15)
@given(control_graphs(), st.integers(0, 3))
def test_random_loops_and_branches(graph, seed):
    check(graph, *inputs_of(graph, seed))
