"""Calls that hit again and again are taken natively: see `runtime.entry`.

What a call of a compiled function checks in Python, the key of its arguments, the guards, what it
captures, is said here once more in the steps of an `Entry`, and its tree of traces in blocks. A
call that does not pass the checks has not missed yet: it goes the way in Python, which decides.
Where a condition has an outcome that the tree does not know, Python goes on from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np

from tracegrad.config import config
from tracegrad.runtime.entry import (
    MOST_APART,
    Block,
    Entry,
    can_decide,
    slot_offset,
)
from tracegrad.tracer import promotion
from tracegrad.tracer.access import Path as AccessPath
from tracegrad.tracer.device import cpu
from tracegrad.tracer.guards import Guard, KeysGuard, TensorGuard, TypeGuard
from tracegrad.tracer.native_results import add_result, wrapper
from tracegrad.tracer.program import Program
from tracegrad.tracer.recording import Ref
from tracegrad.tracer.specialisation import Specialisation
from tracegrad.tracer.structure import Container, Description, Leaf, Static
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.tree import Occurrence, Path, Run, Tree, outcome_of

Array = np.ndarray[Any, Any]

# A larger tree is run in Python, and the items of a longer list are compared there.
_MOST_BLOCKS = 1000
_MOST_ITEMS = 32

# Objects that Python makes around a function: to read what they hold runs no code of the user's.
_HOLDERS = (partial, MethodType)


class _UnfitError(Exception):
    """The call depends on something that an entry cannot check."""


@dataclass(frozen=True)
class Known:
    """What an entry stands for.

    ways, outcomes   for each block the segments to it from the first, and the outcomes between.
    programs         what runs in each block.
    paths            for each block the path that ends there.
    generation       of the tree.
    inputs           for each block, where the inputs are in what native code returns after it.
    """

    found: Specialisation
    ways: list[list[Occurrence]]
    outcomes: list[list[Hashable]]
    programs: dict[Occurrence, Program | None]
    paths: list[Path | None]
    inputs: list[int]
    generation: int

    def retell(self, number: int, known: Sequence[Any], run: Run) -> None:
        """What native code did up to a block, and left in the list `known`, as a run."""
        run.outcomes.extend(self.outcomes[number])
        place = 2
        for occurrence in self.ways[number]:
            program = self.programs[occurrence]
            count = 0 if program is None else program.forward.output_count
            run.ran(occurrence, program, list(known[place : place + count]))
            place += count


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
    if tree.root is None or found.odd or config.check:
        return None
    if tree.device is not cpu:
        return None
    for path in tree.paths.values():
        end = path.end
        if end.stores or end.runs_again or any(r.kind == "reached" for r in end.results):
            return None
    try:
        made = _Checks(found, args, given)
        made.arguments(described)
        inputs = made.inputs()
        made.guards()
        blocks, ways = _blocks(tree, inputs)
    except _UnfitError:
        return None
    entry = made.entry
    entry.owner = Known(
        found,
        ways,
        [[outcome_of(a, b) for a, b in itertools.pairwise(way)] for way in ways],
        {way[-1]: way[-1].program for way in ways},
        [tree.paths.get(way[-1]) for way in ways],
        [2 + sum(x.output_count for x in way) for way in ways],
        tree.generation,
    )
    entry.finish(given, inputs, blocks, clock)
    return entry


def _blocks(tree: Tree, inputs: Sequence[int]) -> tuple[list[Block], list[list[Occurrence]]]:
    """The segments that can run natively, the root first, and the way to each. `inputs`: the
    registers of the inputs.
    """
    assert tree.root is not None
    blocks: list[Block] = []
    ways: list[list[Occurrence]] = []
    number: dict[Occurrence, int] = {}
    work: list[list[Occurrence]] = [[tree.root]]
    for way in work:
        occurrence = way[-1]
        program = occurrence.program
        if occurrence.exports and program is None:
            # Python runs it, and what comes after.
            continue
        here = [number[x] for x in way[:-1]]
        number[occurrence] = len(blocks)
        here.append(len(blocks))

        def at(ref: Ref, here: list[int] = here) -> Ref:
            return (-1 if ref[0] < 0 else here[ref[0]]), ref[1]

        block = Block(
            None if program is None else program.forward,
            [at(ref) for ref in occurrence.sources],
            [at((len(way) - 1, flag)) for flag in occurrence.flags],
        )
        if len(way) > 1:
            outcome: Any = outcome_of(way[-2], occurrence)
            blocks[here[-2]].ways[int(outcome)] = here[-1]
        guard = occurrence.segment.guard
        if guard is not None and occurrence.guard is not None:
            truth = guard.kind == "bool"
            dtype = _dtype_at(tree, way, occurrence.guard)
            if guard.kind in ("bool", "int", "index", "exit") and can_decide(dtype, truth):
                block.condition = at(occurrence.guard), dtype, truth
                work.extend([*way, following] for following in occurrence.edges.values())
        elif occurrence in tree.paths:
            add_result(block, tree, tree.paths[occurrence], at, inputs)
        blocks.append(block)
        ways.append(way)
        if len(blocks) > _MOST_BLOCKS:
            raise _UnfitError
    if not blocks:
        raise _UnfitError
    return blocks, ways


def _dtype_at(tree: Tree, way: Sequence[Occurrence], ref: Ref) -> np.dtype[Any]:
    """The dtype of the value at a reference by number."""
    if ref[0] < 0:
        return tree.inputs[ref[1]].type.dtype.numpy
    occurrence = way[ref[0]]
    return occurrence.segment.builder.nodes[occurrence.exports[ref[1]]].dtype.numpy


class _Checks:
    """The steps of an entry, from the objects that a call found."""

    def __init__(self, found: Specialisation, args: Sequence[Any], given: int) -> None:
        self.found = found
        self.args = args
        self.given = given
        self.entry = Entry(wrapper())
        # Register and value of each leaf, and of what stands at each path.
        self.leaves: list[tuple[int, Any]] = []
        self.places: dict[AccessPath, tuple[int, Any]] = {}
        self.tensors: set[int] = set()
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
        if kind is ModuleType and name in value.__dict__:
            self.entry.is_object(register, value)
            return self.entry.dict_item(value.__dict__, name), value.__dict__[name]
        if kind in _HOLDERS and isinstance(getattr(kind, name, None), MemberDescriptorType):
            self.entry.is_of(register, kind)
            return self.entry.attribute(register, name), getattr(value, name)
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
        if type(value) is not kind:
            raise _UnfitError
        if isinstance(value, Tensor):
            self._check_tensor(register, value, number)
        elif isinstance(value, np.ndarray):
            self.entry.array(register, value, number)
        elif kind in (float, int):
            inputs = self.found.tree.inputs
            dtype = np.dtype(kind) if number is None else inputs[number].type.dtype.numpy
            if not self.entry.number(register, kind, dtype, number):
                raise _UnfitError
        else:
            raise _UnfitError

    def _check_tensor(self, register: int, value: Tensor, number: int | None) -> None:
        apart = self.found.watches_pattern
        wanted = value._requires_grad
        base = value._base
        if base is not None and value.requires_grad is not wanted:
            raise _UnfitError
        if apart:
            parts = value._alias is not None or (base is not None and base._alias is not None)
            if parts or self.found.aliases or id(value._storage) in self.tensors:
                raise _UnfitError
        self.tensors.add(id(value._storage))
        if apart and len(self.tensors) > MOST_APART:
            raise _UnfitError
        self.entry.wrapped(register, value._array, wanted, apart, number)

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
        if kind is Guard and type(value) is list and len(value) <= _MOST_ITEMS:
            # The guard is by value: where an item is another object, it is asked.
            entry.is_of(register, list)
            entry.has_length(register, len(value))
            for i, item in enumerate(value):
                entry.is_object(entry.item(register, list, i), item)
        elif kind is Guard:
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
