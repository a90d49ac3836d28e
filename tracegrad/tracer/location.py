"""Where in the user's own program something happens: the first frame outside of this package."""

from __future__ import annotations

import bisect
import functools
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import ParamSpec, TypeVar

from tracegrad.errors import TracegradError
from tracegrad.ir.graph import Loc

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = str(Path(__file__).resolve().parent.parent)

# Whether a file belongs to this package. By name: a code object's own hash is slow.
_internal: dict[str, bool] = {}


# The tables of code that was asked for, by its id, with the code, so that the id stays its own: a
# long function would be read through for each of its lines otherwise.
_tables: dict[int, tuple[CodeType, list[int], list[int]]] = {}
_MOST_TABLES = 256


def _line_table(code: CodeType) -> tuple[list[int], list[int]]:
    """The offsets in the bytecode at which a line begins, and these lines."""
    found = _tables.get(id(code))
    if found is None:
        if len(_tables) >= _MOST_TABLES:
            _tables.clear()
        starts, lines = [-1], [code.co_firstlineno]
        for start, _, line in code.co_lines():
            if line is not None:
                starts.append(start)
                lines.append(line)
        found = _tables[id(code)] = code, starts, lines
    return found[1], found[2]


class Place:
    """A point in the user's program. Cheap to take: the line is worked out only when asked for."""

    __slots__ = ("code", "offset")

    def __init__(self, code: CodeType, offset: int) -> None:
        self.code = code
        self.offset = offset

    @property
    def file(self) -> str:
        return self.code.co_filename

    @property
    def line(self) -> int:
        """The line, from 1."""
        starts, lines = _line_table(self.code)
        return lines[bisect.bisect_right(starts, self.offset) - 1]

    @property
    def loc(self) -> Loc:
        return Loc(self.file, self.line)

    def __str__(self) -> str:
        """`train.py:12: logits = x @ w`; without the source where it cannot be read."""
        line = self.line
        source = linecache.getline(self.file, line).strip()
        where = f"{Path(self.file).name}:{line}"
        return f"{where}: {source}" if source else where


def is_internal(code: CodeType) -> bool:
    """Whether the code is part of this package."""
    name = code.co_filename
    inside = _internal.get(name)
    if inside is None:
        inside = _internal[name] = name.startswith((PACKAGE, "<frozen"))
    return inside


def user_frame() -> FrameType | None:
    """The innermost frame that is not of this package, while it waits for what it called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_internal(frame.f_code):
        frame = frame.f_back
    return frame


def user_place() -> Place | None:
    """The innermost frame that is not of this package; None if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        # `is_internal` written out: this runs for every differentiable call.
        code = frame.f_code
        name = code.co_filename
        inside = _internal.get(name)
        if inside is None:
            inside = is_internal(code)
        if not inside:
            return Place(code, frame.f_lasti)
        frame = frame.f_back
    return None


def user_location() -> Loc | None:
    """The user's file and line, for a node of the IR."""
    place = user_place()
    return place.loc if place is not None else None


def locate(error: TracegradError) -> TracegradError:
    """Add the user's line to the message of `error`, once. Call it before re-raising."""
    if not getattr(error, "located", False):
        error.located = True  # type: ignore[attr-defined]
        place = user_place()
        if place is not None:
            error.args = (f"{error}, at {place}", *error.args[1:])
    return error


def located(function: Callable[P, R]) -> Callable[P, R]:
    """Errors that come out of `function` say where in the user's program it was called."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TracegradError as error:
            locate(error)
            raise

    return wrapper
