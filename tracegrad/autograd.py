"""`tracegrad.autograd`: gradients, and the modes that switch them."""

from tracegrad.tracer.autograd import backward, grad
from tracegrad.tracer.grad_mode import (
    enable_grad,
    inference_mode,
    no_grad,
    set_grad_enabled,
)
from tracegrad.tracer.tape import AccumulateGrad, Node

__all__ = [
    "AccumulateGrad",
    "Node",
    "backward",
    "enable_grad",
    "grad",
    "inference_mode",
    "no_grad",
    "set_grad_enabled",
]
