"""The order of a kernel's loops: the innermost one steps along memory.

The loops of a kernel come in the order of its domain's axes, which says nothing of memory: a
transposed operand steps over a whole row with each element of the last axis. What a step of a loop
costs is the part of a cache line that each access moves on by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracegrad.codegen.instructions import Address, Fold, Let, Lowered, Store

_LINE = 64
# The order of the domain is left only where it costs so many times as much.
_CLEARLY = 2.0


def nest_order(lowered: Lowered) -> list[int]:
    """The loops from the outermost to the innermost one, for a kernel that is not part of another:
    rows, then what is reduced, then the columns of a kernel that accumulates in memory.
    """
    kernel = lowered.kernel
    loops = range(len(kernel.domain))
    if kernel.serial:
        return list(loops)
    accesses = _accesses(lowered)
    cost = [_cost(accesses, loop) for loop in loops]
    if kernel.axes is None:
        return _sorted(loops, cost)
    reduced = _sorted(kernel.axes, cost)
    if not lowered.column:
        return [*kernel.kept, *reduced]
    kept = _sorted(kernel.kept, cost)
    return [*kept[:-1], *reduced, kept[-1]]


def prefers_columns(lowered: Lowered) -> bool:
    """Whether a kernel that reduces should add up whole rows in memory, one after the other, and
    not finish one result after the other.
    """
    kernel = lowered.kernel
    folds = any(isinstance(x, Fold) for block in lowered.passes for x in block.code)
    if not kernel.axes or not kernel.kept or not folds:
        return lowered.column
    if not lowered.column and (
        len(lowered.passes) > 1
        or kernel.serial
        or any(root.needs_register for root in kernel.roots)
    ):
        return False
    accesses = _accesses(lowered)
    by_rows = min(_cost(accesses, loop) for loop in kernel.axes)
    totals = [(x, 2) for x in lowered.totals]
    by_columns = min(_cost([*accesses, *totals], loop) for loop in kernel.kept)
    if lowered.column:
        return by_columns <= _CLEARLY * by_rows or len(lowered.passes) > 1
    return by_columns * _CLEARLY < by_rows


def crosses(lowered: Lowered, inner: int, outer: int) -> bool:
    """Whether some arrays are walked along one loop, and others along the other: then both run
    over tiles, so that cache lines are used up before they go.
    """
    accesses = [address for address, _ in _accesses(lowered)]
    along = [abs(x.offset.coefs[inner]) == 1 for x in accesses]
    across = [
        abs(x.offset.coefs[outer]) == 1 and abs(x.offset.coefs[inner]) * _itemsize(x) >= _LINE
        for x in accesses
    ]
    return any(along) and any(across)


def _itemsize(address: Address) -> int:
    return int(address.buffer.dtype.itemsize)


def _accesses(lowered: Lowered) -> list[tuple[Address, int]]:
    """What is accessed for each element, and how often a line of it is moved."""
    found = []
    for block in lowered.passes:
        for x in block.code:
            if isinstance(x, Let | Store) and x.address is not None:
                found.append((x.address, 2 if isinstance(x, Store) else 1))
    return found


def _cost(accesses: Iterable[tuple[Address, int]], loop: int) -> float:
    """The cache lines that a step of the loop moves."""
    return sum(
        times * min(1.0, abs(address.offset.coefs[loop]) * _itemsize(address) / _LINE)
        for address, times in accesses
    )


def _sorted(loops: Sequence[int], cost: Sequence[float]) -> list[int]:
    """The loops with the cheapest last, in their own order where that is not clearly dearer."""
    order = list(loops)
    if not order:
        return order
    cheapest = min(order, key=lambda loop: cost[loop])
    if cost[order[-1]] > _CLEARLY * cost[cheapest]:
        order.remove(cheapest)
        order.append(cheapest)
    return order
