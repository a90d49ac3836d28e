"""One input array, one scalar, one gradient: how the chains of elementwise operations are run."""

from collections.abc import Callable
from typing import Any

from benchmarks.workload import Arrays, Call

# The function under test, of the system's namespace (tracegrad, torch, jax.numpy) and the array.
Chain = Callable[[Any, Any], Any]


def tracegrad(chain: Chain, arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    x = tg.from_numpy(arrays["x"])
    step = tg.compile(tg.value_and_grad(lambda x: chain(tg, x)))
    return lambda: step(x)


def torch_eager(chain: Chain, arrays: Arrays) -> Call:
    """The tape."""
    import torch

    x = torch.from_numpy(arrays["x"]).requires_grad_()

    def call() -> list[Any]:
        value = chain(torch, x)
        return [value, *torch.autograd.grad(value, x)]

    return call


def torch_compile(chain: Chain, arrays: Arrays) -> Call:
    """Forward and gradient in one graph."""
    import torch

    x = torch.from_numpy(arrays["x"])
    step = torch.compile(torch.func.grad_and_value(lambda x: chain(torch, x)))
    return lambda: step(x)[::-1]


def jax(chain: Chain, arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    x = jax.numpy.asarray(arrays["x"])
    step = jax.jit(jax.value_and_grad(lambda x: chain(jax.numpy, x)))
    return lambda: jax.block_until_ready(step(x))
