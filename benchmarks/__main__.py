"""Run the table of workloads: one process for each system, rounds in turn, never two at once.

Interleaving matters because a machine is not equally fast all the time: a slow minute then touches
every system alike and leaves the ratios as they are.
"""

import argparse
import contextlib
import datetime
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contention, report, systems, worker
from benchmarks.systems import OURS, SYSTEMS, System
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).resolve().parent / "results"

# Longest that one command may take; torch.compile of the first workload is the slowest.
ANSWER_SECONDS = 180.0

# How far results may differ between systems, relative to each element and to the largest one.
RELATIVE = 1e-3
OF_LARGEST = 1e-5


class WorkerError(Exception):
    """A worker answered with an error, died, or did not answer in time."""


class Process:
    """The driver's side of a worker. Starts on the first command, and again after a death."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.import_seconds: float | None = None
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the worker and let it import its system."""
        # Spawned, not forked: a forked child would share imports and thread pools.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=worker.main, args=(theirs, self.system), daemon=True)
        self._process.start()
        theirs.close()
        seconds = self._ask("load")
        if self.import_seconds is None:
            self.import_seconds = seconds

    def ask(self, command: str, *arguments: Any) -> Any:
        """Send a command and wait for its result.

        Raises:
            WorkerError: with what the worker said, or that it said nothing.
        """
        if self._process is None:
            self.start()
        return self._ask(command, *arguments)

    def _ask(self, command: str, *arguments: Any) -> Any:
        assert self._connection is not None
        try:
            self._connection.send((command, arguments))
            if not self._connection.poll(ANSWER_SECONDS):
                raise WorkerError(f"no answer to {command} in {ANSWER_SECONDS:.0f} s")
            fine, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self.stop()
            raise WorkerError(f"the process died during {command}") from error
        except WorkerError:
            self.stop()
            raise
        if not fine:
            raise WorkerError(answer)
        return answer

    def stop(self) -> None:
        """End the worker, by force if it does not end by itself."""
        if self._process is None or self._connection is None:
            return
        # Suppressed because a worker that has died cannot be told anything.
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()
        self._process = None
        self._connection = None


def disagreement(expected: list[np.ndarray], found: list[np.ndarray]) -> str | None:
    """How two systems' results differ, or None if they agree."""
    if len(expected) != len(found):
        return f"{len(found)} results instead of {len(expected)}"
    for index, (right, ours) in enumerate(zip(expected, found, strict=True)):
        if right.shape != ours.shape:
            return f"result {index} has shape {ours.shape} instead of {right.shape}"
        if right.dtype != ours.dtype:
            return f"result {index} has dtype {ours.dtype} instead of {right.dtype}"
        allowed = RELATIVE * np.abs(right) + OF_LARGEST * np.abs(right).max()
        # Written so that a NaN counts as different.
        wrong = ~(np.abs(right - ours) <= allowed)
        if wrong.any():
            error = np.abs(right - ours).max() / np.abs(right).max()
            return (
                f"result {index} differs in {wrong.sum()} elements, by {error:.1e} of the largest"
            )
    return None


def measure(
    workload: Workload, processes: list[Process], rounds: int, seconds: float
) -> report.Row:
    """Prepare one workload in every process, compare the results, then time it in turn."""
    row = report.Row(workload.name, workload.about)
    ready = []
    expected: list[np.ndarray] | None = None
    # Peers first: their results are what ours are held against.
    for process in sorted(processes, key=lambda process: process.system is OURS):
        key = process.system.key
        try:
            first_call, results = process.ask("prepare", workload.name)
        except WorkerError as failure:
            row.failures[key] = str(failure)
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
    return row


def commit() -> str:
    """The commit that is measured, marked if the files differ from it."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    keys = [system.key for system in SYSTEMS]
    parser.add_argument("--systems", nargs="+", choices=keys, default=keys)
    parser.add_argument(
        "--workloads", nargs="+", metavar="TEXT", help="only names with any of these"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of each system (15)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn (0.1)")
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write the file. 1 if a system failed or results disagree."""
    options = arguments()
    chosen = [
        workload
        for workload in WORKLOADS
        if not options.workloads
        or any(text.lower() in workload.name.lower() for text in options.workloads)
    ]
    if not chosen:
        print(f"no such workload; there are {[workload.name for workload in WORKLOADS]}")
        return 2
    started = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory(prefix="tracegrad-bench-") as cache:
        os.environ.update(systems.environment(cache))
        processes = []
        for system in SYSTEMS:
            if system.key not in options.systems:
                continue
            if not system.installed:
                print(f"{system.title} is not installed, left out", file=sys.stderr)
                continue
            processes.append(Process(system))
        try:
            for process in list(processes):
                try:
                    process.start()
                except WorkerError as failure:
                    print(f"{process.system.title}: {failure}", file=sys.stderr)
                    processes.remove(process)
            for workload in chosen:
                print(f"{workload.name} ...", file=sys.stderr, flush=True)
                rows.append(measure(workload, processes, options.rounds, options.seconds))
        finally:
            for process in processes:
                process.stop()

    date = datetime.date.today().isoformat()
    imports = {process.system.key: process.import_seconds or 0.0 for process in processes}
    text = report.render(rows, imports, date, commit())
    print(text)
    if not options.no_file:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / report.file_name(date)
        path.write_text(text, encoding="utf-8")
        print(f"written to {path}", file=sys.stderr)
    print(f"took {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 1 if any(row.failures for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
