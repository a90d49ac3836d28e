"""Nested containers as a flat list of dynamic leaves and a hashable description of the rest.

Lists, tuples, named tuples, dictionaries and dataclasses are containers. Tensors, NumPy arrays and
Python's int and float are dynamic leaves: their values are inputs of the compiled code. All other
objects are static and part of the description: by value where the type compares by value, by
identity where it does not.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from tracegrad.errors import ArgumentError, DtypeError
from tracegrad.ir.types import BY_NUMPY, DTYPES
from tracegrad.tracer.growing import kind_of
from tracegrad.tracer.tensor import Tensor

_DEEPEST = 200


class Leaf:
    """The place of one dynamic leaf in a description; `kind` is what stood there."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return self.kind


TENSOR: Final = Leaf("tensor")
ARRAY: Final = Leaf("array")
FLOAT: Final = Leaf("float")
INT: Final = Leaf("int")


class Static:
    """An object that is part of the description: equal by type and value, or by identity."""

    __slots__ = ("_key", "by_value", "value")

    def __init__(self, value: Any, *, by_identity: bool = False) -> None:
        self.value = value
        self.by_value = not by_identity and compares_by_value(value)
        self._key: Hashable = id(value)
        if self.by_value:
            # A set of plain values is unhashable, and compares by value nevertheless.
            self._key = type(value), frozenset(value) if isinstance(value, set) else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        text = repr(self.value) if self.by_value else f"<{type(self.value).__name__} object>"
        return text if len(text) <= 60 else text[:57] + "..."


@dataclasses.dataclass(frozen=True)
class Container:
    """A container: its type, its keys (of a dict) or field names, and what stands in it."""

    type: type
    keys: tuple[Hashable, ...] | None
    items: tuple[Description, ...]

    def __repr__(self) -> str:
        if self.keys is None:
            return f"{self.type.__name__}({', '.join(map(repr, self.items))})"
        pairs = zip(self.keys, self.items, strict=True)
        return f"{self.type.__name__}({', '.join(f'{key}: {item!r}' for key, item in pairs)})"


Description = Leaf | Static | Container


