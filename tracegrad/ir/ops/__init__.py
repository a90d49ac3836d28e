"""The op table: importing this package registers every op."""

from tracegrad.ir.ops import (
    arithmetic,
    comparison,
    contraction,
    exponential,
    indexing,
    movement,
    random,
    reductions,
    rounding,
    scans,
    selection,
    trigonometric,
)

__all__ = [
    "arithmetic",
    "comparison",
    "contraction",
    "exponential",
    "indexing",
    "movement",
    "random",
    "reductions",
    "rounding",
    "scans",
    "selection",
    "trigonometric",
]
