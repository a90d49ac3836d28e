"""Attention of 8 heads over 256 positions: two batched products with a softmax of rows between."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload

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


def tracegrad(arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    arguments = [tg.from_numpy(array) for array in arrays.values()]
    function = partial(loss, tg.softmax)
    step = tg.compile(tg.value_and_grad(function, argnums=(0, 1, 2)))

    def call() -> list[Any]:
        value, gradients = step(*arguments)
        return [value, *gradients]

    return call


def torch_eager(arrays: Arrays) -> Call:
    """The tape."""
    import torch

    *parameters, weight = (torch.from_numpy(array) for array in arrays.values())
    for parameter in parameters:
        parameter.requires_grad_()

    def call() -> list[Any]:
        value = loss(torch.softmax, *parameters, weight)
        return [value, *torch.autograd.grad(value, parameters)]

    return call


def torch_compile(arrays: Arrays) -> Call:
    """Forward and gradients in one graph."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]
    function = partial(loss, torch.softmax)
    step = torch.compile(torch.func.grad_and_value(function, argnums=(0, 1, 2)))

    def call() -> list[Any]:
        gradients, value = step(*arguments)
        return [value, *gradients]

    return call


def jax(arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    arguments = [jax.numpy.asarray(array) for array in arrays.values()]
    function = partial(loss, jax.nn.softmax)
    step = jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2)))

    def call() -> list[Any]:
        value, gradients = jax.block_until_ready(step(*arguments))
        return [value, *gradients]

    return call


WORKLOAD = Workload(
    name="attention, 8 x 256 x 64",
    about="8 heads, 256 positions, size 64, float32; gradients of query, key and value",
    inputs=inputs,
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)
