"""The state of a loop: what its variables hold, flat, by the way to each value.

Containers and objects of the user's classes are followed to tensors and numbers, which a loop can
carry from one iteration to the next. All else has to stay as it is.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from types import FrameType, MethodType, ModuleType
from typing import Any

import numpy as np

from tracegrad.tracer.captures import is_constant_code
from tracegrad.tracer.growing import kind_of
from tracegrad.tracer.structure import is_dataclass_instance
from tracegrad.tracer.tensor import Tensor

Way = tuple[Any, ...]
"""From a variable to a value: number of the frame, name, then ("item", key) and ("attr", name)."""

DRAWS: Way = (-1, "the state of random numbers")
"""The way to the offset of the default generator."""

LAST = ("item", -1)
"""The last step of the way to the last item of a list."""

_MOST = 10_000
_PLAIN = (bool, str, bytes, complex, type(None), np.generic)


class UnsuitableError(Exception):
    """The state of a loop is of a kind that cannot be followed."""


class State:
    """What the variables of a loop held at one time.

    numbers, tensors   the values that may change, by the way to them.
    rest               everything else, in a form in which equal means unchanged.
    kept               objects whose identity is part of `rest`.
    lists              each list and its length.
    """

    def __init__(self) -> None:
        self.values: dict[Way, Any] = {}
        self.rest: dict[Way, Any] = {}
        self.kept: list[Any] = []
        self.lists: dict[Way, tuple[list[Any], int]] = {}
        # The first way to each object that can change; to a tensor there may be several.
        self.first: dict[int, Way] = {}

    def at(self, way: Way) -> Any:
        """The tensor or number at a way; None if there is none."""
        if way[-1] == LAST and way[:-1] in self.lists:
            way = (*way[:-1], ("item", self.lists[way[:-1]][1] - 1))
        return self.values.get(way)

    def add(self, way: Way, value: Any) -> None:
        """Take apart what is found at `way`. UnsuitableError for what hides a state of its own."""
        if len(self.values) + len(self.rest) > _MOST:
            raise UnsuitableError("its variables hold too many values")
        kind = type(value)
        if isinstance(value, Tensor):
            self.values[way] = value
            if id(value) not in self.first:
                self.first[id(value)] = way
                if value._grad is not None:
                    self.add((*way, ("attr", "_grad")), value._grad)
        elif kind is float or (kind is int and -(2**63) <= value < 2**63):
            self.values[way] = value
        elif isinstance(value, _PLAIN) or kind is int:
            self.rest[way] = kind, value
        else:
            self._add_object(way, value)

    def _add_object(self, way: Way, value: Any) -> None:
        known = self.first.setdefault(id(value), way)
        self.kept.append(value)
        if known is not way:
            self.rest[way] = "same as", known
            return
        kind = kind_of(value)
        inside: Iterator[tuple[Any, Any]] | None = None
        keys: tuple[Any, ...] = ()
        if isinstance(value, list | tuple | deque):
            items = list.copy(value) if isinstance(value, list) else value
            inside = ((("item", i), item) for i, item in enumerate(items))
            keys = (len(items),)
            if kind is list:
                self.lists[way] = value, len(items)  # type: ignore[assignment]
        elif isinstance(value, dict):
            inside = ((("item", key), item) for key, item in dict.items(value))
            keys = tuple(value)
        elif isinstance(value, set | frozenset):
            self.rest[way] = kind, frozenset(value)
            return
        elif isinstance(value, np.ndarray):
            self.rest[way] = id(value), value.shape, value.dtype, value.tobytes()
            return
        elif isinstance(value, bytearray):
            self.rest[way] = id(value), bytes(value)
            return
        elif isinstance(value, MethodType):
            self.rest[way] = value.__func__, id(value.__self__)
            return
        elif hasattr(value, "__next__"):
            raise UnsuitableError(f"one of its variables is an iterator, a {kind.__name__}")
        elif _is_open(value):
            attributes = attributes_of(value)
            inside = ((("attr", name), item) for name, item in attributes.items())
            keys = tuple(attributes)
        if inside is None:
            self.rest[way] = id(value)
            return
        self.rest[way] = kind, keys
        for step, item in inside:
            self.add((*way, step), item)


def _is_open(value: Any) -> bool:
    """Whether an object's attributes are state of the user's program."""
    if isinstance(value, type | ModuleType) or (callable(value) and not hasattr(value, "__dict__")):
        return False
    kind = type(value)
    if is_dataclass_instance(value):
        return True
    return not is_constant_code(kind) or kind.__name__ == "SimpleNamespace"


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes that an object has by itself."""
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def state_of(frames: Sequence[FrameType], names: Sequence[frozenset[str]]) -> State:
    """What the variables `names` of each frame hold."""
    found = State()
    for number, (frame, wanted) in enumerate(zip(frames, names, strict=True)):
        variables = frame.f_locals
        for name in sorted(wanted):
            if name in variables:
                found.add((number, name), variables[name])
            else:
                found.rest[number, name] = "unset"
    return found


def put(frames: Sequence[FrameType], changes: dict[Way, Any]) -> None:
    """Put other values where the ways lead."""
    by_variable: dict[tuple[int, str], list[tuple[Way, Any]]] = {}
    # What lies deeper first: a new tensor takes the place of one whose `.grad` changes.
    for way, value in changes.items():
        by_variable.setdefault(way[:2], []).append((way[2:], value))
    for number, frame in enumerate(frames):
        variables = frame.f_locals
        new: dict[str, Any] = {}
        for (where, name), places in by_variable.items():
            if where != number:
                continue
            value = variables[name]
            for steps, item in sorted(places, key=lambda place: len(place[0])):
                value = _replaced(value, steps, item)
            if value is not variables[name]:
                new[name] = value
        if new:
            set_variables(frame, new)


def _replaced(value: Any, steps: Way, item: Any) -> Any:
    """`value` with `item` at the end of the steps; itself where it can be changed."""
    if not steps:
        return item
    (kind, key), rest = steps[0], steps[1:]
    if kind == "attr":
        old = attributes_of(value).get(key) if not isinstance(value, Tensor) else value._grad
    else:
        old = list.__getitem__(value, key) if isinstance(value, list) else value[key]
    new = _replaced(old, rest, item)
    if new is old:
        return value
    if kind == "attr":
        own = getattr(value, "__dict__", None)
        if own is not None and (key in own or isinstance(value, Tensor)):
            # Past properties and a frozen dataclass's refusal.
            own[key] = new
        else:
            object.__setattr__(value, key, new)
        return value
    if isinstance(value, tuple):
        items = [new if i == key else x for i, x in enumerate(value)]
        made = type(value)
        return made._make(items) if hasattr(made, "_make") else made(items)
    if isinstance(value, dict):
        dict.__setitem__(value, key, new)
    elif isinstance(value, list):
        list.__setitem__(value, key, new)
    else:
        value[key] = new
    return value


if sys.version_info >= (3, 13):

    def set_variables(frame: FrameType, values: dict[str, Any]) -> None:
        """Set local variables of a running function."""
        variables = frame.f_locals
        for name, value in values.items():
            variables[name] = value

else:
    _write_back = ctypes.pythonapi.PyFrame_LocalsToFast
    _write_back.argtypes = [ctypes.py_object, ctypes.c_int]
    _write_back.restype = None

    def set_variables(frame: FrameType, values: dict[str, Any]) -> None:
        """Set local variables of a running function."""
        # Each look at `f_locals` fills it anew from the variables: change and write in one go.
        frame.f_locals.update(values)
        _write_back(frame, 0)
