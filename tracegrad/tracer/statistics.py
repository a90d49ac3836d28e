"""How often a compiled function was called, traced and compiled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Statistics:
    """Counters of one compiled function.

    calls         how often it was called.
    hits          calls that ran compiled code and traced nothing.
    traces        how often Python ran to record it.
    retraces      those among the traces that a new outcome of a condition caused.
    compilations  programs compiled for it; equal ones are shared with all other functions.
    """

    calls: int = 0
    hits: int = 0
    traces: int = 0
    retraces: int = 0
    compilations: int = 0
    trace_seconds: float = 0.0
    compile_seconds: float = 0.0
