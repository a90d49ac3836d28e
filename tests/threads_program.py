"""Several threads call compiled functions at once: run as a process of its own, which must not end
otherwise than it should.
"""

import os
import sys
import threading

import numpy as np

import tracegrad as tg

ROWS, COLUMNS = 1500, 200
ROUNDS = 6


@tg.compile
def elementwise(x):
    return ((tg.tanh(x * 0.7) + x) ** 2).mean()


@tg.compile
def product(x):
    return (x @ x.T[:, :300]).sum()


@tg.compile
def branches(x):
    # Each sign is traced by the thread that comes to it first.
    y = x * x.sum() if x[0, 0] > 0 else x - 1
    return (y.exp() if x[0, 1] > 0 else y * 2).sum()


@tg.compile
def loop(x):
    return tg.fori_loop(0, 5, lambda i, y: tg.sin(y) + 0.5 * y, x).sum()


def of_elementwise(x):
    t = np.tanh(0.7 * x)
    return ((t + x) ** 2).mean(), 2 * (t + x) * (0.7 * (1 - t**2) + 1) / x.size


def of_product(x):
    gradient = np.tile(x[:300].sum(0), (len(x), 1))
    gradient[:300] += x.sum(0)
    return (x @ x[:300].T).sum(), gradient


def of_branches(x):
    total = x.sum()
    positive = x[0, 0] > 0
    y = x * total if positive else x - 1
    g = np.exp(y) if x[0, 1] > 0 else np.full_like(y, 2.0)
    value = (np.exp(y) if x[0, 1] > 0 else 2 * y).sum()
    return value, g * total + (g * x).sum() if positive else g


def of_loop(x):
    slope = np.ones_like(x)
    for _ in range(5):
        slope, x = slope * (np.cos(x) + 0.5), np.sin(x) + 0.5 * x
    return x.sum(), slope


PAIRS = [
    (elementwise, of_elementwise),
    (product, of_product),
    (branches, of_branches),
    (loop, of_loop),
]


def call(pair, random, rows):
    function, reference = pair
    array = random.normal(size=(rows, COLUMNS)) / 100
    x = tg.tensor(array, dtype=tg.float64, requires_grad=True)
    value = function(x)
    value.backward()
    expected, gradient = reference(array)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(x.grad.numpy(), gradient, rtol=1e-9, atol=1e-9)


def work(number, start, failures):
    random = np.random.default_rng(number)
    try:
        start.wait()
        for _ in range(ROUNDS):
            for k in random.permutation(len(PAIRS)):
                call(PAIRS[k], random, ROWS if random.random() < 0.7 else 5)
    except BaseException as error:
        failures.append(error)
        raise


def main():
    sys.setswitchinterval(1e-5)
    failures = []
    start = threading.Barrier(4)
    threads = [threading.Thread(target=work, args=(k, start, failures)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("threads", tg.get_num_threads())
    print("failures", len(failures))
    # Each way was traced once, whoever came first: two shapes with four ways each.
    print("traces", branches.statistics.traces <= 2 * 4)
    if hasattr(os, "fork"):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            # The pool of threads is not there, and nobody may wait for it.
            tg.set_num_threads(2)
            call(PAIRS[0], np.random.default_rng(0), ROWS)
            call(PAIRS[1], np.random.default_rng(0), ROWS)
            os._exit(0)
        print("child", os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
