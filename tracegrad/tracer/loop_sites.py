"""Places where Python comes by again and again: the conditions of loops.

A site is an instruction of one running function at which the truth of a tensor is asked for, within
a loop whose next iteration depends on nothing but the function's variables.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import CodeType, FrameType

from tracegrad.tracer.liveness import Code, Loop, analysed
from tracegrad.tracer.location import is_internal

_UNSUITABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
# A comprehension that is written into the function around it.
_COLLECTS = frozenset({"LIST_APPEND", "SET_ADD", "MAP_ADD"})
_SUSPENDS = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "YIELD_VALUE", "SEND"})
# Instructions that ask for one truth and do nothing else.
_ASKS = frozenset({"TO_BOOL", "COMPARE_OP", "UNARY_NOT", "CONTAINS_OP"})
_CALLS = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX", "PRECALL"})
_METHODS = frozenset({"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"})


@dataclass(frozen=True, eq=False)
class Spot:
    """A site in the text of a function.

    copies   the instructions that the compiler made of the one condition: `while` tests before the
             loop and once more at its end.
    offsets  the instructions of the loop.
    fors     the heads of the `for` loops around it, which have a position of their own, and the
             variable that each sets.
    refusal  why the loop cannot be rolled, if it cannot.
    """

    code: Code
    offset: int
    copies: frozenset[int]
    offsets: frozenset[int]
    fors: tuple[tuple[int, str | None], ...]
    refusal: str | None

    def leaves(self, outcome: bool) -> bool:
        """Whether the loop is left when the condition comes out so."""
        return not any(x in self.offsets for x in self.code.ways_on(self.offset)[outcome])

    def escapes(self, outcome: bool) -> list[int]:
        """The heads of `for` loops around that control may come to before it is back at the site,
        when the condition comes out so, and that set no variable by which that could be told.
        """
        starts = self.code.ways_on(self.offset)[outcome]
        return [
            head
            for head, variable in self.fors
            if variable is None and self.code.reaches(starts, [head], self.copies)
        ]

    @property
    def line(self) -> int:
        """The line of the condition."""
        return line_of(self.code, self.offset)


def line_of(code: Code, offset: int) -> int:
    """The line of an instruction."""
    positions = code.steps[offset].positions
    found = positions.lineno if positions is not None else None
    return found if found is not None else code.code.co_firstlineno


def is_suitable(code: CodeType) -> bool:
    """Whether a loop of this function can be rolled at all: all its state is in its variables."""
    if code.co_flags & _UNSUITABLE or not code.co_flags & inspect.CO_OPTIMIZED:
        return False
    return code.co_name not in _COMPREHENSIONS


def spot_at(code: Code, offset: int) -> Spot | None:
    """The site at an instruction; None if it is not within a `while` loop."""
    found = code.spots.get(offset, code)
    if found is code:
        found = code.spots[offset] = _spot_at(code, offset)
    assert found is None or isinstance(found, Spot)
    return found


def _spot_at(code: Code, offset: int) -> Spot | None:
    copies = _copies(code, offset)
    place = max(copies)
    around = code.loops_around(place)
    if not around or code.is_for(around[0]):
        return None
    inner = around[0]
    if place != offset and not all(x < inner.header or x in inner.offsets for x in copies):
        copies, place = frozenset({offset}), offset
        around = code.loops_around(place)
        if not around or code.is_for(around[0]):
            return None
        inner = around[0]
    offsets = inner.offsets
    for loop in around[1:]:
        if not code.is_for(loop) and _is_entry(code, loop, inner):
            offsets |= loop.offsets
    fors = tuple((loop.header, _variable(code, loop)) for loop in around if code.is_for(loop))
    return Spot(code, place, copies, offsets, fors, _refusal(code, place, inner, offsets))


def _variable(code: Code, loop: Loop) -> str | None:
    """A local variable that a `for` loop sets for each item."""
    step = code.steps[code.following[loop.header]]
    while step.opname == "UNPACK_SEQUENCE":
        step = code.steps[code.following[step.offset]]
    if step.opname.startswith("STORE_FAST"):
        return str(step.argval[0] if isinstance(step.argval, tuple) else step.argval)
    return None


def _copies(code: Code, offset: int) -> frozenset[int]:
    """The instructions that stand for the same condition as the one at `offset`."""
    step = code.steps[offset]
    positions = step.positions
    if positions is None or None in positions:
        return frozenset({offset})
    kind = _kind(step.opname)
    return frozenset(
        x
        for x, other in code.steps.items()
        if other.positions == positions and _kind(other.opname) == kind
    )


def _kind(name: str) -> str:
    return "JUMP" if name.startswith("POP_JUMP") else name


def _is_entry(code: Code, outer: Loop, inner: Loop) -> bool:
    """Whether `outer` is `inner` once more, by way of `continue`: it starts at the test before the
    loop, of which there is a copy in the loop.
    """
    start = code.steps[outer.header]
    if any(len(code.successors(x)) > 1 for x in outer.sources):
        return False
    return any(
        code.steps[x].positions == start.positions and code.steps[x].opname == start.opname
        for x in inner.offsets
    )


def refusal_of(code: Code, offsets: frozenset[int]) -> str | None:
    """Why a loop of these instructions cannot be rolled, if it cannot."""
    if code.has(_SUSPENDS, offsets):
        return "it sets a global variable, or suspends"
    return None


def _refusal(code: Code, place: int, inner: Loop, offsets: frozenset[int]) -> str | None:
    name = code.steps[place].opname
    general = refusal_of(code, offsets)
    if general is not None:
        return general
    if not (name in _ASKS or name in _CALLS or name.startswith(("POP_JUMP", "JUMP_IF"))):
        return f"its condition is asked for by {name}"
    if code.held_during(place) != code.depth(inner.header):
        return "its condition is asked for in the middle of an expression or of a `with` block"
    return None


def frames_of(frame: FrameType) -> tuple[list[FrameType], Spot] | None:
    """The site that `frame`, which asks for a truth, is at, and the frames from there to it.

    The loop may be in a function that calls a helper which asks.
    """
    frames = [frame]
    while True:
        code = frame.f_code
        if not is_suitable(code):
            return None
        facts = analysed(code)
        offset = facts.at(frame)
        step = facts.steps[offset]
        if step.opname in _CALLS:
            called = ("bool", "item") if len(frames) == 1 else (frames[-2].f_code.co_name,)
            if not any(_is_call_of(facts, offset, name) for name in called):
                # A builtin calls back: its own state is hidden.
                return None
        spot = spot_at(facts, offset)
        if spot is not None:
            return frames[::-1], spot
        if facts.loops_around(offset) or facts.held_during(offset) != 0:
            return None
        caller = frame.f_back
        if caller is None or is_internal(caller.f_code):
            return None
        frames.append(caller)
        frame = caller


def _is_call_of(code: Code, offset: int, name: str) -> bool:
    """Whether the call at `offset` calls what is called `name`, as far as the text tells."""
    held = code.held_during(offset)
    before = [x for x in code.order if x < offset and code.steps[x].opname != "PRECALL"]
    last = code.steps[before[-1]]
    if last.opname in _METHODS:
        # A method without arguments.
        return bool(last.argval == name)
    start = max((x for x in before if code.depth(x) == held), default=None)
    found = None
    for at in before:
        step = code.steps[at]
        if start is None or at < start or step.opname == "PUSH_NULL":
            continue
        if at != start and found is not None and step.opname not in _METHODS:
            break
        found = step.argval
    return bool(found == name)
