"""What a loop's site finds when Python comes by, and what two visits say of the loop."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.ir.types import BY_NUMPY, TensorType, category
from tracegrad.runtime.random import default_generator
from tracegrad.tracer.checkpoints import Checkpoint, Content
from tracegrad.tracer.dispatch import constant
from tracegrad.tracer.inputs import storage_of
from tracegrad.tracer.loop_paths import LoopRef
from tracegrad.tracer.loop_records import Anchor
from tracegrad.tracer.loop_state import DRAWS, State, Way, state_of
from tracegrad.tracer.rolling import Counts
from tracegrad.tracer.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder


class MismatchError(Exception):
    """Two visits of a site, or an iteration between them, do not make a loop."""


class WidenError(Exception):
    """A variable changed that was not carried."""


@dataclass(frozen=True)
class Carry:
    """One carried value: `ways` lead to it, or it is what a piece of memory holds.

    memory  the identity of its storage, and how other traces find it, if they can: its `anchor`.
    """

    ways: tuple[Way, ...]
    type: TensorType
    weak: bool
    memory: int | None = None
    anchor: Anchor | None = None

    @property
    def key(self) -> Hashable:
        """The same in all traces."""
        return self.ways, self.type, self.weak, self.anchor


class Visit:
    """What a site found when Python came by."""

    def __init__(
        self,
        recorder: Recorder,
        frames: Sequence[FrameType],
        names: Sequence[frozenset[str]],
        hidden: Callable[[State], tuple[Any, Any]],
    ) -> None:
        self.places = [(frame.f_code, frame.f_lasti) for frame in frames[1:]]
        self.state = state_of(frames, names)
        if recorder.in_body:
            # How many numbers each run of a body draws is known when it is complete, not before.
            self.state.rest[DRAWS] = default_generator.get_state()
        else:
            # What a loop draws moves the generator, which is carried as a variable is.
            self.state.values[DRAWS] = recorder.draws.offset
        self.kept, self.hidden = hidden(self.state)
        self.checkpoint = Checkpoint(recorder)
        self.condition: Tensor | None = None
        self.position = 0
        self.nodes = recorder.size
        self.key: Hashable = None
        self.around: list[Any] = []
        self.counts = Counts()


@dataclass
class Trial:
    """An iteration that is being recorded, after what the loop carries was replaced.

    visit     the state at its start; `carries` what is carried.
    outcome   of the condition at the site.
    refs      the carried values, by their place.
    """

    visit: Visit
    carries: list[Carry]
    outcome: bool | None
    segment: int
    position: int
    refs: dict[tuple[int, int], LoopRef]
    fresh: list[Tensor | None]
    sources: list[Any]
    outcomes: int
    counts: Counts

    @property
    def place(self) -> tuple[int, int]:
        """Where in the recording it began."""
        return self.segment, self.position


def grown_between(a: State, b: State) -> dict[Way, int]:
    """The lists that are longer in `b`, and by how many items."""
    found = {}
    for way, (items, length) in a.lists.items():
        now = b.lists.get(way)
        if now is not None and now[0] is items and now[1] > length:
            found[way] = now[1] - length
    return found


def compare(before: Visit, now: Visit) -> tuple[list[Way], list[Content]]:
    """The variables and the memories that differ, but for what was appended to lists. MismatchError
    where they cannot.
    """
    if before.places != now.places:
        raise MismatchError("it is asked for at different places")
    if before.hidden != now.hidden:
        raise MismatchError("it changes objects that its variables do not lead to")
    a, b = before.state, now.state
    rest, ways = b.rest, set(b.values)
    grown = grown_between(a, b)
    if grown:
        rest = rest | {way: a.rest[way] for way in grown}
        ends = {way: b.lists[way][1] for way in grown}
        new = {
            (*way, ("item", i)) for way, end in ends.items() for i in range(end - grown[way], end)
        }
        if new <= ways:
            ways -= new
    if a.rest != rest or a.values.keys() != ways:
        raise MismatchError(f"{_difference(a, b)} changes in a way that a loop cannot carry")
    if before.checkpoint.seed != now.checkpoint.seed:
        raise MismatchError("it chooses the seed of random numbers")
    if before.checkpoint.registrations != now.checkpoint.registrations:
        raise MismatchError("it registers hooks")
    changed = [way for way, x in a.values.items() if not same(x, b.values[way])]
    for way in changed:
        joined_type(way, a.values[way], b.values[way])
    return changed, before.checkpoint.changed()


def carries_between(known: Sequence[Carry], start: Visit, before: Visit, now: Visit) -> list[Carry]:
    """What a loop that began at `start` carries, if `before` and `now` are its last visits."""
    ways: dict[Way, None] = dict.fromkeys(
        way for carry in known for way in carry.ways if way in now.state.values
    )
    memories = {x.memory for x in known if x.memory is not None}
    for a, b in ((start, now), (before, now)):
        changed, written = compare(a, b)
        ways.update(dict.fromkeys(changed))
        for content in written:
            key = id(content.memory.storage)
            if key in start.checkpoint.contents:
                memories.add(key)
    groups: dict[int, list[Way]] = {}
    for way in ways:
        if way not in start.state.values:
            raise MismatchError(f"{name_of(way)} changes, which it has appended itself")
        value = now.state.values[way]
        groups.setdefault(id(value) if isinstance(value, Tensor) else id(way), []).append(way)
    carries = []
    for group in groups.values():
        first = now.state.values[group[0]]
        begins = [start.state.values[way] for way in group]
        if isinstance(first, Tensor) and any(not same(x, begins[0]) for x in begins):
            raise MismatchError(f"{name_of(group[0])} and {name_of(group[-1])} become one tensor")
        type, weak = joined_type(group[0], begins[0], first)
        for value in (first, *begins):
            if isinstance(value, Tensor) and id(storage_of(value)) in memories:
                raise MismatchError(
                    f"{name_of(group[0])} is set anew and shares memory that is written"
                )
        carries.append(Carry(tuple(group), type, weak))
    anchors = {key: anchor_of(key, start) for key in memories}
    # In an order that other traces have too.
    for key in sorted(memories, key=lambda key: repr(anchors[key])):
        content = start.checkpoint.contents[key]
        root = content.memory.root
        assert root is not None
        if storage_of(root) is not content.memory.storage:
            raise MismatchError("a tensor takes the memory of another")
        carries.append(Carry((), root._type, False, key, anchors[key]))
    return carries


def anchor_of(memory: int, start: Visit) -> Anchor | None:
    """How a memory is found in another trace; None if it is not."""
    numbers = start.checkpoint.contents[memory].memory.inputs
    if numbers:
        return "input", numbers[0]
    for way, value in start.state.values.items():
        if isinstance(value, Tensor) and id(storage_of(value)) == memory:
            return "way", way
    return None


def same(a: Any, b: Any) -> bool:
    """Whether a variable has not changed."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return type(a) is type(b) and (a == b or (a != a and b != b))


