"""Whether tensors can live on a GPU here, found out without importing CUDA where they cannot."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import sys
from functools import cache

from tracegrad.runtime.cuda.machine import is_simulated

# Whether there has been an array of a device in this process: until then nobody has to ask.
used = False


@cache
def problem() -> str | None:
    """What keeps tensors from a GPU, and what to do about it; None if nothing does."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed: pip install 'tracegrad[cuda]'"
    if is_simulated():
        return None
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU"
    return None
