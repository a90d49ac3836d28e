"""What is known of a loop that was rolled, for the next trace that comes to it.

So a trace has one structure however often the loop runs, not at all included.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import TYPE_CHECKING, Any

from tracegrad.ir.types import TensorType
from tracegrad.tracer.loop_paths import LoopRef, Path
from tracegrad.tracer.loop_state import Way

if TYPE_CHECKING:
    from tracegrad.tracer.loop_rows import Growth

SiteKey = tuple[CodeType, int]

Origin = tuple[int, LoopRef]
"""Where a value from before a loop comes from: how many of the iterations that are being recorded
lie around that in which it was computed (-1: none, it is the function's), and its reference there.
"""

Anchor = tuple[str, Any]
"""How a piece of memory is found: ("way", to a tensor on it) or ("input", its number)."""


@dataclass(frozen=True)
class KnownCarry:
    """One carried value: found by the ways, or by the anchor of its memory."""

    ways: tuple[Way, ...]
    type: TensorType
    weak: bool
    anchor: Anchor | None


@dataclass(frozen=True)
class LoopRecord:
    """One loop: what it carries, the paths through its body, what it needs from before, the lists
    that it appends to.
    """

    carries: tuple[KnownCarry, ...]
    paths: tuple[Path, ...]
    origins: dict[tuple[int, int], Origin]
    position: int
    growths: tuple[Growth, ...] = ()


@dataclass
class KnownLoops:
    """The loops of one specialisation.

    unrolled  loops that are left alone, and why.
    notes     of every loop that was met, by its place in the program: "rolled", or why not.
    """

    records: dict[Hashable, LoopRecord] = field(default_factory=dict)
    unrolled: dict[SiteKey, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def note(self, place: str, reason: str | None, for_good: bool = False) -> None:
        """A loop was rolled, or was not for some `reason`: `for_good`, if it was thought to be."""
        if reason is None:
            self.notes[place] = "rolled"
        elif for_good:
            self.notes[place] = f"not rolled: {reason}"
        else:
            self.notes.setdefault(place, f"not rolled: {reason}")

    def listing(self) -> list[str]:
        """What became of each loop: for `explain()`."""
        return [f"  loop at {place}: {note}" for place, note in self.notes.items()]


def renamed(paths: Sequence[Path], names: dict[tuple[int, int], tuple[int, int]]) -> list[Path]:
    """The paths with other references to values from before the loop."""

    def new(ref: LoopRef) -> LoopRef:
        return ("outer", names[ref[1]]) if ref[0] == "outer" else ref

    if all(old == place for old, place in names.items()):
        return list(paths)
    found = []
    for path in paths:
        pieces = [
            replace(
                piece,
                steps=[
                    replace(step, operands=tuple(map(new, step.operands))) for step in piece.steps
                ],
                checks=[
                    replace(check, flag=new(check.flag), value=new(check.value))
                    for check in piece.checks
                ],
                asked=None if piece.asked is None else new(piece.asked),
            )
            for piece in path.pieces
        ]
        following = None if path.following is None else new(path.following)
        results, rows = list(map(new, path.results)), list(map(new, path.rows))
        found.append(Path(path.outcome, pieces, results, following, rows, path.twins, path.shared))
    return found
