"""The heat equation in one dimension."""

import numpy as np
from numba import njit


@njit
def _advance(u, new, diffusivity):
    """One step from `u` to `new`, two arrays: within one, no element could be vectorised."""
    n = u.size
    new[0] = u[0]
    for i in range(1, n - 1):
        new[i] = u[i] + diffusivity * (u[i + 1] - 2.0 * u[i] + u[i - 1])
    new[n - 1] = u[n - 1]


@njit
def _mean_square(u):
    total = 0.0
    for i in range(u.size):
        total += u[i] * u[i]
    return total / u.size


@njit
def forward(temperature, diffusivity, steps):
    """The loss."""
    u = temperature.copy()
    new = np.empty_like(u)
    for _ in range(steps):
        _advance(u, new, diffusivity)
        u, new = new, u
    return _mean_square(u)


@njit
def gradient(temperature, diffusivity, steps):
    """The loss and its gradients by start and diffusivity. Keeps all temperatures."""
    n = temperature.size
    history = np.empty((steps + 1, n))
    history[0] = temperature
    for t in range(steps):
        _advance(history[t], history[t + 1], diffusivity)
    g = 2.0 / n * history[steps]
    new = np.empty_like(g)
    # One sum for each point: a single one over all points would be a chain of dependent additions.
    sums = np.zeros(n)
    for t in range(steps - 1, -1, -1):
        u = history[t]
        # The transposed step: the ends pass on their own cotangent whole, and give no share of it.
        new[0] = g[0] + diffusivity * g[1]
        new[1] = g[1] + diffusivity * (g[2] - 2.0 * g[1])
        sums[1] += g[1] * (u[2] - 2.0 * u[1] + u[0])
        for i in range(2, n - 2):
            new[i] = g[i] + diffusivity * (g[i + 1] - 2.0 * g[i] + g[i - 1])
            sums[i] += g[i] * (u[i + 1] - 2.0 * u[i] + u[i - 1])
        sums[n - 2] += g[n - 2] * (u[n - 1] - 2.0 * u[n - 2] + u[n - 3])
        new[n - 2] = g[n - 2] + diffusivity * (g[n - 3] - 2.0 * g[n - 2])
        new[n - 1] = g[n - 1] + diffusivity * g[n - 2]
        g, new = new, g
    return _mean_square(history[steps]), g, sums.sum()
