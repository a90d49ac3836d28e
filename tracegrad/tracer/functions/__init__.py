"""The named functions: what `tracegrad.*` and the tensor methods offer, by PyTorch's names.

`METHODS` and `FUNCTIONS` are complete once this package is imported.
"""

from __future__ import annotations

from tracegrad.tracer.functions import (
    activations,
    arithmetic,
    comparison,
    contraction,
    distinct,
    einsum,
    elementwise,
    gathering,
    joining,
    linalg,
    losses,
    normalization,
    reductions,
    selection,
    sorting,
    statistics,
    triangles,
)
from tracegrad.tracer.functions.table import FUNCTIONAL, FUNCTIONS, LINALG, METHODS

__all__ = [
    "FUNCTIONAL",
    "FUNCTIONS",
    "LINALG",
    "METHODS",
    "activations",
    "arithmetic",
    "comparison",
    "contraction",
    "distinct",
    "einsum",
    "elementwise",
    "gathering",
    "joining",
    "linalg",
    "losses",
    "normalization",
    "reductions",
    "selection",
    "sorting",
    "statistics",
    "triangles",
]
