"""Cholesky's decomposition. The adjoint reads the finished factor and keeps nothing else."""

import math

import numpy as np
from numba import njit


@njit
def _factor(a):
    n = a.shape[0]
    lower = np.zeros_like(a)
    for j in range(n):
        square = a[j, j]
        for k in range(j):
            square -= lower[j, k] * lower[j, k]
        lower[j, j] = math.sqrt(square)
        for i in range(j + 1, n):
            rest = a[i, j]
            for k in range(j):
                rest -= lower[i, k] * lower[j, k]
            lower[i, j] = rest / lower[j, j]
    return lower


@njit
def _weighted(lower, weights):
    total = 0.0
    for i in range(lower.shape[0]):
        for j in range(i + 1):
            total += lower[i, j] * weights[i, j]
    return total


@njit
def forward(a, weights):
    """The loss."""
    return _weighted(_factor(a), weights)


@njit
def gradient(a, weights):
    """The loss and its gradient by the matrix, of which the lower half alone is read."""
    n = a.shape[0]
    lower = _factor(a)
    g = weights.copy()
    by_a = np.zeros_like(a)
    for j in range(n - 1, -1, -1):
        for i in range(n - 1, j, -1):
            rest = g[i, j] / lower[j, j]
            g[j, j] -= rest * lower[i, j]
            by_a[i, j] = rest
            for k in range(j):
                g[i, k] -= rest * lower[j, k]
                g[j, k] -= rest * lower[i, k]
        square = 0.5 * g[j, j] / lower[j, j]
        by_a[j, j] = square
        for k in range(j):
            g[j, k] -= 2.0 * square * lower[j, k]
    return _weighted(lower, weights), by_a
