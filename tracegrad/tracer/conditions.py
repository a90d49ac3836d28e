"""The truth of a tensor as a tensor."""

from __future__ import annotations

from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.tensor import Tensor


def as_truth(tensor: Tensor) -> Tensor:
    """bool[]: the truth of a tensor of one element."""
    if tensor.ndim:
        tensor = apply(OPS["reshape"], [tensor], {"shape": ()})
    if tensor._array.dtype.kind != "b":
        tensor = apply(OPS["ne"], [tensor, constant(0, tensor._array.dtype)])
    return tensor
