"""Known calls as data: what has to hold of a call, and what it does, for one native machine.

An `Entry` is a list of checks on the objects that a call finds, the program that runs then, and how
the result is put together. `replay.py` is the machine that goes through it; it is compiled when
something is first called often. Making an entry costs a fraction of a millisecond, and taking a
call by it less than a microsecond, where the same in Python takes some ten.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tracegrad.runtime.executor import Executable
from tracegrad.runtime.program import interpreter_source, method_definition, native_function

Array = np.ndarray[Any, Any]

_HEADER = 29
# The word of a tuple that its first item is in.
_TUPLE_ITEMS = 3
# Steps that only check or read; the numbers are those of `replay.py`.
_ARGUMENT, _DICT_ITEM, _WORD_OF, _ATTRIBUTE, _LIST_ITEM, _WORD = range(6)
_ITEM, _IS, _SAME, _CLASS, _LENGTH, _FLOAT64, _FLOAT32, _INT64 = range(6, 14)
_ARRAY, _APART, _KEYS, _WANTED = range(14, 18)
_TENSOR, _NONE, _TUPLE, _LIST, _OUTPUT, _REGISTER = range(6)

_NUMBERS = {(float, "d"): _FLOAT64, (float, "f"): _FLOAT32, (int, "l"): _INT64}

# More arrays than this are not compared with each other.
_MOST_APART = 24


@dataclass(frozen=True)
class Wrapper:
    """A class whose objects hold an array in a slot: what a result is wrapped in.

    The rest are offsets of slots in bytes. An object of `storage_class` is made for each new array;
    `base`, `alias` and `node` are None then; `wanted`, a bool, is False.
    """

    kind: type
    storage_class: type
    array: int
    storage: int
    base: int
    alias: int
    node: int
    wanted: int


def slot_offset(kind: type, name: str) -> int:
    """Where the slot `name` is in objects of `kind`, in bytes."""
    member = kind.__dict__[name]
    # CPython's PyMemberDescrObject: a head of two words, class, name, qualified name, definition;
    # and PyMemberDef: name, type, offset.
    words = (ctypes.c_ssize_t * 6).from_address(id(member))
    definition = (ctypes.c_ssize_t * 3).from_address(words[5])
    return int(definition[2])


class Entry:
    """A known call while it is put together, and then a function that takes calls like it.

    native    called as the compiled function is; None if the call is another one.
    whole     `native` returns the result itself; otherwise a list of outputs and inputs.
    owner     what the one who made it wants to know again.
    """

    __slots__ = (
        "_apart",
        "_cells",
        "_keep",
        "_registers",
        "_steps",
        "native",
        "outputs",
        "owner",
        "whole",
        "words",
        "wrapper",
    )

    native: Callable[..., Any]
    words: Array

    def __init__(self, wrapper: Wrapper) -> None:
        self.wrapper = wrapper
        self.whole = False
        self.outputs = 0
        self.owner: Any = None
        self._keep: list[Any] = []
        self._steps: list[tuple[int, int, int, int, int]] = []
        self._registers = 0
        self._cells: dict[int, Array] = {}
        self._apart: list[int] = []

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
        return self._step(_ARGUMENT, 0, position)

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
        step = _NUMBERS.get((kind, dtype.char))
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
        """Only a wrapper of such an array, which is a base of the program; with `apart` no view,
        and on memory of its own.
        """
        wrapper = self.wrapper
        self.is_of(source, wrapper.kind)
        self._step(_WANTED, source, id(wanted), wrapper.base // 8, wrapper.wanted // 8)
        if apart:
            self.is_object(self._step(_WORD, source, wrapper.base // 8), None)
            self.is_object(self._step(_WORD, source, wrapper.alias // 8), None)
            self._apart.append(source)
        self.array(self._step(_WORD, source, wrapper.array // 8), like, base)

    # ------------------------------------------------------------------------- finish

    def finish(
        self,
        count: int,
        executable: Executable,
        build: Sequence[tuple[int, int]] | None,
        returned: Sequence[int],
        clock: Array,
    ) -> bool:
        """Make `native`, for calls with `count` arguments that run `executable`; whether it can be.

        `build` puts the result together, see `tensor` and its like; None for a list of the outputs
        and of what is in the registers `returned`. `clock` counts calls, of other entries too.
        """
        if len(self._apart) > _MOST_APART or not executable.is_serial:
            return False
        first = self._register(len(self._apart))
        storages = self.wrapper.storage // 8
        for i, source in enumerate(self._apart):
            stored = self._step(_WORD, source, storages, 0, first + i)
            self._step(_APART, stored, first, first + i, stored)
        makers = executable.makers
        self.outputs = len(makers)
        self.whole = build is not None
        if build is None:
            build = [(_OUTPUT, i) for i in range(len(makers))]
            build += [(_REGISTER, source) for source in returned]
            build += [(_LIST, 0)]
        inputs = len(executable.graph.inputs)
        bases: list[Any] = [self._cells.get(i) for i in range(inputs)] + [None] * len(makers)
        bases += [executable.shared_scratch(), 0]
        self._lay_out(count, executable, makers, bases, build, clock)
        return True

    def _lay_out(
        self,
        count: int,
        executable: Executable,
        makers: Sequence[Any],
        bases: Sequence[Any],
        build: Sequence[tuple[int, int]],
        clock: Array,
    ) -> None:
        registers = _HEADER
        values = registers + self._registers
        # One more place is for arrays that no program takes.
        steps = values + len(bases) + 1
        outputs = steps + 5 * len(self._steps)
        built = outputs + 5 * len(makers)
        stack = built + 2 * len(build)
        words = np.zeros(stack + len(build), np.int64)
        wrapper = self.wrapper
        words[:_HEADER] = [
            count,
            0,
            id(None),
            registers,
            values,
            steps,
            len(self._steps),
            outputs,
            len(bases) - len(makers) - 2,
            len(makers),
            _new_array(),
            method_definition(interpreter_source(), "call").address,
            self._address(executable.words),
            len(bases),
            0,
            clock.ctypes.data,
            0,
            built,
            len(build),
            stack,
            self._address(wrapper.storage_class),
            self._address(wrapper.kind),
            id(False),
            wrapper.array // 8,
            wrapper.storage // 8,
            wrapper.base // 8,
            wrapper.alias // 8,
            wrapper.node // 8,
            wrapper.wanted // 8,
        ]
        for i, base in enumerate(bases):
            if base is not None:
                words[values + i] = self._address(base)
        for i, (kind, source, a, b, target) in enumerate(self._steps):
            given = len(bases) if kind == _ARRAY and b < 0 else b
            words[steps + 5 * i : steps + 5 * i + 5] = kind, source, a, given, target
        for i, maker in enumerate(makers):
            place = outputs + 5 * i
            if callable(maker):
                words[place] = self._address(maker)
            else:
                shape, dtype = maker
                sizes = np.array(shape or (0,), np.int64)
                self._keep.append(sizes)
                dimensions = len(shape), sizes.ctypes.data
                words[place + 1 : place + 5] = id(np.ndarray), self._address(dtype), *dimensions
        for i, step2 in enumerate(build):
            words[built + 2 * i : built + 2 * i + 2] = step2
        self._keep += [clock, executable]
        self.words = words
        self.native = native_function(_source(), "replay", words)

    # ------------------------------------------------------------------------- counts

    def take_hits(self) -> int:
        """How many calls were taken since this was asked last."""
        hits = int(self.words[14])
        self.words[14] = 0
        return hits

    @property
    def last_used(self) -> int:
        """What the clock said at the last of them."""
        return int(self.words[16])


def tensor(output: int) -> tuple[int, int]:
    """Building: a wrapper of an output."""
    return _TENSOR, output


def nothing() -> tuple[int, int]:
    """Building: None."""
    return _NONE, 0


def container(kind: type, start: int) -> tuple[int, int]:
    """Building: a tuple or a list of all that was built since there were `start` objects."""
    return (_LIST if kind is list else _TUPLE), start


@cache
def _source() -> str:
    return Path(__file__).with_name("replay.py").read_text(encoding="utf-8")


@cache
def _new_array() -> int:
    """The address of NumPy's `PyArray_NewFromDescr`, which is number 94 of its C API for good."""
    core: Any = importlib.import_module("numpy._core._multiarray_umath")
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype = ctypes.c_void_p
    pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    table = pointer(core._ARRAY_API, None)
    return int(ctypes.c_ssize_t.from_address(table + 94 * ctypes.sizeof(ctypes.c_void_p)).value)
