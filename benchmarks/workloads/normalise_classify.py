"""Layer norm into cross-entropy on 2048 x 1024: row-wise passes that want their row in cache."""

from typing import Any

import numpy as np

from benchmarks.workload import Arrays
from benchmarks.workloads import gradients
from benchmarks.workloads.gradients import Loss

ROWS = 2048
COLUMNS = 1024
EPSILON = 1e-5


def inputs(rng: np.random.Generator) -> Arrays:
    """Activations with weight and bias of the norm, and one label a row."""
    return {
        "x": rng.standard_normal((ROWS, COLUMNS), dtype=np.float32),
        "weight": (1 + 0.1 * rng.normal(size=COLUMNS)).astype(np.float32),
        "bias": (0.1 * rng.normal(size=COLUMNS)).astype(np.float32),
        "labels": rng.integers(COLUMNS, size=ROWS),
    }


def loss(functional: Any, x: Any, weight: Any, bias: Any, labels: Any) -> Any:
    """The mean cross-entropy of normalised rows: one text for all but JAX, which has neither."""
    scores = functional.layer_norm(x, (COLUMNS,), weight, bias, EPSILON)
    return functional.cross_entropy(scores, labels)


def _tracegrad() -> Loss:
    import tracegrad as tg

    return lambda *arrays: loss(tg.nn.functional, *arrays)


def _torch() -> Loss:
    """PyTorch's hand-written kernels, in eager mode."""
    import torch

    return lambda *arrays: loss(torch.nn.functional, *arrays)


def _jax() -> Loss:
    import jax

    def loss(x: Any, weight: Any, bias: Any, labels: Any) -> Any:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True)
        scores = centred * jax.lax.rsqrt(variance + EPSILON) * weight + bias
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)
        return -chosen.mean()

    return loss


WORKLOAD = gradients.workload(
    name="layer norm, cross-entropy",
    about="2048 x 1024 float32; gradients of input, weight and bias",
    inputs=inputs,
    parameters=(0, 1, 2),
    tracegrad=_tracegrad,
    torch=_torch,
    jax=_jax,
)
