"""Levinson and Durbin's recursion: a linear predictor from autocorrelations."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """Autocorrelations up to lag `size`, and a weight for each coefficient of the predictor."""
    samples = rng.normal(size=8 * size)
    for t in range(2, samples.size):
        samples[t] += 1.2 * samples[t - 1] - 0.5 * samples[t - 2]
    # Divided by the number of samples at every lag, which makes the Toeplitz matrix definite.
    lags = [samples[: samples.size - lag] @ samples[lag:] / samples.size for lag in range(size + 1)]
    return [(np.array(lags) / lags[0], rng.normal(size=size + 1))]


def plain(correlation: tg.Tensor, weights: tg.Tensor) -> tg.Tensor:
    """The weighted sum of the coefficients, and the logarithm of the predictor's error."""
    order = correlation.shape[0] - 1
    predictor = tg.zeros_like(correlation)
    predictor[0] = 1.0
    error = correlation[0]
    for m in range(1, order + 1):
        rest = correlation[m]
        for j in range(1, m):
            rest = rest + predictor[j] * correlation[m - j]
        reflection = -rest / error
        before = predictor.clone()
        for j in range(1, m):
            predictor[j] = before[j] + reflection * before[m - j]
        predictor[m] = reflection
        error = error * (1.0 - reflection**2)
    return (predictor * weights).sum() + error.log()


def explicit(correlation: tg.Tensor, weights: tg.Tensor) -> tg.Tensor:
    """The same by `tg.fori_loop`, whose bounds may be tensors."""
    order = correlation.shape[0] - 1

    def raise_order(m: Any, state: Any) -> Any:
        before, error = state
        rest = tg.fori_loop(
            1, m, lambda j, rest: rest + before[j] * correlation[m - j], correlation[m]
        )
        reflection = -rest / error
        predictor = tg.fori_loop(
            1, m, lambda j, new: new.at[j].add(reflection * before[m - j]), before
        )
        return predictor.at[m].set(reflection), error * (1.0 - reflection**2)

    start = tg.zeros_like(correlation).at[0].set(1.0), correlation[0]
    predictor, error = tg.fori_loop(1, order + 1, raise_order, start)
    return (predictor * weights).sum() + error.log()


def with_jax() -> Function:
    """The same with masks: JAX has reverse mode only for loops whose bounds are constants."""
    from jax import lax
    from jax import numpy as jnp

    def loss(correlation: Any, weights: Any) -> Any:
        order = correlation.shape[0] - 1
        lags = jnp.arange(order + 1)

        def raise_order(m: Any, state: Any) -> Any:
            predictor, error = state
            # The predictor is zero from m on, and 1 at 0: whole arrays may be multiplied.
            opposite = jnp.where(lags <= m, m - lags, 0)
            rest = (predictor * jnp.where(lags <= m, correlation[opposite], 0.0)).sum()
            reflection = -rest / error
            mirrored = jnp.where(lags <= m, predictor[opposite], 0.0)
            return predictor + reflection * mirrored, error * (1.0 - reflection**2)

        start = jnp.zeros_like(correlation).at[0].set(1.0), correlation[0]
        predictor, error = lax.fori_loop(1, order + 1, raise_order, start)
        return (predictor * weights).sum() + jnp.log(error)

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import levinson

    return levinson


PROGRAM = Program(
    name="Levinson-Durbin",
    about="order 100 (JAX: with masks); float64, gradient of the autocorrelations",
    sizes=(6, 100),
    inputs=inputs,
    parameters=(0,),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
