"""What a trace depends on beside its inputs: checks that a call has to pass to use it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.tracer.access import MISSING, Path
from tracegrad.tracer.signature import key_of
from tracegrad.tracer.structure import compares_by_value
from tracegrad.tracer.tensor import Tensor

SCALARS = (bool, int, float, complex, str, bytes, type(None), set, frozenset, np.generic)
# What is compared by value; of other types those that are made for it, and all else by identity.
_COMPARED: tuple[type, ...] = (*SCALARS, list, tuple)


class Guard:
    """A plain value or a function that must be the same at each call."""

    __slots__ = ("_by_value", "_types", "expected", "path", "read")

    def __init__(self, path: Path, value: Any) -> None:
        self.path = path
        self.read = path.read
        self._types: list[type] | None = None
        if isinstance(value, list | tuple):
            self._types = [type(item) for item in value]
            value = type(value)(value) if type(value) in (list, tuple) else value
        elif isinstance(value, set):
            value = set(value)
        self.expected = value
        self._by_value = isinstance(value, _COMPARED) or compares_by_value(value)

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether what stands at the path now is what stood there when the trace was made."""
        value: Any = self.path.get(arguments)
        expected: Any = self.expected
        if value is expected:
            return True
        if type(value) is not type(expected) or not self._by_value:
            return False
        if self._types is not None:
            return bool(value == expected) and [type(item) for item in value] == self._types
        # NaN is the same as NaN here: the trace is the same.
        return bool(value == expected) or (value != value and expected != expected)

    def difference(self, arguments: Sequence[Any]) -> str:
        """`lr: 0.1 -> 0.2`."""
        return f"{self.path}: {_short(self.expected)} -> {_short(self.path.get(arguments))}"


class KeysGuard(Guard):
    """A list must have as many items, and a dictionary the same keys, as they had."""

    __slots__ = ()

    def __init__(self, path: Path, value: Any) -> None:
        super().__init__(path, _keys(value))

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether the container has the same places for items."""
        return bool(_keys(self.path.get(arguments)) == self.expected)

    def difference(self, arguments: Sequence[Any]) -> str:
        """`layers: items range(0, 2) -> range(0, 3)`."""
        return f"{self.path}: items {self.expected} -> {_keys(self.path.get(arguments))}"


class ContentGuard(Guard):
    """An array that NumPy may have read while tracing has to have equal elements."""

    __slots__ = ("_dtype", "_shape")

    def __init__(self, path: Path, array: np.ndarray[Any, Any]) -> None:
        super().__init__(path, _bits(array).copy())
        self._dtype = array.dtype
        self._shape = array.shape

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether the array has the same dtype, shape and bits."""
        value = self.path.get(arguments)
        return (
            isinstance(value, np.ndarray)
            and value.dtype == self._dtype
            and value.shape == self._shape
            and np.array_equal(_bits(value), self.expected)
        )

    def difference(self, arguments: Sequence[Any]) -> str:
        """`weights: elements of the array changed`."""
        return f"{self.path}: elements of the array changed"


class TypeGuard(Guard):
    """An object must be of the same class: its methods are read from there."""

    __slots__ = ()

    def __init__(self, path: Path, value: Any) -> None:
        super().__init__(path, type(value))

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether the object is of that class."""
        return type(self.path.get(arguments)) is self.expected

    def difference(self, arguments: Sequence[Any]) -> str:
        """`layer: Dense -> Dropout`."""
        found = type(self.path.get(arguments))
        return f"{self.path}: {self.expected.__qualname__} -> {found.__qualname__}"


class PresenceGuard(Guard):
    """An attribute that the code asks for must be there, or not, as it was."""

    __slots__ = ()

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether the attribute is there as before."""
        return (self.path.get(arguments) is not MISSING) is self.expected

    def difference(self, arguments: Sequence[Any]) -> str:
        """`model.hidden: is not there any more`."""
        return f"{self.path}: {'is not there any more' if self.expected else 'is there now'}"


class TensorGuard(Guard):
    """A tensor that the code names and does not compute with must have the same type."""

    __slots__ = ("_requires_grad",)

    def __init__(self, path: Path, value: Tensor) -> None:
        super().__init__(path, key_of(value))
        self._requires_grad = value.requires_grad

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether a tensor of the same dtype and shape is there."""
        value = self.path.get(arguments)
        same = isinstance(value, Tensor) and key_of(value) is self.expected
        return same and value.requires_grad is self._requires_grad

    def difference(self, arguments: Sequence[Any]) -> str:
        """`model.hidden: f32[3] -> NoneType`."""
        value = self.path.get(arguments)
        found = key_of(value) if isinstance(value, Tensor) else type(value).__name__
        return f"{self.path}: {self.expected} -> {found}"


def _bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(value)
    return len(value) if isinstance(value, list | tuple | deque) else None


def _short(value: Any) -> str:
    text = getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
