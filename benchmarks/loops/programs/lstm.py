"""Long short-term memory: 16 sequences, 64 features, 64 units."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program

BATCH = 16
UNITS = 64


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """Weights of inputs and of the state for four gates, bias, and `size` steps of input."""
    w_input, w_state = (
        rng.normal(scale=UNITS**-0.5, size=(UNITS, 4 * UNITS)).astype(np.float32) for _ in range(2)
    )
    bias = rng.normal(scale=0.1, size=4 * UNITS).astype(np.float32)
    sequence = rng.normal(size=(size, BATCH, UNITS)).astype(np.float32)
    return [(w_input, w_state, bias, sequence)]


def plain(
    w_input: tg.Tensor, w_state: tg.Tensor, bias: tg.Tensor, sequence: tg.Tensor
) -> tg.Tensor:
    """The mean square of all states."""
    state = tg.zeros(BATCH, UNITS, dtype=bias.dtype)
    cell = tg.zeros(BATCH, UNITS, dtype=bias.dtype)
    loss = tg.zeros((), dtype=bias.dtype)
    for x in sequence:
        gates = x @ w_input + state @ w_state + bias
        admit, forget, show, new = gates.chunk(4, dim=1)
        cell = tg.sigmoid(forget) * cell + tg.sigmoid(admit) * tg.tanh(new)
        state = tg.sigmoid(show) * tg.tanh(cell)
        loss = loss + (state**2).mean()
    return loss / len(sequence)


def explicit(
    w_input: tg.Tensor, w_state: tg.Tensor, bias: tg.Tensor, sequence: tg.Tensor
) -> tg.Tensor:
    """The same by `tg.scan`."""

    def step(carry: Any, x: tg.Tensor) -> Any:
        state, cell, loss = carry
        gates = x @ w_input + state @ w_state + bias
        admit, forget, show, new = gates.chunk(4, dim=1)
        cell = tg.sigmoid(forget) * cell + tg.sigmoid(admit) * tg.tanh(new)
        state = tg.sigmoid(show) * tg.tanh(cell)
        return (state, cell, loss + (state**2).mean()), None

    zeros = tg.zeros(BATCH, UNITS, dtype=bias.dtype)
    (_, _, loss), _ = tg.scan(step, (zeros, zeros, tg.zeros((), dtype=bias.dtype)), sequence)
    return loss / len(sequence)


def with_jax() -> Function:
    """The same by `lax.scan`."""
    from jax import lax
    from jax import numpy as jnp
    from jax.nn import sigmoid

    def loss(w_input: Any, w_state: Any, bias: Any, sequence: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            state, cell, loss = carry
            gates = x @ w_input + state @ w_state + bias
            admit, forget, show, new = jnp.split(gates, 4, axis=1)
            cell = sigmoid(forget) * cell + sigmoid(admit) * jnp.tanh(new)
            state = sigmoid(show) * jnp.tanh(cell)
            return (state, cell, loss + (state**2).mean()), None

        zeros = jnp.zeros((BATCH, UNITS), bias.dtype)
        (_, _, loss), _ = lax.scan(step, (zeros, zeros, jnp.zeros((), bias.dtype)), sequence)
        return loss / len(sequence)

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import lstm

    return lstm


PROGRAM = Program(
    name="LSTM",
    about="500 steps of long short-term memory, 16 x 64; float32, gradients of both weights and "
    "the bias",
    sizes=(10, 500),
    inputs=inputs,
    parameters=(0, 1, 2),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
