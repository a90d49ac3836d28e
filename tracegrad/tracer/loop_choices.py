"""Items of lists at the index of a loop: `weights[i]`, where a list needs an `int`.

For Python a list of tensors is no tensor. In a loop that is rolled it is one: where an iteration
asks for an item at an index that is another in each iteration, it gets a row of the list's items
stacked. They are stacked before the loop.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tracegrad.ir.op import OPS
from tracegrad.ir.types import TensorType
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.growing import Choice, begin, choices
from tracegrad.tracer.inputs import storage_of
from tracegrad.tracer.loop_paths import LoopRef
from tracegrad.tracer.loop_state import State, Way
from tracegrad.tracer.loop_visits import Carry, as_tensor, type_of
from tracegrad.tracer.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.tracer.loop_visits import Trial
    from tracegrad.tracer.rolling import Rolling, Site


def place_of(way: Way) -> tuple[Any, ...]:
    """What stands for the stacked items of a list among the values from before a loop."""
    return "list", way


def is_list(place: tuple[Any, ...]) -> bool:
    """Whether a value from before a loop is the stacked items of a list."""
    return bool(place[0] == "list")


def items_type(found: State, way: Way) -> tuple[TensorType, bool] | None:
    """The one type of the items of a list, and whether they are numbers; None where there is no
    such type.
    """
    length = found.lists[way][1]
    values = [found.values.get((*way, ("item", i))) for i in range(length)]
    if length < 2 or any(value is None for value in values):
        return None
    kinds = {type_of(value) for value in values}
    return kinds.pop() if len(kinds) == 1 else None


def stacked_type(found: State, place: tuple[Any, ...]) -> TensorType | None:
    """The type of the stacked items of the list that a place stands for; None if there is no such
    list now.
    """
    way = place[1]
    kind = items_type(found, way) if way in found.lists else None
    if kind is None:
        return None
    return TensorType(kind[0].dtype, (found.lists[way][1], *kind[0].shape))


def offer(rolling: Rolling, site: Site, trial: Trial, growing: Collection[Way]) -> None:
    """Let the iteration that begins now choose items of lists that the loop leaves as they are."""
    found = trial.visit.state
    for way, (items, _) in found.lists.items():
        kind = items_type(found, way) if way not in growing else None
        if kind is None or _changes(found, way, trial.carries):
            continue
        choosing = _Choosing(rolling, site, trial, way, items, kind[1])
        claim = Choice(items, rolling.recorder, choosing.item, choosing)
        begin(claim)
        site.choices.append(claim)


def _changes(found: State, way: Way, carries: Collection[Carry]) -> bool:
    """Whether a loop that carries this changes items of a list."""
    carried = {carried for carry in carries for carried in carry.ways}
    memories = {carry.memory for carry in carries}
    for i in range(found.lists[way][1]):
        place = (*way, ("item", i))
        value = found.values[place]
        if any(other[: len(place)] == place for other in carried):
            return True
        if isinstance(value, Tensor) and id(storage_of(value)) in memories:
            return True
    return False


def stacked(found: State, place: tuple[Any, ...]) -> Tensor:
    """The stacked items of the list that a place stands for, as a loop around takes them too if one
    is being recorded.
    """
    items, _ = found.lists[place[1]]
    for claim in reversed(choices(items)):
        if claim.owner.is_open():
            whole: Tensor = claim.owner.whole()
            return whole
    return _stack(items)


def _stack(items: list[Any]) -> Tensor:
    return apply(OPS["stack"], [as_tensor(item) for item in list.copy(items)], {"axis": 0})


class _Choosing:
    """The items of one list, in one recorded iteration."""

    def __init__(
        self,
        rolling: Rolling,
        site: Site,
        trial: Trial,
        way: Way,
        items: list[Any],
        weak: bool,
    ) -> None:
        self.rolling = rolling
        self.site = site
        self.trial = trial
        self.way = way
        self.items = items
        self.weak = weak
        self._whole: Tensor | None = None

    def is_open(self) -> bool:
        """Whether the iteration is being recorded."""
        return self.site.trial is self.trial and self.rolling.is_inside(self.site)

    def whole(self) -> Tensor:
        """The stacked items: for this loop a value from before it."""
        recorder = self.rolling.recorder
        whole = self._whole
        if whole is None or not recorder.can_use(whole):
            whole = self._whole = _stack(self.items)
            ref: LoopRef = ("outer", place_of(self.way))
            self.trial.refs[recorder.value_of(whole).ref] = ref
            self.rolling.copies[id(whole._storage)] = self.site
        return whole

    def item(self, index: Any) -> Any:
        """The item at an index; None if that is the same in each iteration, or is no index."""
        if not isinstance(index, Tensor) or index.ndim or index._array.dtype.kind not in "iu":
            return None
        rolling = self.rolling
        if rolling.recorder.in_body or not self.is_open():
            return None
        value = rolling.recorder.value_of(index)
        around = [site.trial for site in rolling.trials()]
        if not any(trial and rolling.recorder.depends_on(value, trial.refs) for trial in around):
            return None
        whole: Any = self.whole()
        found: Tensor = whole[index]
        found._weak = self.weak
        # In the list is the tensor itself, which would have to see a change.
        rolling.copies[id(found._storage)] = self.site
        return found
