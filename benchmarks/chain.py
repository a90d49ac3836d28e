"""The multiply-add chain against what the machine allows: a copy, and inputs with gradients.

Value and gradient in one pass read the input once and write the gradient once, which is what a copy
of the input does. A pass more, or a temporary array, shows as less bandwidth or more memory.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.process import Process, WorkerError
from benchmarks.systems import System
from benchmarks.workload import Arrays, Call
from benchmarks.workloads import find as find_workload
from benchmarks.workloads import multiply_add

# What a process has beyond its arrays is found by a second one with so few elements that what an
# allocator keeps of them hardly counts.
FEW = multiply_add.ELEMENTS // 256

NAME = multiply_add.WORKLOAD.name
ELEMENTS = multiply_add.ELEMENTS


@dataclass
class Limits:
    """`chain` and `copy` are seconds of a call in our process, turn about; `peaks` are bytes of
    resident memory in a call by system key, without those that a process needs anyway.
    """

    chain: float | None = None
    copy: float | None = None
    peaks: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def copy(arrays: Arrays) -> Call:
    """Copy one array to another by a parallel loop in Numba, written by hand."""
    import numba

    @numba.njit(parallel=True)
    def run(source: np.ndarray, target: np.ndarray) -> None:
        for index in numba.prange(source.size):
            target[index] = source[index]

    source, target = arrays.values()

    def call() -> list[np.ndarray]:
        run(source, target)
        return [target]

    return call


def find_copy(key: str) -> tuple[Callable[[Arrays], Call], Arrays]:
    """How a worker makes the call of the copy. Its buffers are kept from call to call."""
    source = np.ones(ELEMENTS, np.float32)
    return copy, {"source": source, "target": np.zeros_like(source)}


def find_chain(key: str, elements: int) -> tuple[Callable[[Arrays], Call], Arrays]:
    """How a worker makes the call of the chain at another size."""
    arrays = multiply_add.inputs(elements, np.random.default_rng(0))
    return getattr(multiply_add.WORKLOAD, key), arrays


def measure_bandwidth(limits: Limits, process: Process, rounds: int, seconds: float) -> None:
    """Time chain and copy in turn, in the process of a system that has Numba."""
    try:
        process.ask("prepare", find_workload, NAME)
        process.ask("prepare_reference", find_copy)
        chain, copies = [], []
        for _ in range(rounds):
            chain.append(process.ask("round", seconds)[0])
            copies.append(process.ask("round_of_reference", seconds)[0])
        process.ask("drop")
    except WorkerError as failure:
        limits.failures[process.system.key] = str(failure)
        return
    limits.chain = statistics.median(chain)
    limits.copy = statistics.median(copies)


def measure_memory(limits: Limits, chosen: Sequence[System]) -> None:
    """Find the memory of a call in each system, in new processes."""
    for system in chosen:
        try:
            few, all_of_them = (_steady_peak(system, elements) for elements in (FEW, ELEMENTS))
        except WorkerError as failure:
            limits.failures[system.key] = str(failure)
            continue
        if few is not None and all_of_them is not None:
            # The small arrays are a part of `few`, so that part is added back.
            share = ELEMENTS / (ELEMENTS - FEW)
            limits.peaks[system.key] = round((all_of_them - few) * share)


def _steady_peak(system: System, elements: int) -> int | None:
    """Of a process that starts warm: what a compiler leaves behind is not to be counted."""
    peak: int | None = None
    for _cold_then_warm in range(2):
        process = Process(system)
        try:
            process.ask("first_call", find_chain, elements)
            peak = process.ask("steady_peak")
        finally:
            process.stop()
    return peak
