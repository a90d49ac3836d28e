"""Value and gradients of a scalar function of arrays: how each system is asked for them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload

Loss = Callable[..., Any]

# Makes the loss of one system; called in that system's process only, since it imports it.
Make = Callable[[], Loss]


def workload(
    *,
    name: str,
    about: str,
    inputs: Callable[[np.random.Generator], Arrays],
    parameters: tuple[int, ...],
    tracegrad: Make,
    torch: Make,
    jax: Make,
    torch_eager: Make | None = None,
) -> Workload:
    """A loss of all inputs, with its gradients at these positions.

    `torch_eager`: the loss for PyTorch's eager mode, where a good user would write another one.
    """
    return Workload(
        name=name,
        about=about,
        inputs=inputs,
        tracegrad=partial(_tracegrad, tracegrad, parameters),
        torch_eager=partial(_torch_eager, torch_eager or torch, parameters),
        torch_compile=partial(_torch_compile, torch, parameters),
        jax=partial(_jax, jax, parameters),
    )


def _tracegrad(make: Make, parameters: tuple[int, ...], arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    arguments = [tg.from_numpy(array) for array in arrays.values()]
    step = tg.compile(tg.value_and_grad(make(), argnums=parameters))
    return lambda: step(*arguments)


def _torch_eager(make: Make, parameters: tuple[int, ...], arrays: Arrays) -> Call:
    """The tape, by `torch.autograd.grad`, which is faster in eager mode than `torch.func`."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]
    wanted = [arguments[position].requires_grad_() for position in parameters]
    loss = make()

    def call() -> list[Any]:
        value = loss(*arguments)
        return [value, *torch.autograd.grad(value, wanted)]

    return call


def _torch_compile(make: Make, parameters: tuple[int, ...], arrays: Arrays) -> Call:
    """Forward and gradients in one graph, which is faster than a compiled forward alone."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]
    step = torch.compile(torch.func.grad_and_value(make(), argnums=parameters))
    return lambda: step(*arguments)[::-1]


def _jax(make: Make, parameters: tuple[int, ...], arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    arguments = [jax.numpy.asarray(array) for array in arrays.values()]
    step = jax.jit(jax.value_and_grad(make(), argnums=parameters))
    return lambda: jax.block_until_ready(step(*arguments))
