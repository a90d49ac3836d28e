"""The table of workloads, in the order in which they are run and printed."""

from benchmarks.workload import Workload
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
