"""glibc's vectorised mathematics, libmvec, where it is present."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from typing import Any

from llvmlite import binding

from tracegrad.codegen import processor

VECTOR_LIBRARY = "libmvec.so.1"

# Each x86 register width of the vector-function ABI: its letter, the CPU feature that it needs,
# and its size in bytes.
_WIDTHS = (("b", "sse4.1", 16), ("d", "avx2", 32), ("e", "avx512f", 64))


@cache
def vector_widths() -> tuple[tuple[str, int], ...]:
    """The usable register widths as (ABI letter, bytes); empty where libmvec cannot be used.

    Loads the library for the whole process, which must happen before any kernel is linked, because
    cached object code refers to its symbols. A width that the compiler may not use is left out: the
    call would be made with registers that the code does not use.
    """
    if platform.machine() not in ("x86_64", "AMD64") or _open_library() is None:
        return ()
    binding.load_library_permanently(VECTOR_LIBRARY)
    return tuple((letter, size) for letter, feature, size in _WIDTHS if processor.has(feature))


@cache
def _open_library() -> Any:
    """A handle of libmvec, or None."""
    try:
        return ctypes.CDLL(VECTOR_LIBRARY)
    except OSError:
        return None


@cache
def vector_variants(symbol: str, operands: int, itemsize: int) -> tuple[tuple[str, int], ...]:
    """The vector forms of a libm symbol that exist on this machine, as (symbol, lanes)."""
    variants = []
    for letter, size in vector_widths():
        lanes = size // itemsize
        name = f"_ZGV{letter}N{lanes}{'v' * operands}_{symbol}"
        if hasattr(_open_library(), name):
            variants.append((name, lanes))
    return tuple(variants)
