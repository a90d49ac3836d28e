"""How often a compiled function was called, traced and compiled."""

from __future__ import annotations

from collections.abc import Callable


class Statistics:
    """Counters of one compiled function.

    calls         how often it was called.
    hits          calls that ran compiled code and traced nothing.
    traces        how often Python ran to record it.
    retraces      those among the traces that a new outcome of a condition caused.
    compilations  programs compiled for it; equal ones are shared with all other functions.

    Calls that were taken natively are counted there; `settle` adds them here.
    """

    def __init__(self) -> None:
        self.settle: Callable[[], None] = lambda: None
        self.counted_calls = 0
        self.counted_hits = 0
        self.traces = 0
        self.retraces = 0
        self.compilations = 0
        self.trace_seconds = 0.0
        self.compile_seconds = 0.0

    @property
    def calls(self) -> int:
        self.settle()
        return self.counted_calls

    @property
    def hits(self) -> int:
        self.settle()
        return self.counted_hits

    def __repr__(self) -> str:
        return (
            f"Statistics(calls={self.calls}, hits={self.hits}, traces={self.traces}, "
            f"retraces={self.retraces}, compilations={self.compilations})"
        )
