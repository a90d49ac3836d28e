"""Surprises that users of such systems know, one test each."""

import threading

import numpy as np

import tracegrad as tg


def in_threads(count, work):
    """Run `work(i)` in `count` threads at once; raises the first of their errors."""
    errors = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# ------------------------------------------------------------------------------------------ threads


def test_threads_call_one_compiled_function_on_large_arrays():
    # Large enough for several threads within each call: there Numba gives up the GIL. The product
    # of a product is kept in scratch memory, which no two calls may share either.
    @tg.compile
    def f(x, w):
        return ((x * 2 + 1) @ w) @ w

    size = 400
    w = tg.eye(size)
    inputs = [tg.full((size, size), float(i)) for i in range(4)]
    for x in inputs:
        f(x, w)

    def work(i):
        for _ in range(30):
            assert (f(inputs[i], w).numpy() == 2 * i + 1).all()

    in_threads(4, work)


def test_threads_trace_and_retrace_at_once():
    @tg.compile
    def grow(x):
        y = x
        while y.sum() < 100:
            y = y * 2
        return (y * x).sum()

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(15):
            a = abs(rng.normal(size=3)) * 10.0 ** rng.uniform(-1, 1.5)
            factor = 1.0
            while (a * factor).sum() < 100:
                factor *= 2
            x = tg.tensor(a, requires_grad=True)
            grow(x).backward()
            np.testing.assert_allclose(x.grad.numpy(), 2 * factor * a, rtol=1e-12)

    in_threads(3, work)
