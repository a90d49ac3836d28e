"""Chains of many operations on a small array: what a graph costs to compile and to run.

One repeats itself, as a loop in Python does, and may be rolled up again; the other does not, so
every operation has to be compiled. A step changes little, so that thousands of them neither
overflow nor leave gradients of zero.
"""

import random
from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Workload
from benchmarks.workloads import elementwise

ELEMENTS = 256
OPERATIONS_OF_A_STEP = 4
FUNCTIONS = ("sin", "cos", "tanh", "exp")


def inputs(rng: np.random.Generator) -> Arrays:
    """Numbers between 0 and 1."""
    return {"x": rng.random(ELEMENTS, dtype=np.float32)}


def repeated(steps: int, namespace: Any, x: Any) -> Any:
    """The mean after equal steps."""
    for _ in range(steps):
        x = x + 0.01 * namespace.sin(1.5 * x)
    return x.mean()


def varied(names: tuple[str, ...], constants: tuple[float, ...], namespace: Any, x: Any) -> Any:
    """The mean after steps of different functions with different constants."""
    for name, constant in zip(names, constants, strict=True):
        x = x + constant * getattr(namespace, name)(-0.5 * x)
    return x.mean()


def workload_of_repeated(operations: int) -> Workload:
    """A chain of so many operations, of equal steps."""
    return _workload("repeated steps", partial(repeated, operations // OPERATIONS_OF_A_STEP))


def workload_of_varied(operations: int) -> Workload:
    """A chain of so many operations, of different steps."""
    steps = operations // OPERATIONS_OF_A_STEP
    draws = random.Random(0)
    names = tuple(draws.choices(FUNCTIONS, k=steps))
    constants = tuple(round(draws.uniform(-0.01, 0.01), 6) for _ in range(steps))
    return _workload("varied steps", partial(varied, names, constants))


def _workload(name: str, chain: elementwise.Chain) -> Workload:
    return elementwise.workload(
        name=name,
        about=f"on {ELEMENTS} float32; gradient of the input",
        inputs=inputs,
        chain=chain,
    )
