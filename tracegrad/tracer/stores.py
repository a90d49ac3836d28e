"""Where a function puts tensors beside returning them: globals, attributes, items of dictionaries.

A place that holds another tensor after the trace than before is a result of the trace, and is
stored on every call, as in eager code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.tracer import access
from tracegrad.tracer.access import MISSING, Path
from tracegrad.tracer.captures import KeysGuard, Survey
from tracegrad.tracer.structure import parts
from tracegrad.tracer.tensor import Tensor


class CallLeaves(list[Any]):
    """The flat leaves of a call whose arguments have containers, and those arguments."""

    args: tuple[Any, ...] = ()


class Places:
    """The places that a function can reach, with what they held before it ran."""

    def __init__(self, survey: Survey, args: Sequence[Any], leaves: Sequence[Any]) -> None:
        self._leaves = leaves
        self._held: dict[Path, Any] = {}
        self._dicts: list[tuple[Path, dict[Any, Any], frozenset[Any]]] = []
        for path in survey.tensors.values():
            self._hold(path)
        for guard in survey.guards:
            if isinstance(guard, KeysGuard):
                found = guard.path.get(leaves)
                if isinstance(found, dict):
                    self._dicts.append((guard.path, found, frozenset(found)))
            else:
                self._hold(guard.path)
        if isinstance(leaves, CallLeaves):
            for i, value in enumerate(args):
                self._walk(access.of_call(i), value, 0)

    def _hold(self, path: Path) -> None:
        if path.store is not None:
            self._held[path] = path.get(self._leaves)

    def _walk(self, path: Path, value: Any, depth: int) -> None:
        """Containers among the arguments, where the function got the caller's own."""
        inside = parts(value)
        if inside is None or depth > 20 or path.get(self._leaves) is not value:
            return
        keys, items = inside
        if isinstance(value, dict):
            self._dicts.append((path, value, frozenset(value)))
        for key, item in zip(keys or range(len(items)), items, strict=True):
            by_item = isinstance(value, dict | list | tuple) and not hasattr(value, "_fields")
            deeper = path.item(key) if by_item else path.attribute(str(key))
            if isinstance(item, Tensor):
                if not isinstance(value, tuple):
                    self._hold(deeper)
            else:
                self._walk(deeper, item, depth + 1)

    def changes(self) -> list[tuple[Path, Any, Tensor]]:
        """Each place that holds another tensor now: (place, what it held, what it holds)."""
        found = []
        for path, before in self._held.items():
            now = path.get(self._leaves)
            if now is not before and isinstance(now, Tensor):
                found.append((path, before, now))
        for path, held, keys in self._dicts:
            for key, now in held.items():
                if key not in keys and isinstance(now, Tensor):
                    found.append((path.item(key), MISSING, now))
        return found

    def restore(self, changes: Sequence[tuple[Path, Any, Tensor]]) -> None:
        """Put back what the places held."""
        for path, before, _ in changes:
            if before is MISSING:
                assert path.remove is not None
                path.remove(self._leaves)
            else:
                assert path.store is not None
                path.store(self._leaves, before)
