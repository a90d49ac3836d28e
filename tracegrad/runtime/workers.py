"""The pool of threads that programs share: its memory, and its threads.

The threads are Python's, so that the system and the debugger know them, but run one native function
(`pool.py`) that gives up the GIL and never comes back. They start when the first program with a
step for several threads is made. Numba's own pools are not used: there every step waits until the
system has let each thread run, which on a busy machine takes longer than the step, and one of them
ends the process when two threads enter it at once.
"""

from __future__ import annotations

import ctypes
import os
import threading
from functools import cache
from typing import Any

from tracegrad.runtime.kernels import KERNEL_SIGNATURE, compile_kernel, machine_source

_WORDS = 64
# Room for a mutex and a condition variable of the C library; 64 bytes at most on Linux and macOS.
_OBJECT = 16
_WORDS_AT = 40
_WORKER_SIGNATURE = "void(intp, intp)"


def start(threads: int) -> tuple[int, int]:
    """The address of the function that runs a step in threads, and that of the pool, which has
    workers for `threads` threads; zeros where the C library has no POSIX threads.
    """
    if os.name != "posix":
        return 0, 0
    pool = _pool()
    with _lock:
        for number in range(len(_started) + 1, threads):
            thread = threading.Thread(
                target=_worker(), args=(pool, number), name=f"tracegrad {number}", daemon=True
            )
            thread.start()
            _started.append(thread)
    return compile_kernel(machine_source("pool"), "run_step").address, pool


def requirements() -> list[tuple[str, str, str]]:
    """What a pool takes, for `kernels.announce`."""
    if os.name != "posix":
        return []
    source = machine_source("pool")
    return [(source, "worker", _WORKER_SIGNATURE), (source, "run_step", KERNEL_SIGNATURE)]


_lock = threading.Lock()
_started: list[threading.Thread] = []


@cache
def _worker() -> Any:
    """The life of a worker, as a function that ctypes calls without the GIL."""
    address = compile_kernel(machine_source("pool"), "worker", _WORKER_SIGNATURE).address
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address)


@cache
def _pool() -> int:
    """The words of the pool. They are never freed: workers look at them until the process ends."""
    library = ctypes.CDLL(None)
    ctypes.pythonapi.PyMem_RawCalloc.restype = ctypes.c_void_p
    ctypes.pythonapi.PyMem_RawCalloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    memory = ctypes.pythonapi.PyMem_RawCalloc(_WORDS + 2 * _OBJECT + 8, 8)
    # On a cache line.
    pool = int(memory) + -int(memory) % 64
    mutex = pool + 8 * _WORDS
    condition = mutex + 8 * _OBJECT
    library.pthread_mutex_init(ctypes.c_void_p(mutex), None)
    library.pthread_cond_init(ctypes.c_void_p(condition), None)
    names = ("mutex_lock", "mutex_unlock", "cond_wait", "cond_broadcast")
    functions = [getattr(library, f"pthread_{name}") for name in names] + [library.sched_yield]
    addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]
    words = (ctypes.c_int64 * _WORDS).from_address(pool)
    words[_WORDS_AT : _WORDS_AT + 7] = [*addresses, mutex, condition]
    return pool


def forget() -> None:
    """In the child of a fork, which has none of the threads, and a pool that may be locked."""
    global _lock
    _lock = threading.Lock()
    _started.clear()
    _pool.cache_clear()
