"""The words that generated CUDA kernels are written in.

Threads, shared memory and barriers are named by `cuda` itself. On a device the rest are the words
of `tracegrad.codegen.primitives`, whose functions are LLVM code for any processor, and memory by
pointers. Under numba-cuda's simulator, which runs kernels as Python, each word has its plain
meaning.

Importing it imports numba-cuda. Only generated kernels do.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

_cuda: Any = cuda

if _cuda.config.ENABLE_CUDASIM:
    from tracegrad.codegen.cuda_primitives.plain import *  # noqa: F403
else:
    from tracegrad.codegen.cuda_primitives.memory import *  # noqa: F403
    from tracegrad.codegen.cuda_primitives.threads import *  # noqa: F403
    from tracegrad.codegen.primitives import *  # noqa: F403
