"""A `while` whose number of iterations follows from the data: logistic growth up to a threshold."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program, scalar

RATE = 0.005
ENOUGH = 0.9
CALLS = 8


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """Populations that take between 1 and about `size` iterations to grow."""
    counts = rng.integers(1, size + 1, CALLS)
    counts[-1] = size
    # The solution of the differential equation, backwards in time from the threshold.
    starts = 1 / (1 + (1 / ENOUGH - 1) * np.exp(RATE * counts))
    return [(scalar(start), scalar(RATE)) for start in starts]


def plain(population: tg.Tensor, rate: tg.Tensor) -> tg.Tensor:
    """What the population consumes until it has reached nine tenths of its limit."""
    consumed = tg.zeros_like(population)
    while population < ENOUGH:
        consumed = consumed + rate * population
        population = population + rate * population * (1.0 - population)
    return consumed + population


def explicit(population: tg.Tensor, rate: tg.Tensor) -> tg.Tensor:
    """The same by `tg.while_loop`."""

    def grow(carry: Any) -> Any:
        population, consumed = carry
        grown = population + rate * population * (1.0 - population)
        return grown, consumed + rate * population

    start = population, tg.zeros_like(population)
    population, consumed = tg.while_loop(lambda carry: carry[0] < ENOUGH, grow, start)
    return consumed + population


def with_jax() -> Function:
    """The same by `lax.while_loop`, which has forward mode only."""
    from jax import lax
    from jax import numpy as jnp

    def loss(population: Any, rate: Any) -> Any:
        def grow(carry: Any) -> Any:
            population, consumed = carry
            grown = population + rate * population * (1.0 - population)
            return grown, consumed + rate * population

        start = population, jnp.zeros_like(population)
        population, consumed = lax.while_loop(lambda carry: carry[0] < ENOUGH, grow, start)
        return consumed + population

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import growth

    return growth


PROGRAM = Program(
    name="while",
    about="logistic growth to a threshold, 8 calls with up to 2,100 iterations; float64 scalars, "
    "gradients of start and rate (JAX: forward mode)",
    sizes=(50, 2_100),
    inputs=inputs,
    parameters=(0, 1),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
    forward_mode=True,
)
