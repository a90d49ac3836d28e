"""Four multiply-adds on 16M elements: bound by memory, so it shows fusion and allocation."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays
from benchmarks.workloads import elementwise

ELEMENTS = 16 * 1024 * 1024

# Of float32: the input is read and its gradient written.
BYTES_OF_AN_ELEMENT = 2 * 4


def inputs(elements: int, rng: np.random.Generator) -> Arrays:
    """Numbers between 0 and 1, away from the roots of the polynomial."""
    return {"x": rng.random(elements, dtype=np.float32)}


def chain(namespace: Any, x: Any) -> Any:
    """The mean of a polynomial of fourth degree by Horner's rule."""
    return ((((x * 0.5 + 1.0) * x + 0.25) * x + 2.0) * x + 3.0).mean()


WORKLOAD = elementwise.workload(
    name="multiply-add chain, 16M",
    about="4 multiply-adds and a mean on 16,777,216 float32; gradient of the input",
    inputs=partial(inputs, ELEMENTS),
    chain=chain,
)
