"""One training step of the digits network, with the update: what a small model's user runs all day.

The images are random here: only shapes matter for speed, and nothing has to be installed for them.
"""

from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload

BATCH = 32
SIZES = (64, 32, 10)
RATE = 0.01


def inputs(rng: np.random.Generator) -> Arrays:
    """Four parameters, a batch of images between 0 and 1, and their labels."""
    pixels, hidden, classes = SIZES
    return {
        "w1": (rng.normal(size=(pixels, hidden)) / 8).astype(np.float32),
        "b1": np.zeros(hidden, np.float32),
        "w2": (rng.normal(size=(hidden, classes)) / 8).astype(np.float32),
        "b2": np.zeros(classes, np.float32),
        "images": rng.uniform(size=(BATCH, pixels)).astype(np.float32),
        "labels": rng.integers(classes, size=BATCH),
    }


def tracegrad(arrays: Arrays) -> Call:
    """The whole step, with its update in place, is one compiled function."""
    import tracegrad as tg

    *parameters, images, labels = (tg.from_numpy(array.copy()) for array in arrays.values())

    def loss(w1: Any, b1: Any, w2: Any, b2: Any, images: Any, labels: Any) -> Any:
        scores = tg.tanh(images @ w1 + b1) @ w2 + b2
        return tg.nn.functional.cross_entropy(scores, labels)

    @tg.compile
    def step(parameters: Any, images: Any, labels: Any) -> Any:
        value_and_grad = tg.value_and_grad(loss, argnums=(0, 1, 2, 3))
        value, gradients = value_and_grad(*parameters, images, labels)
        with tg.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= RATE * gradient
        return value

    return lambda: [step(parameters, images, labels), *parameters]


def torch_eager(arrays: Arrays) -> Call:
    """The tutorial's way: `.backward()`, then an update under `no_grad`."""
    import torch

    *parameters, images, labels = (torch.from_numpy(array.copy()) for array in arrays.values())
    for parameter in parameters:
        parameter.requires_grad_()
    w1, b1, w2, b2 = parameters

    def call() -> list[Any]:
        scores = torch.tanh(images @ w1 + b1) @ w2 + b2
        value = torch.nn.functional.cross_entropy(scores, labels)
        value.backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter.sub_(parameter.grad, alpha=RATE)
                parameter.grad = None
        return [value, *parameters]

    return call


def torch_compile(arrays: Arrays) -> Call:
    """The whole step, with its update in place, is one compiled function."""
    import torch

    *parameters, images, labels = (torch.from_numpy(array.copy()) for array in arrays.values())

    def loss(w1: Any, b1: Any, w2: Any, b2: Any, images: Any, labels: Any) -> Any:
        scores = torch.tanh(images @ w1 + b1) @ w2 + b2
        return torch.nn.functional.cross_entropy(scores, labels)

    @torch.compile
    def step(parameters: Any, images: Any, labels: Any) -> Any:
        grad_and_value = torch.func.grad_and_value(loss, argnums=(0, 1, 2, 3))
        gradients, value = grad_and_value(*parameters, images, labels)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=RATE)
        return value

    return lambda: [step(parameters, images, labels), *parameters]


def jax(arrays: Arrays) -> Call:
    """One compiled function that is given its parameters to overwrite."""
    import jax

    *parameters, images, labels = (jax.numpy.asarray(array) for array in arrays.values())

    def loss(parameters: Any, images: Any, labels: Any) -> Any:
        w1, b1, w2, b2 = parameters
        scores = jax.numpy.tanh(images @ w1 + b1) @ w2 + b2
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)
        return -chosen.mean()

    def step(parameters: Any, images: Any, labels: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, images, labels)
        updated = [
            parameter - RATE * gradient
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
        return value, updated

    compiled = jax.jit(step, donate_argnums=0)

    def call() -> list[Any]:
        nonlocal parameters
        value, parameters = jax.block_until_ready(compiled(parameters, images, labels))
        return [value, *parameters]

    return call


WORKLOAD = Workload(
    name="digits training step",
    about="64-32-10 tanh network, batch of 32, cross-entropy, gradients and SGD update",
    inputs=inputs,
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)
