"""Rosenbrock's function of 10 variables: slices that overlap, and no matrix anywhere."""

from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload


def inputs(rng: np.random.Generator) -> Arrays:
    """A start near the minimum at (1, ..., 1)."""
    return {"x": (1 + 0.3 * rng.normal(size=10)).astype(np.float32)}


def rosenbrock(x: Any) -> Any:
    """Rosenbrock's function as a sum over neighbours: the same text for every system."""
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def tracegrad(arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    x = tg.from_numpy(arrays["x"])
    step = tg.compile(tg.value_and_grad(rosenbrock))
    return lambda: step(x)


def torch_eager(arrays: Arrays) -> Call:
    """The tape."""
    import torch

    x = torch.from_numpy(arrays["x"]).requires_grad_()

    def call() -> list[Any]:
        value = rosenbrock(x)
        return [value, *torch.autograd.grad(value, x)]

    return call


def torch_compile(arrays: Arrays) -> Call:
    """Forward and gradient in one graph."""
    import torch

    x = torch.from_numpy(arrays["x"])
    step = torch.compile(torch.func.grad_and_value(rosenbrock))
    return lambda: step(x)[::-1]


def jax(arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    x = jax.numpy.asarray(arrays["x"])
    step = jax.jit(jax.value_and_grad(rosenbrock))
    return lambda: jax.block_until_ready(step(x))


WORKLOAD = Workload(
    name="Rosenbrock",
    about="10 variables; value and gradient",
    inputs=inputs,
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)