def compares_by_value(value: Any) -> bool:
    """Whether two objects like `value` may be equal without being one: then `==` is what guards."""
    if isinstance(value, bool | str | bytes | complex | type(None) | type(Ellipsis) | type):
        return True
    if isinstance(value, float | int):
        return True
    if isinstance(value, set):
        return True
    compare: Any = type(value).__eq__
    if compare is object.__eq__:
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def is_dataclass_instance(value: Any) -> bool:
    """Whether `value` is an instance (not the class) of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def parts(value: Any) -> tuple[tuple[Hashable, ...] | None, Sequence[Any]] | None:
    """Keys and items of a container; None for anything else."""
    kind = type(value)
    if kind is tuple or kind is list:
        return None, value
    if isinstance(value, dict):
        return tuple(value), tuple(value.values())
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return kind._fields, value
    if isinstance(value, tuple | list):
        return None, value
    if is_dataclass_instance(value):
        names = tuple(field.name for field in dataclasses.fields(value))
        return names, tuple(getattr(value, name, None) for name in names)
    return None


def flatten(value: Any, leaves: list[Any], depth: int = 0, *, objects: bool = False) -> Description:
    """Append the dynamic leaves of `value` to `leaves`; describe the rest.

    With `objects`, other objects that have tensors as attributes are containers too.
    ArgumentError for a container that contains itself.
    """
    if isinstance(value, Tensor):
        leaves.append(value)
        return TENSOR
    kind = kind_of(value)
    if kind is float:
        leaves.append(value)
        return FLOAT
    if kind is int and -(2**63) <= value < 2**63:
        leaves.append(value)
        return INT
    if isinstance(value, np.ndarray | np.number):
        if value.dtype in BY_NUMPY:
            leaves.append(value)
            return ARRAY
        if value.dtype.kind in "biufc":
            raise DtypeError(
                f"an array of {value.dtype} is no argument of a compiled function: the supported "
                f"types are {', '.join(dtype.name for dtype in DTYPES)}, in native byte order. "
                "Convert it by astype()"
            )
    inside = parts(value)
    if inside is None and objects:
        inside = tensor_attributes(value)
    if inside is None:
        return Static(value)
    if depth > _DEEPEST:
        raise ArgumentError(f"an argument contains itself, or nests more than {_DEEPEST} deep")
    keys, items = inside
    described = [flatten(item, leaves, depth + 1, objects=objects) for item in items]
    return Container(kind, keys, tuple(described))


def tensor_attributes(value: Any) -> tuple[tuple[Hashable, ...], Sequence[Any]] | None:
    """Names and values of the attributes of an object that has a tensor among them."""
    attributes = getattr(value, "__dict__", None)
    if not isinstance(attributes, dict) or isinstance(value, type) or callable(value):
        return None
    if not any(isinstance(item, Tensor) for item in attributes.values()):
        return None
    return tuple(attributes), tuple(attributes.values())


def unflatten(description: Description, leaves: Sequence[Any]) -> Any:
    """The value that `flatten` took apart, with other leaves."""
    return _rebuild(description, iter(leaves).__next__)


def builder_of(description: Description) -> Callable[[Sequence[Any]], Any]:
    """A function from leaves to the value that `flatten` took apart.

    Tuples, lists and leaves become one Python expression, since a compiled function builds its
    results at every call; what holds anything else is put together step by step.
    """
    count = itertools.count()
    text = _display(description, count)
    if text is None:
        return functools.partial(unflatten, description)
    build: Callable[[Sequence[Any]], Any] = eval(f"lambda v: {text}", {})
    return build


def _display(description: Description, count: Iterator[int]) -> str | None:
    """The expression of a description over the leaves `v`; None for other containers."""
    if isinstance(description, Leaf):
        return f"v[{next(count)}]"
    if isinstance(description, Static):
        return "None" if description.value is None else None
    items = [_display(item, count) for item in description.items]
    texts = [item for item in items if item is not None]
    if len(texts) < len(items) or description.type not in (tuple, list):
        return None
    inside = ", ".join(texts)
    if description.type is list:
        return f"[{inside}]"
    return f"({inside},)" if texts else "()"


def _rebuild(description: Description, take: Callable[[], Any]) -> Any:
    if isinstance(description, Leaf):
        return take()
    if isinstance(description, Static):
        return description.value
    items = [_rebuild(item, take) for item in description.items]
    return assemble(description.type, description.keys, items)


def assemble(kind: type, keys: tuple[Hashable, ...] | None, items: list[Any]) -> Any:
    """A container of type `kind` out of its items."""
    if kind is tuple:
        return tuple(items)
    if kind is list:
        return items
    if issubclass(kind, dict):
        assert keys is not None
        built = kind.__new__(kind)
        # Not the constructor: a defaultdict, say, takes something else there.
        dict.update(built, zip(keys, items, strict=True))
        return built
    if issubclass(kind, tuple):
        return kind._make(items) if hasattr(kind, "_make") else kind(items)
    if issubclass(kind, list):
        return kind(items)
    assert keys is not None
    copy = object.__new__(kind)
    for key, item in zip(keys, items, strict=True):
        # A frozen dataclass refuses setattr.
        object.__setattr__(copy, str(key), item)
    return copy


def is_leaf(value: Any) -> bool:
    """Whether `value` is a dynamic leaf."""
    if isinstance(value, np.ndarray | np.number):
        return value.dtype in BY_NUMPY
    kind = type(value)
    return isinstance(value, Tensor) or kind is float or (kind is int and -(2**63) <= value < 2**63)


def substitute(value: Any, replace: Callable[[Any], Any], depth: int = 0) -> Any:
    """`value` with each dynamic leaf replaced; a container in which nothing changes stays itself.

    So a function that is given a dictionary of tensors gets the caller's own dictionary.
    """
    if is_leaf(value):
        return replace(value)
    inside = parts(value)
    if inside is None or depth > _DEEPEST:
        return value
    keys, items = inside
    new = [substitute(item, replace, depth + 1) for item in items]
    if all(a is b for a, b in zip(new, items, strict=True)):
        return value
    return assemble(kind_of(value), keys, new)


def statics(description: Description) -> list[Any]:
    """The static objects in a description that are more than plain values."""
    if isinstance(description, Static):
        plain = isinstance(description.value, bool | str | bytes | complex | None | float | int)
        return [] if plain else [description.value]
    if isinstance(description, Container):
        return [value for item in description.items for value in statics(item)]
    return []


def leaf_names(description: Description, name: str) -> list[str]:
    """A name for each dynamic leaf, from that of the whole."""
    if isinstance(description, Leaf):
        return [name]
    if isinstance(description, Static):
        return []
    keys = description.keys or range(len(description.items))
    pairs = zip(keys, description.items, strict=True)
    return [found for key, item in pairs for found in leaf_names(item, f"{name}_{key}")]
