"""Outcomes of guards: concrete values that Python asked for, as keys of the ways on."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import Any

import numpy as np

from tracegrad.ir.graph import Literal


def outcome(kind: str, value: Any) -> Hashable:
    """`value` as a key. Floats go by their bits, so that NaN equals itself and 0.0 is not -0.0."""
    if kind == "bool":
        return bool(value)
    if kind == "array":
        return Literal(np.asarray(value))
    if kind in ("int", "index", "exit"):
        return int(value)
    number = value.item() if isinstance(value, np.ndarray | np.generic) else value
    if kind == "float":
        number = float(number)
    return struct.pack("<d", number) if isinstance(number, float) else (type(number), number)


def of_array(kind: str, array: np.ndarray[Any, Any]) -> Hashable:
    """The outcome of a guard for a computed array."""
    return outcome(kind, array if kind == "array" else array.item())


def concrete(kind: str, key: Hashable, value: Any) -> Any:
    """What Python gets for an outcome; `value` is what the eager run has."""
    if kind == "array":
        # The function may write into it or keep it: it gets the eager array.
        return value
    if isinstance(key, bytes):
        return struct.unpack("<d", key)[0]
    if isinstance(key, tuple):
        return key[1]
    return key


def describe(kind: str, key: Hashable) -> str:
    """An outcome for reading."""
    if kind == "array":
        assert isinstance(key, Literal)
        text = repr(key.array.tolist())
        return text if len(text) <= 40 else text[:37] + "..."
    return repr(concrete(kind, key, None))


def of_value(kind: str, value: Any) -> Hashable:
    """The outcome of a guard for a value that compiled code gave: an array, or a Python number."""
    return of_array(kind, value) if isinstance(value, np.ndarray) else outcome(kind, value)
