"""What a function changes beside returning something: variables, attributes, lists, dictionaries.

All that it can reach is compared before and after the trace. A tensor or a plain object that it
put somewhere is a result of the trace and is put there on every call, as in eager code; what it
appended is appended again. A number that it counts up cannot be: that is announced.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from tracegrad.tracer import access, differences
from tracegrad.tracer.access import MISSING, Path
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.guards import KeysGuard
from tracegrad.tracer.structure import (
    TENSOR,
    Container,
    Description,
    builder_of,
    flatten,
    parts,
)
from tracegrad.tracer.tensor import Tensor

Apply = Callable[[Any, Sequence[Any]], None]


class CallLeaves(list[Any]):
    """The flat leaves of a call whose arguments have containers, and those arguments."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.args = args
        self.kwargs = kwargs


@dataclass(frozen=True)
class Reached:
    """An object that was there before the function ran, found again at each call by its path."""

    path: Path


class Store:
    """One place that is brought up to date on every call.

    path    the variable, or the object that changes.
    values  what the trace put there; `leaves` the same taken apart.
    """

    def __init__(self, path: Path, values: Sequence[Any], apply: Apply | None) -> None:
        self.path = path
        self.values = list(values)
        self.leaves: list[Any] = []
        self.count = 0
        self._apply = apply
        self._build: Callable[[Sequence[Any]], Any] = list

    def take_apart(self, known: dict[int, Path]) -> list[Any]:
        """The leaves of what is stored, which are to be results of the trace."""
        described = tuple(take_apart(value, self.leaves, known) for value in self.values)
        self._build = builder_of(Container(list, None, described))
        leaves = self.leaves
        self.count = len(leaves)
        # Nothing of the traced call is kept alive.
        self.values = []
        self.leaves = []
        return leaves

    def target(self, arguments: Sequence[Any]) -> Any:
        """The object to change, as it is found at a call; nothing for a variable."""
        return None if self._apply is None else self.path.read(arguments)

    def apply(self, target: Any, arguments: Sequence[Any], made: Sequence[Any]) -> None:
        """Do what the function did, with the results `made`."""
        values = self._build(made)
        if self._apply is not None:
            self._apply(target, values)
        else:
            assert self.path.store is not None
            self.path.store(arguments, values[0])


def take_apart(value: Any, leaves: list[Any], known: dict[int, Path]) -> Description:
    """As `flatten`, with objects that were there before, at `known` paths, as leaves too."""
    path = known.get(id(value))
    if path is not None:
        leaves.append(Reached(path))
        return TENSOR
    inside = None if isinstance(value, Tensor) else parts(value)
    if inside is None:
        return flatten(value, leaves, objects=True)
    keys, items = inside
    if not any(_holds_known(item, known, 0) for item in items):
        return flatten(value, leaves, objects=True)
    described = tuple(take_apart(item, leaves, known) for item in items)
    return Container(type(value), keys, described)


def _holds_known(value: Any, known: dict[int, Path], depth: int) -> bool:
    if id(value) in known:
        return True
    inside = None if isinstance(value, Tensor) or depth > 20 else parts(value)
    return inside is not None and any(_holds_known(x, known, depth + 1) for x in inside[1])


class _Held:
    """An object that the function can change, and what it held before.

    base     what it held as far as the function may ask. One that only adds to a dictionary or a
             set gets an empty one, so that what it stores is seen even if it was there already.
    is_copy  the function got a copy of the caller's object, with tensors in place of numbers.
    """

    def __init__(self, path: Path, value: Any, is_copy: bool, names: frozenset[str]) -> None:
        self.path = path
        self.value = value
        self.is_copy = is_copy
        self.names = names
        self.before = self.base = contents(value, names)

    def empty(self) -> None:
        """Take everything out until `restore`."""
        self.value.clear()
        self.base = contents(self.value, self.names)


