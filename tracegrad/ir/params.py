"""Parameters of nodes as keys."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping
from typing import Any

# Of these, equal values of one class are the same value. Most parameters are one of them.
_PLAIN = frozenset({bool, int, str})


def frozen(value: Any) -> Hashable:
    """A parameter's value as a key: it tells 1 from True and 1.0, and 0.0 from -0.0, which Python
    says are equal, and equals itself for NaN. TypeError for a value that cannot be hashed.
    """
    kind = value.__class__
    if kind in _PLAIN:
        return (kind, value)
    if kind is tuple:
        kinds = tuple(map(type, value))
        return (kinds, value) if _PLAIN.issuperset(kinds) else tuple(map(frozen, value))
    if kind is float:
        return (float, struct.pack("<d", value))
    if hasattr(kind, "key"):
        # A graph: equal structure makes it equal.
        return (kind, value.key)
    hash(value)
    return (kind, value)


def frozen_params(params: Mapping[str, Any]) -> tuple[tuple[str, Hashable], ...]:
    """All parameters of a node as one key, whatever order they were given in."""
    # Most nodes have none, and each is asked for its key in every pass.
    if not params:
        return ()
    if len(params) == 1:
        ((name, value),) = params.items()
        return ((name, frozen(value)),)
    return tuple([(name, frozen(params[name])) for name in sorted(params)])
