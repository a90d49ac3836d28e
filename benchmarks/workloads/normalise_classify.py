"""Layer norm into cross-entropy on 2048 x 1024: row-wise passes that want their row in cache."""

from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload

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


def tracegrad(arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    arguments = [tg.from_numpy(array) for array in arrays.values()]
    functional = tg.nn.functional

    def loss(x: Any, weight: Any, bias: Any, labels: Any) -> Any:
        scores = functional.layer_norm(x, (COLUMNS,), weight, bias, EPSILON)
        return functional.cross_entropy(scores, labels)

    step = tg.compile(tg.value_and_grad(loss, argnums=(0, 1, 2)))

    def call() -> list[Any]:
        value, gradients = step(*arguments)
        return [value, *gradients]

    return call


def torch_eager(arrays: Arrays) -> Call:
    """The tape, through PyTorch's hand-written kernels."""
    import torch

    *parameters, labels = (torch.from_numpy(array) for array in arrays.values())
    for parameter in parameters:
        parameter.requires_grad_()
    x, weight, bias = parameters
    functional = torch.nn.functional

    def call() -> list[Any]:
        scores = functional.layer_norm(x, (COLUMNS,), weight, bias, EPSILON)
        value = functional.cross_entropy(scores, labels)
        return [value, *torch.autograd.grad(value, parameters)]

    return call


def torch_compile(arrays: Arrays) -> Call:
    """Forward and gradients in one graph."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]
    functional = torch.nn.functional

    def loss(x: Any, weight: Any, bias: Any, labels: Any) -> Any:
        scores = functional.layer_norm(x, (COLUMNS,), weight, bias, EPSILON)
        return functional.cross_entropy(scores, labels)

    step = torch.compile(torch.func.grad_and_value(loss, argnums=(0, 1, 2)))

    def call() -> list[Any]:
        gradients, value = step(*arguments)
        return [value, *gradients]

    return call


def jax(arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    arguments = [jax.numpy.asarray(array) for array in arrays.values()]

    def loss(x: Any, weight: Any, bias: Any, labels: Any) -> Any:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True)
        scores = centred * jax.lax.rsqrt(variance + EPSILON) * weight + bias
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)
        return -chosen.mean()

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))

    def call() -> list[Any]:
        value, gradients = jax.block_until_ready(step(*arguments))
        return [value, *gradients]

    return call


WORKLOAD = Workload(
    name="layer norm, cross-entropy",
    about="2048 x 1024 float32; gradients of input, weight and bias",
    inputs=inputs,
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)
