"""A chain of tanh and exp on 1M elements: bound by arithmetic, so it shows vectorised functions."""

from typing import Any

import numpy as np

from benchmarks.workload import Arrays
from benchmarks.workloads import elementwise

ELEMENTS = 1024 * 1024


def inputs(rng: np.random.Generator) -> Arrays:
    """Standard normal numbers."""
    return {"x": rng.standard_normal(ELEMENTS, dtype=np.float32)}


def chain(namespace: Any, x: Any) -> Any:
    """The mean of exp(tanh(exp(tanh(x)) * x))."""
    inner = namespace.exp(namespace.tanh(x))
    return namespace.exp(namespace.tanh(inner * x)).mean()


WORKLOAD = elementwise.workload(
    name="tanh/exp chain, 1M",
    about="2 tanh, 2 exp and a mean on 1,048,576 float32; gradient of the input",
    inputs=inputs,
    chain=chain,
)
