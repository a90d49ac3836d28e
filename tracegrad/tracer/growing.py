"""Lists of a loop, while one of its iterations is recorded.

A list that the loop appends to has another length and other items in each iteration, and Python
sees those of one. So for the time of the iteration it is of a class that has the same layout and
refuses to tell: nothing in the recording may depend on what it holds. What the iteration appended
itself may be read, what was there before the loop by its index, and the last item where the loop
carries it.

A list of tensors of one type that stays as it is may be asked for an item by an index that is
another in each iteration: it is of a class that takes the item from the stacked tensors.
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


@dataclass(eq=False)
class Choice:
    """One loop's claim on a list of tensors of one type.

    item   gives the item at an index; None where Python's own way is right.
    owner  who made the claim.
    """

    items: list[Any]
    recorder: Any
    item: Callable[[Any], Any]
    owner: Any


# By the identity of the list, which a claim keeps alive.
_claims: dict[int, list[Watch | Choice]] = {}


def begin(claim: Watch | Choice) -> None:
    """From now on a list is asked by way of a claim."""
    _claims.setdefault(id(claim.items), []).append(claim)
    _settle(claim.items)


def end(claim: Watch | Choice) -> None:
    """A claim is no more."""
    claims = _claims.get(id(claim.items), [])
    if claim in claims:
        claims.remove(claim)
        _settle(claim.items)
        if not claims:
            del _claims[id(claim.items)]


def choices(items: list[Any]) -> list[Choice]:
    """The claims on a list of tensors, that of the innermost loop last."""
    return [claim for claim in _of(items) if isinstance(claim, Choice)]


def _settle(items: list[Any]) -> None:
    """Give a list the class that its claims ask for."""
    claims = _claims[id(items)]
    kind: type = list
    if claims:
        kind = Growing if any(isinstance(claim, Watch) for claim in claims) else Stacked
    before = type(items)
    if kind is before:
        return
    # As `items.__class__ = kind`, which Python refuses where one of the two is a builtin. A list
    # holds a reference to its class, but for a builtin one.
    if kind is not list:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kind))
    ctypes.c_void_p.from_address(id(items) + _CLASS).value = id(kind)
    if before is not list:
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(before))


def _of(items: list[Any]) -> list[Watch | Choice]:
    """The claims on a list of those who ask now."""
    return [claim for claim in _claims.get(id(items), ()) if claim.recorder is state.recorder]


def _ask(items: list[Any], index: Any = None) -> None:
    for claim in _of(items):
        if isinstance(claim, Watch) and not claim.allows(index):
            claim.refuse()


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


class Stacked(list[Any]):
    """A list of which an item can be taken at an index that is another in each iteration."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int | slice):
            for claim in reversed(choices(self)):
                found = claim.item(index)
                if found is not None:
                    return found
        return list.__getitem__(self, index)


def kind_of(value: Any) -> type:
    """The class of an object, as it is when no loop has a claim on it."""
    kind = type(value)
    return list if kind is Growing or kind is Stacked else kind


for _name in (
    *("__len__", "__iter__", "__reversed__", "__contains__", "__repr__", "__add__", "__mul__"),
    *("__rmul__", "__imul__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    *("__setitem__", "__delitem__", "index", "count", "copy", "pop", "insert", "remove", "sort"),
    *("reverse", "clear"),
):
    setattr(Growing, _name, _asking(_name))
