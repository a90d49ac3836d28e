"""Parts of arrays that are read where they were stored, and stores that change nothing.

`u[1:-1] += x` stores the part twice: what `+=` has changed in place is then assigned to the same
place of `u`. All rules are exact.
"""

from __future__ import annotations

from tracegrad.ir.graph import Node

# For each op that stores the one that reads the same place.
_READERS = {"update_slice": "slice", "scatter": "gather"}
_WRITERS = {reader: writer for writer, reader in _READERS.items()}


def changes_nothing(node: Node) -> Node | None:
    """What stands in place of a read or a store that the rules make superfluous; None otherwise."""
    read = read_back(node)
    return store_back(node) if read is None else read


def read_back(node: Node) -> Node | None:
    """What is read of an array just where it was stored is what was stored."""
    writer = _WRITERS.get(node.op.name)
    if writer is None:
        return None
    source, *indices = node.inputs
    if source.op.name != writer or not _same_place(source, indices, node):
        return None
    # Of elements that several indices name the last one stays.
    return source.inputs[1] if not any(index.shape for index in indices) else None


def store_back(node: Node) -> Node | None:
    """An array in which a part is stored that is there already is that array."""
    reader = _READERS.get(node.op.name)
    if reader is None:
        return None
    base, value, *indices = node.inputs
    if value.op.name == reader and value.inputs[0] is base:
        return base if _same_place(node, value.inputs[1:], value) else None
    again = base.op is node.op and base.inputs[1] is value
    return base if again and _same_place(base, indices, node) else None


def _same_place(store: Node, indices: list[Node] | tuple[Node, ...], other: Node) -> bool:
    """Whether `store` writes where `other` reads or writes by `indices`."""
    return store.inputs[2:] == tuple(indices) and store.params == other.params
