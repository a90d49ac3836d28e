"""What a function's code does with names: which it reads, which it stores, which it only adds to.

A list that the code does nothing with but append to need not look the same at every call.
"""

from __future__ import annotations

import dis
import functools
import linecache
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from types import CodeType

from tracegrad.errors import SideEffectWarning
from tracegrad.tracer.access import Path
from tracegrad.tracer.location import user_place

_GLOBAL_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_CELL_LOADS = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_ATTRIBUTE_LOADS = frozenset({"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"})
_STORES = frozenset({"STORE_GLOBAL", "STORE_NAME", "STORE_DEREF", "STORE_FAST", "STORE_ATTR"})
# Methods whose effect and result do not depend on what a container holds.
_ADDING = frozenset({"append", "appendleft", "extend", "extendleft", "add"})
AT_THE_FRONT = frozenset({"appendleft", "extendleft", "insert"})
"""Those of them that put something in front of what is there."""
_ASKING = frozenset({"getattr", "hasattr"})
_IGNORED = frozenset({"CACHE", "NOP", "EXTENDED_ARG"})
_PUSHES = (
    _GLOBAL_LOADS
    | _CELL_LOADS
    | {"LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_CONST", "LOAD_SMALL_INT", "PUSH_NULL"}
)
# How far behind a name the end of its statement is looked for.
_LONGEST = 60


@dataclass(frozen=True)
class Names:
    """Names in a piece of code, and in the functions defined within it.

    loaded      globals that are read.
    attributes  attributes that are read.
    enclosing   variables of enclosing functions.
    stored      globals that are set; `set_attributes` the same of attributes.
    used        variables and attributes that are read for more than adding something to the
                container that they name.
    summed      what `+=` is done to: a list then grows, but a number counts.
    asked       attributes that may be missing: named in a string for getattr() or hasattr(), or
                read where an AttributeError is expected.
    """

    loaded: frozenset[str]
    attributes: frozenset[str]
    enclosing: frozenset[str]
    stored: frozenset[str]
    set_attributes: frozenset[str]
    used: frozenset[str]
    summed: frozenset[str]
    asked: frozenset[str]

    def union(self, other: Names) -> Names:
        """The names of both."""
        return Names(*[getattr(self, name) | getattr(other, name) for name in _FIELDS])

    def only_adds_to(self, name: str) -> bool:
        """Whether a container of that name is only added to; False if it is never mentioned."""
        mentioned = name in self.loaded or name in self.attributes or name in self.enclosing
        return mentioned and name not in self.used


_FIELDS = tuple(field.name for field in fields(Names))
NO_NAMES = Names(*[frozenset()] * len(_FIELDS))


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> Names:
    """The names in `code`."""
    found: dict[str, set[str]] = {name: set() for name in _FIELDS}
    found["enclosing"] |= {*code.co_freevars}
    steps = [step for step in dis.get_instructions(code) if step.opname not in _IGNORED]
    aliases = _adding_locals(code, steps)
    for place, step in enumerate(steps):
        name = step.argval
        if step.opname in _GLOBAL_LOADS:
            found["loaded"].add(name)
        elif step.opname in _ATTRIBUTE_LOADS:
            found["attributes"].add(name)
        elif step.opname == "STORE_GLOBAL":
            found["stored"].add(name)
        elif step.opname == "STORE_ATTR":
            found["set_attributes"].add(name)
        loads = _GLOBAL_LOADS | _ATTRIBUTE_LOADS | _CELL_LOADS
        if step.opname in loads and not _only_adds(steps, place, aliases):
            found["used"].add(name)
        elif step.opname in loads and _consumer(steps, place) == "BINARY_OP":
            found["summed"].add(name)
    if not _ASKING.isdisjoint(found["loaded"]):
        texts = {text for text in code.co_consts if isinstance(text, str) and text.isidentifier()}
        found["asked"] |= texts
        found["attributes"] |= texts
        found["used"] |= texts
    if "AttributeError" in found["loaded"]:
        found["asked"] |= found["attributes"]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = names_in(constant)
            for name, names in found.items():
                names |= getattr(inner, name)
    return Names(**{name: frozenset(names) for name, names in found.items()})


@functools.lru_cache(maxsize=1024)
def adding_parameters(code: CodeType) -> frozenset[str]:
    """Parameters of a function that it does nothing with but add to the end of what they are."""
    if not names_in(code).attributes.isdisjoint(AT_THE_FRONT):
        return frozenset()
    count = code.co_argcount
    steps = [step for step in dis.get_instructions(code) if step.opname not in _IGNORED]
    return _adding_locals(code, steps, frozenset()) & frozenset(code.co_varnames[:count])


