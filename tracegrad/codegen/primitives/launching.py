"""One step of a program: a kernel run in one piece, or in parts by threads."""

from __future__ import annotations

from typing import Any

from numba.core import types as numba_types
from numba.extending import register_jitable as numba_register_jitable

from tracegrad.codegen.primitives.buffers import call_address, call_kernel, read_word, word
from tracegrad.codegen.primitives.integers import max, min

# Numba's decorators and type constructors carry no usable types.
register_jitable: Any = numba_register_jitable
types: Any = numba_types

__all__ = ["launch_step"]


@register_jitable
def launch_step(pointers: int, step: int, program: int, control: int) -> None:
    """Run the step that four words at the address `step` describe.

    They are the address of its kernel, the position of its table among the words at `program`, the
    extent of its outermost loop, and the grain, the smallest part of that worth a thread. A grain
    below zero says that the kernel calls BLAS, which may have threads of its own.

    The words at `control` are the number of threads, the address of the function that runs a step
    in threads, those of BLAS's functions to set and get its number of threads, and that of the pool
    of threads. An address is 0 where there is no such thing.
    """
    extent = word(step, 2)
    grain = word(step, 3)
    parts = min(read_word(control, 0), extent // max(max(grain, 0 - grain), 1))
    run_in_threads = read_word(control, 1)
    set_threads = read_word(control, 2)
    if parts <= 1 or run_in_threads == 0 or (grain < 0 and set_threads == 0):
        if extent > 0:
            call_kernel(word(step, 0), pointers, program + 8 * word(step, 1), 0, extent)
    elif grain < 0:
        before = call_address(read_word(control, 3), ()) & 0xFFFF
        call_address(set_threads, (1,))
        call_kernel(run_in_threads, pointers, step, program, control)
        call_address(set_threads, (before,))
    else:
        call_kernel(run_in_threads, pointers, step, program, control)
