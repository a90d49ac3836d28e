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

from benchmarks.workload import Arrays, Call, Workload

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


def tracegrad(arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    arguments = [tg.from_numpy(array) for array in arrays.values()]
    rows, columns = tg.from_numpy(ROWS), tg.from_numpy(COLUMNS)

    def triangles(entries: Any) -> Any:
        factors = tg.zeros(COMPONENTS, DIMENSIONS, DIMENSIONS, dtype=tg.float64)
        factors[:, rows, columns] = entries
        return factors

    def loss(*arguments: Any) -> Any:
        return log_likelihood(tg, tg.logsumexp, triangles, *arguments)

    step = tg.compile(tg.value_and_grad(loss, argnums=(0, 1, 2, 3)))

    def call() -> list[Any]:
        value, gradients = step(*arguments)
        return [value, *gradients]

    return call


def torch_eager(arrays: Arrays) -> Call:
    """The tape."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]
    parameters = [parameter.requires_grad_() for parameter in arguments[:4]]
    triangles = _torch_triangles()

    def call() -> list[Any]:
        value = log_likelihood(torch, torch.logsumexp, triangles, *arguments)
        return [value, *torch.autograd.grad(value, parameters)]

    return call


def torch_compile(arrays: Arrays) -> Call:
    """Forward and gradients in one graph."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]
    triangles = _torch_triangles()

    def loss(*arguments: Any) -> Any:
        return log_likelihood(torch, torch.logsumexp, triangles, *arguments)

    step = torch.compile(torch.func.grad_and_value(loss, argnums=(0, 1, 2, 3)))

    def call() -> list[Any]:
        gradients, value = step(*arguments)
        return [value, *gradients]

    return call


def _torch_triangles() -> Triangles:
    import torch

    rows, columns = torch.from_numpy(ROWS), torch.from_numpy(COLUMNS)

    def triangles(entries: Any) -> Any:
        factors = entries.new_zeros(COMPONENTS, DIMENSIONS, DIMENSIONS)
        factors[:, rows, columns] = entries
        return factors

    return triangles


def jax(arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    arguments = [jax.numpy.asarray(array) for array in arrays.values()]

    def triangles(entries: Any) -> Any:
        factors = jax.numpy.zeros((COMPONENTS, DIMENSIONS, DIMENSIONS))
        return factors.at[:, ROWS, COLUMNS].set(entries)

    def loss(*arguments: Any) -> Any:
        return log_likelihood(jax.numpy, jax.scipy.special.logsumexp, triangles, *arguments)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))

    def call() -> list[Any]:
        value, gradients = jax.block_until_ready(step(*arguments))
        return [value, *gradients]

    return call


WORKLOAD = Workload(
    name="Gaussian mixture",
    about="log-likelihood of 1000 points, 25 components, 10 dimensions, float64; gradients of "
    "weights, means and both parts of the precision factors",
    inputs=inputs,
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)
