"""`range` in the loops of a function that is traced: a `for` loop that counts can be rolled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType


@contextmanager
def counting(functions: Iterable[FunctionType]) -> Iterator[None]:
    """While this lasts, `range` in the code of these functions is ours."""
    yield


class Counter:
    site = None
    steps = 0
