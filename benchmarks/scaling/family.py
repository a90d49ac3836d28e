"""What is measured against size: a workload that is made for each of several sizes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks import systems
from benchmarks.scaling import operations
from benchmarks.workload import Arrays, Call, Workload
from benchmarks.workloads import linear_regression, mlp, multiply_add


@dataclass(frozen=True)
class Family:
    """One curve for each system.

    `axis`          what is counted by a size
    `sizes`         from small to large; what fails at one is not tried at a larger one
    `workload`      the workload of a size
    `bytes_of_size` memory that one unit of size takes in all processes together, at most
    `first_calls`   whether the first call, with its compilation, is a curve as well
    """

    name: str
    about: str
    axis: str
    sizes: tuple[int, ...]
    workload: Callable[[int], Workload]
    bytes_of_size: int = 0
    first_calls: bool = False


def _chain(elements: int) -> Workload:
    return replace(multiply_add.WORKLOAD, inputs=partial(multiply_add.inputs, elements))


def _regression(rows: int) -> Workload:
    return replace(
        linear_regression.VALUE_AND_GRAD, inputs=partial(linear_regression.inputs, rows=rows)
    )


def _network(rows: int) -> Workload:
    return replace(mlp.SMALL, inputs=partial(mlp.inputs, rows, mlp.SMALL_SIZES))


ROWS = (1, 2, 8, 32, 128, 512)
OPERATIONS = (12, 40, 100, 400, 1000, 4000)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="multiply-add chain",
        about="4 multiply-adds and a mean in float32; gradient of the input",
        axis="elements",
        sizes=tuple(4**power for power in range(5, 14)),
        workload=_chain,
        # Input, gradient, and what each system keeps between them; results that are compared.
        bytes_of_size=4 * 40,
    ),
    Family(
        name="linear regression",
        about="1 feature; loss and gradients of weight and offset",
        axis="rows",
        sizes=ROWS,
        workload=_regression,
    ),
    Family(
        name="MLP 64-32-10",
        about="tanh network, cross-entropy; gradients of 4 parameters",
        axis="rows",
        sizes=ROWS,
        workload=_network,
    ),
    Family(
        name="repeated operations",
        about=f"a chain of equal steps in a plain Python loop, on {operations.ELEMENTS} float32; "
        "gradient of the input",
        axis="operations",
        sizes=OPERATIONS,
        workload=operations.workload_of_repeated,
        first_calls=True,
    ),
    Family(
        name="varied operations",
        about=f"a chain without repetition, on {operations.ELEMENTS} float32; gradient of the "
        "input",
        axis="operations",
        sizes=OPERATIONS,
        workload=operations.workload_of_varied,
        first_calls=True,
    ),
)


def find(key: str, name: str, size: int) -> tuple[Callable[[Arrays], Call], Arrays]:
    """How a worker makes the call of a family at a size: see `Worker.prepare`."""
    workload = next(family for family in FAMILIES if family.name == name).workload(size)
    arrays = workload.inputs(np.random.default_rng(0))
    systems.allow_precision(key, arrays.values())
    return getattr(workload, key), arrays
