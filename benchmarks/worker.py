"""The process of one system: it prepares a workload and times rounds of it when told to."""

import statistics
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks import systems
from benchmarks.contention import Watch
from benchmarks.workload import Arrays, Call

# From a system's key and what else names the workload: how its call is made, and of which inputs.
# Sent to the worker by name, so it has to be a function of a module.
Find = Callable[..., tuple[Callable[[Arrays], Call], Arrays]]

# A sample is at least this long, so that reading the clock (some 50 ns) does not count.
SAMPLE_SECONDS = 1e-3

WARM_UP_SECONDS = 0.3
WARM_UP_CALLS = 3


class Worker:
    """Holds the workload that is being measured. Each method is a command of the driver."""

    def __init__(self, system: systems.System) -> None:
        self.system = system
        self.call: Call | None = None
        self.calls_in_sample = 1

    def load(self) -> float:
        """Import the system; seconds that it took."""
        started = time.perf_counter()
        systems.load(self.system)
        return time.perf_counter() - started

    def prepare(self, find: Find, *arguments: Any) -> tuple[float, list[np.ndarray]]:
        """Make the workload, run it once and warm it up.

        Returns the seconds of the first call, compilation included, and its results.
        """
        seconds, results = self.first_call(find, *arguments)
        self._warm_up()
        return seconds, results

    def first_call(self, find: Find, *arguments: Any) -> tuple[float, list[np.ndarray]]:
        """Make the workload and run it once. Returns as `prepare`."""
        make, arrays = find(self.system.key, *arguments)
        started = time.perf_counter()
        self.call = make(arrays)
        first = self.call()
        seconds = time.perf_counter() - started
        # Copied at once: the next call may update these in place.
        return seconds, systems.as_numpy(first)

    def _warm_up(self) -> None:
        """Run until caches and clocks are settled, and choose how many calls make one sample."""
        assert self.call is not None
        durations = []
        deadline = time.perf_counter() + WARM_UP_SECONDS
        while len(durations) < WARM_UP_CALLS or time.perf_counter() < deadline:
            started = time.perf_counter()
            self.call()
            durations.append(time.perf_counter() - started)
        self.calls_in_sample = max(1, round(SAMPLE_SECONDS / statistics.median(durations)))

    def round(self, seconds: float) -> tuple[float, float]:
        """Time samples for about `seconds`.

        Returns the median seconds of one call, and the share of the machine that others used.

        The result of a call is dropped at once, so that freeing it is part of its time. Garbage
        collection stays on, because users have it on.
        """
        call = self.call
        assert call is not None
        repeat = range(self.calls_in_sample)
        samples = []
        clock = time.perf_counter
        watch = Watch()
        began = clock(), time.process_time()
        # Another process has just used the caches: one sample to fetch back what is ours.
        for _ in repeat:
            call()
        deadline = clock() + seconds
        while not samples or clock() < deadline:
            started = clock()
            for _ in repeat:
                call()
            samples.append((clock() - started) / self.calls_in_sample)
        others = watch.share(clock() - began[0], time.process_time() - began[1])
        return statistics.median(samples), others

    def drop(self) -> None:
        """Free the workload's memory."""
        self.call = None


def main(connection: Connection, system: systems.System) -> None:
    """Answer commands (method name, arguments) with (True, result) or (False, error) until None."""
    systems.confine_to_threads()
    worker = Worker(system)
    while True:
        command: tuple[str, tuple[Any, ...]] | None = connection.recv()
        if command is None:
            return
        name, arguments = command
        try:
            answer = True, getattr(worker, name)(*arguments)
        except Exception as error:  # One that fails is a cell of the table, not the end of the run.
            traceback.print_exc()
            answer = False, f"{type(error).__name__}: {error}"
        connection.send(answer)
