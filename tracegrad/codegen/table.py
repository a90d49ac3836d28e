"""The int64 words of a kernel launch."""

from __future__ import annotations

import struct

_REAL = struct.Struct("d")
_WORD = struct.Struct("q")


def real_bits(value: float) -> int:
    """The word whose bits are those of a float64; a kernel reads it with `real(table, k)`."""
    bits: int = _WORD.unpack(_REAL.pack(value))[0]
    return bits
