"""Gauss and Seidel's sweep. It is linear, so the adjoint needs nothing of the way forward."""

import numpy as np
from numba import njit

SWEEPS = 20


@njit
def _relax(x):
    n = x.shape[0]
    for _ in range(SWEEPS):
        for i in range(1, n - 1):
            for j in range(1, n - 1):
                x[i, j] = 0.25 * (x[i - 1, j] + x[i + 1, j] + x[i, j - 1] + x[i, j + 1])


@njit
def _mean_square(x):
    total = 0.0
    for value in x.flat:
        total += value * value
    return total / x.size


@njit
def forward(x):
    """The loss."""
    x = x.copy()
    _relax(x)
    return _mean_square(x)


@njit
def gradient(x):
    """The loss and its gradient by the start."""
    n = x.shape[0]
    x = x.copy()
    _relax(x)
    g = np.empty_like(x)
    for i in range(n):
        for j in range(n):
            g[i, j] = 2.0 * x[i, j] / x.size
    for _ in range(SWEEPS):
        for i in range(n - 2, 0, -1):
            for j in range(n - 2, 0, -1):
                share = 0.25 * g[i, j]
                g[i, j] = 0.0
                g[i - 1, j] += share
                g[i + 1, j] += share
                g[i, j - 1] += share
                g[i, j + 1] += share
    return _mean_square(x), g
