"""NumPy's functions on tensors: `np.sin(t)` is `t.sin()`, differentiable and traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracegrad.tracer.tensor import Tensor


def array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """A NumPy ufunc on tensors."""
    return NotImplemented


def array_function(self: Tensor, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """A NumPy function on tensors."""
    return NotImplemented
