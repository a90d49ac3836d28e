"""What Python's own numbers can and tensors could not: an int or float argument of a compiled
function stands there as a tensor, and has to do.
"""

from __future__ import annotations

import math
from typing import Any

from tracegrad.tracer.printing import tensor_format
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor


def round_(self: Tensor, digits: int | None = None) -> Any:
    """`round(t)`. Of a number it is a number, whose value the trace is guarded by."""
    if self._weak:
        return round(self.item(), digits)
    return self.round(decimals=0 if digits is None else digits)


def divmod_(self: Tensor, other: Any) -> tuple[Any, Any]:
    """`divmod(t, other)`."""
    return self // other, self % other


def divmod_reflected(self: Tensor, other: Any) -> tuple[Any, Any]:
    """`divmod(other, t)`."""
    return other // self, other % self


def floor(self: Tensor) -> Any:
    """`math.floor(t)`: an int."""
    return math.floor(self.item())


def ceil(self: Tensor) -> Any:
    """`math.ceil(t)`: an int."""
    return math.ceil(self.item())


def trunc(self: Tensor) -> Any:
    """`math.trunc(t)`: an int."""
    return math.trunc(self.item())


def format_(self: Tensor, spec: str) -> str:
    """`f"{t}"`. A whole number may become part of a name: the trace is guarded by it."""
    if self._weak and self._array.dtype.kind == "i":
        return format(self.item(), spec)
    return tensor_format(self, spec)


def text(self: Tensor) -> str:
    """`str(t)`. What a loop carries is no text that could be part of a name."""
    if self._weak and self._array.dtype.kind == "i" and state.recorder is not None:
        state.recorder.spell(self)
    return repr(self)


def hash_(self: Tensor) -> int:
    """As a key, a number is one by its value, and another tensor by itself."""
    if self._weak and state.recorder is not None:
        return hash(self.item())
    return id(self)


METHODS = {
    "__round__": round_,
    "__divmod__": divmod_,
    "__rdivmod__": divmod_reflected,
    "__floor__": floor,
    "__ceil__": ceil,
    "__trunc__": trunc,
}


def attach() -> None:
    """Give tensors these methods."""
    for name, method in METHODS.items():
        setattr(Tensor, name, method)
