"""The memory of stacks: arenas that native code fills, see `codegen.primitives.regions`."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_WORDS = 8
# How many arenas a program keeps for its next calls.
_KEPT = 4

_free = ctypes.pythonapi.PyMem_RawFree
_free.argtypes = (ctypes.c_void_p,)
_free.restype = None


def _give_back(words: Array, free: Any = _free, word_at: Any = ctypes.c_int64.from_address) -> None:
    """Free the chunks of an arena. As defaults, the functions outlive this module at exit."""
    chunk = int(words[0])
    while chunk:
        before = word_at(chunk).value
        free(chunk)
        chunk = before


# Those that exist.
_all: weakref.WeakSet[Arena] = weakref.WeakSet()


class Arena:
    """The words of an arena; its memory is freed with this object."""

    __slots__ = ("__weakref__", "words")

    def __init__(self) -> None:
        self.words: Array = np.zeros(_WORDS, np.int64)
        weakref.finalize(self, _give_back, self.words)
        _all.add(self)

    @property
    def nbytes(self) -> int:
        """Bytes that the arena holds."""
        return int(self.words[3])


def held_bytes() -> int:
    """Bytes that all arenas hold."""
    return sum(arena.nbytes for arena in list(_all))


class _Loan:
    """An arena that one call of a program has; it goes back with the last array on its words."""

    __slots__ = ("__array_interface__", "_arena", "_home")

    def __init__(self, arena: Arena, home: list[Arena]) -> None:
        self._arena = arena
        self._home = home
        self.__array_interface__ = arena.words.__array_interface__

    def __del__(self) -> None:
        if len(self._home) < _KEPT:
            self._home.append(self._arena)


class Arenas:
    """The arenas of one result of a program, used again call after call."""

    def __init__(self) -> None:
        self._idle: list[Arena] = []

    def lend(self) -> Array:
        """The words of an arena that nobody else has, as long as the array lives."""
        try:
            arena = self._idle.pop()
        except IndexError:
            arena = Arena()
        return np.asarray(_Loan(arena, self._idle))
