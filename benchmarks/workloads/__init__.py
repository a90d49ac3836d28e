"""The table of workloads, in the order in which they are run and printed."""

from collections.abc import Callable

import numpy as np

from benchmarks import systems
from benchmarks.workload import Arrays, Call, Workload
from benchmarks.workloads import (
    attention,
    black_scholes,
    digits,
    gaussian_mixture,
    linear_regression,
    mlp,
    multiply_add,
    normalise_classify,
    rnn,
    rosenbrock,
    tanh_exp,
)

WORKLOADS: tuple[Workload, ...] = (
    linear_regression.VALUE_AND_GRAD,
    linear_regression.BACKWARD,
    rosenbrock.WORKLOAD,
    digits.WORKLOAD,
    mlp.SMALL,
    mlp.LARGE,
    multiply_add.WORKLOAD,
    tanh_exp.WORKLOAD,
    black_scholes.WORKLOAD,
    normalise_classify.WORKLOAD,
    attention.WORKLOAD,
    gaussian_mixture.WORKLOAD,
    rnn.WORKLOAD,
)

SEED = 0


def find(key: str, name: str) -> tuple[Callable[[Arrays], Call], Arrays]:
    """How a worker makes the call of a workload: see `Worker.prepare`."""
    workload = next(workload for workload in WORKLOADS if workload.name == name)
    arrays = workload.inputs(np.random.default_rng(SEED))
    systems.allow_precision(key, arrays.values())
    return getattr(workload, key), arrays
