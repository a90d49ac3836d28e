"""Rosenbrock's function of 10 variables: slices that overlap, and no matrix anywhere."""

from typing import Any

import numpy as np

from benchmarks.workload import Arrays
from benchmarks.workloads import gradients


def inputs(rng: np.random.Generator) -> Arrays:
    """A start near the minimum at (1, ..., 1)."""
    return {"x": (1 + 0.3 * rng.normal(size=10)).astype(np.float32)}


def rosenbrock(x: Any) -> Any:
    """Rosenbrock's function as a sum over neighbours: the same text for every system."""
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


WORKLOAD = gradients.workload(
    name="Rosenbrock",
    about="10 variables; value and gradient",
    inputs=inputs,
    parameters=(0,),
    tracegrad=lambda: rosenbrock,
    torch=lambda: rosenbrock,
    jax=lambda: rosenbrock,
)
