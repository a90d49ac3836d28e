"""Networks of one hidden layer, value and gradients only: a small one and one bound by BLAS.

The small one has the shapes of the digits training step without its update; the large one those of
MNIST. The images are random: only shapes matter for speed.
"""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload

SMALL_SIZES = (64, 32, 10)
LARGE_SIZES = (784, 256, 10)


def inputs(batch: int, sizes: tuple[int, int, int], rng: np.random.Generator) -> Arrays:
    """Four parameters, a batch of images between 0 and 1, and their labels."""
    pixels, hidden, classes = sizes
    return {
        "w1": (rng.normal(size=(pixels, hidden)) / pixels**0.5).astype(np.float32),
        "b1": (0.1 * rng.normal(size=hidden)).astype(np.float32),
        "w2": (rng.normal(size=(hidden, classes)) / hidden**0.5).astype(np.float32),
        "b2": (0.1 * rng.normal(size=classes)).astype(np.float32),
        "images": rng.uniform(size=(batch, pixels)).astype(np.float32),
        "labels": rng.integers(classes, size=batch),
    }


def tracegrad(arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    arguments = [tg.from_numpy(array) for array in arrays.values()]

    def loss(w1: Any, b1: Any, w2: Any, b2: Any, images: Any, labels: Any) -> Any:
        scores = tg.tanh(images @ w1 + b1) @ w2 + b2
        return tg.nn.functional.cross_entropy(scores, labels)

    step = tg.compile(tg.value_and_grad(loss, argnums=(0, 1, 2, 3)))

    def call() -> list[Any]:
        value, gradients = step(*arguments)
        return [value, *gradients]

    return call


def torch_eager(arrays: Arrays) -> Call:
    """The tape, with product and bias by `addmm`."""
    import torch

    *parameters, images, labels = (torch.from_numpy(array) for array in arrays.values())
    for parameter in parameters:
        parameter.requires_grad_()
    w1, b1, w2, b2 = parameters

    def call() -> list[Any]:
        hidden = torch.tanh(torch.addmm(b1, images, w1))
        value = torch.nn.functional.cross_entropy(torch.addmm(b2, hidden, w2), labels)
        return [value, *torch.autograd.grad(value, parameters)]

    return call


def torch_compile(arrays: Arrays) -> Call:
    """Forward and gradients in one graph."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]

    def loss(w1: Any, b1: Any, w2: Any, b2: Any, images: Any, labels: Any) -> Any:
        scores = torch.tanh(images @ w1 + b1) @ w2 + b2
        return torch.nn.functional.cross_entropy(scores, labels)

    step = torch.compile(torch.func.grad_and_value(loss, argnums=(0, 1, 2, 3)))

    def call() -> list[Any]:
        gradients, value = step(*arguments)
        return [value, *gradients]

    return call


def jax(arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    arguments = [jax.numpy.asarray(array) for array in arrays.values()]

    def loss(w1: Any, b1: Any, w2: Any, b2: Any, images: Any, labels: Any) -> Any:
        scores = jax.numpy.tanh(images @ w1 + b1) @ w2 + b2
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)
        return -chosen.mean()

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))

    def call() -> list[Any]:
        value, gradients = jax.block_until_ready(step(*arguments))
        return [value, *gradients]

    return call


SMALL = Workload(
    name="MLP, 32 x 64-32-10",
    about="tanh network, batch of 32, cross-entropy; gradients of 4 parameters, float32",
    inputs=partial(inputs, 32, SMALL_SIZES),
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)

LARGE = Workload(
    name="MLP, 128 x 784-256-10",
    about="tanh network, batch of 128, cross-entropy; gradients of 4 parameters, float32",
    inputs=partial(inputs, 128, LARGE_SIZES),
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)
