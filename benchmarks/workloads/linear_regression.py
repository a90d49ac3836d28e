"""Linear regression on 32 rows: so little arithmetic that the cost of a call is all there is.

Twice: by a function that returns value and gradients, and by a compiled forward whose `.backward()`
the user calls. JAX knows only the first way, which is what it runs in both rows.
"""

from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload
from benchmarks.workloads import gradients

ROWS = 32


def inputs(rng: np.random.Generator, rows: int = ROWS) -> Arrays:
    """A line through noisy points, and a start that is not the answer."""
    x = rng.normal(size=(rows, 1)).astype(np.float32)
    noise = 0.1 * rng.normal(size=(rows, 1)).astype(np.float32)
    return {
        "w": np.full((1, 1), 0.5, np.float32),
        "b": np.zeros((1, 1), np.float32),
        "x": x,
        "y": (2 * x - 1 + noise).astype(np.float32),
    }


def loss(w: Any, b: Any, x: Any, y: Any) -> Any:
    """Half the sum of squared errors: the same text for every system."""
    return 0.5 * ((x @ w + b - y) ** 2).sum()


def tracegrad_backward(arrays: Arrays) -> Call:
    """A compiled forward, then `.backward()`."""
    import tracegrad as tg

    w, b, x, y = (tg.from_numpy(array) for array in arrays.values())
    w.requires_grad_()
    b.requires_grad_()
    compiled = tg.compile(loss)

    def call() -> list[Any]:
        w.grad = b.grad = None
        value = compiled(w, b, x, y)
        value.backward()
        return [value, w.grad, b.grad]

    return call


def torch_eager_backward(arrays: Arrays) -> Call:
    """The tutorial's way."""
    import torch

    return _torch_backward(arrays, loss, torch)


def torch_compile_backward(arrays: Arrays) -> Call:
    """A compiled forward, then `.backward()`."""
    import torch

    return _torch_backward(arrays, torch.compile(loss), torch)


def _torch_backward(arrays: Arrays, forward: Any, torch: Any) -> Call:
    w, b, x, y = (torch.from_numpy(array) for array in arrays.values())
    w.requires_grad_()
    b.requires_grad_()

    def call() -> list[Any]:
        w.grad = b.grad = None
        value = forward(w, b, x, y)
        value.backward()
        return [value, w.grad, b.grad]

    return call


VALUE_AND_GRAD = gradients.workload(
    name="linear regression, value_and_grad",
    about="32 rows, 1 feature; loss and gradients of weight and offset",
    inputs=inputs,
    parameters=(0, 1),
    tracegrad=lambda: loss,
    torch=lambda: loss,
    jax=lambda: loss,
)

BACKWARD = Workload(
    name="linear regression, backward()",
    about="the same by a forward call and `.backward()` (JAX: value_and_grad)",
    inputs=inputs,
    tracegrad=tracegrad_backward,
    torch_eager=torch_eager_backward,
    torch_compile=torch_compile_backward,
    jax=VALUE_AND_GRAD.jax,
)
