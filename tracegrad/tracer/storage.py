"""What tensors that share memory have in common."""

from __future__ import annotations

from tracegrad.tracer.location import Place


class Storage:
    """One per piece of memory: how often it was written, and by what and where last."""

    __slots__ = ("version", "written_at", "written_by")

    def __init__(self) -> None:
        self.version = 0
        self.written_by = ""
        self.written_at: Place | None = None
