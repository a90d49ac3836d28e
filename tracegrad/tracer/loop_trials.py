"""One iteration of a loop is recorded in terms of what the loop carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from tracegrad.log import log
from tracegrad.tracer.checkpoints import Content
from tracegrad.tracer.device import owned
from tracegrad.tracer.inputs import storage_of
from tracegrad.tracer.liveness import analysed
from tracegrad.tracer.loop_choices import is_list, offer
from tracegrad.tracer.loop_paths import LoopRef, Path, Recorded, hidden_in
from tracegrad.tracer.loop_rows import (
    appended,
    growths_between,
    shared_with,
    source_of,
    twins_of,
    with_last_items,
)
from tracegrad.tracer.loop_state import DRAWS, LAST, State, UnsuitableError, Way, put
from tracegrad.tracer.loop_visits import (
    Carry,
    MismatchError,
    Trial,
    Visit,
    WidenError,
    as_tensor,
    carries_between,
    compare,
    grown_between,
    joined_type,
    name_of,
    same,
)
from tracegrad.tracer.recording import Value
from tracegrad.tracer.rolling import Rolling, Site
from tracegrad.tracer.tape import accumulator
from tracegrad.tracer.tensor import Tensor, wrap

# So often a site may fail to fit before it is left alone.
PATIENCE = 6


class LoopVisit:
    """One visit of a site: what conditions and counting loops have in common."""

    def __init__(self, rolling: Rolling, site: Site, frames: Sequence[FrameType]) -> None:
        self.rolling = rolling
        self.recorder = rolling.recorder
        self.site = site
        self.frames = list(frames)
        self.is_known = False
        self.reason = ""

    def look(self) -> Visit | None:
        """The state now; None if the site is to be left alone."""
        self.site.release()
        names = []
        for frame in self.frames:
            code = analysed(frame.f_code)
            names.append(code.live_after(code.at(frame)) | code.shared)
        try:
            visit = Visit(self.recorder, self.frames, names, self.hidden)
        except UnsuitableError as error:
            self.give_up(str(error))
            return None
        visit.counts = replace(self.rolling.counts)
        self.rolling.met_loops = True
        return visit

    def hidden(self, followed: State) -> tuple[Any, Any]:
        """State that is in no variable: objects to keep, and what is equal if they stay."""
        shown: set[str] = set()
        for frame in self.frames:
            shown.update((*frame.f_code.co_cellvars, *frame.f_code.co_freevars))
        objects, marks = self.rolling.places.look(followed.first, shown)
        return objects, marks

    def give_up(self, reason: str) -> None:
        """Leave the site alone."""
        self.site.reset()
        self.site.refusal = reason
        self.rolling.report(self.site, reason)

    def fail(self, reason: str) -> None:
        """The site did not fit this time."""
        self.reason = reason
        log("trace", lambda: f"the loop at {self.site.place} did not fit: {reason}")
        self.site.reset()
        self.site.failures += 1
        if self.site.failures >= PATIENCE:
            self.give_up(reason)

    def prepare(self, now: Visit) -> list[Carry] | None:
        """What to carry through the iteration that begins now; None if it is not to be tried."""
        site = self.site
        before = site.previous
        if before is None:
            site.start = site.previous = now
            return None
        assert site.start is not None
        if site.trial is None and before.nodes == now.nodes and not site.carries:
            # Nothing was computed: there is nothing to roll.
            site.start = site.previous = now
            return None
        try:
            carries = carries_between(site.carries, site.start, before, now)
            site.growths = growths_between(before, now)
            if site.growths and self.trips(site.start) is None:
                name = name_of(site.growths[0].way)
                raise MismatchError(
                    f"{name} grows, and how many iterations there are is not known before"
                )
            carries = with_last_items(carries, site.growths, site.start, now)
        except MismatchError as error:
            self.fail(str(error))
            site.start = site.previous = now
            return None
        site.previous = now
        return carries

    def cut(self, visit: Visit, carries: list[Carry], outcome: bool | None) -> None:
        """Put fresh tensors in the place of what is carried; the next iteration is recorded in
        terms of them.
        """
        recorder = self.recorder
        start = self.site.start
        assert start is not None
        recorder.scope.answered = dict(start.checkpoint.answered)
        refs: dict[tuple[int, int], LoopRef] = {}
        fresh: list[Tensor | None] = []
        sources: list[Any] = []
        changes: dict[Way, Any] = {}
        for i, carry in enumerate(carries):
            if carry.memory is not None:
                value = self._carry_memory(visit.checkpoint.contents[carry.memory])
                fresh.append(None)
                sources.append(None)
            else:
                source = visit.state.at(carry.ways[0])
                tensor, value = self._carry_tensor(source)
                tensor._weak = carry.weak
                fresh.append(tensor)
                sources.append(source)
                changes.update(dict.fromkeys(carry.ways, tensor))
            refs[value.ref] = "carry", i
        position = self.carry_position(visit)
        if position is not None:
            refs[position.ref] = ("position",)
        self.change(changes)
        segment = recorder.segments[-1]
        # Nodes are told by their places in the iteration, which has all constants of its own then.
        segment.builder.start_anew()
        self.site.carries = carries
        self.site.trial = Trial(
            visit,
            carries,
            outcome,
            len(recorder.segments) - 1,
            len(segment.builder.nodes),
            refs,
            fresh,
            sources,
            len(recorder.outcomes),
            replace(self.rolling.counts),
        )
        carried = {way for carry in carries for way in carry.ways}
        for growth in self.site.growths:
            items, length = visit.state.lists[growth.way]
            known = start.state.lists[growth.way][1]
            way = (*growth.way, LAST)
            last = visit.state.at(way) if way in carried else None
            self.site.claim(recorder, items, known, length, last, name_of(growth.way))
        if self.site.has_subscripts:
            growing = {growth.way for growth in self.site.growths}
            offer(self.rolling, self.site, self.site.trial, growing)

    def trips(self, start: Visit) -> int | None:
        """How many iterations there will be; None if that is not known."""
        return None

    def change(self, changes: dict[Way, Any]) -> None:
        """Put other values where the ways lead."""
        offset = changes.pop(DRAWS, None)
        if offset is not None:
            self.recorder.draws.go_on_from(offset)
        put(self.frames, changes)

    def carry_position(self, visit: Visit) -> Value | None:
        """The number of the iteration, of a loop that has one."""
        return None

    def _carry_tensor(self, source: Any) -> tuple[Tensor, Value]:
        tensor = as_tensor(source)
        fresh = wrap(owned(tensor._values))
        value = self.recorder.carry(tensor, fresh, self.rolling.number())
        if tensor.requires_grad:
            fresh._requires_grad = True
            fresh._grad_fn = tensor.grad_fn
            fresh._output_nr = tensor._output_nr
            if fresh._grad_fn is None and self.recorder.is_outside(tensor):
                fresh._grad_fn = accumulator(tensor)
        fresh._grad = tensor._grad
        return fresh, value

    def _carry_memory(self, content: Content) -> Value:
        return self.recorder.carry_memory(content.memory, self.rolling.number())

    def recorded_path(self, now: Visit) -> tuple[Path, dict[tuple[int, int], Value]]:
        """The iteration that comes to its end now. MismatchError if it is none of this loop."""
        site = self.site
        trial, start = site.trial, site.start
        assert trial is not None and start is not None
        changed, written = compare(trial.visit, now)
        carried = {way for carry in trial.carries for way in carry.ways}
        memories = {carry.memory for carry in trial.carries}
        more = [way for way in changed if way not in carried]
        more_memory = [
            x
            for x in written
            if id(x.memory.storage) not in memories
            and id(x.memory.storage) in start.checkpoint.contents
        ]
        grown = grown_between(trial.visit.state, now.state)
        wanted_growth = {growth.way: growth.count for growth in site.growths}
        if more or more_memory or grown.keys() - wanted_growth:
            raise WidenError
        if grown != wanted_growth:
            raise MismatchError("it does not append equally much in each iteration")
        self._check_sharing(trial)
        recorder = self.recorder
        results = []
        for carry in trial.carries:
            if carry.memory is not None:
                results.append(start.checkpoint.contents[carry.memory].memory.value)
                continue
            values = [now.state.at(way) for way in carry.ways]
            if any(not same(values[0], x) for x in values):
                raise MismatchError(f"{name_of(carry.ways[0])} and {name_of(carry.ways[1])} part")
            tensor = as_tensor(values[0])
            type, weak = joined_type(carry.ways[0], start.state.at(carry.ways[0]), values[0])
            if (type, weak) != (carry.type, carry.weak):
                raise MismatchError(f"{name_of(carry.ways[0])} changes its type")
            results.append(recorder.value_of(tensor))
        rows = appended(site.growths, trial, now)
        row_values = [recorder.value_of(row) for row in rows]
        for row in rows:
            memory = id(source_of(row))
            before = memory in start.checkpoint.contents or memory in self.rolling.copies
            if before or not recorder.memories[memory].created:
                raise MismatchError("it appends what was there before the loop")
        following = None if now.condition is None else recorder.value_of(now.condition)
        recorded = Recorded(
            recorder.segments, trial.segment, trial.position, start.checkpoint, trial.refs
        )
        pieces = recorded.pieces()
        guards = recorder.outcomes[trial.visit.checkpoint.outcomes :]
        asked = [piece for piece in pieces if piece.asked is not None]
        for piece, outcome in zip(asked, guards[len(guards) - len(asked) :], strict=True):
            piece.outcome = outcome
            if piece.kind not in ("bool", "exit"):
                raise MismatchError(f"its body asks for {piece.kind}() of a tensor")
        path = Path(trial.outcome, pieces)
        path.results = [recorded.ref(value) for value in results if value is not None]
        path.rows = [recorded.ref(value) for value in row_values]
        path.twins = twins_of(rows, trial, now)
        path.shared = shared_with(rows, trial, now)
        if site.paths and site.paths[0].twins != path.twins:
            raise MismatchError("it appends other variables in other iterations")
        wanted = [*path.results, *path.rows]
        if following is not None:
            path.following = recorded.ref(following)
            wanted.append(path.following)
        hidden = hidden_in(pieces, wanted)
        if hidden is not None:
            raise MismatchError(f"it uses what an earlier iteration computed at {hidden[1]}")
        for place in recorded.outer:
            if not is_list(place) and place[0] < 0 and place[1] >= start.checkpoint.inputs:
                way = recorder.path_of(place[1])
                if way is not None and way.is_object:
                    raise MismatchError(f"it takes tensors from somewhere, as {way}")
        return path, recorded.outer

    def _check_sharing(self, trial: Trial) -> None:
        """What is carried and written in place must be seen by one variable alone."""
        start = self.site.start
        assert start is not None
        for carry, fresh, source in zip(trial.carries, trial.fresh, trial.sources, strict=True):
            if fresh is None or not isinstance(source, Tensor):
                continue
            if not fresh._storage.version:
                continue
            storage = storage_of(source)
            if id(storage) in start.checkpoint.contents or any(
                isinstance(other, Tensor) and way not in carry.ways and storage_of(other) is storage
                for way, other in trial.visit.state.values.items()
            ):
                raise MismatchError(f"{name_of(carry.ways[0])} is written and shares its memory")

    def widen(self) -> None:
        """More changes than was thought: the next iteration carries that too."""
        site = self.site
        assert site.trial is not None
        site.paths = []
        site.previous = site.trial.visit
        site.trial = None
        site.failures += 1
        if site.failures >= PATIENCE:
            self.give_up("from one iteration to the next different variables change")

    def go_on_from(self, outcome: bool | None) -> None:
        """Python executes one iteration more, which no path knows yet: record it."""
        visit = self.look()
        if visit is None:
            return
        visit.position = self.position_now()
        self.cut(visit, self.site.carries, outcome)

    def position_now(self) -> Any:
        """The number of the iteration that Python is about to execute."""
        return 0
