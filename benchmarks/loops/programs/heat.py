"""The heat equation in one dimension, by explicit steps in time."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program, scalar

POINTS = 1_000


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """A random temperature at 1,000 points, the diffusivity, and `size` steps."""
    # The diffusivity is in units of the grid and the step: the method is stable up to 0.5.
    return [(rng.normal(size=POINTS), scalar(0.4), size)]


def plain(temperature: tg.Tensor, diffusivity: tg.Tensor, steps: int) -> tg.Tensor:
    """The mean square of the last temperature; the ends stay as they are."""
    u = temperature.clone()
    for _ in range(steps):
        u[1:-1] += diffusivity * (u[2:] - 2.0 * u[1:-1] + u[:-2])
    return (u**2).mean()


def explicit(temperature: tg.Tensor, diffusivity: tg.Tensor, steps: int) -> tg.Tensor:
    """The same by `tg.fori_loop`."""

    def step(_: Any, u: tg.Tensor) -> tg.Tensor:
        return u.at[1:-1].add(diffusivity * (u[2:] - 2.0 * u[1:-1] + u[:-2]))

    return (tg.fori_loop(0, steps, step, temperature) ** 2).mean()


def with_jax() -> Function:
    """The same by `lax.fori_loop`."""
    from jax import lax

    def loss(temperature: Any, diffusivity: Any, steps: int) -> Any:
        def step(_: Any, u: Any) -> Any:
            return u.at[1:-1].add(diffusivity * (u[2:] - 2.0 * u[1:-1] + u[:-2]))

        return (lax.fori_loop(0, steps, step, temperature) ** 2).mean()

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import heat

    return heat


PROGRAM = Program(
    name="heat equation",
    about="1,000 explicit steps of 1,000 points; float64, gradients of the start and of the "
    "diffusivity",
    sizes=(20, 1_000),
    inputs=inputs,
    parameters=(0, 1),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
