"""Memory of the host that can be touched only while it is open: what the simulator calls a device.

A read of a device's memory by the host is the end of the process, on a GPU as here; so tests under
the simulator find it.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_ALIGNMENT = 64
_CLOSED, _OPEN = 0, mmap.PROT_READ | mmap.PROT_WRITE


class Region:
    """Pages that are reserved at once, and used as blocks are asked for."""

    def __init__(self, size: int) -> None:
        self._pages = mmap.mmap(-1, size)
        self._size = size
        self.start = ctypes.addressof(ctypes.c_uint8.from_buffer(self._pages))
        self._used = 0
        # Blocks that were given back, by their size.
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self._lock = threading.RLock()
        self._opened = 0
        self._protect = ctypes.CDLL(None, use_errno=True).mprotect
        self._set(_CLOSED)

    def allocate(self, count: int) -> int:
        """The address of a block. MemoryError where the region is full."""
        size = _rounded(count)
        with self._lock:
            if self._free[size]:
                return self._free[size].pop()
            if self._used + size > self._size:
                raise MemoryError(f"the simulated device has {self._size:,} bytes")
            self._used += size
            return self.start + self._used - size

    def free(self, address: int, count: int) -> None:
        """Take a block back."""
        with self._lock:
            self._free[_rounded(count)].append(address)

    @contextmanager
    def open(self) -> Iterator[None]:
        """While this lasts, the memory can be read and written."""
        with self._lock:
            if not self._opened:
                self._set(_OPEN)
            self._opened += 1
        try:
            yield
        finally:
            with self._lock:
                self._opened -= 1
                if not self._opened:
                    self._set(_CLOSED)

    def _set(self, access: int) -> None:
        if self._protect(ctypes.c_void_p(self.start), ctypes.c_size_t(self._size), access):
            raise OSError(ctypes.get_errno(), "mprotect")


def _rounded(count: int) -> int:
    return max(-(-count // _ALIGNMENT), 1) * _ALIGNMENT
