"""How much of the machine other programs use while one is timed.

It matters more than one would think: the threads of PyTorch spin at the end of each parallel loop,
so a neighbour on one of two processors makes its large workloads ten times slower and leaves others
nearly as they were. A table taken on a busy machine therefore says so.
"""

import os
from pathlib import Path

_STATISTICS = Path("/proc/stat")

# Columns of the first line that are not work: idle, and waiting for a disk.
_IDLE = (3, 4)

# A turn is disturbed if others used more than this share of one processor. The kernel counts in
# ticks of 10 ms, so a smaller share of a short turn cannot be told from nothing.
DISTURBED = 0.3


def busy_seconds() -> float | None:
    """Processor seconds that all programs used since boot, or None where nobody counts them."""
    if not _STATISTICS.is_file():
        return None
    # The last two columns, guests, are counted in the first two as well.
    ticks = [int(word) for word in _STATISTICS.read_text().split("\n", 1)[0].split()[1:9]]
    busy = sum(count for column, count in enumerate(ticks) if column not in _IDLE)
    return busy / float(os.sysconf("SC_CLK_TCK"))


class Watch:
    """What others used from its making until `share`."""

    def __init__(self) -> None:
        self._before = busy_seconds()

    def share(self, wall: float, own: float) -> float:
        """Processors that others kept busy, on average over `wall` seconds.

        `own` are the processor seconds of the program that is timed. 0 where nothing is known.
        """
        after = busy_seconds()
        if self._before is None or after is None:
            return 0.0
        return max(0.0, (after - self._before - own) / wall)
