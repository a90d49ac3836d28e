"""A recurrent network with tanh: 16 sequences, 64 features, 64 units."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program

BATCH = 16
UNITS = 64


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """Weights of inputs and of the state, bias, and `size` steps of input."""
    w_input, w_state = (
        rng.normal(scale=UNITS**-0.5, size=(UNITS, UNITS)).astype(np.float32) for _ in range(2)
    )
    bias = rng.normal(scale=0.1, size=UNITS).astype(np.float32)
    sequence = rng.normal(size=(size, BATCH, UNITS)).astype(np.float32)
    return [(w_input, w_state, bias, sequence)]


def plain(
    w_input: tg.Tensor, w_state: tg.Tensor, bias: tg.Tensor, sequence: tg.Tensor
) -> tg.Tensor:
    """The mean square of the last state."""
    state = tg.zeros(BATCH, UNITS, dtype=bias.dtype)
    for x in sequence:
        state = tg.tanh(x @ w_input + state @ w_state + bias)
    return (state**2).mean()


def explicit(
    w_input: tg.Tensor, w_state: tg.Tensor, bias: tg.Tensor, sequence: tg.Tensor
) -> tg.Tensor:
    """The same by `tg.scan`."""

    def step(state: tg.Tensor, x: tg.Tensor) -> Any:
        return tg.tanh(x @ w_input + state @ w_state + bias), None

    state, _ = tg.scan(step, tg.zeros(BATCH, UNITS, dtype=bias.dtype), sequence)
    return (state**2).mean()


def with_jax() -> Function:
    """The same by `lax.scan`."""
    from jax import lax
    from jax import numpy as jnp

    def loss(w_input: Any, w_state: Any, bias: Any, sequence: Any) -> Any:
        def step(state: Any, x: Any) -> Any:
            return jnp.tanh(x @ w_input + state @ w_state + bias), None

        state, _ = lax.scan(step, jnp.zeros((BATCH, UNITS), bias.dtype), sequence)
        return (state**2).mean()

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import rnn

    return rnn


PROGRAM = Program(
    name="RNN",
    about="500 steps of a tanh network, 16 x 64; float32, gradients of both weights and the bias",
    sizes=(10, 500),
    inputs=inputs,
    parameters=(0, 1, 2),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
