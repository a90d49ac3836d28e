"""What a function can reach beside its arguments, found by the names that stand in its code.

The walk starts at the closure and the globals that the code reads, follows helper functions,
methods, attributes and containers, and lists two things: tensors and arrays, each with the path to
it, and plain values and functions, which guard a trace by being the same at each call.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from tracegrad.tracer import access
from tracegrad.tracer.access import MISSING, Path
from tracegrad.tracer.code_reading import AT_THE_FRONT, NO_NAMES, Names, names_in
from tracegrad.tracer.guards import (
    SCALARS,
    ContentGuard,
    Guard,
    KeysGuard,
    PresenceGuard,
    TypeGuard,
)
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

_MOST_OBJECTS = 20_000
# Containers that a function can add to without asking what they hold.
_GROWING = (list, dict, set, deque)
_PLAIN_CONTAINERS = frozenset({list, dict, set, deque, OrderedDict, defaultdict})


def is_constant_code(value: Any) -> bool:
    """Whether `value` belongs to a package whose code nobody changes while a program runs."""
    if isinstance(value, FunctionType):
        # Not `__module__`: `functools.wraps` takes that from what is wrapped, a `partial` perhaps.
        module = value.__globals__.get("__name__")
    else:
        module = getattr(value, "__module__", None)
    return (module or "").partition(".")[0] in _CONSTANT_PACKAGES


def _is_constant_throughout(function: FunctionType) -> bool:
    """Whether what constant code wraps, if anything, is constant code too."""
    wrapped = inspect.unwrap(function)
    return wrapped is function or (isinstance(wrapped, FunctionType) and is_constant_code(wrapped))


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
    named_tensors  those of the tensors that the code names, by path.
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
        self.named_tensors: dict[Path, Tensor] = {}
        self.objects: dict[int, tuple[Path, Any]] = {}
        self.codes: dict[CodeType, None] = {}
        # Identities are used as keys, so everything met stays alive as long as the survey.
        self._kept: list[Any] = []
        self._names = NO_NAMES
        roots = [(access.of_object(value, _name_of(value)), value) for value in (function, *opaque)]
        while True:
            # A function met late can name attributes of objects met before: walk until none is new.
            before = self._names
            self._walk(roots)
            if self._names == before:
                break
        self.contents = {
            id(array): ContentGuard(path, array)
            for path, array in self._named_arrays
            if not array.dtype.hasobject
        }

    @property
    def functions(self) -> list[FunctionType]:
        """The user's functions that may be called."""
        found = {id(x): x for x in self._kept if isinstance(x, FunctionType)}
        return [x for x in found.values() if not is_constant_code(x)]

    def unread(self, taken: Iterable[np.ndarray[Any, Any]]) -> list[Guard]:
        """Guards of the arrays that are no inputs of a trace, whose inputs are on `taken`.

        What NumPy makes of them while tracing is constant in compiled code.
        """
        known = {id(part) for array in taken for part in (array, array.base)}
        return [guard for key, guard in self.contents.items() if key not in known]

    def forget(self, overwritten: Collection[Path]) -> None:
        """Do not guard what the function only sets: what it was before makes no difference."""
        self.guards = [
            guard
            for guard in self.guards
            if guard.path not in overwritten or guard.path.name in self._names.attributes
        ]

    def _walk(self, roots: Sequence[tuple[Path, Any]]) -> None:
        self.tensors.clear()
        self.arrays.clear()
        self.guards.clear()
        self.twins.clear()
        self.objects.clear()
        self.named_tensors.clear()
        self._named_arrays: list[tuple[Path, np.ndarray[Any, Any]]] = []
        self._seen: dict[int, Path] = {}
        self._guarded: set[Path] = set()
        self._looked_into: set[int] = set()
        work = deque((path, value, False) for path, value in roots)
        while work and len(self._seen) < _MOST_OBJECTS:
            path, value, named = work.popleft()
            if isinstance(value, _GROWING):
                self.objects.setdefault(id(value), (path, value))
                if self._is_only_added_to(path, value):
                    # What it holds makes no difference, and it may be long.
                    self._kept.append(value)
                    continue
            if isinstance(value, SCALARS):
                if named:
                    self._guard(path, value)
                continue
            if isinstance(value, FunctionType | type | MethodType | Enum) and named:
                self._guard(path, value)
            if isinstance(value, Enum):
                continue
            if isinstance(value, Tensor) and named:
                self.named_tensors[path] = value
            if isinstance(value, np.ndarray) and named:
                self._named_arrays.append((path, value))
            first = self._seen.setdefault(id(value), path)
            if first is not path:
                if first != path and isinstance(value, Tensor | np.ndarray | list | dict):
                    self.twins.append((first, path))
                continue
            self._kept.append(value)
            work.extend(self._inside(path, value, named))

    def _is_only_added_to(self, path: Path, value: Any) -> bool:
        if type(value) not in _PLAIN_CONTAINERS or not self._names.only_adds_to(path.name):
            self._looked_into.add(id(value))
            return False
        if isinstance(value, list | deque) and not self._names.attributes.isdisjoint(AT_THE_FRONT):
            if isinstance(value, deque) and value.maxlen is not None:
                # What is put in at one end falls out at the other.
                self._looked_into.add(id(value))
                return False
            if not value:
                # The ends of nothing are one: what goes to which is seen where something is there.
                self.guards.append(KeysGuard(path, value))
        return True

    def is_unread(self, value: Any) -> bool:
        """Whether the function only adds to the container `value`, and never asks what it holds."""
        return isinstance(value, _GROWING) and id(value) not in self._looked_into

    @property
    def names(self) -> Names:
        """All names in the user's code that was met."""
        return self._names

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
            yield path.attribute("func"), value.func, named
            yield path.attribute("args"), value.args, True
            yield path.attribute("keywords"), value.keywords, True
        elif isinstance(value, ModuleType):
            self._changeable(path, value)
            if value.__name__.partition(".")[0] not in _CONSTANT_PACKAGES:
                for name in sorted(self._names.attributes & vars(value).keys()):
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
            if named:
                self.guards.append(TypeGuard(path, value))
            yield from self._of_instance(path, value)
        elif named:
            self._guard(path, value)

    def _changeable(self, path: Path, value: Any) -> None:
        """A class, function or module: its attributes can be set, but seldom are."""
        if self._names.set_attributes:
            self.objects[id(value)] = path, value

    def _of_function(self, path: Path, function: FunctionType) -> Iterator[tuple[Path, Any, bool]]:
        # What a transform of this package returns is constant code around a function of the user.
        constant = is_constant_code(function)
        if constant and _is_constant_throughout(function):
            return
        code = function.__code__
        if not constant:
            self.codes[code] = None
            found = names_in(code)
            self._names = self._names.union(found)
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
            if not constant:
                self.variables[cell_path] = None
            if value is not MISSING:
                yield cell_path, value, not constant
        if function.__defaults__:
            yield path.attribute("__defaults__"), function.__defaults__, False
        if function.__kwdefaults__:
            yield path.attribute("__kwdefaults__"), function.__kwdefaults__, False
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            yield path.attribute("__wrapped__"), wrapped, not constant

    def _of_sequence(
        self, path: Path, value: Sequence[Any], named: bool
    ) -> Iterator[tuple[Path, Any, bool]]:
        if value and all(isinstance(item, SCALARS) for item in value):
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
                named = name in self._names.attributes
                if isinstance(value, property):
                    is_set = name in self._names.set_attributes
                    for part, used in ((value.fget, named), (value.fset, is_set)):
                        if part is not None and used:
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
                    place = path.attribute(name)
                    yield place, child, name in self._names.attributes
                    if name in self._names.set_attributes and isinstance(child, SCALARS):
                        # The function may set it to what it is: to be done where it is not.
                        self._guard(place, child)
        for name in sorted(self._names.asked):
            there = getattr(value, name, MISSING) is not MISSING
            if not there or name in names:
                self.guards.append(PresenceGuard(path.attribute(name), there))


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__
