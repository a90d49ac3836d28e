"""Memory of compiled code: pooled outputs, temporaries, and what `memory_stats` says of both."""

import gc
import threading
import tracemalloc

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.codegen.memory_plan import HOSTED, plan
from tracegrad.codegen.steps import Buffer
from tracegrad.ir.graph import Builder
from tracegrad.ir.op import OPS
from tracegrad.ir.types import TensorType, float32
from tracegrad.runtime import memory
from tracegrad.runtime.executor import compile_graph

LARGE = 1 << 18


@pytest.fixture
def statistics():
    """Counts since the last time they were asked for."""
    gc.collect()
    before = tg.memory_stats()

    def since(name):
        nonlocal before
        now = tg.memory_stats()
        found = getattr(now, name) - getattr(before, name)
        before = now
        return found

    return since


@pytest.fixture(scope="module")
def polynomial():
    @tg.compile
    def polynomial(x):
        return (((x * 0.5 + 1.0) * x + 0.25) * x + 2.0).mean()

    return polynomial


def test_a_steady_call_allocates_its_outputs_only(statistics):
    @tg.compile
    def f(x, y):
        return x * y + x, x - y

    x, y = tg.ones(LARGE), tg.ones(LARGE)
    for _ in range(3):
        f(x, y)
    statistics("made")
    for _ in range(5):
        f(x, y)
    now = tg.memory_stats()
    assert statistics("made") == 0
    f(x, y)
    assert statistics("allocations") == 2
    # Neither does NumPy get to allocate anything of this size.
    tracemalloc.start()
    try:
        f(x, y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16_384
    assert now.pooled_bytes == now.used_bytes + now.free_bytes


def test_forward_and_backward_allocate_the_gradient_only(polynomial, statistics):
    x = tg.rand(LARGE, requires_grad=True)
    for _ in range(3):
        polynomial(x).backward()
        x.grad = None
    statistics("made")
    polynomial(x).backward()
    assert statistics("made") == 0
    x.grad = None
    polynomial(x).backward()
    assert statistics("allocations") == 1


def test_a_value_and_its_gradient_take_the_memory_of_the_gradient(polynomial):
    step = tg.compile(tg.value_and_grad(polynomial))
    x = tg.rand(2 * LARGE)
    step(x)
    tg.empty_cache()
    tg.reset_peak_memory_stats()
    before = tg.memory_stats().peak_bytes
    _, gradient = step(x)
    assert tg.memory_stats().peak_bytes - before <= 1.1 * gradient.numpy().nbytes


def test_memory_comes_back_with_the_last_view():
    @tg.compile
    def f(x):
        return x + 1.0

    x = tg.ones(LARGE + 4096)
    first = f(x)
    view = first.numpy()[::3]
    address = first.numpy().ctypes.data
    del first
    gc.collect()
    used = tg.memory_stats().used_bytes
    assert f(x).numpy().ctypes.data != address
    assert (view == 2.0).all()
    del view
    assert used - tg.memory_stats().used_bytes >= x.numpy().nbytes
    seen = [f(x) for _ in range(2)]
    assert address in [each.numpy().ctypes.data for each in seen]
    made = tg.memory_stats().made
    del seen
    f(x)
    assert tg.memory_stats().made == made


# ------------------------------------------------------------------------------------ temporaries


def buffer(kind, nbytes, position=0):
    return Buffer(kind, float32, nbytes // 4, position)


def test_a_dead_temporary_lives_in_a_later_output():
    early, late, small = (buffer("temporary", n) for n in (HOSTED, HOSTED, 4096))
    x, y = buffer("input", HOSTED), buffer("output", HOSTED)
    places, arena = plan([[x, early], [early, late, small], [late, small, y]])
    assert places[early].host is y
    # What the step that makes the output reads is not in it.
    assert places[late].host is None
    assert places[small].host is None
    assert arena == HOSTED + 4096


def test_temporaries_share_an_output_as_long_as_it_has_room():
    first, second, third = (buffer("temporary", HOSTED) for _ in range(3))
    y = buffer("output", 2 * HOSTED)
    places, arena = plan([[first, second], [first, second, third], [third], [y]])
    assert places[first].host is places[second].host is y
    assert places[first].offset != places[second].offset
    assert places[third].host is None
    assert arena == HOSTED
    places, arena = plan([[first], [second], [third], [y]])
    assert [places[x].offset for x in (first, second, third)] == [0, 0, 0]
    assert arena == 0


def test_a_program_whose_temporaries_are_in_its_output():
    n = 512
    with Builder() as builder:
        a, b = (builder.input(TensorType(float32, (n, n)), name) for name in "ab")
        twice = OPS["matmul"](OPS["matmul"](a, b), b)
        graph = builder.finish([OPS["matmul"](twice, b)])
    executable = compile_graph(graph)
    assert executable.scratch_bytes == 4 * n * n
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(n, n)).astype(np.float32) / n**0.5 for _ in range(2))
    for _ in range(2):
        (found,) = executable([a, b])
        np.testing.assert_allclose(found, a @ b @ b @ b, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------------------- numbers


def test_scratch_is_counted_and_given_back(statistics):
    memory.scratch(1 << 24)
    assert statistics("scratch_bytes") >= 1 << 23
    tg.empty_cache()
    assert statistics("scratch_bytes") <= -(1 << 24)
    assert memory.scratch(100).nbytes >= 100

    def elsewhere():
        memory.scratch(1 << 24)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    # The arena of a thread goes with it.
    gc.collect()
    statistics("scratch_bytes")
    assert statistics("scratch_bytes") == 0
    assert tg.memory_stats().peak_bytes >= 1 << 24


def test_what_a_loop_saves_is_counted():
    @tg.compile
    def f(x, n):
        return tg.fori_loop(0, n, lambda i, y: tg.sin(y), x)

    x = tg.ones(100, requires_grad=True)
    y = f(x, tg.tensor(1000))
    held = tg.memory_stats().stack_bytes
    assert held >= 1000 * 100 * 4
    y.sum().backward()
    assert abs(float(x.grad[0])) < 1.0


def test_the_peak_is_of_what_was_held_at_once():
    tg.empty_cache()
    tg.reset_peak_memory_stats()
    low = tg.memory_stats().peak_bytes
    block, *_ = memory.allocate(1 << 24)
    del block
    tg.empty_cache()
    assert tg.memory_stats().peak_bytes - low == 1 << 24
    tg.reset_peak_memory_stats()
    assert tg.memory_stats().peak_bytes == low
