"""Access paths: how a captured object is found again at every call.

A path starts at a global name, a closure's cell or an argument and goes on by attributes and items.
So a tensor is captured by the way to it, not by what stood there once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import CellType
from typing import Any, Final

import numpy as np

from tracegrad.runtime.random import default_generator

Array = np.ndarray[Any, Any]


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()
"""What stands at a path that leads nowhere any more."""


class Path:
    """One way to an object. Equal paths go the same way from the same place.

    `read(arguments)` is what stands at its end now; `arguments` are the flat arguments of the call.
    `lead` says how the last step goes, for who takes it without Python: ("global", names, name),
    ("cell", cell), ("object", value), ("argument", position), ("call", place), ("attribute",
    parent, name) or ("item", parent, key); None for another step.
    """

    __slots__ = ("_key", "_text", "lead", "name", "position", "read", "store")

    def __init__(
        self,
        key: Hashable,
        text: str,
        read: Callable[[Sequence[Any]], Any],
        store: Callable[[Sequence[Any], Any], None] | None = None,
        position: int | None = None,
        name: str = "",
        lead: tuple[Any, ...] | None = None,
    ) -> None:
        self._key = key
        self.lead = lead
        self._text = text
        self.read = read
        self.store = store
        # Of a variable or an attribute its name; of an item that of the container.
        self.name = name
        # Of a path that is a flat argument itself, which one.
        self.position = position

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Path) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return self._text

    @property
    def is_object(self) -> bool:
        """Whether it is one object, to which no way led."""
        return isinstance(self._key, tuple) and self._key[0] == "object"

    def get(self, arguments: Sequence[Any]) -> Any:
        """What stands at the end of the path, or MISSING."""
        try:
            return self.read(arguments)
        except (KeyError, ValueError, AttributeError, IndexError, TypeError):
            return MISSING

    def attribute(self, name: str) -> Path:
        """On to the attribute `name`."""
        parent = self.read

        def read(arguments: Sequence[Any]) -> Any:
            return getattr(parent(arguments), name)

        key = self._key, "attribute", name
        lead = "attribute", self, name
        return Path(key, f"{self._text}.{name}", read, name=name, lead=lead)

    def item(self, key: Any) -> Path:
        """On to the item at `key`."""
        parent = self.read

        def read(arguments: Sequence[Any]) -> Any:
            return parent(arguments)[key]

        text = f"{self._text}[{key!r}]"
        lead = "item", self, key
        return Path((self._key, "item", type(key), key), text, read, name=self.name, lead=lead)


def of_global(names: dict[str, Any], name: str) -> Path:
    """The global `name` of a module whose dictionary is `names`."""

    def store(arguments: Sequence[Any], value: Any) -> None:
        if value is MISSING:
            names.pop(name, None)
        else:
            names[name] = value

    key = "global", id(names), name
    lead = "global", names, name
    return Path(key, name, lambda arguments: names[name], store, name=name, lead=lead)


def of_cell(cell: CellType, name: str) -> Path:
    """The variable `name` of an enclosing function."""

    def store(arguments: Sequence[Any], value: Any) -> None:
        if value is MISSING:
            del cell.cell_contents
        else:
            cell.cell_contents = value

    key = "cell", id(cell)
    lead = "cell", cell
    return Path(key, name, lambda arguments: cell.cell_contents, store, name=name, lead=lead)


def of_object(value: Any, text: str) -> Path:
    """An object itself, which no later call can exchange."""
    return Path(("object", id(value)), text, lambda arguments: value, lead=("object", value))


def of_part(whole: Path, array: Array, part: Array) -> Path:
    """A view, `part`, of the array that stands at a path; `array` is that, and C-contiguous."""
    start: int = part.ctypes.data - array.ctypes.data
    dtype, shape = array.dtype, array.shape
    layout = part.shape, part.dtype, part.strides

    def read(arguments: Sequence[Any]) -> Any:
        found = whole.read(arguments)
        same = isinstance(found, np.ndarray) and (found.dtype, found.shape) == (dtype, shape)
        if not same or not found.flags.c_contiguous:
            raise ValueError("another array stands there")
        return np.ndarray(layout[0], layout[1], found, start, layout[2])

    key = whole._key, "part", start, layout[0], layout[1].str, layout[2]
    return Path(key, f"a part of {whole}", read)


def of_argument(position: int, text: str) -> Path:
    """A flat argument of the call, by position."""
    key = lead = "argument", position
    return Path(key, text, lambda arguments: arguments[position], None, position, lead=lead)


def of_call(place: int | str, text: str) -> Path:
    """An argument as it was given, container or not, by position or by keyword."""

    def read(arguments: Any) -> Any:
        return arguments.args[place] if isinstance(place, int) else arguments.kwargs[place]

    return Path(("call", place), text, read, name=text, lead=("call", place))


def of_generator(part: str) -> Path:
    """The "seed" or the "offset" of the random numbers."""

    def read(arguments: Sequence[Any]) -> Any:
        return getattr(default_generator, part)

    lead = "attribute", of_object(default_generator, "the generator"), part
    return Path(("generator", part), f"the random {part}", read, lead=lead)
