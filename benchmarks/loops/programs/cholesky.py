"""Cholesky's decomposition, written as loops."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """A positive definite matrix of `size` rows, and a weight for each element of its factor."""
    half = rng.normal(size=(size, size))
    return [(half @ half.T / size + np.eye(size), rng.normal(size=(size, size)))]


def plain(a: tg.Tensor, weights: tg.Tensor) -> tg.Tensor:
    """The weighted sum of the elements of the lower factor."""
    n = a.shape[0]
    lower = tg.zeros_like(a)
    for j in range(n):
        square = a[j, j]
        for k in range(j):
            square = square - lower[j, k] ** 2
        lower[j, j] = square.sqrt()
        for i in range(j + 1, n):
            rest = a[i, j]
            for k in range(j):
                rest = rest - lower[i, k] * lower[j, k]
            lower[i, j] = rest / lower[j, j]
    return (lower * weights).sum()


def explicit(a: tg.Tensor, weights: tg.Tensor) -> tg.Tensor:
    """The same by `tg.fori_loop`, whose bounds may be tensors."""
    n = a.shape[0]

    def column(j: Any, lower: tg.Tensor) -> tg.Tensor:
        square = tg.fori_loop(0, j, lambda k, rest: rest - lower[j, k] ** 2, a[j, j])
        lower = lower.at[j, j].set(square.sqrt())

        def element(i: Any, lower: tg.Tensor) -> tg.Tensor:
            rest = tg.fori_loop(0, j, lambda k, rest: rest - lower[i, k] * lower[j, k], a[i, j])
            return lower.at[i, j].set(rest / lower[j, j])

        return tg.fori_loop(j + 1, n, element, lower)

    return (tg.fori_loop(0, n, column, tg.zeros_like(a)) * weights).sum()


def with_jax() -> Function:
    """The same by columns: JAX has reverse mode only for loops whose bounds are constants."""
    from jax import lax
    from jax import numpy as jnp

    def loss(a: Any, weights: Any) -> Any:
        n = a.shape[0]
        rows = jnp.arange(n)

        def column(j: Any, lower: Any) -> Any:
            # Columns that are not there yet are zero, so whole rows may be multiplied.
            rest = a[:, j] - lower @ lower[j]
            new = jnp.where(rows >= j, rest / jnp.sqrt(rest[j]), 0.0)
            return lower.at[:, j].set(new)

        return (lax.fori_loop(0, n, column, jnp.zeros_like(a)) * weights).sum()

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import cholesky

    return cholesky


PROGRAM = Program(
    name="Cholesky",
    about="60 x 60, three nested loops (JAX: one loop over columns); float64, gradient of the "
    "matrix",
    sizes=(6, 60),
    inputs=inputs,
    parameters=(0,),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
