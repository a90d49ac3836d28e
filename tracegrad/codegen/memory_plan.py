"""Where temporaries live: in one arena, or in the memory of an output that is not made yet.

Memory is given back after the last step that reads it. A large temporary that is dead before the
first step that touches some output takes that output's memory, which the call allocates anyway: so
programs that make large arrays on the way to large results need no memory besides these.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tracegrad.codegen.steps import Buffer

ALIGNMENT = 64

# Smaller temporaries stay in the arena, which is in cache from the call before.
HOSTED = 1 << 20


class Place(NamedTuple):
    """`offset` bytes into an output of the program; of its arena where `host` is None."""

    host: Buffer | None
    offset: int


def plan(uses: Sequence[Sequence[Buffer]]) -> tuple[dict[Buffer, Place], int]:
    """Places for the temporaries among the buffers that each step uses, and the arena's size in
    bytes.

    First fit over lists of free gaps. A buffer is live from its first to its last step, both
    included, so that no kernel ever reads what it overwrites.
    """
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for position, buffers in enumerate(uses):
        for buffer in buffers:
            first.setdefault(buffer, position)
            last[buffer] = position
    arena = _Memory(None, math.inf)
    hosts = [
        _Memory(buffer, buffer.nbytes)
        for buffer in first
        if buffer.kind == "output" and buffer.nbytes >= HOSTED
    ]
    places: dict[Buffer, Place] = {}
    homes: dict[Buffer, _Memory] = {}
    for position, buffers in enumerate(uses):
        for buffer in _temporaries(buffers):
            if buffer in places:
                continue
            need = _aligned(buffer)
            open_hosts = [
                host
                for host in hosts
                if need >= HOSTED and host.host is not None and first[host.host] > last[buffer]
            ]
            for memory in (*open_hosts, arena):
                offset = memory.take(need)
                if offset is not None:
                    places[buffer] = Place(memory.host, offset)
                    homes[buffer] = memory
                    break
        for buffer in _temporaries(buffers):
            if last[buffer] == position:
                homes[buffer].release(places[buffer].offset, _aligned(buffer))
    return places, arena.size


def _temporaries(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    return (x for x in dict.fromkeys(buffers) if x.kind == "temporary")


def _aligned(buffer: Buffer) -> int:
    return -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT


class _Memory:
    """One piece of memory, up to `limit` bytes, of which ranges are taken and given back."""

    def __init__(self, host: Buffer | None, limit: float) -> None:
        self.host = host
        self.size = 0
        self._limit = limit
        self._gaps: list[tuple[int, int]] = []

    def take(self, need: int) -> int | None:
        """The offset of a free range, which is taken; None if there is none."""
        for i, (start, end) in enumerate(self._gaps):
            if end - start >= need:
                self._gaps[i : i + 1] = [(start + need, end)] if end - start > need else []
                return start
        if self.size + need > self._limit:
            return None
        self.size += need
        return self.size - need

    def release(self, start: int, need: int) -> None:
        """Give a range back, merging it with the gaps beside it."""
        end = start + need
        gaps = self._gaps
        i = bisect.bisect_left(gaps, (start, end))
        if i < len(gaps) and gaps[i][0] == end:
            end = gaps[i][1]
            del gaps[i]
        if i > 0 and gaps[i - 1][1] == start:
            start = gaps[i - 1][0]
            del gaps[i - 1]
            i -= 1
        gaps.insert(i, (start, end))
