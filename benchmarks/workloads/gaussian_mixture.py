"""Log-likelihood of a Gaussian mixture: small contractions with broadcasting, in float64.

The objective of ADBench (Šrajer, Kukelova, Fitzgibbon, "A benchmark of selected algorithmic
differentiation tools on some problems in computer vision and machine learning", 2018, section 4.1),
without the terms that depend on no parameter, and with its Wishart prior of gamma 1 and m 0. The
inverse covariance of a component is L^T L with L lower triangular, whose diagonal is given by
logarithms.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.workload import Arrays
from benchmarks.workloads import gradients
from benchmarks.workloads.gradients import Loss

POINTS = 1000
COMPONENTS = 25
DIMENSIONS = 10

# Where the entries below the diagonal go.
ROWS, COLUMNS = np.tril_indices(DIMENSIONS, -1)

# The strictly lower triangles (components, dimensions, dimensions) with these entries.
Triangles = Callable[[Any], Any]


def inputs(rng: np.random.Generator) -> Arrays:
    """Parameters of the components, and the points."""
    return {
        "alphas": rng.normal(size=COMPONENTS),
        "means": rng.uniform(size=(COMPONENTS, DIMENSIONS)),
        "log_diagonals": rng.normal(size=(COMPONENTS, DIMENSIONS)),
        "entries": rng.normal(size=(COMPONENTS, len(ROWS))),
        "points": rng.normal(size=(POINTS, DIMENSIONS)),
        "identity": np.eye(DIMENSIONS),
    }


def log_likelihood(
    namespace: Any,
    logsumexp: Callable[[Any, int], Any],
    triangles: Triangles,
    alphas: Any,
    means: Any,
    log_diagonals: Any,
    entries: Any,
    points: Any,
    identity: Any,
) -> Any:
    """Of all points, with the prior: the same text for every system."""
    diagonals = namespace.exp(log_diagonals)
    factors = triangles(entries) + diagonals[:, :, None] * identity
    centred = points[:, None, :] - means
    whitened = namespace.einsum("kij,nkj->nki", factors, centred)
    inner = alphas + log_diagonals.sum(1) - 0.5 * (whitened**2).sum(2)
    fit = logsumexp(inner, 1).sum() - POINTS * logsumexp(alphas, 0)
    return fit + 0.5 * ((diagonals**2).sum() + (entries**2).sum())


def _tracegrad() -> Loss:
    import tracegrad as tg

    rows, columns = tg.from_numpy(ROWS), tg.from_numpy(COLUMNS)

    def triangles(entries: Any) -> Any:
        factors = tg.zeros(COMPONENTS, DIMENSIONS, DIMENSIONS, dtype=tg.float64)
        factors[:, rows, columns] = entries
        return factors

    return lambda *arrays: log_likelihood(tg, tg.logsumexp, triangles, *arrays)


def _torch() -> Loss:
    import torch

    rows, columns = torch.from_numpy(ROWS), torch.from_numpy(COLUMNS)

    def triangles(entries: Any) -> Any:
        factors = entries.new_zeros(COMPONENTS, DIMENSIONS, DIMENSIONS)
        factors[:, rows, columns] = entries
        return factors

    return lambda *arrays: log_likelihood(torch, torch.logsumexp, triangles, *arrays)


def _jax() -> Loss:
    import jax

    def triangles(entries: Any) -> Any:
        factors = jax.numpy.zeros((COMPONENTS, DIMENSIONS, DIMENSIONS))
        return factors.at[:, ROWS, COLUMNS].set(entries)

    logsumexp = jax.scipy.special.logsumexp
    return lambda *arrays: log_likelihood(jax.numpy, logsumexp, triangles, *arrays)


WORKLOAD = gradients.workload(
    name="Gaussian mixture",
    about="log-likelihood of 1000 points, 25 components, 10 dimensions, float64; gradients of "
    "weights, means and both parts of the precision factors",
    inputs=inputs,
    parameters=(0, 1, 2, 3),
    tracegrad=_tracegrad,
    torch=_torch,
    jax=_jax,
)
