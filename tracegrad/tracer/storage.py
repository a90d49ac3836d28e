"""What tensors that share memory have in common."""

from __future__ import annotations

from tracegrad.tracer.location import Place


class Storage:
    """One per piece of memory: how often it was written, and by what and where last.

    Class attributes first: a new tensor needs a new storage, and most are never written to.
    """

    version: int = 0
    written_by: str = ""
    written_at: Place | None = None

    def last_write(self) -> str:
        """What wrote to it last and where, for a message."""
        writer = self.written_by or "an in-place operation"
        return writer if self.written_at is None else f"{writer} at {self.written_at}"
