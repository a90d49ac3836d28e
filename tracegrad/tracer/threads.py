"""How many threads compiled code and matrix products use, in PyTorch's spelling."""

from __future__ import annotations

import operator
from typing import Any

from tracegrad.errors import ArgumentError
from tracegrad.runtime import program
from tracegrad.tracer.location import located


def get_num_threads() -> int:
    """The number of threads that large steps of compiled code and matrix products are split over.

    It is one for each processor that the process may use, or TRACEGRAD_NUM_THREADS.
    """
    return program.get_num_threads()


@located
def set_num_threads(count: int) -> None:
    """Split large steps of compiled code over `count` threads, and let BLAS use as many.

    It holds for the process at once, for functions that are compiled already too. The same number
    gives the same bits on each run; another number may round reductions in another way. More
    threads than processors are allowed, and no use. ArgumentError for anything but a whole number
    of at least 1.
    """
    number = _whole(count)
    if number is None or number < 1:
        raise ArgumentError(f"set_num_threads() takes a whole number of at least 1, not {count!r}")
    program.set_num_threads(number)


def _whole(count: Any) -> int | None:
    if isinstance(count, bool):
        return None
    try:
        return operator.index(count)
    except TypeError:
        return None
