"""Lists that a loop appends to, while one of its iterations is recorded.

In each iteration such a list has another length and other items, and Python sees those of one. So
for the time of the iteration it is of a class that has the same layout and refuses to tell: nothing
in the recording may depend on what it holds. What the iteration appended itself may be read, what
was there before the loop by its index, and the last item where the loop carries it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracegrad.tracer.state import state

# Where an object has its class: at the end of its header.
_CLASS = object.__basicsize__ - ctypes.sizeof(ctypes.c_void_p)


@dataclass(eq=False)
class Watch:
    """One loop's claim on a list.

    refuse   raises an error, or takes the claim back.
    before   how many items there were before the loop, `length` when the iteration began.
    carried  whether the loop carries the last item.
    """

    items: list[Any]
    recorder: Any
    refuse: Callable[[], None]
    before: int
    length: int
    carried: bool

    def allows(self, index: Any) -> bool:
        """Whether the item at an index is the same in each iteration, or known to the loop."""
        if type(index) is not int:
            return False
        if index >= 0:
            return index < self.before
        own = list.__len__(self.items) - self.length
        return -index <= own + self.carried


# By the identity of the list, which a claim keeps alive.
_watches: dict[int, list[Watch]] = {}


def begin(watch: Watch) -> None:
    """Have a list refuse to tell what it holds."""
    claims = _watches.setdefault(id(watch.items), [])
    if not claims:
        _set_class(watch.items, Growing)
    claims.append(watch)


def end(watch: Watch) -> None:
    """The list may tell again what it holds, as far as this claim goes."""
    claims = _watches.get(id(watch.items), [])
    if watch in claims:
        claims.remove(watch)
        if not claims:
            del _watches[id(watch.items)]
            _set_class(watch.items, list)


def _set_class(value: list[Any], kind: type) -> None:
    # As `value.__class__ = kind`, which Python refuses where one of the two is a builtin. The
    # count of references to `Growing`, which a list of that class holds, is kept.
    if kind is Growing:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(Growing))
    ctypes.c_void_p.from_address(id(value) + _CLASS).value = id(kind)
    if kind is list:
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(Growing))


def _ask(items: list[Any], index: Any = None) -> None:
    for watch in tuple(_watches.get(id(items), ())):
        if watch.recorder is state.recorder and not watch.allows(index):
            watch.refuse()


def _asking(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    def ask(self: list[Any], *arguments: Any, **options: Any) -> Any:
        _ask(self)
        return method(self, *arguments, **options)

    return ask


class Growing(list[Any]):
    """A list whose length and items are not to be known."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        _ask(self, index)
        return list.__getitem__(self, index)

    def __radd__(self, other: Any) -> Any:
        _ask(self)
        return other + list.copy(self)


for _name in (
    *("__len__", "__iter__", "__reversed__", "__contains__", "__repr__", "__add__", "__mul__"),
    *("__rmul__", "__imul__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    *("__setitem__", "__delitem__", "index", "count", "copy", "pop", "insert", "remove", "sort"),
    *("reverse", "clear"),
):
    setattr(Growing, _name, _asking(_name))
