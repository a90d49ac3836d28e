"""Calls that hit again and again are taken natively: see `runtime.entry`.

What a call of a compiled function checks in Python, the key of its arguments, the guards, what it
captures, is said here once more in the steps of an `Entry`. A call that does not pass them has not
missed yet: it goes the way in Python, which decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tracegrad.config import config
from tracegrad.runtime.entry import Entry, Wrapper, container, nothing, slot_offset, tensor
from tracegrad.tracer import promotion
from tracegrad.tracer.access import Path as AccessPath
from tracegrad.tracer.guards import Guard, KeysGuard, TensorGuard, TypeGuard
from tracegrad.tracer.specialisation import Specialisation
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.structure import Container, Description, Leaf, Static
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.tree import Occurrence, Path

Array = np.ndarray[Any, Any]

# Calls of one specialisation before it gets an entry.
PATIENCE = 4


class _UnfitError(Exception):
    """The call depends on something that an entry cannot check."""


@dataclass(frozen=True)
class Known:
    """What an entry stands for: the specialisation, its first segment, and the path if there is
    just one way on.
    """

    found: Specialisation
    root: Occurrence
    path: Path | None


@cache
def _wrapper() -> Wrapper:
    names = ("_array", "_storage", "_base", "_alias", "_grad_fn", "_requires_grad")
    return Wrapper(Tensor, Storage, *(slot_offset(Tensor, name) for name in names))


def entry_for(
    found: Specialisation,
    args: Sequence[Any],
    given: int,
    described: Sequence[Description],
    clock: Array,
) -> Entry | None:
    """An entry for calls like this hit, of whose `args` the first `given` were given and the others
    are defaults; None if there can be none.
    """
    tree = found.tree
    root = tree.root
    if root is None or not root.exports or root.program is None or found.odd or config.check:
        return None
    if any(path.end.stores or path.end.runs_again for path in tree.paths.values()):
        return None
    try:
        made = _Checks(found, args, given)
        made.arguments(described)
        returned = made.inputs()
        made.guards()
    except _UnfitError:
        return None
    path = tree.paths.get(root)
    build = _building(path) if path is not None and not root.flags else None
    entry = made.entry
    entry.owner = Known(found, root, path)
    if not entry.finish(given, root.program.forward, build, returned, clock):
        return None
    return entry


class _Checks:
    """The steps of an entry, from the objects that a call found."""

    def __init__(self, found: Specialisation, args: Sequence[Any], given: int) -> None:
        self.found = found
        self.args = args
        self.given = given
        self.entry = Entry(_wrapper())
        # Register and value of each leaf, and of what stands at each path.
        self.leaves: list[tuple[int, Any]] = []
        self.places: dict[AccessPath, tuple[int, Any]] = {}
        self.tensors: set[int] = set()
        root = found.tree.root
        assert root is not None
        self.base = {number: i for i, (_, number) in enumerate(root.sources)}
        default = self.entry.dict_item(promotion.__dict__, "_default")
        self.entry.is_object(default, promotion._default)
        for name in ("check", "disable"):
            setting = self.entry.word_of(config, slot_offset(type(config), name) // 8)
            self.entry.is_object(setting, False)

    # --------------------------------------------------------------------- arguments

    def arguments(self, described: Sequence[Description]) -> None:
        """The arguments have the structure that they have now."""
        for position, (value, item) in enumerate(zip(self.args, described, strict=True)):
            self._walk(item, self._argument(position), value)

    def _argument(self, position: int) -> int:
        if position < self.given:
            return self.entry.argument(position)
        return self.entry.constant(self.args[position])

    def _walk(self, item: Description, register: int, value: Any) -> None:
        entry = self.entry
        if isinstance(item, Leaf):
            self.leaves.append((register, value))
        elif isinstance(item, Static):
            if item.value is not value:
                raise _UnfitError
            entry.is_object(register, value)
        else:
            entry.is_of(register, item.type)
            for inside, (inner, part) in zip(
                item.items, self._parts(item, register, value), strict=True
            ):
                self._walk(inside, inner, part)

    def _parts(self, item: Container, register: int, value: Any) -> list[tuple[int, Any]]:
        """Registers and values of what is in a container."""
        entry = self.entry
        if issubclass(item.type, dict):
            registers = entry.has_keys(register, list(value))
            return list(zip(registers, dict.values(value), strict=True))
        if issubclass(item.type, list | tuple):
            entry.has_length(register, len(value))
            return [(entry.item(register, item.type, i), part) for i, part in enumerate(value)]
        assert item.keys is not None
        return [self._attribute(register, value, str(name)) for name in item.keys]

    def _attribute(self, register: int, value: Any, name: str) -> tuple[int, Any]:
        if isinstance(value, Tensor) and name == "grad":
            name = "_grad"
        kind: Any = type(value)
        # Code of the user's is not run between the checks.
        if hasattr(kind, "__getattr__") or kind.__getattribute__ is not object.__getattribute__:
            raise _UnfitError
        if hasattr(getattr(kind, name, None), "__get__"):
            raise _UnfitError
        try:
            return self.entry.attribute(register, name), getattr(value, name)
        except AttributeError:
            raise _UnfitError from None

    # ------------------------------------------------------------------------ inputs

    def inputs(self) -> list[int]:
        """Every input is as it is now; the register of each."""
        tree = self.found.tree
        registers = []
        for number, (item, position) in enumerate(zip(tree.inputs, tree.positions, strict=True)):
            register, value = self.at(item.path) if position is None else self.leaves[position]
            if position is None and item.kind == "tensor":
                self._check(register, value, number, Tensor)
            elif position is None and item.kind == "array":
                self._check(register, value, number, np.ndarray)
            else:
                self._check(register, value, number, type(value))
            registers.append(register)
        taken = {position for position in tree.positions if position is not None}
        for position, (register, value) in enumerate(self.leaves):
            if position not in taken:
                self._check(register, value, None, type(value))
        return registers

    def _check(self, register: int, value: Any, number: int | None, kind: type) -> None:
        """An input or an unused leaf is of the same type."""
        base = None if number is None else self.base.get(number)
        if type(value) is not kind:
            raise _UnfitError
        if isinstance(value, Tensor):
            self._check_tensor(register, value, base)
        elif isinstance(value, np.ndarray):
            self.entry.array(register, value, base)
        elif kind in (float, int):
            inputs = self.found.tree.inputs
            dtype = np.dtype(kind) if number is None else inputs[number].type.dtype.numpy
            if not self.entry.number(register, kind, dtype, base):
                raise _UnfitError
        else:
            raise _UnfitError

    def _check_tensor(self, register: int, value: Tensor, base: int | None) -> None:
        apart = self.found.watches_pattern
        wanted = value._requires_grad
        view = value._base is not None
        if view and (apart or value.requires_grad is not wanted):
            raise _UnfitError
        if apart and (value._alias is not None or id(value._storage) in self.tensors):
            raise _UnfitError
        self.tensors.add(id(value._storage))
        self.entry.wrapped(register, value._array, wanted, apart, base)

    # ------------------------------------------------------------------------ guards

    def guards(self) -> None:
        """What is captured is what it was."""
        for guard in self.found.guards:
            self._guard(guard)
        for first, second in self.found.same:
            self.entry.is_same(self.at(first)[0], self.at(second)[0])

    def _guard(self, guard: Guard) -> None:
        register, value = self.at(guard.path)
        entry = self.entry
        kind = type(guard)
        if kind is Guard:
            if value is not guard.expected:
                raise _UnfitError
            entry.is_object(register, value)
        elif kind is TypeGuard:
            entry.is_of(register, type(value))
        elif kind is KeysGuard and isinstance(value, list | tuple):
            entry.is_of(register, type(value))
            entry.has_length(register, len(value))
        elif kind is KeysGuard and isinstance(value, dict):
            entry.is_of(register, type(value))
            entry.has_keys(register, list(value))
        elif kind is TensorGuard and type(value) is Tensor:
            self._check_tensor(register, value, None)
        else:
            raise _UnfitError

    def at(self, path: AccessPath) -> tuple[int, Any]:
        """The register of what stands at a path, and what that is now."""
        known = self.places.get(path)
        if known is None:
            known = self.places[path] = self._at(path)
        return known

    def _at(self, path: AccessPath) -> tuple[int, Any]:
        entry = self.entry
        match path.lead:
            case "global", dict(names), name if name in names:
                return entry.dict_item(names, name), names[name]
            case "cell", cell:
                try:
                    value = cell.cell_contents
                except ValueError:
                    raise _UnfitError from None
                return entry.word_of(cell, 2), value
            case "object", value:
                return entry.constant(value), value
            case "argument", int(position):
                return self.leaves[position]
            case "call", int(position):
                return self._argument(position), self.args[position]
            case "attribute", parent, name:
                register, value = self.at(parent)
                return self._attribute(register, value, name)
            case "item", parent, key:
                return self._item(*self.at(parent), key)
        raise _UnfitError

    def _item(self, register: int, value: Any, key: Any) -> tuple[int, Any]:
        kind = type(value)
        if kind not in (list, tuple, dict):
            raise _UnfitError
        entry = self.entry
        entry.is_of(register, kind)
        if kind is not dict:
            if type(key) is not int or not 0 <= key < len(value):
                raise _UnfitError
            entry.has_length(register, len(value))
        try:
            return entry.item(register, kind, key), value[key]
        except KeyError:
            raise _UnfitError from None


def _building(path: Path) -> list[tuple[int, int]] | None:
    """How the result is put together natively; None where Python has to."""
    if path.plain is None:
        return None
    places = iter(path.plain)
    steps: list[tuple[int, int]] = []

    def add(item: Description, height: int) -> bool:
        if isinstance(item, Leaf):
            steps.append(tensor(next(places)[1]))
            return True
        if isinstance(item, Static):
            steps.append(nothing())
            return item.value is None
        if item.type not in (tuple, list):
            return False
        fits = all(add(inside, height + i) for i, inside in enumerate(item.items))
        steps.append(container(item.type, height))
        return fits

    structure = path.end.structure
    # A bare None would be no answer.
    return steps if not isinstance(structure, Static) and add(structure, 0) else None
