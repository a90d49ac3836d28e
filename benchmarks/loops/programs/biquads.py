"""A scan with 60 scalar carries: 15 second-order filters in a row, as in an audio equaliser."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program

SECTIONS = 15


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """Coefficients (15, 5) of stable sections, a signal of `size` samples, and what is wanted."""
    radius = rng.uniform(0.5, 0.9, SECTIONS)
    angle = rng.uniform(0.2, 2.9, SECTIONS)
    coefficients = np.empty((SECTIONS, 5))
    coefficients[:, 0] = 1.0
    coefficients[:, 1:3] = rng.normal(scale=0.3, size=(SECTIONS, 2))
    # Poles at radius * exp(+-i angle), within the unit circle.
    coefficients[:, 3] = -2.0 * radius * np.cos(angle)
    coefficients[:, 4] = radius**2
    return [(coefficients, rng.normal(size=size), rng.normal(size=size))]


def filtered(sections: Sequence[Any], states: Sequence[Any], x: Any) -> tuple[list[Any], Any]:
    """The new states and the output for one sample: the same text for every system.

    A state is the section's last two inputs and last two outputs.
    """
    new_states = []
    for (b0, b1, b2, a1, a2), (x1, x2, y1, y2) in zip(sections, states, strict=True):
        y = b0 * x + b1 * x1 + b2 * x2 - a1 * y1 - a2 * y2
        new_states.append((x, x1, y, y1))
        x = y
    return new_states, x


def plain(coefficients: tg.Tensor, signal: tg.Tensor, wanted: tg.Tensor) -> tg.Tensor:
    """The sum of the squared errors of the filtered signal."""
    sections = [row.unbind() for row in coefficients.unbind()]
    zero = tg.zeros((), dtype=signal.dtype)
    states = [(zero, zero, zero, zero)] * SECTIONS
    loss = zero
    for t in range(signal.shape[0]):
        states, y = filtered(sections, states, signal[t])
        loss = loss + (y - wanted[t]) ** 2
    return loss


def explicit(coefficients: tg.Tensor, signal: tg.Tensor, wanted: tg.Tensor) -> tg.Tensor:
    """The same by `tg.scan`."""
    sections = [row.unbind() for row in coefficients.unbind()]
    zero = tg.zeros((), dtype=signal.dtype)

    def step(carry: Any, sample: Any) -> Any:
        states, loss = carry
        x, target = sample
        states, y = filtered(sections, states, x)
        return (states, loss + (y - target) ** 2), None

    start = [(zero, zero, zero, zero)] * SECTIONS, zero
    (_, loss), _ = tg.scan(step, start, (signal, wanted))
    return loss


def with_jax() -> Function:
    """The same by `lax.scan`."""
    from jax import lax
    from jax import numpy as jnp

    def loss(coefficients: Any, signal: Any, wanted: Any) -> Any:
        sections = [tuple(row) for row in coefficients]
        zero = jnp.zeros((), signal.dtype)

        def step(carry: Any, sample: Any) -> Any:
            states, loss = carry
            x, target = sample
            states, y = filtered(sections, states, x)
            return (states, loss + (y - target) ** 2), None

        start = [(zero, zero, zero, zero)] * SECTIONS, zero
        (_, loss), _ = lax.scan(step, start, (signal, wanted))
        return loss

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import biquads

    return biquads


PROGRAM = Program(
    name="60 scalar carries",
    about="15 biquad filters in a row over 614 samples; float64 scalars, gradient of the 15 x 5 "
    "coefficients",
    sizes=(20, 614),
    inputs=inputs,
    parameters=(0,),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
