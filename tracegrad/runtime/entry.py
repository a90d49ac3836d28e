"""Known calls as data: what has to hold of a call, and what it does, for one native machine.

An `Entry` is a list of checks on the objects that a call finds, a tree of blocks that run then, and
how each result is put together. `replay.py` is the machine that goes through it; it is compiled
when something is first called often. Making an entry costs a fraction of a millisecond, and taking
a call by it less than a microsecond, where the same in Python takes some ten.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from tracegrad.runtime import memory
from tracegrad.runtime.executor import Executable
from tracegrad.runtime.kernels import machine_source
from tracegrad.runtime.program import method_definition, native_function

Array = np.ndarray[Any, Any]

_HEADER = 24
_BLOCK = 21
# The word of a tuple that its first item is in: another one in each version of Python.
_TUPLE_ITEMS = tuple.__basicsize__ // 8
# Steps that only check or read; the numbers are those of `replay.py`.
_ARGUMENT, _DICT_ITEM, _WORD_OF, _ATTRIBUTE, _LIST_ITEM, _WORD = range(6)
_ITEM, _IS, _SAME, _CLASS, _LENGTH, _FLOAT64, _FLOAT32, _INT64 = range(6, 14)
_ARRAY, _APART, _KEYS, _WANTED, _NO_ALIAS = range(14, 19)
# How results are put together, step by step, on a stack.
(VALUE, REGISTER, OBJECT, TUPLE, LIST, CALL, RECORD, COPY, ATTRIBUTE, NEXT, LAST) = range(11)
# Steps that only do something.
WRITE, SET, INCREMENT, POP = range(11, 15)
# How the truth of a number is told, and how it as an int.
_TRUTHS = {"b1": 1, "f8": 2, "f4": 3, "i8": 4}
_WHOLE = {"i8": 5, "f8": 6, "f4": 7}

_NUMBERS = {(float, "f8"): _FLOAT64, (float, "f4"): _FLOAT32, (int, "i8"): _INT64}

# More arrays than this are not compared with each other.
MOST_APART = 24


@dataclass(frozen=True)
class Wrapper:
    """A class whose objects hold an array in a slot.

    The rest are offsets of slots in bytes. A view has another object in `base`, what was computed
    something in `node`; `wanted` is a bool.
    """

    kind: type
    array: int
    storage: int
    base: int
    alias: int
    node: int
    wanted: int


def slot_offset(kind: type, name: str) -> int:
    """Where the slot `name` is in objects of `kind`, in bytes."""
    member = next(each.__dict__[name] for each in kind.__mro__ if name in each.__dict__)
    # CPython's PyMemberDescrObject: a head of two words, class, name, qualified name, definition;
    # and PyMemberDef: name, type, offset.
    words = (ctypes.c_ssize_t * 6).from_address(id(member))
    definition = (ctypes.c_ssize_t * 3).from_address(words[5])
    return int(definition[2])


@dataclass
class Block:
    """A program that runs in a known call, and what comes after it.

    executable   None for a block that only decides.
    sources      for each input of the program, which value it is: (-1, i) is the i-th input of the
                 call, (n, i) the i-th output of block n.
    flags        values that Python looks at if one of them is true.
    condition    the value that decides, its dtype, and whether it is its truth that does, or it as
                 an int.
    ways         the blocks that follow, by outcome. What is not known is left to Python.
    result       how the result is put together where the call ends: steps like (VALUE, ref),
                 (REGISTER, number), (OBJECT, x), (TUPLE, position), (LIST, position), (CALL, x),
                 (RECORD, (class, slots)), (COPY, position), (ATTRIBUTE, name), (NEXT, iterator),
                 (LAST, position), which leave it on a stack; (WRITE, (from, to, bytes)), (SET,
                 name), (INCREMENT, name), (POP, 0) between. None if Python does it.
    leaves       registers of objects that are not computed and no views, or Python does it.
    written      values that may be written to, or Python does it.
    """

    executable: Executable | None
    sources: Sequence[tuple[int, int]]
    flags: Sequence[tuple[int, int]] = ()
    condition: tuple[tuple[int, int], np.dtype[Any], bool] | None = None
    ways: dict[int, int] = field(default_factory=dict)
    result: Sequence[tuple[int, Any]] | None = None
    leaves: Sequence[int] = ()
    written: Sequence[tuple[int, int]] = ()

    @property
    def makers(self) -> Sequence[Any]:
        """How the outputs are made."""
        return self.executable.makers if self.executable is not None else ()


class Entry:
    """A known call while it is put together, and then a function that takes calls like it.

    native    called as the compiled function is; None if the call is another one. The result, or a
              list of `mark`, the number of the last block that ran, the outputs of all blocks that
              ran, and the inputs.
    owner     what the one who made it wants to know again.
    """

    __slots__ = (
        "_apart",
        "_arguments",
        "_cells",
        "_keep",
        "_places",
        "_registers",
        "_steps",
        "mark",
        "native",
        "owner",
        "words",
        "wrapper",
    )

    native: Callable[..., Any]
    words: Array

    def __init__(self, wrapper: Wrapper) -> None:
        self.wrapper = wrapper
        self.mark = object()
        self.owner: Any = None
        self._keep: list[Any] = []
        self._steps: list[tuple[int, int, int, int, int]] = []
        self._registers = 0
        self._cells: dict[int, Array] = {}
        self._apart: list[int] = []
        self._arguments: set[int] = set()
        self._places: list[int] = []

    # ------------------------------------------------------------------------- steps

    def _step(
        self, kind: int, source: int, a: int = 0, b: int = 0, target: int | None = None
    ) -> int:
        if target is None:
            target = self._register()
        self._steps.append((kind, source, a, b, target))
        return target

    def _register(self, count: int = 1) -> int:
        self._registers += count
        return self._registers - count

    def _address(self, value: Any) -> int:
        self._keep.append(value)
        return id(value)

    def argument(self, position: int) -> int:
        """The register of an argument."""
        register = self._step(_ARGUMENT, 0, position)
        self._arguments.add(register)
        return register

    def dict_item(self, owner: dict[Any, Any], key: Any) -> int:
        """The register of an item of a dictionary which is there as long as the entry."""
        return self._step(_DICT_ITEM, 0, self._address(owner), self._address(key))

    def word_of(self, owner: Any, number: int) -> int:
        """The register of the object in a word of an object which is there as long as the entry."""
        return self._step(_WORD_OF, 0, self._address(owner), number)

    def constant(self, value: Any) -> int:
        """The register of an object."""
        return self.word_of((value,), _TUPLE_ITEMS)

    def attribute(self, source: int, name: str) -> int:
        """The register of an attribute."""
        return self._step(_ATTRIBUTE, source, self._address(name))

    def item(self, source: int, kind: type, key: Any) -> int:
        """The register of an item of a list, a tuple or a dictionary of this class, which was
        checked, as its length was.
        """
        if issubclass(kind, list):
            return self._step(_LIST_ITEM, source, key)
        if issubclass(kind, tuple):
            return self._step(_WORD, source, _TUPLE_ITEMS + key)
        return self._step(_ITEM, source, self._address(key))

    def is_object(self, source: int, value: Any) -> None:
        """Only this very object."""
        self._step(_IS, source, self._address(value), 0, source)

    def is_same(self, source: int, other: int) -> None:
        """Only the object in another register."""
        self._step(_SAME, source, other, 0, source)

    def is_of(self, source: int, kind: type) -> None:
        """Only objects of this very class."""
        self._step(_CLASS, source, self._address(kind), 0, source)

    def has_length(self, source: int, length: int) -> None:
        """Only lists, tuples or dictionaries of this length."""
        self._step(_LENGTH, source, length, 0, source)

    def has_keys(self, source: int, keys: Sequence[Any]) -> list[int]:
        """Only dictionaries with just these keys in this order; the registers of the items."""
        self.has_length(source, len(keys))
        words = np.array([len(keys), 0, 0, 0, *map(self._address, keys)], np.int64)
        self._keep.append(words)
        target = self._register(1 + len(keys))
        self._step(_KEYS, source, words.ctypes.data, 0, target)
        return list(range(target + 1, target + 1 + len(keys)))

    # ------------------------------------------------------------------------ inputs

    def number(self, source: int, kind: type, dtype: np.dtype[Any], base: int | None) -> bool:
        """Only a float or an int, which is a base of the program; whether that can be."""
        step = _NUMBERS.get((kind, dtype.str[1:]))
        if step is None:
            return False
        self.is_of(source, kind)
        cell = np.zeros((), dtype)
        self._keep.append(cell)
        self._step(step, source, cell.ctypes.data, 0, source)
        if base is not None:
            self._cells[base] = cell
        return True

    def array(self, source: int, like: Array, base: int | None) -> None:
        """Only an array like this one, which is a base of the program."""
        contiguous = bool(like.flags.c_contiguous)
        strides = () if contiguous else like.strides
        words = [id(np.ndarray), self._address(like.dtype), like.ndim, int(contiguous)]
        record = np.array([*words, *like.shape, *strides], np.int64)
        self._keep.append(record)
        self._step(_ARRAY, source, record.ctypes.data, -1 if base is None else base, source)

    def wrapped(
        self, source: int, like: Array, wanted: bool, apart: bool, base: int | None
    ) -> None:
        """Only a wrapper of such an array, which is a base of the program; with `apart` one that
        shares its memory with no other of these, as far as their storages and bases tell.
        """
        wrapper = self.wrapper
        self.is_of(source, wrapper.kind)
        self._step(_WANTED, source, id(wanted), wrapper.base // 8, wrapper.wanted // 8)
        if apart:
            self._step(_NO_ALIAS, source, wrapper.base // 8, wrapper.alias // 8, source)
            self._apart.append(source)
        self.array(self._step(_WORD, source, wrapper.array // 8), like, base)

    # ------------------------------------------------------------------------- finish

    def finish(
        self, count: int, inputs: Sequence[int], blocks: Sequence[Block], clock: Array
    ) -> None:
        """Make `native`, for calls with `count` arguments whose inputs are in these registers.

        The first of the blocks runs first. `clock` counts calls, of other entries too.
        """
        first = self._register(len(self._apart))
        storages = self.wrapper.storage // 8
        for i, source in enumerate(self._apart):
            stored = self._step(_WORD, source, storages, 0, first + i)
            self._step(_APART, stored, first, first + i, stored)
        layout = _Layout(_HEADER)
        registers = layout.reserve(self._registers)
        # The values: inputs, one place for what no program takes, constants, outputs.
        values = layout.reserve(len(inputs) + 1)
        start = {-1: 0}
        constants = layout.reserve(2) - values
        needed = [block.executable for block in blocks if block.executable is not None]
        scratch = max((executable.scratch_bytes for executable in needed), default=0)
        shared = [memory.shared_scratch(scratch), 0]
        layout.put(values + constants, [self._address(x) for x in shared])
        for number, block in enumerate(blocks):
            start[number] = layout.reserve(len(block.makers)) - values
        for number, cell in self._cells.items():
            layout.put(values + number, [self._address(cell)])
        steps = layout.add(
            word
            for kind, source, a, b, target in self._steps
            for word in (kind, source, a, len(inputs) if kind == _ARRAY and b < 0 else b, target)
        )
        widest = max(len(block.sources) + len(block.makers) + 2 for block in blocks)
        given = layout.reserve(widest)
        path = layout.reserve(len(blocks))
        stack = layout.reserve(max(len(block.result or ()) for block in blocks) + 1)
        returned = layout.add(inputs)
        # Arguments are kept by who calls; what is found elsewhere, and all arrays, are not.
        held = [registers + register for register in inputs if register not in self._arguments]
        held += [values + i for i in range(len(inputs)) if i not in self._cells]
        kept = layout.add(held)
        self._places = [layout.reserve(_BLOCK) for _ in blocks]
        for number, block in enumerate(blocks):
            words = self._block(layout, number, block, start, constants)
            layout.put(self._places[number], words)
        wrapper = self.wrapper
        layout.put(
            0,
            [
                count,
                0,
                id(None),
                registers,
                values,
                steps,
                len(self._steps),
                _new_array(),
                method_definition(machine_source("interpreter"), "call").address,
                clock.ctypes.data,
                id(False),
                wrapper.node // 8,
                wrapper.base // 8,
                self._places[0],
                given,
                stack,
                returned,
                len(inputs),
                self._address(self.mark),
                path,
                0,
                kept,
                len(held),
                _TUPLE_ITEMS,
            ],
        )
        self._keep += [clock, blocks]
        self.words = np.array(layout.words, np.int64)
        self.native = native_function(machine_source("replay"), "replay", self.words)

    def _block(
        self,
        layout: _Layout,
        number: int,
        block: Block,
        start: dict[int, int],
        constants: int,
    ) -> list[int]:
        """The words of a block."""

        def place(ref: tuple[int, int]) -> int:
            return start[ref[0]] + ref[1]

        makers = block.makers
        sources = [place(ref) for ref in block.sources]
        sources += [start[number] + i for i in range(len(makers))]
        # After inputs and outputs a program takes memory for temporaries, and 0.
        sources += [constants, constants + 1]
        made: list[int] = []
        for maker in makers:
            if callable(maker):
                made += [self._address(maker), 0, 0, 0, 0]
                continue
            shape, dtype = maker
            sizes = np.array(shape or (0,), np.int64)
            self._keep.append(sizes)
            made += [0, id(np.ndarray), self._address(dtype), len(shape), sizes.ctypes.data]
        kind = condition = 0
        if block.condition is not None:
            ref, dtype, truth = block.condition
            condition = place(ref)
            kind = (_TRUTHS if truth else _WHOLE)[dtype.str[1:]]
        ways = [word for key, to in block.ways.items() for word in (key, self._places[to])]
        result: list[int] = []
        for step, value in block.result or ():
            result.append(step)
            if step == VALUE:
                result.append(place(value))
            elif step == WRITE:
                source, target, nbytes = value
                copied = np.array([place(source), place(target), nbytes], np.int64)
                self._keep.append(copied)
                result.append(copied.ctypes.data)
            elif step in (OBJECT, CALL, ATTRIBUTE, NEXT, SET, INCREMENT):
                result.append(self._address(value))
            elif step == RECORD:
                kind_made, slots = value
                offsets = [slot_offset(kind_made, name) // 8 for name in slots]
                record = np.array([self._address(kind_made), len(slots), *offsets], np.int64)
                self._keep.append(record)
                result.append(record.ctypes.data)
            else:
                result.append(value)
        program = 0 if block.executable is None else self._address(block.executable.words)
        return [
            program,
            len(sources),
            layout.add(sources),
            len(makers),
            layout.add(made),
            start[number],
            len(block.flags),
            layout.add(place(ref) for ref in block.flags),
            kind,
            condition,
            len(block.ways),
            layout.add(ways),
            len(block.result or ()),
            layout.add(result),
            0,
            0,
            number,
            len(block.leaves),
            layout.add(block.leaves),
            len(block.written),
            layout.add(place(ref) for ref in block.written),
        ]

    # ------------------------------------------------------------------------- counts

    @property
    def hits(self) -> int:
        """How many calls were taken since they were counted last."""
        return int(self.words[20])

    def take_hits(self) -> int:
        """The same, and count anew."""
        hits = self.hits
        self.words[20] = 0
        return hits

    def take_block_hits(self, number: int) -> int:
        """How often a block ran since this was asked last."""
        place = self._places[number] + 14
        hits = int(self.words[place])
        self.words[place] = 0
        return hits

    def last_used(self, number: int) -> int:
        """What the clock said when a call last ended with a block."""
        return int(self.words[self._places[number] + 15])


class _Layout:
    """Words that are laid out one after the other."""

    def __init__(self, start: int) -> None:
        self.words = [0] * start

    def reserve(self, count: int) -> int:
        """The place of so many words, zero for now."""
        start = len(self.words)
        self.words.extend([0] * count)
        return start

    def add(self, words: Iterable[int]) -> int:
        """The place of these words."""
        start = len(self.words)
        self.words.extend(words)
        return start

    def put(self, place: int, words: Sequence[int]) -> None:
        """Set words that were reserved."""
        self.words[place : place + len(words)] = words


def can_decide(dtype: np.dtype[Any], truth: bool) -> bool:
    """Whether native code can tell the outcome of a condition of this dtype."""
    return dtype.str[1:] in (_TRUTHS if truth else _WHOLE)


@cache
def _new_array() -> int:
    """The address of NumPy's `PyArray_NewFromDescr`, which is number 94 of its C API for good."""
    core: Any = importlib.import_module("numpy._core._multiarray_umath")
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype = ctypes.c_void_p
    pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    table = pointer(core._ARRAY_API, None)
    return int(ctypes.c_ssize_t.from_address(table + 94 * ctypes.sizeof(ctypes.c_void_p)).value)
