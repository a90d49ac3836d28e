"""Threads of compiled code and of BLAS, and compiled code in several Python threads."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.codegen.gemm import BatchAxis, Matrix, gemm_extent, gemm_source, gemm_table
from tracegrad.errors import ArgumentError
from tracegrad.runtime import blas, kernels, program
from tracegrad.runtime.blas import gemm_addresses
from tracegrad.runtime.program import Buffer, Program, Step, know_blas

HEAD = "from tracegrad.codegen.primitives import *\n\n\n"


@pytest.fixture(autouse=True)
def threads():
    before = tg.get_num_threads()
    yield
    tg.set_num_threads(before)


@pytest.mark.parametrize("count", [0, -1, 1.0, "2", None, True, np.float32(2)])
def test_bad_numbers_of_threads_change_nothing(count):
    tg.set_num_threads(2)
    with pytest.raises(ArgumentError, match="whole number of at least 1, not"):
        tg.set_num_threads(count)
    assert tg.get_num_threads() == 2
    tg.set_num_threads(np.int64(3))
    assert tg.get_num_threads() == 3


def test_the_number_holds_for_programs_that_exist():
    source = HEAD + (
        "def kernel(pointers, table, start, stop):\n"
        "    o = output_i64(pointers, 0, 0)\n"
        "    for i in range(start, stop):\n"
        "        store(o, i, start)\n"
    )
    out = np.zeros(96, np.int64)
    launch = Program([Buffer(0)], [Step(kernels.compile_kernel(source), [], 96, 8)], 1)
    for count in (1, 2, 3, 5, 1):
        tg.set_num_threads(count)
        launch.run(out)
        # Twelve grains: one piece for the only thread, up to four chunks for each of several.
        assert len(set(out.tolist())) == (1 if count == 1 else min(4 * count, 12))
    # A part is never smaller than the grain.
    tg.set_num_threads(50)
    launch.run(out)
    assert len(set(out.tolist())) == 96 // 8


def numbers_of_blas():
    return [
        blas._functions(module)[1]()
        for module in (blas._NUMPY, blas._SCIPY)
        if blas._functions(module) is not None
    ]


def test_blas_is_told():
    gemm_addresses("f32")
    if not numbers_of_blas():
        pytest.skip("no OpenBLAS and no MKL")
    for count in (1, 2):
        tg.set_num_threads(count)
        assert set(numbers_of_blas()) == {count}


def test_blas_uses_one_thread_where_ours_call_it():
    know_blas()
    if blas._functions(blas._SCIPY) is None:
        pytest.skip("no OpenBLAS and no MKL")
    tg.set_num_threads(2)
    _, getter = blas.thread_functions()
    source = HEAD + (
        "def kernel(pointers, table, start, stop):\n"
        "    o = output_i64(pointers, 0, 0)\n"
        "    for i in range(start, stop):\n"
        "        store(o, i, call_address(word(table, 0), ()) & 0xFFFF)\n"
    )
    kernel = kernels.compile_kernel(source)
    out = np.zeros(4, np.int64)
    Program([Buffer(0)], [Step(kernel, [getter], 4, 1, blas=True)], 1).run(out)
    assert out.tolist() == [1, 1, 1, 1]
    assert numbers_of_blas()[-1] == 2
    # A step in one piece leaves the work to BLAS's own threads.
    Program([Buffer(0)], [Step(kernel, [getter], 4, 4, blas=True)], 1).run(out)
    assert out.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("m", "n", "k"), [(301, 77, 90), (77, 301, 90), (4000, 1, 70), (1, 4000, 70), (90, 90, 90)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_products_in_strips(m, n, k, turned):
    random = np.random.default_rng(0)
    a = random.normal(size=(2, k, m) if turned else (2, m, k))
    b = random.normal(size=(n, k) if turned else (k, n))
    expected = (a.swapaxes(1, 2) if turned else a) @ (b.T if turned else b)
    batch = [BatchAxis(2, m * k, 0, m * n)]
    matrices = Matrix(0, turned), Matrix(1, turned), Matrix(2)
    table = gemm_table("f64", gemm_addresses("f64"), *matrices, m, n, k, batch)
    extent = gemm_extent(m, n, k, batch)
    assert extent > 2
    kernel = kernels.compile_kernel(gemm_source("f64"))
    launch = Program([Buffer(i) for i in range(3)], [Step(kernel, table, extent, 1, True)], 3)
    know_blas()
    for count in (1, 2, 3):
        tg.set_num_threads(count)
        c = np.full((2, m, n), np.nan)
        launch.run(a, b, c)
        np.testing.assert_allclose(c, expected, rtol=1e-10, atol=1e-10)


def test_the_same_number_of_threads_gives_the_same_bits():
    @tg.compile
    def f(x, w):
        y = tg.tanh(x @ w)
        return (y - y.mean(1, keepdim=True)).square().sum(), y.sum(0)

    random = np.random.default_rng(1)
    x = tg.tensor(random.normal(size=(1001, 300)), dtype=tg.float32)
    w = tg.tensor(random.normal(size=(300, 300)) / 17, dtype=tg.float32, requires_grad=True)
    results = {}
    for count in (2, 1, 2, 1, 2):
        tg.set_num_threads(count)
        w.grad = None
        total, columns = f(x, w)
        (total + columns[3]).backward()
        found = [each.detach().numpy() for each in (total, columns, w.grad)]
        before = results.setdefault(count, found)
        for a, b in zip(found, before, strict=True):
            assert a.tobytes() == b.tobytes()
    for a, b in zip(results[1], results[2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_python_threads_at_once():
    """Numba's own pool of threads ends the process when two threads enter it at once."""
    environment = {
        **os.environ,
        "TRACEGRAD_NUM_THREADS": "2",
        "NUMBA_THREADING_LAYER": "workqueue",
    }
    path = Path(__file__).with_name("threads_program.py")
    command = [sys.executable, "-W", "ignore", str(path)]
    result = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": str(path.parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[:3] == ["threads 2", "failures 0", "traces True"]
    assert result.stdout.splitlines()[3:] in ([], ["child 0"])


