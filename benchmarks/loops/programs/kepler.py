"""Newton's iteration to convergence on a whole array: Kepler's equation E - e sin(E) = M."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program, scalar

ECCENTRICITY = 0.6
TOLERANCE = 1e-10


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """The eccentricity of an orbit and the mean anomalies of `size` moments."""
    return [(scalar(ECCENTRICITY), rng.uniform(0.0, 2.0 * np.pi, size))]


def plain(eccentricity: tg.Tensor, mean_anomaly: tg.Tensor) -> tg.Tensor:
    """The mean of the sines of the eccentric anomalies."""
    angle = mean_anomaly
    step = tg.ones_like(mean_anomaly)
    while step.abs().max() > TOLERANCE:
        excess = angle - eccentricity * tg.sin(angle) - mean_anomaly
        step = excess / (1.0 - eccentricity * tg.cos(angle))
        angle = angle - step
    return tg.sin(angle).mean()


def explicit(eccentricity: tg.Tensor, mean_anomaly: tg.Tensor) -> tg.Tensor:
    """The same by `tg.while_loop`."""

    def improve(carry: Any) -> Any:
        angle, _ = carry
        excess = angle - eccentricity * tg.sin(angle) - mean_anomaly
        step = excess / (1.0 - eccentricity * tg.cos(angle))
        return angle - step, step

    angle, _ = tg.while_loop(
        lambda carry: carry[1].abs().max() > TOLERANCE,
        improve,
        (mean_anomaly, tg.ones_like(mean_anomaly)),
    )
    return tg.sin(angle).mean()


def with_jax() -> Function:
    """The same by `lax.while_loop`, which has forward mode only."""
    from jax import lax
    from jax import numpy as jnp

    def loss(eccentricity: Any, mean_anomaly: Any) -> Any:
        def improve(carry: Any) -> Any:
            angle, _ = carry
            excess = angle - eccentricity * jnp.sin(angle) - mean_anomaly
            step = excess / (1.0 - eccentricity * jnp.cos(angle))
            return angle - step, step

        angle, _ = lax.while_loop(
            lambda carry: jnp.abs(carry[1]).max() > TOLERANCE,
            improve,
            (mean_anomaly, jnp.ones_like(mean_anomaly)),
        )
        return jnp.sin(angle).mean()

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import kepler

    return kepler


PROGRAM = Program(
    name="Newton's iteration",
    about="Kepler's equation for 10,000 moments, until the largest step is below 1e-10; float64, "
    "gradient of the eccentricity (JAX: forward mode)",
    sizes=(100, 10_000),
    inputs=inputs,
    parameters=(0,),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
    forward_mode=True,
)
