"""What a function can reach beside its arguments, found by the names that stand in its code.

The walk starts at the closure and the globals that the code reads, follows helper functions,
methods, attributes and containers, and lists two things: tensors and arrays, each with the path to
it, and plain values and functions, which guard a trace by being the same at each call.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from tracegrad.tracer import access
from tracegrad.tracer.access import MISSING, Path
from tracegrad.tracer.code_reading import names_in
from tracegrad.tracer.location import PACKAGE
from tracegrad.tracer.tensor import Tensor

# Code of these packages is constant while a program runs, and reads nothing of the user's.
_CONSTANT_PACKAGES = frozenset(sys.stdlib_module_names) - {"__main__"} | {
    "builtins",
    "matplotlib",
    "numba",
    "numpy",
    "pytest",
    "_pytest",
    "scipy",
    "tracegrad",
}

_SCALARS = (bool, int, float, complex, str, bytes, type(None), set, frozenset, np.generic)
# What is compared by value; all else by identity.
_COMPARED: tuple[type, ...] = (*_SCALARS, list, tuple)
_MOST_OBJECTS = 20_000
# Containers that a function can add to without asking what they hold.
_GROWING = (list, dict, set, deque)


class Guard:
    """A plain value or a function that must be the same at each call."""

    __slots__ = ("_types", "expected", "path")

    def __init__(self, path: Path, value: Any) -> None:
        self.path = path
        self._types: list[type] | None = None
        if isinstance(value, list | tuple):
            self._types = [type(item) for item in value]
            value = type(value)(value) if type(value) in (list, tuple) else value
        elif isinstance(value, set):
            value = set(value)
        self.expected = value

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether what stands at the path now is what stood there when the trace was made."""
        value: Any = self.path.get(arguments)
        expected: Any = self.expected
        if value is expected:
            return True
        if type(value) is not type(expected) or not isinstance(expected, _COMPARED):
            return False
        if self._types is not None:
            return bool(value == expected) and [type(item) for item in value] == self._types
        # NaN is the same as NaN here: the trace is the same.
        return bool(value == expected) or (value != value and expected != expected)

    def difference(self, arguments: Sequence[Any]) -> str:
        """`lr: 0.1 -> 0.2`."""
        return f"{self.path}: {_short(self.expected)} -> {_short(self.path.get(arguments))}"


class KeysGuard(Guard):
    """A list must have as many items, and a dictionary the same keys, as they had."""

    __slots__ = ()

    def __init__(self, path: Path, value: Any) -> None:
        super().__init__(path, _keys(value))

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether the container has the same places for items."""
        return bool(_keys(self.path.get(arguments)) == self.expected)

    def difference(self, arguments: Sequence[Any]) -> str:
        """`layers: items range(0, 2) -> range(0, 3)`."""
        return f"{self.path}: items {self.expected} -> {_keys(self.path.get(arguments))}"


class ContentGuard(Guard):
    """An array that NumPy may have read while tracing has to have equal elements."""

    __slots__ = ("_dtype", "_shape")

    def __init__(self, path: Path, array: np.ndarray[Any, Any]) -> None:
        super().__init__(path, _bits(array).copy())
        self._dtype = array.dtype
        self._shape = array.shape

    def holds(self, arguments: Sequence[Any]) -> bool:
        """Whether the array has the same dtype, shape and bits."""
        value = self.path.get(arguments)
        return (
            isinstance(value, np.ndarray)
            and value.dtype == self._dtype
            and value.shape == self._shape
            and np.array_equal(_bits(value), self.expected)
        )

    def difference(self, arguments: Sequence[Any]) -> str:
        """`weights: elements of the array changed`."""
        return f"{self.path}: elements of the array changed"


def _bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(value)
    return len(value) if isinstance(value, list | tuple | deque) else None


def _short(value: Any) -> str:
    text = getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def is_constant_code(value: Any) -> bool:
    """Whether `value` belongs to a package whose code nobody changes while a program runs."""
    module = getattr(value, "__module__", None) or ""
    return module.partition(".")[0] in _CONSTANT_PACKAGES


def _has_open_attributes(value: Any) -> bool:
    """Whether the attributes of an object are the user's, as those of a SimpleNamespace are too."""
    if not is_constant_code(type(value)):
        return True
    package = type(value).__module__.partition(".")[0]
    return package in sys.stdlib_module_names and bool(getattr(value, "__dict__", None))


