"""Prices of a million European calls and their greeks: many functions of few arrays, in float64.

Black and Scholes, "The pricing of options and corporate liabilities", 1973, equation 13.
"""

import math
from typing import Any

import numpy as np

from benchmarks.workload import Arrays
from benchmarks.workloads import gradients
from benchmarks.workloads.gradients import Loss

OPTIONS = 1024 * 1024
RATE = 0.03


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


def _tracegrad() -> Loss:
    import tracegrad as tg

    return lambda *arrays: total(tg, tg.erf, *arrays)


def _torch() -> Loss:
    import torch

    return lambda *arrays: total(torch, torch.erf, *arrays)


def _jax() -> Loss:
    import jax

    return lambda *arrays: total(jax.numpy, jax.scipy.special.erf, *arrays)


WORKLOAD = gradients.workload(
    name="Black-Scholes, 1M",
    about="sum of 1,048,576 call prices, float64; gradients of spot, time and volatility",
    inputs=inputs,
    # Spot, time and volatility: their gradients are delta, minus theta, and vega.
    parameters=(0, 2, 3),
    tracegrad=_tracegrad,
    torch=_torch,
    jax=_jax,
)
