"""A recurrent network of 50 steps as a plain Python loop: many small products, one after another.

JAX has its `scan` for this; here every system is given the loop that a beginner writes, and
`python -m benchmarks.loops` has the programs in the form that each system prefers.
"""

from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload

STEPS = 50
BATCH = 16
SIZE = 64


def inputs(rng: np.random.Generator) -> Arrays:
    """Parameters whose gradients neither explode nor vanish, a sequence, and a start."""
    return {
        "W": (rng.normal(size=(SIZE, SIZE)) / SIZE**0.5).astype(np.float32),
        "U": (rng.normal(size=(SIZE, SIZE)) / SIZE**0.5).astype(np.float32),
        "b": (0.1 * rng.normal(size=SIZE)).astype(np.float32),
        "sequence": rng.standard_normal((STEPS, BATCH, SIZE), dtype=np.float32),
        "h": np.zeros((BATCH, SIZE), np.float32),
    }


def loss(tanh: Any, W: Any, U: Any, b: Any, sequence: Any, h: Any) -> Any:
    """The mean square of the last state: the same text for every system."""
    for t in range(STEPS):
        h = tanh(sequence[t] @ W + h @ U + b)
    return (h**2).mean()


def tracegrad(arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    arguments = [tg.from_numpy(array) for array in arrays.values()]
    step = tg.compile(tg.value_and_grad(lambda *each: loss(tg.tanh, *each), argnums=(0, 1, 2)))

    def call() -> list[Any]:
        value, gradients = step(*arguments)
        return [value, *gradients]

    return call


def torch_eager(arrays: Arrays) -> Call:
    """The tape."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]
    parameters = [parameter.requires_grad_() for parameter in arguments[:3]]

    def call() -> list[Any]:
        value = loss(torch.tanh, *arguments)
        return [value, *torch.autograd.grad(value, parameters)]

    return call


def torch_compile(arrays: Arrays) -> Call:
    """Forward and gradients in one graph."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]

    def function(*arguments: Any) -> Any:
        return loss(torch.tanh, *arguments)

    step = torch.compile(torch.func.grad_and_value(function, argnums=(0, 1, 2)))

    def call() -> list[Any]:
        gradients, value = step(*arguments)
        return [value, *gradients]

    return call


def jax(arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    arguments = [jax.numpy.asarray(array) for array in arrays.values()]

    def function(*arguments: Any) -> Any:
        return loss(jax.numpy.tanh, *arguments)

    step = jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2)))

    def call() -> list[Any]:
        value, gradients = jax.block_until_ready(step(*arguments))
        return [value, *gradients]

    return call


WORKLOAD = Workload(
    name="RNN, 50 steps",
    about="50 steps of 16 x 64 in a plain Python loop, float32; gradients of 3 parameters",
    inputs=inputs,
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)
