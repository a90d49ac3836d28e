"""The named functions: what `tracegrad.*` and the tensor methods offer, by PyTorch's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

METHODS: dict[str, Callable[..., Any]] = {}
"""Functions that become methods of `Tensor`: their first argument is the tensor."""

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Functions that become public names of `tracegrad`."""
