"""Hooks on tensors and tape nodes, and the handle that takes one away again."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

_ids = itertools.count()


class Hooks:
    """Callables in the order of registration."""

    __slots__ = ("__weakref__", "_items")

    def __init__(self) -> None:
        self._items: dict[int, Callable[..., Any]] = {}

    def add(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Append `hook`; the handle removes it."""
        key = next(_ids)
        self._items[key] = hook
        return RemovableHandle(self, key)

    def discard(self, key: int) -> None:
        """Remove the hook with this key, if it is there still."""
        self._items.pop(key, None)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(list(self._items.values()))

    def __len__(self) -> int:
        return len(self._items)


class RemovableHandle:
    """What `register_hook` returns. Also a context manager that removes the hook at the end."""

    __slots__ = ("_hooks", "id")

    def __init__(self, hooks: Hooks, key: int) -> None:
        self._hooks = weakref.ref(hooks)
        self.id = key

    def remove(self) -> None:
        """Take the hook away. Doing it twice is fine."""
        hooks = self._hooks()
        if hooks is not None:
            hooks.discard(self.id)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()