def test_a_call_waits_while_another_thread_adds_a_trace(interpreted):
    @tg.compile
    def f(x):
        return (x * x).sum() if x[0] > 0 else x.sum()

    x = tg.tensor([1.0, 2.0], requires_grad=True)
    f(x)
    found = []

    def call():
        found.append(f(x))

    caller = threading.Thread(target=call)
    with f._lock, f.specialisations[0].tree.changing():
        caller.start()
        caller.join(0.05)
        assert caller.is_alive()
    caller.join()
    found[0].backward()
    assert x.grad.tolist() == [2.0, 4.0]
    assert (f.statistics.traces, f.statistics.hits) == (1, 1)


def test_a_trace_that_another_thread_has_made_is_used(interpreted):
    entered = threading.Semaphore(0)
    go_on = threading.Event()

    @tg.compile
    def f(x):
        entered.release()
        go_on.wait(5)
        return x + 1

    callers = [threading.Thread(target=f, args=(tg.ones(2),)) for _ in range(3)]
    for caller in callers:
        caller.start()
    entered.acquire()
    time.sleep(0.02)
    go_on.set()
    for caller in callers:
        caller.join()
    assert (f.statistics.calls, f.statistics.traces, f.statistics.hits) == (3, 1, 2)


def test_a_change_between_a_run_and_its_end_counts(interpreted, monkeypatch):
    """Another thread adds a path, for which the segment computes more than before."""
    from tracegrad.tracer import compiled_function

    @tg.compile
    def f(x):
        y = tg.exp(x)
        z = tg.sin(x)
        return y.sum() if x[0] > 0 else (y * z).sum()

    x = tg.tensor([0.5, 2.0], requires_grad=True)
    f(x)
    run = compiled_function.run

    def interrupted(*arguments):
        monkeypatch.setattr(compiled_function, "run", run)
        result = run(*arguments)
        f(-x.detach())
        return result

    monkeypatch.setattr(compiled_function, "run", interrupted)
    f(x).backward()
    np.testing.assert_allclose(x.grad.numpy(), np.exp(x.detach().numpy()), rtol=1e-6)


def test_a_method_is_defined_once(monkeypatch):
    """Functions refer to its definition by address."""
    made = []

    def slow(source, entry):
        made.append(entry)
        time.sleep(0.02)
        return object()

    monkeypatch.setattr(program, "_method", slow)
    monkeypatch.setattr(program, "_methods", {})
    found = []
    callers = [
        threading.Thread(target=lambda: found.append(program.method_definition("source", "entry")))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(made) == len(set(map(id, found))) == 1
