"""NumPy's indexing, read and write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracegrad.tracer.tensor import Tensor


def get_item(self: Tensor, index: Any) -> Tensor:
    """`t[index]`."""
    from tracegrad.tracer.movement import select

    return select(self, 0, index)


def set_item(self: Tensor, index: Any, value: Any) -> None:
    """`t[index] = value`."""
    from tracegrad.tracer.inplace import copy_

    copy_(get_item(self, index), value)
