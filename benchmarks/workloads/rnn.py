"""A recurrent network of 50 steps as a plain Python loop: many small products, one after another.

JAX has its `scan` for this; here every system is given the loop that a beginner writes, and
`python -m benchmarks.loops` has the programs in the form that each system prefers.
"""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays
from benchmarks.workloads import gradients
from benchmarks.workloads.gradients import Loss

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


def _tracegrad() -> Loss:
    import tracegrad as tg

    return partial(loss, tg.tanh)


def _torch() -> Loss:
    import torch

    return partial(loss, torch.tanh)


def _jax() -> Loss:
    import jax

    return partial(loss, jax.numpy.tanh)


WORKLOAD = gradients.workload(
    name="RNN, 50 steps",
    about="50 steps of 16 x 64 in a plain Python loop, float32; gradients of 3 parameters",
    inputs=inputs,
    parameters=(0, 1, 2),
    tracegrad=_tracegrad,
    torch=_torch,
    jax=_jax,
)