def contents(value: Any, names: frozenset[str]) -> Any:
    """A shallow copy of what an object holds: a list, a set, a dictionary of items or attributes.

    Of classes, functions and modules only the attributes `names`.
    """
    if isinstance(value, list):
        return list.copy(value)
    if isinstance(value, deque):
        return list(value)
    if isinstance(value, dict):
        return dict(dict.items(value))
    if isinstance(value, set):
        return set(value)
    found = getattr(value, "__dict__", {})
    if isinstance(value, type | FunctionType | ModuleType):
        return {name: found[name] for name in names if name in found}
    return {**found, **_slots(value)}


def _slots(value: Any) -> dict[str, Any]:
    found = {}
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                item = getattr(value, name, MISSING)
                if item is not MISSING:
                    found[name] = item
    return found


class Places:
    """The places that a function can reach, with what they held before it ran."""

    def __init__(
        self,
        survey: Survey,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        leaves: Sequence[Any],
        kept: Collection[int],
    ) -> None:
        self._leaves = leaves
        self._variables = [(path, path.get(leaves)) for path in survey.variables]
        self._guarded = {g.path for g in survey.guards if not isinstance(g, KeysGuard)}
        self._held: dict[int, _Held] = {}
        self._names = survey.names
        for path, value in survey.objects.values():
            self._hold(path, value, False)
            if isinstance(value, dict | set) and survey.is_unread(value):
                self._held[id(value)].empty()
        if isinstance(leaves, CallLeaves):
            for i, value in enumerate(args):
                path = access.of_call(i, f"argument {i}")
                if i in kept and isinstance(value, list | deque):
                    self._hold(path, value, False)
                else:
                    self._walk(path, value, 0)
            for name, value in kwargs.items():
                self._walk(access.of_call(name, name), value, 0)
        self.overwritten: set[Path] = set()
        self.known = {id(held.value): held.path for held in self._held.values()} | survey.arrays

    def _hold(self, path: Path, value: Any, is_copy: bool) -> None:
        if id(value) not in self._held:
            self._held[id(value)] = _Held(path, value, is_copy, self._names.set_attributes)

    def _walk(self, path: Path, value: Any, depth: int) -> None:
        """Containers among the arguments: the caller's own, or copies with tensors for numbers."""
        if isinstance(value, deque | set):
            self._hold(path, value, False)
            return
        inside = parts(value)
        if inside is None or depth > 20:
            return
        keys, items = inside
        if not isinstance(value, tuple):
            self._hold(path, value, path.get(self._leaves) is not value)
        by_item = isinstance(value, dict | list | tuple) and not hasattr(value, "_fields")
        for key, item in zip(keys or range(len(items)), items, strict=True):
            self._walk(path.item(key) if by_item else path.attribute(str(key)), item, depth + 1)

    def look(self, followed: Collection[int], variables: Collection[str]) -> tuple[list[Any], Any]:
        """What the places hold now but for objects and local variables that are `followed`
        otherwise: objects, and something that is equal as long as they stay.
        """
        objects: list[Any] = []
        marks: list[Any] = []

        def mark(value: Any) -> Any:
            objects.append(value)
            return (type(value), repr(value)) if _is_number(value) else id(value)

        for path, _ in self._variables:
            if path.name not in variables:
                marks.append(mark(path.get(self._leaves)))
        for held in self._held.values():
            if id(held.value) in followed:
                continue
            found = contents(held.value, held.names)
            if isinstance(found, dict):
                marks.append([(key, mark(item)) for key, item in found.items()])
            elif isinstance(found, set):
                marks.append(found)
            else:
                marks.append([mark(item) for item in found])
        return objects, marks

    # ----------------------------------------------------------------- after the function ran

    def stores(self) -> list[Store]:
        """What every call has to do again, for what has changed by now."""
        found = []
        for path, before in self._variables:
            now = path.get(self._leaves)
            if not differences.same(before, now) and not self._is_count(path, before, now):
                found.append(Store(path, [now], None))
        for held in self._held.values():
            store = self._store(held)
            if store is not None:
                found.append(store)
        return found

    def _is_count(self, path: Path, before: Any, now: Any) -> bool:
        """Whether a number that the function reads became another: no later call has the same."""
        read = path.name in self._names.used or path.name in self._names.summed
        return read and path in self._guarded and _is_number(before) and _is_number(now)

    def _store(self, held: _Held) -> Store | None:
        before, value, path = held.base, held.value, held.path
        now = contents(value, held.names)
        if isinstance(value, list | deque):
            whole = path in self._guarded
            counts = [
                i
                for i, (a, b) in enumerate(zip(before, now, strict=False))
                if _is_number(a) and _is_number(b) and (whole or path.item(i) in self._guarded)
            ]
            limit = value.maxlen if isinstance(value, deque) else None
            found = differences.of_lists(before, now, limit, counts)
        elif isinstance(value, set):
            found = differences.of_sets(before, now)
        elif isinstance(value, dict):
            kept = {
                key
                for key in before
                if key in now and self._is_count(path.item(key), before[key], now[key])
            }
            found = differences.of_dictionaries(before, now, kept, _set_items(value), ordered=True)
        else:
            kept = {
                name
                for name in before
                if name in now and self._is_count(path.attribute(name), before[name], now[name])
            }
            found = differences.of_dictionaries(before, now, kept, _set_attributes, ordered=False)
            self.overwritten.update(
                path.attribute(name)
                for name in self._names.set_attributes & now.keys()
                if not differences.same(before.get(name, MISSING), now[name])
            )
        if found is None:
            return None
        return Store(path, *found)

    def restore(self, *, everything: bool) -> None:
        """Put back what the places held; of numbers that count something only with `everything`."""
        for path, before in self._variables:
            now = path.get(self._leaves)
            if now is not before and (everything or not self._is_count(path, before, now)):
                assert path.store is not None
                path.store(self._leaves, before)
        for held in self._held.values():
            if not held.is_copy:
                self._restore(held, everything)

    def _restore(self, held: _Held, everything: bool) -> None:
        value, before = held.value, held.before
        now = contents(value, held.names)
        if isinstance(value, list | deque):
            if len(now) == len(before) and all(map(differences.same, before, now)):
                return
            if not everything and len(now) == len(before):
                before = [
                    b if _is_number(a) and _is_number(b) else a
                    for a, b in zip(before, now, strict=True)
                ]
            value.clear()
            value.extend(before)
        elif isinstance(value, set):
            if now != before:
                value.clear()
                value.update(before)
        else:
            by_item = isinstance(value, dict)
            place = held.path.item if by_item else held.path.attribute
            put = _set_items(value) if by_item else _set_attributes
            if not everything:
                counts = {
                    key: now[key]
                    for key, old in before.items()
                    if key in now and self._is_count(place(key), old, now[key])
                }
                before = before | counts
            found = differences.of_dictionaries(now, before, set(), put, ordered=by_item)
            if found is not None:
                values, apply = found
                apply(value, values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | complex | np.number) and not isinstance(value, bool)


def _set_items(value: dict[Any, Any]) -> differences.Put:
    """How the items of a dictionary are set and removed: as it would, but for a user's override."""
    kind: Any = OrderedDict if isinstance(value, OrderedDict) else dict

    def put(target: Any, key: Hashable, new: Any) -> None:
        if new is MISSING:
            kind.pop(target, key, None)
        else:
            kind.__setitem__(target, key, new)

    return put


def _set_attributes(target: Any, name: Any, new: Any) -> None:
    """Set or remove an attribute, past properties: those ran when the function was traced."""
    if isinstance(target, type | FunctionType | ModuleType):
        if new is MISSING:
            delattr(target, name)
        else:
            setattr(target, name, new)
        return
    own = getattr(target, "__dict__", None)
    slotted = any(name in base.__dict__.get("__slots__", ()) for base in type(target).__mro__)
    if own is None or slotted:
        if new is MISSING:
            object.__delattr__(target, name)
        else:
            object.__setattr__(target, name, new)
    elif new is MISSING:
        own.pop(name, None)
    else:
        own[name] = new
