"""What one benchmark is: inputs, and the same mathematics written for each system."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]

# One unit of work, complete when it returns; what it returns is compared between the systems.
Call = Callable[[], Sequence[Any]]


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Each implementation takes the inputs and returns a call of no arguments. The call does forward
    and gradients and returns the value and then the gradients (or the updated parameters), in one
    order for all systems. Each is written as a good user of that system would write it.
    """

    name: str
    about: str
    inputs: Callable[[np.random.Generator], Arrays]
    tracegrad: Callable[[Arrays], Call]
    torch_eager: Callable[[Arrays], Call]
    torch_compile: Callable[[Arrays], Call]
    jax: Callable[[Arrays], Call]
