"""The printed form of a tensor, character for character that of PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracegrad.tracer.tensor import Tensor


def tensor_repr(self: Tensor) -> str:
    """`tensor([1., 2.])`."""
    return f"tensor({self._array.tolist()})"


def tensor_format(self: Tensor, spec: str) -> str:
    """A tensor of one element formats as its number."""
    if self.ndim == 0 and spec:
        return format(self.item(), spec)
    return format(repr(self), spec)
