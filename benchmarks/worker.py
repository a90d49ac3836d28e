"""The process of one system: it prepares a workload and times rounds of it when told to."""

import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks import memory, systems
from benchmarks.timed import Timed
from benchmarks.workload import Arrays, Call

# From a system's key and what else names the workload: how its call is made, and of which inputs.
# Sent to the worker by name, so it has to be a function of a module.
Find = Callable[..., tuple[Callable[[Arrays], Call], Arrays]]

# Enough for a pool of memory to have taken what it is going to take.
CALLS_UNTIL_STEADY = 5


class Worker:
    """Holds the workload that is being measured. Each method is a command of the driver."""

    def __init__(self, system: systems.System) -> None:
        self.system = system
        self.call: Call | None = None
        self.timed: Timed | None = None
        self.reference: Timed | None = None

    def load(self) -> float:
        """Import the system; seconds that it took."""
        started = time.perf_counter()
        systems.load(self.system)
        return time.perf_counter() - started

    def prepare(self, find: Find, *arguments: Any) -> tuple[float, list[np.ndarray]]:
        """Make the workload, run it once and warm it up.

        Returns the seconds of the first call, compilation included, and its results.
        """
        seconds, first = self._make_and_run(find, *arguments)
        # Copied at once: the next call may update these in place.
        results = systems.as_numpy(first)
        # Held on, they would be buffers that no later call can use again.
        del first
        assert self.call is not None
        self.timed = Timed(self.call)
        return seconds, results

    def first_call(self, find: Find, *arguments: Any) -> float:
        """Make the workload and run it once. Returns seconds as `prepare`; copies no results,
        which would count as memory of the system.
        """
        return self._make_and_run(find, *arguments)[0]

    def _make_and_run(self, find: Find, *arguments: Any) -> tuple[float, Any]:
        make, arrays = find(self.system.key, *arguments)
        systems.forget(self.system)
        started = time.perf_counter()
        self.call = make(arrays)
        # A system that has copied them needs the originals no more.
        del arrays
        first = self.call()
        return time.perf_counter() - started, first

    def round(self, seconds: float) -> tuple[float, float]:
        """Time the workload for about `seconds`. Returns as `Timed.round`."""
        assert self.timed is not None
        return self.timed.round(seconds)

    def prepare_reference(self, find: Find, *arguments: Any) -> None:
        """Warm up something else, to be timed in turn with the workload in this same process."""
        make, arrays = find(self.system.key, *arguments)
        self.reference = Timed(make(arrays))

    def round_of_reference(self, seconds: float) -> tuple[float, float]:
        """Time what `prepare_reference` made."""
        assert self.reference is not None
        return self.reference.round(seconds)

    def drop(self) -> None:
        """Free the workload's memory."""
        self.call = self.timed = self.reference = None

    def peak(self) -> int | None:
        """The most bytes of resident memory that this process has had."""
        return memory.peak()

    def run(self) -> None:
        """A few calls of the workload, not timed."""
        assert self.call is not None
        for _ in range(CALLS_UNTIL_STEADY):
            self.call()

    def steady_peak(self) -> int | None:
        """The most bytes of resident memory during steady calls of the workload, or None."""
        if not memory.can_reset():
            return None
        self.run()
        memory.reset_peak()
        self.run()
        return memory.peak()


def main(connection: Connection, system: systems.System) -> None:
    """Answer commands (method name, arguments) with (True, result) or (False, error) until None."""
    if hasattr(os, "setpgrp"):
        # With a group of its own, compilers that it has started can be ended together with it.
        os.setpgrp()
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
