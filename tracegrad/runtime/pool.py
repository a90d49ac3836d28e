"""The threads that share a large step; compiled by `tracegrad.runtime.workers`, never imported.

The thread that runs a program cuts a step into chunks, wakes the workers, and takes chunks like
each of them until there are no more. So nobody waits for a thread that the system does not let
run: the others have done its share meanwhile. What a chunk is depends on the extent and on the
number of threads alone, so that this number decides every bit of the result.

The pool is a block of words. Those that are written at the same time by different threads lie in
cache lines of their own.

     0  epoch: how many steps there have been       1  how many workers sleep
     8  where the next chunk begins                16  how many workers look at the step
    24  whether chunks may be taken                25  kernel
    26  pointers                                   27  table
    28  extent                                     29  size of a chunk
    30  number of threads that may take part
    32  whether a step is being run
    40  addresses of C functions: lock, unlock, wait, wake all, give up the processor
    45  addresses of a mutex and a condition variable
"""

from __future__ import annotations

from tracegrad.codegen.primitives import (
    atomic_add,
    atomic_load,
    atomic_store,
    atomic_swap,
    call_address,
    call_kernel,
    max,
    min,
    read_word,
    relax,
    store_word,
    word,
)

# Where the words of the pool are; see above.
EPOCH, SLEEPERS, NEXT, ACTIVE, OPEN, KERNEL, POINTERS, TABLE = 0, 1, 8, 16, 24, 25, 26, 27
EXTENT, SIZE, THREADS, BUSY = 28, 29, 30, 32
LOCK, UNLOCK, WAIT, WAKE, YIELD, MUTEX, CONDITION = 40, 41, 42, 43, 44, 45, 46

# A worker looks for the next step so many times, some 20 us, before it sleeps: to be woken takes a
# few microseconds, as much as a step that is just worth a second thread.
PATIENCE = 500
# Chunks for each thread, so that one that is late leaves the others little to wait for.
SHARES = 4


def run_step(pointers: int, step: int, program: int, control: int) -> None:
    """Run the step that four words describe, see `primitives.launch_step`, in several threads."""
    pool = read_word(control, 4)
    threads = read_word(control, 0)
    kernel = word(step, 0)
    table = program + 8 * word(step, 1)
    extent = word(step, 2)
    grain = word(step, 3)
    # Each call of BLAS has a cost of its own.
    shares = 1 if grain < 0 else SHARES
    chunks = max(min(threads * shares, extent // max(max(grain, 0 - grain), 1)), 1)
    size = (extent + chunks - 1) // chunks
    # A long loop is cut at multiples of 64, so that two threads do not share a cache line.
    if size >= 1024:
        size = (size + 63) // 64 * 64
    if atomic_swap(pool, BUSY, 1) != 0:
        # A kernel that itself has come here, or a thread of Python without the GIL.
        for start in range(0, extent, size):
            call_kernel(kernel, pointers, table, start, min(start + size, extent))
        return
    store_word(pool, KERNEL, kernel)
    store_word(pool, POINTERS, pointers)
    store_word(pool, TABLE, table)
    store_word(pool, EXTENT, extent)
    store_word(pool, SIZE, size)
    store_word(pool, THREADS, threads)
    atomic_store(pool, NEXT, 0)
    atomic_store(pool, OPEN, 1)
    atomic_add(pool, EPOCH, 1)
    if atomic_load(pool, SLEEPERS) > 0:
        mutex = read_word(pool, MUTEX)
        call_address(read_word(pool, LOCK), (mutex,))
        call_address(read_word(pool, WAKE), (read_word(pool, CONDITION),))
        call_address(read_word(pool, UNLOCK), (mutex,))
    start = atomic_add(pool, NEXT, size)
    while start < extent:
        call_kernel(kernel, pointers, table, start, min(start + size, extent))
        start = atomic_add(pool, NEXT, size)
    # Either a worker sees that the step is closed, or it is seen here that it is active.
    atomic_store(pool, OPEN, 0)
    turns = 0
    while atomic_load(pool, ACTIVE) != 0:
        turns += 1
        if turns < PATIENCE:
            relax()
        else:
            call_address(read_word(pool, YIELD), ())
    atomic_store(pool, BUSY, 0)


def worker(pool: int, number: int) -> None:
    """A thread's life: take chunks of each step, while its number is below that of the threads."""
    seen = 0
    while seen >= 0:
        turns = 0
        while atomic_load(pool, EPOCH) == seen and turns < PATIENCE:
            relax()
            turns += 1
        if atomic_load(pool, EPOCH) == seen:
            mutex = read_word(pool, MUTEX)
            call_address(read_word(pool, LOCK), (mutex,))
            # Counted before the last look, so that who adds a step sees it, or it sees the step.
            atomic_add(pool, SLEEPERS, 1)
            while atomic_load(pool, EPOCH) == seen:
                call_address(read_word(pool, WAIT), (read_word(pool, CONDITION), mutex))
            atomic_add(pool, SLEEPERS, -1)
            call_address(read_word(pool, UNLOCK), (mutex,))
        seen = atomic_load(pool, EPOCH)
        atomic_add(pool, ACTIVE, 1)
        if atomic_load(pool, OPEN) == 1 and number < read_word(pool, THREADS):
            # The loop of `run_step`, written out: to compile a function for both takes longer than
            # to compile it twice.
            kernel = read_word(pool, KERNEL)
            pointers = read_word(pool, POINTERS)
            table = read_word(pool, TABLE)
            extent = read_word(pool, EXTENT)
            size = read_word(pool, SIZE)
            start = atomic_add(pool, NEXT, size)
            while start < extent:
                call_kernel(kernel, pointers, table, start, min(start + size, extent))
                start = atomic_add(pool, NEXT, size)
        atomic_add(pool, ACTIVE, -1)
