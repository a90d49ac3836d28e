"""Hooks on tensors and tape nodes, and the handle that takes one away again."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from tracegrad.tracer.location import Place, user_place
from tracegrad.tracer.state import state

_ids = itertools.count()


class Hooks:
    """Callables in the order of registration."""

    __slots__ = ("__weakref__", "_items")

    def __init__(self) -> None:
        self._items: dict[int, Callable[..., Any]] = {}

    def add(self, hook: Callable[..., Any], owner: Any) -> RemovableHandle:
        """Append `hook`; the handle removes it. `owner`: the tensor or tape node it is set on."""
        key = next(_ids)
        self._items[key] = hook
        if state.recorder is not None:
            state.recorder.registered(Registration(owner, self, key))
        return RemovableHandle(self, key)

    def discard(self, key: int) -> None:
        """Remove the hook with this key, if it is there still."""
        self._items.pop(key, None)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(list(self._items.values()))

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: int) -> bool:
        return key in self._items


class Registration:
    """A hook that a function set on `owner`, a tensor or a tape node, while it was traced.

    Without `hooks` the gradient of `owner`, a tensor, is to be retained.
    """

    __slots__ = ("hooks", "key", "owner", "place")

    def __init__(self, owner: Any, hooks: Hooks | None = None, key: int = -1) -> None:
        self.owner = owner
        self.hooks = hooks
        self.key = key
        self.place: Place | None = user_place()

    @property
    def stands(self) -> bool:
        """Whether it was not taken away again."""
        return self.hooks is None or self.key in self.hooks

    def undo(self) -> None:
        """Take it away."""
        if self.hooks is not None:
            self.hooks.discard(self.key)
            return
        self.owner._retains_grad = False
        node = self.owner.grad_fn
        if node is not None and node.retained is not None:
            node.retained.pop(self.owner._output_nr, None)


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