class Survey:
    """Everything that a function can reach by the names in its code, as it stands now.

    tensors    path of each tensor, by identity.
    arrays     the same of NumPy arrays.
    guards     plain values and functions.
    contents   the elements of each array that the code names, by identity of the array.
    twins      pairs of paths that lead to one object.
    variables  globals and variables of enclosing functions, there or not.
    objects    path of each object that can be changed, and the object, by identity.
    codes      the user's code that was met.

    `opaque`: arguments that are no tensors, numbers or containers of them.
    """

    def __init__(self, function: Any, opaque: Sequence[Any] = ()) -> None:
        self.tensors: dict[int, Path] = {}
        self.arrays: dict[int, Path] = {}
        self.guards: list[Guard] = []
        self.twins: list[tuple[Path, Path]] = []
        self.variables: dict[Path, None] = {}
        self.objects: dict[int, tuple[Path, Any]] = {}
        self.codes: dict[CodeType, None] = {}
        self.set_attributes: frozenset[str] = frozenset()
        # Identities are used as keys, so everything met stays alive as long as the survey.
        self._kept: list[Any] = []
        self._attributes: frozenset[str] = frozenset()
        self._mentioned: frozenset[str] = frozenset()
        self._used: frozenset[str] = frozenset()
        roots = [(access.of_object(value, _name_of(value)), value) for value in (function, *opaque)]
        while True:
            # A function met late can name attributes of objects met before: walk until none is new.
            before = self._attributes, self._mentioned, self._used, self.set_attributes
            self._walk(roots)
            if (self._attributes, self._mentioned, self._used, self.set_attributes) == before:
                break
        self.contents = {
            id(array): ContentGuard(path, array)
            for path, array in self._named_arrays
            if not array.dtype.hasobject
        }

    def unread(self, taken: Iterable[np.ndarray[Any, Any]]) -> list[Guard]:
        """Guards of the arrays that are no inputs of a trace, whose inputs are on `taken`.

        What NumPy makes of them while tracing is constant in compiled code.
        """
        known = {id(part) for array in taken for part in (array, array.base)}
        return [guard for key, guard in self.contents.items() if key not in known]

    def _walk(self, roots: Sequence[tuple[Path, Any]]) -> None:
        self.tensors.clear()
        self.arrays.clear()
        self.guards.clear()
        self.twins.clear()
        self.objects.clear()
        self._named_arrays: list[tuple[Path, np.ndarray[Any, Any]]] = []
        self._seen: dict[int, Path] = {}
        self._guarded: set[Path] = set()
        work = deque((path, value, False) for path, value in roots)
        while work and len(self._seen) < _MOST_OBJECTS:
            path, value, named = work.popleft()
            if isinstance(value, _GROWING):
                self.objects.setdefault(id(value), (path, value))
                if path.name in self._mentioned and path.name not in self._used:
                    # Only added to: what it holds makes no difference, and it may be long.
                    self._kept.append(value)
                    continue
            if isinstance(value, _SCALARS):
                if named:
                    self._guard(path, value)
                continue
            if isinstance(value, FunctionType | type | MethodType) and named:
                self._guard(path, value)
            if isinstance(value, np.ndarray) and named:
                self._named_arrays.append((path, value))
            first = self._seen.setdefault(id(value), path)
            if first is not path:
                if first != path and isinstance(value, Tensor | np.ndarray | list | dict):
                    self.twins.append((first, path))
                continue
            self._kept.append(value)
            work.extend(self._inside(path, value, named))

    def _guard(self, path: Path, value: Any) -> None:
        # Of a method, a new object each time, the function is what matters; the walk goes there.
        if not isinstance(value, MethodType) and path not in self._guarded:
            self._guarded.add(path)
            self.guards.append(Guard(path, value))

    def _inside(self, path: Path, value: Any, named: bool) -> Iterator[tuple[Path, Any, bool]]:
        if isinstance(value, Tensor):
            self.tensors[id(value)] = path
        elif isinstance(value, np.ndarray):
            self.arrays[id(value)] = path
        elif isinstance(value, FunctionType):
            yield from self._of_function(path, value)
        elif isinstance(value, list | tuple | deque):
            yield from self._of_sequence(path, value, named)
        elif isinstance(value, dict):
            self.guards.append(KeysGuard(path, value))
            for key, item in value.items():
                if isinstance(key, str | int | float | bool | bytes | tuple | type(None)):
                    yield path.item(key), item, named
        elif isinstance(value, MethodType):
            yield path.attribute("__func__"), value.__func__, True
            yield path.attribute("__self__"), value.__self__, named
        elif isinstance(value, functools.partial):
            yield path.attribute("func"), value.func, True
            yield path.attribute("args"), value.args, True
            yield path.attribute("keywords"), value.keywords, True
        elif isinstance(value, ModuleType):
            self._changeable(path, value)
            if value.__name__.partition(".")[0] not in _CONSTANT_PACKAGES:
                for name in sorted(self._attributes & vars(value).keys()):
                    yield path.attribute(name), vars(value)[name], True
        elif isinstance(value, type):
            if not is_constant_code(value):
                self._changeable(path, value)
                yield from self._of_class(path, value)
        elif hasattr(value, "__wrapped__") and callable(value):
            # A compiled function, or any other wrapper that says what it wraps.
            yield path.attribute("__wrapped__"), value.__wrapped__, True
        elif not isinstance(value, BuiltinFunctionType) and _has_open_attributes(value):
            self.objects[id(value)] = path, value
            yield from self._of_instance(path, value)

    def _changeable(self, path: Path, value: Any) -> None:
        """A class, function or module: its attributes can be set, but seldom are."""
        if self.set_attributes:
            self.objects[id(value)] = path, value

    def _of_function(self, path: Path, function: FunctionType) -> Iterator[tuple[Path, Any, bool]]:
        if is_constant_code(function):
            return
        code = function.__code__
        # What a transform of this package returns bears the name of the user's function, but its
        # own code does not change: only the functions that it wraps are followed.
        ours = code.co_filename.startswith(PACKAGE)
        if not ours:
            self.codes[code] = None
            found = names_in(code)
            self._attributes |= found.attributes
            self.set_attributes |= found.set_attributes
            self._mentioned |= found.loaded | found.attributes | frozenset(code.co_freevars)
            self._used |= found.used
            names = function.__globals__
            for name in sorted(found.loaded | found.stored):
                global_path = access.of_global(names, name)
                if name in names:
                    yield global_path, names[name], name in found.loaded
                if name in found.stored:
                    self.variables[global_path] = None
            self._changeable(path, function)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            cell_path = access.of_cell(cell, name)
            value = cell_path.get(())
            if not ours:
                self.variables[cell_path] = None
            if value is not MISSING:
                yield cell_path, value, not ours
        if function.__defaults__:
            yield path.attribute("__defaults__"), function.__defaults__, False
        if function.__kwdefaults__:
            yield path.attribute("__kwdefaults__"), function.__kwdefaults__, False
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            yield path.attribute("__wrapped__"), wrapped, not ours

    def _of_sequence(
        self, path: Path, value: Sequence[Any], named: bool
    ) -> Iterator[tuple[Path, Any, bool]]:
        if value and all(isinstance(item, _SCALARS) for item in value):
            if named:
                self._guard(path, value)
            return
        self.guards.append(KeysGuard(path, value))
        for i, item in enumerate(value):
            yield path.item(i), item, named

    def _of_class(self, path: Path, kind: type) -> Iterator[tuple[Path, Any, bool]]:
        for base in kind.__mro__:
            if is_constant_code(base):
                continue
            for name, value in vars(base).items():
                special = name.startswith("__") and name.endswith("__")
                named = name in self._attributes
                if isinstance(value, property) and named:
                    for part in (value.fget, value.fset):
                        if part is not None:
                            yield access.of_object(part, f"{path}.{name}"), part, False
                elif isinstance(value, staticmethod | classmethod) and named:
                    yield path.attribute(name), value.__func__, False
                elif isinstance(value, FunctionType) and (named or special):
                    yield access.of_object(value, f"{path}.{name}"), value, False
                elif not special and (named or isinstance(value, Tensor)):
                    yield path.attribute(name), value, named

    def _of_instance(self, path: Path, value: Any) -> Iterator[tuple[Path, Any, bool]]:
        kind = type(value)
        if not is_constant_code(kind):
            yield access.of_object(kind, kind.__name__), kind, False
        names = list(getattr(value, "__dict__", ()))
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ())
            names.extend([slots] if isinstance(slots, str) else slots)
        for name in names:
            if isinstance(name, str) and name not in ("__dict__", "__weakref__"):
                child = getattr(value, name, MISSING)
                if child is not MISSING:
                    # Tensors are looked for everywhere; plain values count if the code names them.
                    yield path.attribute(name), child, name in self._attributes


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__