def as_tensor(value: Any) -> Tensor:
    """A value that is carried, as a tensor."""
    if isinstance(value, Tensor):
        return value
    kind = np.float64 if isinstance(value, float) else np.int64
    tensor = constant(kind(value))
    tensor._weak = True
    return tensor


def joined_type(way: Way, before: Any, now: Any) -> tuple[TensorType, bool]:
    """The type of a carried value that was `before` and is `now`, and whether it is a number."""
    kinds = [type_of(before), type_of(now)]
    (old, old_weak), (new, new_weak) = kinds
    numbers = [not isinstance(x, Tensor) for x in (before, now)]
    if old == new and old_weak == new_weak:
        if not any(numbers) and before.requires_grad and not now.requires_grad:
            raise MismatchError(f"{name_of(way)} is cut from the tape")
        return new, new_weak
    fits = not new.shape and category(old.dtype) <= category(new.dtype)
    if numbers[0] and fits and not new_weak:
        # A number that became a tensor: 0.0, to which tensors are added.
        return new, new_weak
    raise MismatchError(f"{name_of(way)} changes from {old} to {new}")


def type_of(value: Any) -> tuple[TensorType, bool]:
    """The type of a tensor or number as a carried value, and whether it is a number."""
    if isinstance(value, Tensor):
        return value._type, value._weak
    dtype = BY_NUMPY[np.dtype(np.float64 if isinstance(value, float) else np.int64)]
    return TensorType(dtype, ()), True


def name_of(way: Way) -> str:
    """What is found there, as the user's program calls it."""
    text = str(way[1])
    for kind, key in way[2:]:
        text += f".{key}" if kind == "attr" else f"[{key!r}]"
    return text


def _difference(a: State, b: State) -> str:
    """The first variable that differs in more than its value."""
    ways = [*a.rest, *b.rest, *a.values, *b.values]
    for way in ways:
        if a.rest.get(way) != b.rest.get(way) or (way in a.values) != (way in b.values):
            return name_of(way)
    return "a variable"
