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
    """The mean square of all states, so that each step matters; of the last one alone, the gradient
    would vanish on its way back.
    """
    state = tg.zeros(BATCH, UNITS, dtype=bias.dtype)
    loss = tg.zeros((), dtype=bias.dtype)
    for x in sequence:
        state = tg.tanh(x @ w_input + state @ w_state + bias)
        loss = loss + (state**2).mean()
    return loss / len(sequence)


def explicit(
    w_input: tg.Tensor, w_state: tg.Tensor, bias: tg.Tensor, sequence: tg.Tensor
) -> tg.Tensor:
    """The same by `tg.scan`."""

    def step(carry: Any, x: tg.Tensor) -> Any:
        state, loss = carry
        state = tg.tanh(x @ w_input + state @ w_state + bias)
        return (state, loss + (state**2).mean()), None

    start = tg.zeros(BATCH, UNITS, dtype=bias.dtype), tg.zeros((), dtype=bias.dtype)
    (_, loss), _ = tg.scan(step, start, sequence)
    return loss / len(sequence)


def with_jax() -> Function:
    """The same by `lax.scan`."""
    from jax import lax
    from jax import numpy as jnp

    def loss(w_input: Any, w_state: Any, bias: Any, sequence: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            state, loss = carry
            state = jnp.tanh(x @ w_input + state @ w_state + bias)
            return (state, loss + (state**2).mean()), None

        start = jnp.zeros((BATCH, UNITS), bias.dtype), jnp.zeros((), bias.dtype)
        (_, loss), _ = lax.scan(step, start, sequence)
        return loss / len(sequence)

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
