"""Floyd and Warshall's shortest paths.

No distance is zero or negative, so row and column k do not change while node k is visited: the
update is done in place.
"""

import numpy as np
from numba import njit


@njit
def forward(distance):
    """The loss."""
    n = distance.shape[0]
    d = distance.copy()
    for k in range(n):
        through = d[k].copy()
        for i in range(n):
            row = d[i]
            first = row[k]
            for j in range(n):
                row[j] = min(row[j], first + through[j])
    return d.sum() / d.size


@njit
def gradient(distance):
    """The loss and its gradient. Keeps which paths were shortened by which node."""
    n = distance.shape[0]
    d = distance.copy()
    shortened = np.empty((n, n, n), dtype=np.bool_)
    for k in range(n):
        through = d[k].copy()
        for i in range(n):
            row = d[i]
            flags = shortened[k, i]
            first = row[k]
            for j in range(n):
                path = first + through[j]
                flags[j] = path < row[j]
                row[j] = min(row[j], path)
    g = np.full_like(d, 1.0 / d.size)
    by_through = np.empty(n)
    for k in range(n - 1, -1, -1):
        by_through[:] = 0.0
        for i in range(n):
            row = g[i]
            flags = shortened[k, i]
            by_first = 0.0
            for j in range(n):
                if flags[j]:
                    by_first += row[j]
                    by_through[j] += row[j]
                    row[j] = 0.0
            row[k] += by_first
        g[k] += by_through
    return d.sum() / d.size, g
