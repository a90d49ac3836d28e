"""The calls of one compiled function that are taken natively."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.tracer.specialisation import Specialisation
from tracegrad.tracer.state import state
from tracegrad.tracer.statistics import Statistics
from tracegrad.tracer.structure import Description
from tracegrad.tracer.tree import Path

if TYPE_CHECKING:
    from tracegrad.runtime.entry import Entry
    from tracegrad.tracer.known_calls import Known

# Signatures of one function that are taken natively; each costs the others a look.
_MOST = 8


class NativeCalls:
    """The entries of a function, and what they count.

    entries  by the mode of the thread, see `state`; those hit last come first.
    """

    def __init__(self, statistics: Statistics) -> None:
        self.entries: tuple[list[Entry], ...] = ([], [], [])
        self._statistics = statistics
        statistics.settle = self.settle
        # Counts calls, so that what was used longest ago is known; native code counts too.
        self._clock = np.zeros(1, np.int64)

    def add(
        self,
        found: Specialisation,
        values: Sequence[Any],
        given: int,
        described: Sequence[Description],
    ) -> None:
        """An entry for calls like one with these arguments, if there can be one; `given` of them
        were given, the others are defaults.
        """
        # Here and not above: it imports the compiler.
        from tracegrad.tracer.known_calls import entry_for

        entry = entry_for(found, values, given, described, self._clock)
        if entry is None:
            return
        entries = self.entries[state.mode]
        entries.insert(0, entry)
        if len(entries) > _MOST:
            self._settle(entries[-1])
            entries.pop()

    def forget(self, found: Specialisation) -> None:
        """What is native of a specialisation is not what it is any more."""
        self.settle()
        found.steady = 0
        for entries in self.entries:
            entries[:] = [entry for entry in entries if entry.owner.found is not found]

    def used(self, found: Specialisation, path: Path) -> None:
        """A call went this way in Python."""
        self._clock[0] += 1
        found.last_used = path.last_used = int(self._clock[0])

    def settle(self) -> None:
        """Count all calls that were counted natively."""
        for entries in self.entries:
            for entry in entries:
                self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        owner: Known = entry.owner
        hits = entry.take_hits()
        if not hits:
            return
        self._statistics.counted_calls += hits
        self._statistics.counted_hits += hits
        for number, (way, path) in enumerate(zip(owner.ways, owner.paths, strict=True)):
            way[-1].hits += entry.take_block_hits(number)
            used = entry.last_used(number)
            for item in (owner.found, path):
                if item is not None:
                    item.last_used = max(item.last_used, used)


def to_front(entries: list[Entry], entry: Entry) -> None:
    """What was hit is looked at first the next time."""
    try:
        entries.remove(entry)
    except ValueError:
        # Another thread has just forgotten it.
        return
    entries.insert(0, entry)
