"""`tracegrad.nn`: the functions of neural networks."""

from tracegrad.nn import functional

__all__ = ["functional"]
