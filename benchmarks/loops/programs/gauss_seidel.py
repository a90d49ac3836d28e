"""Gauss and Seidel's sweep: each element from its already updated neighbours."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program

SWEEPS = 20


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """A random square of `size` rows."""
    return [(rng.normal(size=(size, size)),)]


def plain(x: tg.Tensor) -> tg.Tensor:
    """The mean square after 20 sweeps over the inner elements."""
    n = x.shape[0]
    x = x.clone()
    for _ in range(SWEEPS):
        for i in range(1, n - 1):
            for j in range(1, n - 1):
                x[i, j] = 0.25 * (x[i - 1, j] + x[i + 1, j] + x[i, j - 1] + x[i, j + 1])
    return (x**2).mean()


def explicit(x: tg.Tensor) -> tg.Tensor:
    """The same by three `tg.fori_loop`."""
    n = x.shape[0]

    def sweep(_: Any, x: tg.Tensor) -> tg.Tensor:
        def row(i: Any, x: tg.Tensor) -> tg.Tensor:
            def element(j: Any, x: tg.Tensor) -> tg.Tensor:
                around = x[i - 1, j] + x[i + 1, j] + x[i, j - 1] + x[i, j + 1]
                return x.at[i, j].set(0.25 * around)

            return tg.fori_loop(1, n - 1, element, x)

        return tg.fori_loop(1, n - 1, row, x)

    return (tg.fori_loop(0, SWEEPS, sweep, x) ** 2).mean()


def with_jax() -> Function:
    """The same by three `lax.fori_loop`."""
    from jax import lax

    def loss(x: Any) -> Any:
        n = x.shape[0]

        def sweep(_: Any, x: Any) -> Any:
            def row(i: Any, x: Any) -> Any:
                def element(j: Any, x: Any) -> Any:
                    around = x[i - 1, j] + x[i + 1, j] + x[i, j - 1] + x[i, j + 1]
                    return x.at[i, j].set(0.25 * around)

                return lax.fori_loop(1, n - 1, element, x)

            return lax.fori_loop(1, n - 1, row, x)

        return (lax.fori_loop(0, SWEEPS, sweep, x) ** 2).mean()

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import gauss_seidel

    return gauss_seidel


PROGRAM = Program(
    name="Gauss-Seidel",
    about="20 sweeps over 100 x 100, each element from its updated neighbours; float64, gradient "
    "of the start",
    sizes=(8, 100),
    inputs=inputs,
    parameters=(0,),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