def _adding_locals(
    code: CodeType, steps: Sequence[dis.Instruction], exempt: frozenset[str] | None = None
) -> frozenset[str]:
    """Local variables that stand for a container which the code only adds to.

    They are set at most once, or never where `exempt` is given (they are parameters then).
    """
    sets: dict[str, int] = {}
    loads: set[str] = set()
    open_names = {*code.co_cellvars, *code.co_freevars}
    for place, step in enumerate(steps):
        if "_FAST" not in step.opname:
            continue
        if step.opname == "STORE_FAST":
            sets[step.argval] = sets.get(step.argval, 0) + 1
            continue
        names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        single = step.opname in ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW")
        if single and _only_adds(steps, place, frozenset()):
            loads.add(step.argval)
        else:
            open_names.update(name for name in names if isinstance(name, str))
    limit = 1 if exempt is None else 0
    return frozenset(name for name in loads - open_names if sets.get(name, 0) <= limit)


def _only_adds(steps: Sequence[dis.Instruction], place: int, aliases: frozenset[str]) -> bool:
    """Whether the container that the instruction at `place` loads is only added to."""
    if place + 1 >= len(steps):
        return False
    following = steps[place + 1]
    if following.opname in ("LOAD_ATTR", "LOAD_METHOD"):
        if following.argval == "insert":
            # Only at the front: another place depends on the length.
            return place + 2 < len(steps) and _is_zero(steps[place + 2])
        return following.argval in _ADDING
    if following.opname == "STORE_FAST":
        return following.argval in aliases
    return bool(_consumer(steps, place))


def _is_zero(step: dis.Instruction) -> bool:
    return step.opname in ("LOAD_CONST", "LOAD_SMALL_INT") and step.argval == 0


def _consumer(steps: Sequence[dis.Instruction], place: int) -> str:
    """The instruction that adds something to the loaded container: that of `container += ...` or
    of `container[key] = ...`; an empty string for all others.

    `above` is how much stands above it on the interpreter's stack.
    """
    above = 0
    for i in range(place + 1, min(place + _LONGEST, len(steps))):
        step = steps[i]
        if step.is_jump_target or step.opcode in dis.hasjrel:
            return ""
        if step.opname == "STORE_SUBSCR":
            return step.opname if above == 1 else ""
        if step.opname == "BINARY_OP" and above == 1 and step.argrepr == "+=":
            stores = [item for item in steps[i + 1 : i + 3] if item.opname in _STORES]
            same = bool(stores) and stores[0].argval == steps[place].argval
            return step.opname if same else ""
        if above == 0 and step.opname not in _PUSHES:
            return ""
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        above += effect
        if effect < 0 and above <= 0:
            return ""
    return ""


def announce(function: str, path: Path, difference: str, codes: Iterable[CodeType]) -> None:
    """Warn of a change that compiled code does not repeat, at the user's line as far as known."""
    found = line_of_change(codes, path.name)
    if found is None:
        place = user_place()
        found = (place.file, place.line) if place is not None else ("<unknown>", 0)
    file, line = found
    source = linecache.getline(file, line).strip()
    where = f"{os.path.basename(file)}:{line}" + (f": {source}" if source else "")
    warnings.warn_explicit(
        f"{function} changed a Python object while it was traced ({difference}), at {where}. "
        "Compiled code counts no Python number up: make it a tensor, which is stored at every "
        "call, or change the object outside of the function",
        SideEffectWarning,
        file,
        line,
    )


def line_of_change(codes: Iterable[CodeType], name: str) -> tuple[str, int] | None:
    """File and line where code sets the variable or attribute `name`, or an item of what it is.

    The best guess from the code alone; None where nothing there looks like it.
    """
    for code in codes:
        for each in _with_inner(code):
            line = _line_in(each, name)
            if line is not None:
                return each.co_filename, line
    return None


def _with_inner(code: CodeType) -> Iterable[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _line_in(code: CodeType, name: str) -> int | None:
    line = 0
    named: int | None = None
    for step in dis.get_instructions(code):
        positions = step.positions
        if positions is not None and positions.lineno is not None:
            line = positions.lineno
        mentioned = step.argval == name or (isinstance(step.argval, tuple) and name in step.argval)
        if mentioned and step.opname.startswith(("STORE_", "DELETE_")):
            return line
        if mentioned:
            named = line
        elif named == line and (step.opname in _ITEM_STORES or step.argval in _CHANGING):
            return line
    return None


_ITEM_STORES = frozenset({"STORE_SUBSCR", "DELETE_SUBSCR"})
_CHANGING = _ADDING | {
    "clear",
    "discard",
    "insert",
    "pop",
    "popitem",
    "popleft",
    "remove",
    "reverse",
    "rotate",
    "setdefault",
    "sort",
    "update",
}
