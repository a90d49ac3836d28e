"""While a function is traced, `range` in its code is another name: that of our own."""

from __future__ import annotations

import dis
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType

NAME = "__tracegrad_range__"
"""What `range` is called there. Found among the builtins."""

_lock = threading.RLock()
_edited: dict[int, tuple[CodeType, CodeType]] = {}
_swapped: dict[int, tuple[FunctionType, CodeType, int]] = {}


@contextmanager
def counting(functions: Iterable[FunctionType]) -> Iterator[None]:
    """While this lasts, `range` in the code of these functions is `ranges.count_up`."""
    taken = [x for x in functions if "range" not in x.__globals__]
    with _lock:
        taken = [x for x in taken if _swap(x)]
    try:
        yield
    finally:
        with _lock:
            for function in taken:
                _swap_back(function)


def _swap(function: FunctionType) -> bool:
    known = _swapped.get(id(function))
    if known is not None:
        _swapped[id(function)] = (*known[:2], known[2] + 1)
        return True
    code = function.__code__
    new = edited(code)
    if new is code:
        return False
    _swapped[id(function)] = function, code, 1
    function.__code__ = new
    return True


def _swap_back(function: FunctionType) -> None:
    _, code, count = _swapped[id(function)]
    if count > 1:
        _swapped[id(function)] = function, code, count - 1
        return
    del _swapped[id(function)]
    function.__code__ = code


def edited(code: CodeType) -> CodeType:
    """The code with another name for the builtin `range`; itself if it does not use that."""
    known = _edited.get(id(code))
    if known is None:
        if len(_edited) > 4096:
            _edited.clear()
        # The code itself is kept, so that its identity stays its own.
        known = _edited[id(code)] = code, _renamed(code)
    return known[1]


def _renamed(code: CodeType) -> CodeType:
    constants = tuple(edited(x) if isinstance(x, CodeType) else x for x in code.co_consts)
    names = code.co_names
    if "range" in names:
        users = {step.opname for step in dis.get_instructions(code) if step.argval == "range"}
        if users - {"LOAD_CONST"} == {"LOAD_GLOBAL"}:
            names = tuple(NAME if name == "range" else name for name in names)
    if names == code.co_names and all(
        a is b for a, b in zip(constants, code.co_consts, strict=True)
    ):
        return code
    return code.replace(co_names=names, co_consts=constants)
