"""Attention of 8 heads over 256 positions: two batched products with a softmax of rows between."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays
from benchmarks.workloads import gradients
from benchmarks.workloads.gradients import Loss

HEADS = 8
POSITIONS = 256
SIZE = 64


def inputs(rng: np.random.Generator) -> Arrays:
    """Queries, keys, values, and the gradient of the output."""
    shape = HEADS, POSITIONS, SIZE
    names = "query", "key", "value", "weight"
    return {name: rng.standard_normal(shape, dtype=np.float32) for name in names}


def loss(softmax: Any, query: Any, key: Any, value: Any, weight: Any) -> Any:
    """A weighted sum of what is attended to: the same text for every system.

    By matrix products, which here are faster than the attention functions of PyTorch and JAX.
    """
    scores = softmax(query / SIZE**0.5 @ key.mT, -1)
    return (scores @ value * weight).sum()


def _tracegrad() -> Loss:
    import tracegrad as tg

    return partial(loss, tg.softmax)


def _torch() -> Loss:
    import torch

    return partial(loss, torch.softmax)


def _jax() -> Loss:
    import jax

    return partial(loss, jax.nn.softmax)


WORKLOAD = gradients.workload(
    name="attention, 8 x 256 x 64",
    about="8 heads, 256 positions, size 64, float32; gradients of query, key and value",
    inputs=inputs,
    parameters=(0, 1, 2),
    tracegrad=_tracegrad,
    torch=_torch,
    jax=_jax,
)
