"""`tracegrad.nn.functional`: activations, losses and normalisations by PyTorch's names."""

from tracegrad.tracer.functions import FUNCTIONAL

__all__ = sorted(FUNCTIONAL)

globals().update(FUNCTIONAL)
