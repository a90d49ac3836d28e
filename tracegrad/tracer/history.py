"""What happened to a compiled function: counters, and the reason of each trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracegrad.tracer.signature import key_of_array
from tracegrad.tracer.state import state
from tracegrad.tracer.structure import Container, Description, Leaf, Static
from tracegrad.tracer.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.tracer.specialisation import Specialisation


# A new signature is compared with so many others.
_COMPARED = 16


@dataclass(frozen=True)
class Event:
    """One trace: which specialisation it went to, and why it was needed."""

    number: int
    reason: str
    seconds: float


def describe(described: dict[str, Description], leaves: Sequence[Any]) -> dict[str, str]:
    """A call's signature for reading: one entry for each argument, or part of one."""
    fields = {"grad mode": "on" if state.grad_enabled else "off"}
    remaining = iter(leaves)
    for name, description in described.items():
        _describe(description, name, remaining, fields)
    return fields


def _describe(description: Description, name: str, leaves: Any, fields: dict[str, str]) -> None:
    if isinstance(description, Leaf):
        leaf = next(leaves)
        if isinstance(leaf, Tensor):
            grad = ", requires_grad" if leaf.requires_grad else ""
            fields[name] = f"{key_of_array(leaf._array)}{grad}"
        elif hasattr(leaf, "dtype"):
            fields[name] = f"array {leaf.dtype}{list(leaf.shape)}"
        else:
            fields[name] = type(leaf).__name__
    elif isinstance(description, Static):
        fields[name] = repr(description)
    else:
        assert isinstance(description, Container)
        keys = description.keys or range(len(description.items))
        fields[name] = f"{description.type.__name__} of {len(description.items)}"
        for key, item in zip(keys, description.items, strict=True):
            _describe(item, f"{name}[{key!r}]", leaves, fields)


def explain_miss(
    known: Sequence[Specialisation], key: Any, fields: dict[str, str], leaves: Sequence[Any]
) -> str:
    """Why no specialisation fits a call, as the difference from the nearest one of the last."""
    if not known:
        return "first call"
    equal = [item for item in known if item.key == key]
    if equal:
        differences = min((item.difference(leaves) for item in equal), key=len)
    else:
        now = fields.items()
        nearest = min(known[-_COMPARED:], key=lambda item: len(item.fields.items() ^ now))
        differences = _changes(nearest.fields, fields)
    return "; ".join(differences) or "default dtype"


def _changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [
        f"{name}: {before.get(name, 'nothing')} -> {now.get(name, 'nothing')}"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    ]
