"""Comparison of results, and timing in turns.

Interleaving matters because a machine is not equally fast all the time: a slow minute then touches
every system alike and leaves the ratios as they are.
"""

import random
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks import contention, report
from benchmarks.process import LateError, Process, WorkerError
from benchmarks.worker import Find

# How far results may differ between systems, relative to each element and to the largest one. Sums
# in another order are what differs, so double precision has only its longer chains to excuse.
TOLERANCES = {np.dtype(np.float64): (1e-8, 1e-10)}
OTHERWISE = (1e-3, 1e-5)


def disagreement(expected: list[np.ndarray], found: list[np.ndarray]) -> str | None:
    """How two systems' results differ, or None if they agree."""
    if len(expected) != len(found):
        return f"{len(found)} results instead of {len(expected)}"
    for index, (right, ours) in enumerate(zip(expected, found, strict=True)):
        if right.shape != ours.shape:
            return f"result {index} has shape {ours.shape} instead of {right.shape}"
        if right.dtype != ours.dtype:
            return f"result {index} has dtype {ours.dtype} instead of {right.dtype}"
        relative, of_largest = TOLERANCES.get(right.dtype, OTHERWISE)
        allowed = relative * np.abs(right) + of_largest * np.abs(right).max()
        # Written so that a NaN counts as different.
        wrong = ~(np.abs(right - ours) <= allowed)
        if wrong.any():
            error = np.abs(right - ours).max() / np.abs(right).max()
            return (
                f"result {index} differs in {wrong.sum()} elements, by {error:.1e} of the largest"
            )
    return None


def measure(
    row: report.Row,
    processes: Sequence[Process],
    find: Find,
    arguments: Sequence[object],
    rounds: int,
    seconds: float,
) -> None:
    """Fill the row: prepare one workload in every process, compare results, then time it in turn.

    `find` and `arguments` say to the workers what the workload is. What the first of `processes`
    finds is what the others are held against.
    """
    ready = []
    expected: list[np.ndarray] | None = None
    for process in processes:
        key = process.system.key
        try:
            first_call, results = process.ask("prepare", find, *arguments)
        except WorkerError as failure:
            row.failures[key] = str(failure)
            if isinstance(failure, LateError):
                row.late[key] = failure.seconds
            continue
        row.first_calls[key] = first_call
        difference = disagreement(expected, results) if expected is not None else None
        if difference:
            row.failures[key] = f"disagrees: {difference}"
            continue
        expected = expected or results
        ready.append(process)

    # Seconds of a call, and whether the turn was disturbed.
    times: dict[str, list[tuple[float, bool]]] = {process.system.key: [] for process in ready}
    # A fixed shuffle of the turns: with one order throughout, the same system would always follow
    # the one that leaves the cache most disturbed.
    turns = random.Random(0)
    for _ in range(rounds):
        for process in turns.sample(ready, len(ready)):
            key = process.system.key
            if key in row.failures:
                continue
            try:
                median, others = process.ask("round", seconds)
            except WorkerError as failure:
                row.failures[key] = str(failure)
                continue
            times[key].append((median, others > contention.DISTURBED))
    for key, turns_taken in times.items():
        if key in row.failures:
            continue
        quiet = [median for median, disturbed in turns_taken if not disturbed]
        row.disturbed[key] = 1 - len(quiet) / len(turns_taken)
        # Disturbed turns are left out, unless that leaves too few; the report then says so.
        enough = 2 * len(quiet) > len(turns_taken)
        samples = quiet if enough else [median for median, _ in turns_taken]
        row.medians[key] = statistics.median(samples)
        low, _, high = statistics.quantiles(samples, n=4) if len(samples) > 1 else (0.0, 0.0, 0.0)
        row.spreads[key] = (high - low) / 2
    for process in ready:
        if process.system.key not in row.failures:
            process.ask("drop")
