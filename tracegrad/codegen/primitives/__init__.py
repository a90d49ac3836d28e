"""The words that generated kernels are written in.

A kernel is a Python function `kernel(pointers, table, start, stop)` compiled by Numba as a C
function: `pointers` is the address of the buffer addresses of this call, `table` the address of
the launch's own int64 words, and `[start, stop)` the range of the outermost loop. This package
gives it what plain Numba lacks: memory without bounds checks, single operations that may be
reassociated, vector math, and BLAS by address.

Importing it imports Numba. Only generated modules and the kernel compiler do.
"""

from __future__ import annotations

from tracegrad.codegen.primitives.arithmetic import *  # noqa: F403
from tracegrad.codegen.primitives.atomics import *  # noqa: F403
from tracegrad.codegen.primitives.blas import *  # noqa: F403
from tracegrad.codegen.primitives.buffers import *  # noqa: F403
from tracegrad.codegen.primitives.circular import *  # noqa: F403
from tracegrad.codegen.primitives.division import *  # noqa: F403
from tracegrad.codegen.primitives.error_function import *  # noqa: F403
from tracegrad.codegen.primitives.exponentials import *  # noqa: F403
from tracegrad.codegen.primitives.half import f16  # noqa: F401
from tracegrad.codegen.primitives.integers import *  # noqa: F403
from tracegrad.codegen.primitives.interleaving import interleave  # noqa: F401
from tracegrad.codegen.primitives.inverse_circular import *  # noqa: F403
from tracegrad.codegen.primitives.launching import *  # noqa: F403
from tracegrad.codegen.primitives.logarithms import *  # noqa: F403
from tracegrad.codegen.primitives.powers import *  # noqa: F403
from tracegrad.codegen.primitives.random import *  # noqa: F403
from tracegrad.codegen.primitives.regions import *  # noqa: F403
from tracegrad.codegen.primitives.tiles import *  # noqa: F403
from tracegrad.codegen.primitives.vectormath import *  # noqa: F403
