"""What a loop appends to lists: rows of stacked results of the loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.joining import rows_from
from tracegrad.ir.op import OPS
from tracegrad.ir.types import TensorType
from tracegrad.tracer.control import apply_whole
from tracegrad.tracer.device import owned
from tracegrad.tracer.inputs import storage_of
from tracegrad.tracer.loop_state import LAST, State, Way
from tracegrad.tracer.loop_visits import (
    Carry,
    MismatchError,
    Visit,
    as_tensor,
    grown_between,
    joined_type,
    name_of,
    same,
    type_of,
)
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.tracer.loop_visits import Trial
    from tracegrad.tracer.storage import Storage

Twin = tuple[str, int] | None
"""Which other tensor an appended one is: ("start", i) the carried one number i as the iteration
began, ("end", i) as it ended, ("row", i) the appended one number i; None for none.
"""


@dataclass(frozen=True)
class Growth:
    """A list to which each iteration appends `count` values of one type."""

    way: Way
    count: int
    type: TensorType
    weak: bool

    @property
    def row(self) -> TensorType:
        """The type of what an iteration appends, as one tensor."""
        lead = () if self.count == 1 else (self.count,)
        return TensorType(self.type.dtype, (*lead, *self.type.shape))


def growths_between(before: Visit, now: Visit) -> list[Growth]:
    """The lists that one iteration has appended to. MismatchError if to one of them in a way that
    is no growth of rows.
    """
    found = []
    for way, count in grown_between(before.state, now.state).items():
        kinds = {type_of(item) for item in _appended(way, count, now.state)}
        if len(kinds) > 1:
            raise MismatchError(f"it appends values of different types to {name_of(way)}")
        ((type, weak),) = kinds
        found.append(Growth(way, count, type, weak))
    return found


def _appended(way: Way, count: int, now: State) -> list[Any]:
    length = now.lists[way][1]
    return [now.values[*way, ("item", i)] for i in range(length - count, length)]


def with_last_items(
    carries: Sequence[Carry], growths: Sequence[Growth], start: Visit, now: Visit
) -> list[Carry]:
    """The carries, with the last item of each list that grows where the loop can carry it: an
    iteration may read what the one before it has appended.
    """
    found = list(carries)
    memories = {carry.memory for carry in carries}
    for growth in growths:
        way = (*growth.way, LAST)
        first, last = start.state.at(way), now.state.at(way)
        if not isinstance(first, Tensor) or not isinstance(last, Tensor):
            continue
        try:
            type, weak = joined_type(way, first, last)
        except MismatchError:
            continue
        if any(id(storage) in memories for storage in (first._storage, last._storage)):
            continue
        for i, carry in enumerate(found):
            if carry.ways and now.state.at(carry.ways[0]) is last:
                if same(start.state.at(carry.ways[0]), first):
                    found[i] = Carry((*carry.ways, way), carry.type, carry.weak)
                break
        else:
            found.append(Carry((way,), type, weak))
    return found


def is_last(carry: Carry) -> bool:
    """Whether nothing but the last item of a list is carried."""
    return bool(carry.ways) and all(way[-1] == LAST for way in carry.ways)


def appended(growths: Sequence[Growth], trial: Trial, now: Visit) -> list[Tensor]:
    """What the iteration that comes to its end has appended. MismatchError if that is something
    else than in other iterations.
    """
    found = []
    for growth in growths:
        for item in _appended(growth.way, growth.count, now.state):
            if type_of(item) != (growth.type, growth.weak):
                raise MismatchError(
                    f"it appends values of different types to {name_of(growth.way)}"
                )
            found.append(as_tensor(item))
    return found


def twins_of(rows: Sequence[Tensor], trial: Trial, now: Visit) -> tuple[Twin, ...]:
    """Which of the appended tensors are found elsewhere too."""
    places: dict[int, Twin] = {}
    for i, (carry, fresh) in enumerate(zip(trial.carries, trial.fresh, strict=True)):
        if carry.memory is None and not is_last(carry):
            places[id(now.state.at(carry.ways[0]))] = "end", i
        if fresh is not None:
            places[id(fresh)] = "start", i
    found = []
    for i, row in enumerate(rows):
        found.append(places.get(id(row)))
        places[id(row)] = "row", i
    return tuple(found)


def shared_with(rows: Sequence[Tensor], trial: Trial, now: Visit) -> frozenset[int]:
    """The numbers of the carried tensors that are on the memory of an appended one, as a view of it
    is.
    """
    storages = {id(source_of(row)) for row in rows}
    found = set()
    for i, carry in enumerate(trial.carries):
        value = None if carry.memory is not None else now.state.at(carry.ways[0])
        if isinstance(value, Tensor) and id(source_of(value)) in storages:
            found.add(i)
    return frozenset(found)


def source_of(tensor: Tensor) -> Storage:
    """The memory that a tensor shows, also at a moving index."""
    recorder: Any = state.recorder
    shown = recorder.memory_of(tensor).shows
    while shown is not None:
        tensor = shown.source
        shown = recorder.memory_of(tensor).shows
    return storage_of(tensor)


def split(growth: Growth, stack: Tensor) -> list[Tensor]:
    """The values that all iterations have appended, each with memory of its own."""
    array = stack._values.reshape((-1, *growth.type.shape))
    values = [owned(row) for row in array]
    rows = apply_whole(_splitting(stack._type, growth.type.shape), [stack], values=values)
    for row in rows:
        row._weak = growth.weak
    return rows


@lru_cache(maxsize=64)
def _splitting(type: TensorType, shape: tuple[int, ...]) -> Graph:
    """A tensor to all of its parts of a shape, from first to last."""
    with Builder("rows") as builder:
        whole: Node = builder.input(type, "stacked")
        count = math.prod(type.shape[: len(type.shape) - len(shape)])
        if type.shape != (count, *shape):
            whole = OPS["reshape"](whole, shape=(count, *shape))
        rows = []
        for i in range(count):
            rows.append(OPS["reshape"](rows_from(whole, i, 1), shape=shape))
        return builder.finish(rows)
