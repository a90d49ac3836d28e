"""What runs kernels and has their memory: a GPU by its driver, or numba-cuda's simulator."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from typing import Any


def is_simulated() -> bool:
    """Whether CUDA is simulated, as `NUMBA_ENABLE_CUDASIM` says."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "") not in ("", "0")


@cache
def machine() -> Any:
    """The module that has the functions of `simulator`."""
    name = "simulator" if is_simulated() else "driver"
    return importlib.import_module(f"tracegrad.runtime.cuda.{name}")
