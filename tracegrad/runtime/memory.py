"""Buffers: small ones cut from slabs, large ones pooled, both coming back when nobody uses them.

A fresh large array costs more in page faults than the kernel that fills it, so blocks are kept.
No finaliser says when a block is free: NumPy makes every view of a block refer to the block itself
(never to another view), so a block is free exactly when the pool holds its only reference.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracegrad.runtime import arenas

Block = np.ndarray[Any, np.dtype[np.uint8]]

# Up to this size a buffer is cut from a slab.
SMALL = 4096
_SLAB = 65536
_LINE = 64
_HUGE_PAGE = 2 << 20

# How many blocks of a size class are looked at before a new one is made.
_SCAN = 8


@dataclass(slots=True)
class MemoryStatistics:
    """The memory of compiled code: bytes that are held now, and counts since the process began.

    used_bytes     Blocks of the pool that arrays live in, of tensors or of NumPy.
    free_bytes     Blocks of the pool that nobody uses: the next array of their size takes one.
    pooled_bytes   Both together.
    scratch_bytes  Temporaries of programs: an arena for each thread, kept for its next call.
    stack_bytes    What loops have saved for their gradient, if it was not known how often they run.
    peak_bytes     The most that pool and scratch held at once, since the process began or
                   `reset_peak_memory_stats` was called.
    allocations    Arrays that were asked for; `made` and `reused` count the blocks for them, small
                   arrays share one. `dropped`: blocks given back to the system.

    A block is up to a fifth larger than its array. Arrays of compiled functions below 64 KiB, and
    those of eager code, are NumPy's own and are not counted.
    """

    allocations: int = 0
    made: int = 0
    made_bytes: int = 0
    reused: int = 0
    reused_bytes: int = 0
    dropped: int = 0
    pooled_bytes: int = 0
    used_bytes: int = 0
    free_bytes: int = 0
    scratch_bytes: int = 0
    stack_bytes: int = 0
    peak_bytes: int = 0


_statistics = MemoryStatistics()

# For what several threads may not do at once: making blocks, dropping them, and counting both.
# Reentrant, since a finaliser that runs meanwhile may count too.
_lock = threading.RLock()

# Size class -> its blocks with their addresses. A block about to be inspected is taken out of the
# queue first, which is atomic, so two threads never inspect, let alone hand out, the same one.
_pool: dict[int, deque[tuple[Block, int]]] = {}

# Unfinished slabs: (block, address, bytes used). At most one for each thread that ever met here.
_slabs: list[tuple[Block, int, int]] = []


def allocate(nbytes: int) -> tuple[Block, int, int]:
    """Memory for an array: (block, offset, address of the first byte).

    The caller makes `np.ndarray(shape, dtype, buffer=block, offset=offset)` and drops the block;
    the memory is used again after the last view of the array dies. The address is a multiple of
    64, of 2 MiB for a large block. The contents are arbitrary.
    """
    _statistics.allocations += 1
    if nbytes > SMALL:
        block, address = _take(size_class(nbytes))
        return block, 0, address
    size = (nbytes + _LINE - 1) & -_LINE or _LINE
    try:
        block, address, used = _slabs.pop()
    except IndexError:
        block, address = _take(_SLAB)
        used = 0
    if used + size > _SLAB:
        block, address = _take(_SLAB)
        used = 0
    _slabs.append((block, address, used + size))
    return block, used, address + used


def size_class(nbytes: int) -> int:
    """The block size for a request: the next of four steps between powers of two."""
    if nbytes <= _SLAB:
        step = _LINE * 16
    else:
        step = 1 << ((nbytes - 1).bit_length() - 3)
    return (nbytes + step - 1) // step * step


def _take(size: int) -> tuple[Block, int]:
    """A free block of exactly `size` bytes, from the pool or new."""
    queue = _pool.get(size)
    if queue is None:
        queue = _pool.setdefault(size, deque())
    # The block handed out last is at the left. If it is back already, its lines are still in cache;
    # otherwise the ones handed out longest ago are the likeliest to be free.
    for attempt in range(_SCAN):
        try:
            entry = queue.popleft() if attempt == 0 else queue.pop()
        except IndexError:
            break
        if sys.getrefcount(entry[0]) == _UNSHARED:
            # Referred to before it is back in the queue, where another thread may inspect it.
            block, address = entry
            queue.appendleft(entry)
            _statistics.reused += 1
            _statistics.reused_bytes += size
            return block, address
        queue.appendleft(entry)
    return _make(size, queue)


def _make(size: int, queue: deque[tuple[Block, int]]) -> tuple[Block, int]:
    """A new block, known to the pool."""
    with _lock:
        if _statistics.pooled_bytes + size > _limit:
            _drop_free(max(0, min(_limit // 2, _limit - size)))
        block, address = _new_block(size)
        _statistics.made += 1
        _statistics.made_bytes += size
        _statistics.pooled_bytes += size
        _note_peak()
    queue.appendleft((block, address))
    return block, address


def _note_peak() -> None:
    held = _statistics.pooled_bytes + _statistics.scratch_bytes
    _statistics.peak_bytes = max(_statistics.peak_bytes, held)


def _new_block(size: int) -> tuple[Block, int]:
    """Aligned memory that is nobody's view, so that views of it refer to it."""
    alignment = _HUGE_PAGE if size >= _HUGE_PAGE else _LINE
    raw = np.empty(size + alignment, np.uint8)
    offset = -raw.ctypes.data % alignment
    # Through a memoryview, because a slice of `raw` would be a view: `raw` would be what views of
    # the slice refer to, and the slice's own count would say nothing.
    block = np.frombuffer(raw.data[offset : offset + size], np.uint8)
    return block, block.ctypes.data


