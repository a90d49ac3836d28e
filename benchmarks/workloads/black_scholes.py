"""Prices of a million European calls and their greeks: many functions of few arrays, in float64.

Black and Scholes, "The pricing of options and corporate liabilities", 1973, equation 13.
"""

import math
from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Call, Workload

OPTIONS = 1024 * 1024
RATE = 0.03

# Positions of spot, time and volatility: their gradients are delta, minus theta, and vega.
PARAMETERS = (0, 2, 3)


def inputs(rng: np.random.Generator) -> Arrays:
    """Options of up to three years that are neither worthless nor certain to be exercised."""
    return {
        "spot": rng.uniform(80.0, 120.0, OPTIONS),
        "strike": rng.uniform(80.0, 120.0, OPTIONS),
        "time": rng.uniform(0.25, 3.0, OPTIONS),
        "volatility": rng.uniform(0.1, 0.5, OPTIONS),
    }


def total(namespace: Any, erf: Any, spot: Any, strike: Any, time: Any, volatility: Any) -> Any:
    """The sum of the prices: the same text for every system."""

    def cumulative(x: Any) -> Any:
        return 0.5 * (1.0 + erf(x / math.sqrt(2.0)))

    deviation = volatility * namespace.sqrt(time)
    drift = (RATE + 0.5 * volatility**2) * time
    d1 = (namespace.log(spot / strike) + drift) / deviation
    d2 = d1 - deviation
    discounted = strike * namespace.exp(-RATE * time)
    return (spot * cumulative(d1) - discounted * cumulative(d2)).sum()


def tracegrad(arrays: Arrays) -> Call:
    """One compiled function."""
    import tracegrad as tg

    arguments = [tg.from_numpy(array) for array in arrays.values()]

    def loss(*arguments: Any) -> Any:
        return total(tg, tg.erf, *arguments)

    step = tg.compile(tg.value_and_grad(loss, argnums=PARAMETERS))

    def call() -> list[Any]:
        value, gradients = step(*arguments)
        return [value, *gradients]

    return call


def torch_eager(arrays: Arrays) -> Call:
    """The tape."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]
    parameters = [arguments[place].requires_grad_() for place in PARAMETERS]

    def call() -> list[Any]:
        value = total(torch, torch.erf, *arguments)
        return [value, *torch.autograd.grad(value, parameters)]

    return call


def torch_compile(arrays: Arrays) -> Call:
    """Forward and gradients in one graph."""
    import torch

    arguments = [torch.from_numpy(array) for array in arrays.values()]

    def loss(*arguments: Any) -> Any:
        return total(torch, torch.erf, *arguments)

    step = torch.compile(torch.func.grad_and_value(loss, argnums=PARAMETERS))

    def call() -> list[Any]:
        gradients, value = step(*arguments)
        return [value, *gradients]

    return call


def jax(arrays: Arrays) -> Call:
    """One compiled function."""
    import jax

    arguments = [jax.numpy.asarray(array) for array in arrays.values()]

    def loss(*arguments: Any) -> Any:
        return total(jax.numpy, jax.scipy.special.erf, *arguments)

    step = jax.jit(jax.value_and_grad(loss, argnums=PARAMETERS))

    def call() -> list[Any]:
        value, gradients = jax.block_until_ready(step(*arguments))
        return [value, *gradients]

    return call


WORKLOAD = Workload(
    name="Black-Scholes, 1M",
    about="sum of 1,048,576 call prices, float64; gradients of spot, time and volatility",
    inputs=inputs,
    tracegrad=tracegrad,
    torch_eager=torch_eager,
    torch_compile=torch_compile,
    jax=jax,
)
