"""What changed in a list, a set or a dictionary, as the new values and how to put them there again.

Items are compared by identity: equal tensors are not the same tensor, and `==` of tensors computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from tracegrad.tracer.access import MISSING

Difference = tuple[list[Any], Callable[[Any, Sequence[Any]], None]]
"""New values, and a function that puts such values into an object."""

Put = Callable[[Any, Hashable, Any], None]
"""Sets an item or attribute of an object; removes it if the value is MISSING."""

_PLAIN = (bool, int, float, complex, str, bytes)


def same(before: Any, now: Any) -> bool:
    """Whether nothing changed: one object, or equal plain values."""
    if before is now:
        return True
    if type(before) is not type(now) or type(before) not in _PLAIN:
        return False
    # NaN is what it was.
    return bool(before == now) or (before != before and now != now)


def _all_same(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return len(before) == len(now) and all(map(same, before, now))


def of_lists(
    before: list[Any], now: list[Any], limit: int | None, counts: Sequence[int]
) -> Difference | None:
    """The difference of two lists, or deques of at most `limit` items.

    `counts`: places whose numbers are left alone where no item was added or removed.
    """
    if _all_same(before, now):
        return None
    if limit is not None and len(now) == limit:
        # The smallest number of items at the end that pushed others out at the front.
        for new in range(1, limit + 1):
            kept = limit - new
            if kept <= len(before) and _all_same(before[len(before) - kept :], now[:kept]):
                return now[kept:], _extend_at_the_end
    if len(before) == len(now):
        places = [i for i, (a, b) in enumerate(zip(before, now, strict=True)) if not same(a, b)]
        places = [i for i in places if i not in counts]
        if not places:
            return None

        def replace(target: Any, values: Sequence[Any]) -> None:
            for i, value in zip(places, values, strict=True):
                target[i] = value

        return [now[i] for i in places], replace
    for front in range(len(now) - len(before) + 1):
        if _all_same(before, now[front : front + len(before)]):
            return _growth(now[:front], now[front + len(before) :])
    return _rearrangement(before, now)


def _extend_at_the_end(target: Any, values: Sequence[Any]) -> None:
    target.extend(values)


def _growth(front: list[Any], end: list[Any]) -> Difference:
    """Items before and behind those that were there, however many those are at a call."""
    count = len(front)

    def grow(target: Any, values: Sequence[Any]) -> None:
        target.extend(values[count:])
        if isinstance(target, deque):
            target.extendleft(reversed(values[:count]))
        else:
            target[:0] = values[:count]

    return [*front, *end], grow


def _rearrangement(before: list[Any], now: list[Any]) -> Difference:
    """Any other content, made of old items by their places and of new ones."""
    place = {id(item): i for i, item in enumerate(before)}
    plan = [place.get(id(item)) for item in now]

    def rearrange(target: Any, values: Sequence[Any]) -> None:
        old = list(target)
        new = iter(values)
        content = [next(new) if i is None else old[i] for i in plan]
        target.clear()
        target.extend(content)

    return [x for x, i in zip(now, plan, strict=True) if i is None], rearrange


def of_sets(before: set[Any], now: set[Any]) -> Difference | None:
    """The difference of two sets."""
    added = [item for item in now if item not in before]
    removed = [item for item in before if item not in now]
    if not added and not removed:
        return None

    def change(target: Any, values: Sequence[Any]) -> None:
        target.difference_update(removed)
        target.update(values)

    return added, change


def of_dictionaries(
    before: dict[Any, Any], now: dict[Any, Any], kept: set[Any], put: Put, *, ordered: bool
) -> Difference | None:
    """The difference of two dictionaries but for the items `kept`; `put` sets one item."""
    removed = [key for key in before if key not in now]
    changed = [
        key
        for key, value in now.items()
        if key not in kept and not same(before.get(key, MISSING), value)
    ]
    order = [key for key in before if key in now] + [key for key in now if key not in before]
    moved = ordered and order != list(now)
    if not removed and not changed and not moved:
        return None
    if moved:
        # Items were taken out and put in again: the order is part of what a dictionary holds.
        removed = list(before)
        changed = list(now)

    def change(target: Any, values: Sequence[Any]) -> None:
        for key in removed:
            put(target, key, MISSING)
        for key, value in zip(changed, values, strict=True):
            put(target, key, value)

    return [now[key] for key in changed], change
