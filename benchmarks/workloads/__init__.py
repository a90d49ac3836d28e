"""The table of workloads, in the order in which they are run and printed."""

from collections.abc import Callable

import numpy as np

from benchmarks.workload import Arrays, Call, Workload
from benchmarks.workloads import (
    digits,
    linear_regression,
    multiply_add,
    normalise_classify,
    rosenbrock,
    tanh_exp,
)

WORKLOADS: tuple[Workload, ...] = (
    linear_regression.VALUE_AND_GRAD,
    linear_regression.BACKWARD,
    rosenbrock.WORKLOAD,
    digits.WORKLOAD,
    tanh_exp.WORKLOAD,
    normalise_classify.WORKLOAD,
    multiply_add.WORKLOAD,
)

SEED = 0


def find(key: str, name: str) -> tuple[Callable[[Arrays], Call], Arrays]:
    """How a worker makes the call of a workload: see `Worker.prepare`."""
    workload = next(workload for workload in WORKLOADS if workload.name == name)
    return getattr(workload, key), workload.inputs(np.random.default_rng(SEED))
