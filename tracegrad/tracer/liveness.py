"""What a code object says without being run: control flow, live variables, depth of the stack.

All of it is worked out from the instructions, once for each code object. Instructions are named by
their offset, as `frame.f_lasti` names them.
"""

from __future__ import annotations

import dis
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FrameType
from typing import Any

_ENDS = frozenset({"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "INTERPRETER_EXIT"})
_ALWAYS = frozenset(
    {"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE"}
)
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
# What may stand between the value of a condition and the jump that depends on it.
_TRUTHS = frozenset({"TO_BOOL", "UNARY_NOT", "NOT_TAKEN", "NOP", "COPY"})


@dataclass(frozen=True, eq=False)
class Loop:
    """Instructions that can come by again: `header`, and all from which one of `sources`, which
    jump back to it, is reached.
    """

    header: int
    sources: tuple[int, ...]
    offsets: frozenset[int]


class Code:
    """One code object, analysed."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.steps: dict[int, dis.Instruction] = {}
        # A long jump, and any other large argument, begins with an instruction that says so; jumps
        # lead there. It is regarded as one with the instruction that it belongs to.
        self._begins: dict[int, int] = {}
        prefixes: list[int] = []
        for step in dis.get_instructions(code):
            if step.opname == "EXTENDED_ARG":
                prefixes.append(step.offset)
            elif step.opname != "CACHE":
                self.steps[step.offset] = step
                self._begins.update(dict.fromkeys(prefixes, step.offset))
                prefixes.clear()
        self.order = list(self.steps)
        self.following = dict(zip(self.order, self.order[1:], strict=False))
        # Variables that other functions see too are never dead.
        self.shared = frozenset((*code.co_cellvars, *code.co_freevars))
        # What is worked out from the analysis, by offset.
        self.spots: dict[int, Any] = {}
        self._handlers: dict[int, list[tuple[int, int]]] = {}
        for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]
            depth = entry.depth + 1 + bool(entry.lasti)
            for offset in self.order:
                if entry.start <= offset < entry.end:
                    target = self._begins.get(entry.target, entry.target)
                    self._handlers.setdefault(offset, []).append((target, depth))

    def at(self, frame: FrameType) -> int:
        """The instruction that a running function is at."""
        offset = frame.f_lasti
        # While a call into Python lasts, it is what follows the instruction that counts it.
        while offset not in self.steps and offset > 0:
            offset -= 2
        if self.steps[offset].opname == "PRECALL":
            # Python 3.11 may do the whole call there.
            return self.following[offset]
        return offset

    # ---------------------------------------------------------------- control flow

    def jump_target(self, offset: int) -> int | None:
        """Where the instruction may jump to."""
        step = self.steps[offset]
        if step.opcode not in _JUMPS:
            return None
        target = int(step.argval)
        return self._begins.get(target, target)

    def successors(self, offset: int) -> list[int]:
        """Where control may go on, exceptions left aside."""
        step = self.steps[offset]
        found = []
        target = self.jump_target(offset)
        if target is not None:
            found.append(target)
        if step.opname not in _ENDS and step.opname not in _ALWAYS and offset in self.following:
            found.append(self.following[offset])
        return found

    @cached_property
    def _all_successors(self) -> dict[int, list[int]]:
        return {
            offset: [
                *self.successors(offset),
                *(target for target, _ in self._handlers.get(offset, ())),
            ]
            for offset in self.order
        }

    @cached_property
    def _predecessors(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {offset: [] for offset in self.order}
        for offset, successors in self._all_successors.items():
            for successor in successors:
                found[successor].append(offset)
        return found

    @cached_property
    def loops(self) -> list[Loop]:
        """The loops, each with those inside of it."""
        sources: dict[int, list[int]] = {}
        for offset in self.order:
            target = self.jump_target(offset)
            if target is not None and target <= offset:
                sources.setdefault(target, []).append(offset)
        found = []
        for header, jumps in sources.items():
            inside = {header}
            work = list(jumps)
            while work:
                offset = work.pop()
                if offset not in inside:
                    inside.add(offset)
                    work.extend(self._predecessors[offset])
            found.append(Loop(header, tuple(jumps), frozenset(inside)))
        return found

    def is_for(self, loop: Loop) -> bool:
        """Whether an iterator is asked for the next item at the head of the loop."""
        return self.steps[loop.header].opname == "FOR_ITER"

    def loops_around(self, offset: int) -> list[Loop]:
        """The loops that an instruction is part of, innermost first."""
        found = [loop for loop in self.loops if offset in loop.offsets]
        return sorted(found, key=lambda loop: len(loop.offsets))

    def ways_on(self, offset: int) -> tuple[list[int], list[int]]:
        """Where control goes on when the condition asked for at `offset` is false, and when it is
        true.
        """
        negated = False
        at = offset
        while True:
            step = self.steps[at]
            name = step.opname
            if name.startswith(("POP_JUMP", "JUMP_IF")) and "NONE" not in name:
                target = self.jump_target(at)
                assert target is not None
                fall = self.following[at]
                on_true = "TRUE" in name
                ways = ([fall], [target]) if on_true else ([target], [fall])
                return (ways[1], ways[0]) if negated else ways
            if at != offset and name not in _TRUTHS:
                break
            # `not x` asks for the truth itself and hands on its opposite.
            negated ^= name == "UNARY_NOT"
            if at not in self.following:
                break
            at = self.following[at]
        ways_on = self.successors(offset)
        return ways_on, ways_on

    def reaches(self, starts: Iterable[int], goals: Iterable[int], past: Iterable[int]) -> bool:
        """Whether a way leads from `starts` to one of `goals` on which none of `past` stands."""
        wanted = set(goals)
        barred = set(past)
        seen: set[int] = set()
        work = list(starts)
        while work:
            offset = work.pop()
            if offset in wanted:
                return True
            if offset not in seen and offset not in barred:
                seen.add(offset)
                work.extend(self._all_successors[offset])
        return False

    # ------------------------------------------------------------------- variables

    @cached_property
    def _live(self) -> dict[int, frozenset[str]]:
        """The local variables that are live before each instruction."""
        live: dict[int, frozenset[str]] = dict.fromkeys(self.order, frozenset())
        effects = {offset: _effect(self.steps[offset]) for offset in self.order}
        work = list(self.order)
        while work:
            offset = work.pop()
            read, set_ = effects[offset]
            after = frozenset().union(*(live[x] for x in self._all_successors[offset]))
            before = (after - set_) | read
            if before != live[offset]:
                live[offset] = before
                work.extend(self._predecessors[offset])
        return live

    def live_after(self, offset: int) -> frozenset[str]:
        """The local variables that may be read after the instruction, before they are set again."""
        return frozenset().union(*(self._live[x] for x in self._all_successors[offset]))

    # ----------------------------------------------------------------------- stack

    @cached_property
    def _depths(self) -> dict[int, int]:
        depths = {self.order[0]: 0}
        work = [self.order[0]]
        while work:
            offset = work.pop()
            step = self.steps[offset]
            argument = step.arg if step.opcode >= dis.HAVE_ARGUMENT else None
            target = self.jump_target(offset)
            arrivals = [
                (x, depths[offset] + dis.stack_effect(step.opcode, argument, jump=x == target))
                for x in self.successors(offset)
            ]
            arrivals += self._handlers.get(offset, ())
            for at, depth in arrivals:
                if at not in depths:
                    depths[at] = depth
                    work.append(at)
        return depths

    def depth(self, offset: int) -> int:
        """How many values the interpreter's stack holds before the instruction; -1 if it is never
        reached.
        """
        return self._depths.get(offset, -1)

    def held_during(self, offset: int) -> int:
        """How many values stay on the interpreter's stack below the result of an instruction."""
        step = self.steps[offset]
        argument = step.arg if step.opcode >= dis.HAVE_ARGUMENT else None
        after = self.depth(offset) + dis.stack_effect(step.opcode, argument, jump=False)
        return after if step.opname.startswith("POP_JUMP") else after - 1

    def has(self, names: frozenset[str], offsets: Iterable[int]) -> bool:
        """Whether one of the instructions is of a kind in `names`."""
        return any(self.steps[offset].opname in names for offset in offsets)


def _effect(step: dis.Instruction) -> tuple[frozenset[str], frozenset[str]]:
    """The local variables that an instruction reads before it sets any, and those that it sets."""
    name = step.opname
    if "_FAST" not in name:
        return frozenset(), frozenset()
    names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
    if name == "STORE_FAST_LOAD_FAST":
        stored, loaded = names
        return frozenset({loaded} - {stored}), frozenset({stored})
    if name == "DELETE_FAST":
        return frozenset(names), frozenset(names)
    if name.startswith("STORE_FAST"):
        return frozenset(), frozenset(names)
    return frozenset(names), frozenset()


_known: dict[int, Code] = {}


def analysed(code: CodeType) -> Code:
    """The analysis of a code object."""
    # By identity: a code object's own hash is slow. The analysis keeps it alive.
    found = _known.get(id(code))
    if found is None:
        if len(_known) > 4096:
            _known.clear()
        found = _known[id(code)] = Code(code)
    return found
