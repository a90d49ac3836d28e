"""Lotka and Volterra's predators and prey by the Runge-Kutta method of order 4, on scalars."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program, scalar

STEP = 0.05
PREY_SEEN = 1.0
PREDATORS_SEEN = 2.0


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """The four rates, the two populations, the number of steps."""
    return [(*map(scalar, (1.1, 0.4, 0.4, 0.1, 8.0, 4.0)), size)]


def runge_kutta(rates: Callable[[Any, Any], tuple[Any, Any]], x: Any, y: Any) -> tuple[Any, Any]:
    """One step of two scalar equations: the same text for every system."""
    x1, y1 = rates(x, y)
    x2, y2 = rates(x + 0.5 * STEP * x1, y + 0.5 * STEP * y1)
    x3, y3 = rates(x + 0.5 * STEP * x2, y + 0.5 * STEP * y2)
    x4, y4 = rates(x + STEP * x3, y + STEP * y3)
    return (
        x + STEP / 6.0 * (x1 + 2.0 * x2 + 2.0 * x3 + x4),
        y + STEP / 6.0 * (y1 + 2.0 * y2 + 2.0 * y3 + y4),
    )


def plain(
    birth: tg.Tensor,
    hunt: tg.Tensor,
    death: tg.Tensor,
    feed: tg.Tensor,
    x: tg.Tensor,
    y: tg.Tensor,
    steps: int,
) -> tg.Tensor:
    """The squared distance of the last populations from what was seen."""

    def rates(x: tg.Tensor, y: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        return birth * x - hunt * x * y, feed * x * y - death * y

    for _ in range(steps):
        x, y = runge_kutta(rates, x, y)
    return (x - PREY_SEEN) ** 2 + (y - PREDATORS_SEEN) ** 2


def explicit(
    birth: tg.Tensor,
    hunt: tg.Tensor,
    death: tg.Tensor,
    feed: tg.Tensor,
    x: tg.Tensor,
    y: tg.Tensor,
    steps: int,
) -> tg.Tensor:
    """The same by `tg.fori_loop`."""

    def rates(x: tg.Tensor, y: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        return birth * x - hunt * x * y, feed * x * y - death * y

    x, y = tg.fori_loop(0, steps, lambda _, state: runge_kutta(rates, *state), (x, y))
    return (x - PREY_SEEN) ** 2 + (y - PREDATORS_SEEN) ** 2


def with_jax() -> Function:
    """The same by `lax.fori_loop`."""
    from jax import lax

    def loss(birth: Any, hunt: Any, death: Any, feed: Any, x: Any, y: Any, steps: int) -> Any:
        def rates(x: Any, y: Any) -> Any:
            return birth * x - hunt * x * y, feed * x * y - death * y

        x, y = lax.fori_loop(0, steps, lambda _, state: runge_kutta(rates, *state), (x, y))
        return (x - PREY_SEEN) ** 2 + (y - PREDATORS_SEEN) ** 2

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import lotka_volterra

    return lotka_volterra


PROGRAM = Program(
    name="Lotka-Volterra",
    about="200 Runge-Kutta steps of order 4; float64 scalars, gradients of 4 rates and 2 states",
    sizes=(10, 200),
    inputs=inputs,
    parameters=(0, 1, 2, 3, 4, 5),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
