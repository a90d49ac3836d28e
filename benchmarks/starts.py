"""How long a system takes from its import to the end of its first call, and how much memory."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import systems
from benchmarks.process import Process, WorkerError
from benchmarks.systems import System
from benchmarks.workloads import find

# Of several, the fastest counts: what else a machine does in half a second only adds to it.
WARM_STARTS = 2

IMPORT_ONLY = "import only"


@dataclass
class Starts:
    """Of one workload, by system key.

    `cold`  seconds from the start of the imports, in a new process with empty disk caches
    `warm`  the same with the caches that an earlier process filled
    `peak`  bytes of resident memory at most, in the latter and after a few more calls
    """

    name: str
    cold: dict[str, float] = field(default_factory=dict)
    warm: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure(name: str | None, chosen: Sequence[System], numpy_seconds: float) -> Starts:
    """Start each system several times with the workload of this name, or with an import alone.

    `numpy_seconds` is what `seconds_of_numpy` found; it is part of every start.
    """
    starts = Starts(name or IMPORT_ONLY)
    for system in chosen:
        key = system.key
        with systems.empty_caches():
            try:
                starts.cold[key] = numpy_seconds + _start(system, name)[0]
                warm = [_start(system, name) for _ in range(WARM_STARTS)]
            except WorkerError as failure:
                starts.failures[key] = str(failure)
                continue
        starts.warm[key] = numpy_seconds + min(seconds for seconds, _ in warm)
        peaks = [peak for _, peak in warm if peak is not None]
        if peaks:
            starts.peak[key] = min(peaks)
    return starts


def _start(system: System, name: str | None) -> tuple[float, int | None]:
    """Seconds and peak memory of one start in a new process."""
    process = Process(system)
    try:
        process.start()
        seconds = process.import_seconds or 0.0
        if name is not None:
            seconds += process.ask("first_call", find, name)
            process.ask("run")
        return seconds, process.ask("peak")
    finally:
        process.stop()


def seconds_of_numpy() -> float:
    """Seconds of NumPy's import in a new process: a worker has it before its clock can start."""
    program = "import time; t = time.perf_counter(); import numpy; print(time.perf_counter() - t)"
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    ]
    return min(float(seconds) for seconds in runs)