def _count_references() -> int:
    """What `sys.getrefcount` says in `_take` of a block that only the pool refers to."""
    queue = deque([_new_block(_LINE)])
    entry = queue.popleft()
    return sys.getrefcount(entry[0])


_UNSHARED = _count_references()


# ------------------------------------------------------------------------------------- housekeeping


def _total_memory() -> int:
    """The bytes of physical memory, or 4 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 4 << 30


# Above this the pool drops what is free before it makes another block.
_limit = max(_total_memory() // 4, 1 << 30)


def empty_cache() -> int:
    """Give the memory that nobody uses back to the system; the number of bytes.

    That is the pool's free blocks and the calling thread's scratch. Blocks in use stay.
    """
    with _lock:
        before = _statistics.pooled_bytes + _statistics.scratch_bytes
        _scratch.arena = _NOTHING
        _drop_free(0)
        return before - _statistics.pooled_bytes - _statistics.scratch_bytes


def _drop_free(keep_bytes: int) -> None:
    """Drop free blocks until the pool has at most `keep_bytes`."""
    for size in sorted(_pool, reverse=True):
        queue = _pool[size]
        for _ in range(len(queue)):
            if _statistics.pooled_bytes <= keep_bytes:
                return
            try:
                entry = queue.pop()
            except IndexError:
                break
            if sys.getrefcount(entry[0]) == _UNSHARED:
                _statistics.dropped += 1
                _statistics.pooled_bytes -= size
            else:
                queue.appendleft(entry)


def memory_stats() -> MemoryStatistics:
    """What compiled code holds of memory now, and has asked for so far: see its fields."""
    free = 0
    for size, queue in list(_pool.items()):
        for _ in range(len(queue)):
            try:
                entry = queue.pop()
            except IndexError:
                break
            if sys.getrefcount(entry[0]) == _UNSHARED:
                free += size
            queue.appendleft(entry)
    with _lock:
        return replace(
            _statistics,
            free_bytes=free,
            used_bytes=_statistics.pooled_bytes - free,
            stack_bytes=arenas.held_bytes(),
        )


def reset_peak_memory_stats() -> None:
    """Let `peak_bytes` of `memory_stats` be the most from now on."""
    with _lock:
        _statistics.peak_bytes = 0
        _note_peak()


# ------------------------------------------------------------------------------------------ scratch


class _Scratch(threading.local):
    """The arena of one thread."""

    def __init__(self) -> None:
        self.arena = _new_scratch(_SLAB)


def _new_scratch(size: int) -> Block:
    """Memory for temporaries, counted as long as somebody refers to it."""
    block, _ = _new_block(size)
    _count_scratch(size)
    weakref.finalize(block, _count_scratch, -size).atexit = False
    return block


def _count_scratch(nbytes: int) -> None:
    with _lock:
        _statistics.scratch_bytes += nbytes
        _note_peak()


_scratch = _Scratch()
_NOTHING: Block = np.empty(0, np.uint8)


def scratch(nbytes: int) -> Block:
    """At least `nbytes` of memory for the temporaries of one native call, 64-byte aligned.

    All programs that a thread runs share it, and no two threads do. Contents last for one call.
    Pass the array itself to `Program.run`, or keep it until the call returns.
    """
    arena: Block = _scratch.arena
    if arena.nbytes < nbytes:
        # First the smaller one goes, which is of no use any more.
        arena = _scratch.arena = _NOTHING
        arena = _scratch.arena = _new_scratch(size_class(nbytes))
    return arena


_shared = _new_scratch(_SLAB)


def shared_scratch(nbytes: int) -> Block:
    """At least `nbytes` of memory for temporaries that nobody reads once the GIL is given up."""
    global _shared
    if _shared.nbytes < nbytes:
        _shared = _new_scratch(size_class(nbytes))
    return _shared
