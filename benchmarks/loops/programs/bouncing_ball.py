"""A bouncing ball: steps in time, and an event wherever the ball meets the floor within one."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program, scalar

STEP = 1e-3
GRAVITY = 9.81
HEIGHT = 1.0
TARGET = 3.0


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """Both speeds, the restitution, the drag, and `size` steps of a millisecond."""
    return [(*map(scalar, (2.0, 1.0, 0.8, 0.1)), size)]


def plain(
    speed: tg.Tensor, rise: tg.Tensor, restitution: tg.Tensor, drag: tg.Tensor, steps: int
) -> tg.Tensor:
    """The squared distance from a target on the floor when time is up."""
    x = tg.zeros_like(speed)
    y = HEIGHT * tg.ones_like(speed)
    for _ in range(steps):
        speed = speed - STEP * drag * speed
        rise = rise - STEP * (GRAVITY + drag * rise)
        x = x + STEP * speed
        before = y
        y = y + STEP * rise
        if y < 0.0:
            # The share of the step that is left after the contact goes upwards.
            left = y / (y - before)
            rise = -restitution * rise
            y = left * STEP * rise
    return (x - TARGET) ** 2 + y**2


def explicit(
    speed: tg.Tensor, rise: tg.Tensor, restitution: tg.Tensor, drag: tg.Tensor, steps: int
) -> tg.Tensor:
    """The same by `tg.fori_loop` and `tg.cond`."""

    def bounce(before: tg.Tensor, y: tg.Tensor, rise: tg.Tensor) -> Any:
        left = y / (y - before)
        rise = -restitution * rise
        return left * STEP * rise, rise

    def fly(before: tg.Tensor, y: tg.Tensor, rise: tg.Tensor) -> Any:
        return y, rise

    def step(_: Any, state: Any) -> Any:
        x, before, speed, rise = state
        speed = speed - STEP * drag * speed
        rise = rise - STEP * (GRAVITY + drag * rise)
        y = before + STEP * rise
        y, rise = tg.cond(y < 0.0, bounce, fly, before, y, rise)
        return x + STEP * speed, y, speed, rise

    start = tg.zeros_like(speed), HEIGHT * tg.ones_like(speed), speed, rise
    x, y, _, _ = tg.fori_loop(0, steps, step, start)
    return (x - TARGET) ** 2 + y**2


def with_jax() -> Function:
    """The same by `lax.fori_loop` and `lax.cond`."""
    from jax import lax
    from jax import numpy as jnp

    def loss(speed: Any, rise: Any, restitution: Any, drag: Any, steps: int) -> Any:
        def bounce(before: Any, y: Any, rise: Any) -> Any:
            left = y / (y - before)
            rise = -restitution * rise
            return left * STEP * rise, rise

        def fly(before: Any, y: Any, rise: Any) -> Any:
            return y, rise

        def step(_: Any, state: Any) -> Any:
            x, before, speed, rise = state
            speed = speed - STEP * drag * speed
            rise = rise - STEP * (GRAVITY + drag * rise)
            y = before + STEP * rise
            y, rise = lax.cond(y < 0.0, bounce, fly, before, y, rise)
            return x + STEP * speed, y, speed, rise

        start = jnp.zeros_like(speed), HEIGHT * jnp.ones_like(speed), speed, rise
        x, y, _, _ = lax.fori_loop(0, steps, step, start)
        return (x - TARGET) ** 2 + y**2

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import bouncing_ball

    return bouncing_ball


PROGRAM = Program(
    name="bouncing ball",
    about="2,000 steps with drag, and an event at each contact; float64 scalars, gradients of both "
    "speeds, restitution and drag",
    sizes=(600, 2_000),
    inputs=inputs,
    parameters=(0, 1, 2, 3),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
