"""Where temporaries live: offsets in one arena, given back after the last step that reads them."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from tracegrad.codegen.steps import Buffer

ALIGNMENT = 64


def plan(uses: Sequence[Sequence[Buffer]]) -> tuple[dict[Buffer, int], int]:
    """Offsets for the temporaries that each step uses, and the arena's size in bytes.

    First fit over a list of free gaps. A buffer is live from its first to its last step, both
    included, so that no kernel ever reads what it overwrites.
    """
    last: dict[Buffer, int] = {}
    for position, buffers in enumerate(uses):
        for buffer in buffers:
            if buffer.kind == "temporary":
                last[buffer] = position
    offsets: dict[Buffer, int] = {}
    gaps: list[tuple[int, int]] = []
    size = 0
    for position, buffers in enumerate(uses):
        for buffer in dict.fromkeys(buffers):
            if buffer.kind != "temporary" or buffer in offsets:
                continue
            need = -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
            for i, (start, end) in enumerate(gaps):
                if end - start >= need:
                    offsets[buffer] = start
                    gaps[i : i + 1] = [(start + need, end)] if end - start > need else []
                    break
            else:
                offsets[buffer] = size
                size += need
        for buffer in dict.fromkeys(buffers):
            if last.get(buffer) == position:
                start = offsets[buffer]
                end = start + -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
                _release(gaps, start, end)
    return offsets, size


def _release(gaps: list[tuple[int, int]], start: int, end: int) -> None:
    """Return a range to the sorted list of gaps, merging it with its neighbours."""
    i = bisect.bisect_left(gaps, (start, end))
    if i < len(gaps) and gaps[i][0] == end:
        end = gaps[i][1]
        del gaps[i]
    if i > 0 and gaps[i - 1][1] == start:
        start = gaps[i - 1][0]
        del gaps[i - 1]
        i -= 1
    gaps.insert(i, (start, end))
