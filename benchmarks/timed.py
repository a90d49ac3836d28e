"""A call that is timed: how it is warmed up, and how a turn of it is measured."""

import statistics
import time

from benchmarks.contention import Watch
from benchmarks.workload import Call

# A sample is at least this long, so that reading the clock (some 50 ns) does not count.
SAMPLE_SECONDS = 1e-3

WARM_UP_SECONDS = 0.3
WARM_UP_CALLS = 3


class Timed:
    """A call, and how many of it make one sample."""

    def __init__(self, call: Call) -> None:
        """Run until caches and clocks are settled."""
        self.call = call
        durations = []
        deadline = time.perf_counter() + WARM_UP_SECONDS
        while len(durations) < WARM_UP_CALLS or time.perf_counter() < deadline:
            started = time.perf_counter()
            call()
            durations.append(time.perf_counter() - started)
        self.calls_in_sample = max(1, round(SAMPLE_SECONDS / statistics.median(durations)))

    def round(self, seconds: float) -> tuple[float, float]:
        """Time samples for about `seconds`.

        Returns the median seconds of one call, and the share of the machine that others used.

        The result of a call is dropped at once, so that freeing it is part of its time. Garbage
        collection stays on, because users have it on.
        """
        call = self.call
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
