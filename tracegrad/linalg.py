"""`tracegrad.linalg`: norms and products of matrices by PyTorch's names."""

from tracegrad.tracer.functions import LINALG

__all__ = sorted(LINALG)

globals().update(LINALG)
