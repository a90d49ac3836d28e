"""The processor that code is generated for: its name and instruction sets, as LLVM calls them.

What a user has set for Numba counts, without importing Numba: NUMBA_CPU_NAME, NUMBA_CPU_FEATURES
and NUMBA_ENABLE_AVX.
"""

from __future__ import annotations

import os
from functools import cache

from llvmlite import binding


@cache
def cpu_name() -> str:
    """The model, or "generic"."""
    return os.environ.get("NUMBA_CPU_NAME") or str(binding.get_host_cpu_name())


@cache
def cpu_features() -> str:
    """A comma list of instruction sets, each after + or -."""
    named = os.environ.get("NUMBA_CPU_FEATURES")
    if named is not None:
        return named
    if cpu_name() == "generic":
        return ""
    features = binding.get_host_cpu_features()
    if os.environ.get("NUMBA_ENABLE_AVX") == "0":
        for name in features:
            if name.startswith("avx"):
                features[name] = False
    return str(features.flatten())


def has(feature: str) -> bool:
    """Whether code may use an instruction set."""
    return f"+{feature}" in cpu_features().split(",")
