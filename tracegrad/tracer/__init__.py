"""Tensors, the eager tape, recording, guards, the trace tree, transforms."""

# The op table has to be complete before any module looks an op up in it.
from tracegrad.ir import ops

__all__ = ["ops"]
