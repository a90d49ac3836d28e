"""Visits of a loop's site: two are compared, the next iteration is recorded, the loop is closed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.ir.ops.control import while_loop
from tracegrad.ir.types import BY_NUMPY, TensorType, category
from tracegrad.log import log
from tracegrad.tracer.bounds import require_none, watched
from tracegrad.tracer.checkpoints import Checkpoint, Content
from tracegrad.tracer.control import apply_control, control_graph
from tracegrad.tracer.dispatch import constant
from tracegrad.tracer.inputs import storage_of
from tracegrad.tracer.liveness import analysed
from tracegrad.tracer.loop_bodies import Body, assemble
from tracegrad.tracer.loop_paths import LoopRef, Path, Recorded, hidden_in, joined
from tracegrad.tracer.loop_records import Anchor, KnownCarry, LoopRecord, renamed
from tracegrad.tracer.loop_runs import run_loop
from tracegrad.tracer.loop_sites import Spot
from tracegrad.tracer.loop_state import State, UnsuitableError, Way, put, state_of
from tracegrad.tracer.promotion import cast, number_dtype
from tracegrad.tracer.recording import Value
from tracegrad.tracer.rolling import Counts, Rolling, Site
from tracegrad.tracer.tape import accumulator
from tracegrad.tracer.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder

# So often a site may fail to fit before it is left alone.
_PATIENCE = 6
_ENDLESS = np.int64(2**63 - 1)


class MismatchError(Exception):
    """Two visits of a site, or an iteration between them, do not make a loop."""


class WidenError(Exception):
    """A variable changed that was not carried."""


@dataclass(frozen=True)
class Carry:
    """One carried value: `ways` lead to it, or it is what a piece of memory holds."""

    ways: tuple[Way, ...]
    type: TensorType
    weak: bool
    memory: int | None = None


class Visit:
    """What a site found when Python came by."""

    def __init__(
        self,
        recorder: Recorder,
        frames: Sequence[FrameType],
        names: Sequence[frozenset[str]],
        hidden: Callable[[State], tuple[Any, Any]],
    ) -> None:
        self.places = [(frame.f_code, frame.f_lasti) for frame in frames[1:]]
        self.state = state_of(frames, names)
        self.kept, self.hidden = hidden(self.state)
        self.checkpoint = Checkpoint(recorder)
        self.condition: Tensor | None = None
        self.position = 0
        self.nodes = recorder.size
        self.key: Hashable = None
        self.around: list[Any] = []
        self.counts = Counts()


@dataclass
class Trial:
    """An iteration that is being recorded, after what the loop carries was replaced.

    visit     the state at its start; `carries` what is carried.
    outcome   of the condition at the site.
    refs      the carried values, by their place.
    """

    visit: Visit
    carries: list[Carry]
    outcome: bool | None
    segment: int
    position: int
    refs: dict[tuple[int, int], LoopRef]
    fresh: list[Tensor | None]
    sources: list[Any]
    outcomes: int
    counts: Counts

    @property
    def place(self) -> tuple[int, int]:
        """Where in the recording it began."""
        return self.segment, self.position


class LoopVisit:
    """One visit of a site: what conditions and counting loops have in common."""

    def __init__(self, rolling: Rolling, site: Site, frames: Sequence[FrameType]) -> None:
        self.rolling = rolling
        self.recorder = rolling.recorder
        self.site = site
        self.frames = list(frames)
        self.is_known = False
        self.reason = ""

    # --------------------------------------------------------------- looking around

    def look(self) -> Visit | None:
        """The state now; None if the site is to be left alone."""
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
        log("trace", lambda: f"the loop at {self.site.name}:{self.site.line} did not fit: {reason}")
        self.site.reset()
        self.site.failures += 1
        if self.site.failures >= _PATIENCE:
            self.give_up(reason)

    # ---------------------------------------------------------------------- comparing

    def compare(self, before: Visit, now: Visit) -> tuple[list[Way], list[Content]]:
        """The variables and the memories that differ. MismatchError where they cannot."""
        if before.places != now.places:
            raise MismatchError("it is asked for at different places")
        if before.hidden != now.hidden:
            raise MismatchError("it changes objects that its variables do not lead to")
        a, b = before.state, now.state
        if a.rest != b.rest or a.values.keys() != b.values.keys():
            raise MismatchError(f"{_difference(a, b)} changes in a way that a loop cannot carry")
        if before.checkpoint.drawn != now.checkpoint.drawn:
            raise MismatchError("it draws random numbers")
        if before.checkpoint.registrations != now.checkpoint.registrations:
            raise MismatchError("it registers hooks")
        changed = [way for way, x in a.values.items() if not _same(x, b.values[way])]
        for way in changed:
            _joined_type(way, a.values[way], b.values[way])
        return changed, before.checkpoint.changed()

    def carries_between(self, start: Visit, before: Visit, now: Visit) -> list[Carry]:
        """What a loop that began at `start` carries, if `before` and `now` are its last visits."""
        ways: dict[Way, None] = dict.fromkeys(
            way for carry in self.site.carries for way in carry.ways
        )
        memories = {x.memory for x in self.site.carries if x.memory is not None}
        for a, b in ((start, now), (before, now)):
            changed, written = self.compare(a, b)
            ways.update(dict.fromkeys(changed))
            for content in written:
                key = id(content.memory.storage)
                if key in start.checkpoint.contents:
                    memories.add(key)
        groups: dict[int, list[Way]] = {}
        for way in ways:
            value = now.state.values[way]
            groups.setdefault(id(value) if isinstance(value, Tensor) else id(way), []).append(way)
        carries = []
        for group in groups.values():
            first = now.state.values[group[0]]
            begins = [start.state.values[way] for way in group]
            if isinstance(first, Tensor) and any(not _same(x, begins[0]) for x in begins):
                raise MismatchError(f"{_name(group[0])} and {_name(group[-1])} become one tensor")
            type, weak = _joined_type(group[0], begins[0], first)
            for value in (first, *begins):
                if isinstance(value, Tensor) and id(storage_of(value)) in memories:
                    raise MismatchError(
                        f"{_name(group[0])} is set anew and shares memory that is written"
                    )
            carries.append(Carry(tuple(group), type, weak))
        for key in memories:
            content = start.checkpoint.contents[key]
            root = content.memory.root
            assert root is not None
            if storage_of(root) is not content.memory.storage:
                raise MismatchError("a tensor takes the memory of another")
            carries.append(Carry((), root._type, False, key))
        return carries

    # ------------------------------------------------------------------------- cutting

    def cut(self, visit: Visit, carries: list[Carry], outcome: bool | None) -> None:
        """Put fresh tensors in the place of what is carried; the next iteration is recorded in
        terms of them.
        """
        recorder = self.recorder
        start = self.site.start
        assert start is not None
        recorder.scope.answered = dict(start.checkpoint.answered)
        recorder.segments[-1].builder.start_anew()
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
                source = visit.state.values[carry.ways[0]]
                tensor, value = self._carry_tensor(source)
                tensor._weak = carry.weak
                fresh.append(tensor)
                sources.append(source)
                changes.update(dict.fromkeys(carry.ways, tensor))
            refs[value.ref] = "carry", i
        position = self.carry_position(visit)
        if position is not None:
            refs[position.ref] = ("position",)
        put(self.frames, changes)
        segment = recorder.segments[-1]
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

    def carry_position(self, visit: Visit) -> Value | None:
        """The number of the iteration, of a loop that has one."""
        return None

    def _carry_tensor(self, source: Any) -> tuple[Tensor, Value]:
        tensor = _as_tensor(source)
        fresh = wrap(np.array(tensor._array, order="C"))
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

    # ------------------------------------------------------------------------- closing

    def recorded_path(self, now: Visit) -> tuple[Path, dict[tuple[int, int], Value]]:
        """The iteration that comes to its end now. MismatchError if it is none of this loop."""
        site = self.site
        trial, start = site.trial, site.start
        assert trial is not None and start is not None
        changed, written = self.compare(trial.visit, now)
        carried = {way for carry in trial.carries for way in carry.ways}
        memories = {carry.memory for carry in trial.carries}
        more = [way for way in changed if way not in carried]
        more_memory = [
            x
            for x in written
            if id(x.memory.storage) not in memories
            and id(x.memory.storage) in start.checkpoint.contents
        ]
        if more or more_memory:
            raise WidenError
        self._check_sharing(trial)
        recorder = self.recorder
        results = []
        for carry in trial.carries:
            if carry.memory is not None:
                results.append(start.checkpoint.contents[carry.memory].memory.value)
                continue
            values = [now.state.values[way] for way in carry.ways]
            if any(not _same(values[0], x) for x in values):
                raise MismatchError(f"{_name(carry.ways[0])} and {_name(carry.ways[1])} part")
            tensor = _as_tensor(values[0])
            type, weak = _joined_type(carry.ways[0], start.state.values[carry.ways[0]], values[0])
            if (type, weak) != (carry.type, carry.weak):
                raise MismatchError(f"{_name(carry.ways[0])} changes its type")
            results.append(recorder.value_of(tensor))
        following = None if now.condition is None else recorder.value_of(now.condition)
        recorded = Recorded(
            recorder.segments, trial.segment, trial.position, start.checkpoint, trial.refs
        )
        pieces = recorded.pieces()
        guards = recorder.outcomes[trial.visit.checkpoint.outcomes :]
        asked = [piece for piece in pieces if piece.asked is not None]
        for piece, outcome in zip(asked, guards[len(guards) - len(asked) :], strict=True):
            piece.outcome = outcome
            if piece.kind != "bool":
                raise MismatchError(f"its body asks for {piece.kind}() of a tensor")
        path = Path(trial.outcome, pieces)
        path.results = [recorded.ref(value) for value in results if value is not None]
        wanted = list(path.results)
        if following is not None:
            path.following = recorded.ref(following)
            wanted.append(path.following)
        hidden = hidden_in(pieces, wanted)
        if hidden is not None:
            raise MismatchError(f"it uses what an earlier iteration computed at {hidden[1]}")
        for place, value in recorded.outer.items():
            if place[0] < 0 and place[1] >= start.checkpoint.inputs:
                item = recorder.inputs[place[1]]
                if item.path.is_object:
                    raise MismatchError(f"it takes tensors from somewhere, as {item.path}")
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
                isinstance(other, Tensor)
                and way not in carry.ways
                and storage_of(other) is storage
                for way, other in trial.visit.state.values.items()
            ):
                raise MismatchError(f"{_name(carry.ways[0])} is written and shares its memory")

    def try_closing(self, now: Visit) -> int | None:
        """Make one loop of it, if an iteration has just been recorded and fits: what `close` says.
        """
        site = self.site
        if site.trial is None:
            return None
        try:
            path, outer = self.recorded_path(now)
        except WidenError:
            self.widen()
            return None
        except MismatchError as error:
            self.fail(str(error))
            return None
        paths = [*site.paths, path]
        if joined(paths) is None:
            # A loop inside that was too short to be rolled has become a node.
            paths = [path]
        site.paths = paths
        site.outer |= outer
        site.trial = None
        return self.close(now)

    def widen(self) -> None:
        """More changes than was thought: the next iteration carries that too."""
        site = self.site
        assert site.trial is not None
        site.paths = []
        site.previous = site.trial.visit
        site.trial = None
        site.failures += 1
        if site.failures >= _PATIENCE:
            self.give_up("from one iteration to the next different variables change")

    # ------------------------------------------------------------------- the loop node

    def close(self, now: Visit) -> int | None:
        """One loop node for all iterations since the start. What it stopped at: 0 for the end of
        the loop, or the number of the way that no path knows; None if there can be no node.
        """
        site, recorder = self.site, self.recorder
        start = site.start
        assert start is not None
        carries = site.carries
        roots = joined(site.paths)
        assert roots is not None
        types = {place: value.type for place, value in site.outer.items()}
        body = assemble(roots, [carry.type for carry in carries], types, self.first(start))
        consts = []
        for place in body.outer:
            tensor = recorder.holder(site.outer[place])
            if tensor is None:
                self.fail("a value from before the loop was overwritten")
                return None
            consts.append(tensor)
        self.rolling.drop(site, start.checkpoint)
        if not self.keep_record(start):
            recorder.forget_script()
        limit, go = self.bounds(start, body)
        inputs = [limit, go, *(self._init(carry, start) for carry in carries)]
        if body.carries_condition:
            assert start.condition is not None
            inputs.append(start.condition)
        if body.exits:
            inputs.append(constant(np.int64(0)))
        if body.checks:
            inputs.append(constant(np.False_))
        params = {
            "body": body.graph,
            "carries": len(inputs) - 2,
            "slices": 0,
            "frames": 0,
            "stacked": 0,
            "length": None,
            "saves": (),
            "reverse": False,
        }
        inputs += consts
        graph, operands = control_graph(while_loop, inputs, params)
        values = run_loop(body.graph, inputs, params["carries"], graph, operands)
        results = apply_control(while_loop, inputs, params, values=values)
        count, results = results[0], results[1:]
        if body.checks:
            require_none(
                results.pop(),
                body.checks,
                lambda: watched(graph, [x._array for x in operands]),
            )
        code = results.pop() if body.exits else None
        self._settle(carries, results)
        self.rolling.note(site)
        self.count = count
        self.last_condition = results[len(carries)] if body.carries_condition else None
        if code is None:
            return 0
        return int(recorder.ask(code, "int", int(code._array)))

    def keep_record(self, start: Visit) -> bool:
        """Let other traces know the loop; whether they did already, as it is."""
        site, rolling = self.site, self.rolling
        carries = []
        for carry in site.carries:
            anchor = None
            if carry.memory is not None:
                anchor = self._anchor(carry.memory, start)
                if anchor is None:
                    return False
            carries.append(KnownCarry(carry.ways, carry.type, carry.weak, anchor))
        origins = {place: rolling.origin_of(value) for place, value in site.outer.items()}
        found = {place: origin for place, origin in origins.items() if origin is not None}
        if len(found) < len(origins):
            return False
        known = rolling.known.records.get(start.key)
        new = LoopRecord(tuple(carries), tuple(site.paths), found, start.position)
        rolling.known.records[start.key] = new
        return known is not None and len(known.paths) == len(site.paths) and self.is_known

    def _anchor(self, memory: int, start: Visit) -> Anchor | None:
        numbers = start.checkpoint.contents[memory].memory.inputs
        if numbers:
            return "input", numbers[0]
        for way, value in start.state.values.items():
            if isinstance(value, Tensor) and id(storage_of(value)) == memory:
                return "way", way
        return None

    def begin_as_known(self, now: Visit) -> int | None:
        """Make the loop node at once, if an earlier trace did here. None if it did not."""
        site, rolling = self.site, self.rolling
        now.key = rolling.key(site)
        record = rolling.known.records.get(now.key)
        if record is None or site.start is not None:
            return None
        try:
            self._take(record, now)
        except MismatchError:
            site.reset()
            self.recorder.forget_script()
            return None
        self.is_known = True
        site.start = site.previous = now
        code = self.close(now)
        if code is None:
            self.recorder.forget_script()
        return code

    def _take(self, record: LoopRecord, now: Visit) -> None:
        """What the record says, in terms of this trace. MismatchError if it does not fit."""
        site, recorder = self.site, self.recorder
        if record.position != now.position:
            raise MismatchError
        carries = []
        for carry in record.carries:
            memory = None
            if carry.anchor is not None:
                memory = self._memory_at(carry.anchor, now)
            for way in carry.ways:
                if way not in now.state.values:
                    raise MismatchError
                type, weak = _type_of(now.state.values[way])
                fits = (type, weak) == (carry.type, carry.weak)
                number = not isinstance(now.state.values[way], Tensor)
                if not fits and not (number and not carry.type.shape and not carry.weak):
                    raise MismatchError
            carries.append(Carry(carry.ways, carry.type, carry.weak, memory))
        names: dict[tuple[int, int], tuple[int, int]] = {}
        outer: dict[tuple[int, int], Value] = {}
        for place, origin in record.origins.items():
            tensor = self.rolling.tensor_of(origin)
            if tensor is None:
                raise MismatchError
            value = recorder.value_of(tensor)
            names[place] = value.ref
            outer[value.ref] = value
        site.carries = carries
        site.paths = renamed(record.paths, names)
        site.outer = outer

    def _memory_at(self, anchor: Anchor, now: Visit) -> int:
        kind, place = anchor
        tensor = self.recorder.inputs[place].tensor if kind == "input" else now.state.values.get(place)
        if not isinstance(tensor, Tensor) or id(storage_of(tensor)) not in now.checkpoint.contents:
            raise MismatchError
        return id(storage_of(tensor))

    def first(self, start: Visit) -> int:
        """The number of the iteration that the loop begins with."""
        return 0

    def bounds(self, start: Visit, body: Body) -> tuple[Tensor, Tensor]:
        """How many iterations there are at most, and whether the first is done."""
        raise AssertionError

    def _init(self, carry: Carry, start: Visit) -> Tensor:
        """What a loop carries into its first iteration."""
        if carry.memory is None:
            value = start.state.values[carry.ways[0]]
            tensor = _as_tensor(value)
            if tensor._array.dtype != carry.type.dtype.numpy:
                tensor = cast(tensor, carry.type.dtype)
            return tensor
        content = start.checkpoint.contents[carry.memory]
        root = content.memory.root
        assert root is not None
        array = start.checkpoint.arrays.get(carry.memory)
        init = wrap(np.array(root._array if array is None else array, order="C"))
        self.recorder.bind(init, content.value)
        if content.requires_grad:
            init._requires_grad = True
            init._grad_fn = content.grad_fn or accumulator(root)
            init._output_nr = content.output_nr
        return init

    def _settle(self, carries: Sequence[Carry], results: Sequence[Tensor]) -> None:
        """Python finds the results where it left what was carried."""
        changes: dict[Way, Any] = {}
        start = self.site.start
        assert start is not None
        for carry, result in zip(carries, results, strict=False):
            if carry.memory is None:
                result._weak = carry.weak
                changes.update(dict.fromkeys(carry.ways, result))
                continue
            root = start.checkpoint.contents[carry.memory].memory.root
            assert root is not None
            was_leaf = root.grad_fn is None
            self.recorder.before_write(root)
            np.copyto(root._array, result._array)
            root._storage.version += 1
            self.recorder.mutate(root, result)
            if not was_leaf:
                root._grad_fn = result._grad_fn
                root._output_nr = result._output_nr
                root._requires_grad = result._requires_grad
        put(self.frames, changes)

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
            carries = self.carries_between(site.start, before, now)
        except MismatchError as error:
            self.fail(str(error))
            site.start = site.previous = now
            return None
        site.previous = now
        return carries


class Condition(LoopVisit):
    """A visit of the condition of a `while` loop."""

    def __init__(
        self, rolling: Rolling, site: Site, frames: Sequence[FrameType], spot: Spot
    ) -> None:
        super().__init__(rolling, site, frames)
        self.spot = spot

    def visit(self, tensor: Tensor, ask: Callable[[], bool]) -> bool:
        """Whether Python goes on: what it is told."""
        site = self.site
        now = self.look()
        if now is None:
            return ask()
        now.condition = tensor
        now.around = self._around()
        if site.previous is not None and site.previous.around != now.around:
            # A loop around has come to its next item.
            site.reset()
        code = self.try_closing(now)
        if code is None:
            code = self.begin_as_known(now)
        if code is not None:
            return self._after(code)
        self.rolling.counts.visits += 1
        if site.refusal is not None:
            return ask()
        carries = self.prepare(now)
        outcome = ask()
        if self._leaves(outcome):
            site.reset()
        elif any((id(self.frames[0]), head) not in self.rolling.ranges for head in self.spot.escapes(outcome)):
            self.give_up("the `for` loop around it can go on without its condition being asked for")
        elif carries is not None:
            self.cut(now, carries, outcome)
        return outcome

    def _around(self) -> list[Any]:
        """Which items the `for` loops around are at."""
        frame = self.frames[0]
        found: list[Any] = []
        for head, variable in self.spot.fors:
            counter = self.rolling.ranges.get((id(frame), head))
            if counter is not None:
                found.append(counter.steps)
            elif variable is not None:
                item = frame.f_locals.get(variable)
                self.rolling.kept.append(item)
                found.append(id(item))
        return found

    def _leaves(self, outcome: bool) -> bool:
        return self.spot.leaves(outcome)

    def bounds(self, start: Visit, body: Body) -> tuple[Tensor, Tensor]:
        """A loop without a limit, as long as its condition has the outcome that all paths have."""
        limit = constant(_ENDLESS)
        condition = start.condition
        assert condition is not None
        if body.goes_on is None:
            return limit, constant(np.True_)
        return limit, condition if body.goes_on else negated(condition)

    def _after(self, code: int) -> bool:
        site = self.site
        begins = {path.outcome for path in site.paths}
        if self.last_condition is not None:
            value = bool(self.last_condition._array)
            outcome = bool(self.recorder.ask(self.last_condition, "bool", value))
        else:
            (known,) = begins
            assert known is not None
            outcome = known if code else not known
        if self._leaves(outcome):
            site.reset()
        else:
            self.go_on_from(outcome)
        return outcome


def negated(condition: Tensor) -> Tensor:
    """The opposite of a truth."""
    from tracegrad.ir.op import OPS
    from tracegrad.tracer.dispatch import apply

    return apply(OPS["logical_not"], [condition])


def _same(a: Any, b: Any) -> bool:
    """Whether a variable has not changed."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _as_tensor(value: Any) -> Tensor:
    """A value that is carried, as a tensor."""
    if isinstance(value, Tensor):
        return value
    kind = np.float64 if isinstance(value, float) else np.int64
    tensor = constant(kind(value))
    tensor._weak = True
    return tensor


def _joined_type(way: Way, before: Any, now: Any) -> tuple[TensorType, bool]:
    """The type of a carried value that was `before` and is `now`, and whether it is a number."""
    kinds = [_type_of(before), _type_of(now)]
    (old, old_weak), (new, new_weak) = kinds
    numbers = [not isinstance(x, Tensor) for x in (before, now)]
    if old == new and (old_weak == new_weak):
        if isinstance(before, Tensor) and isinstance(now, Tensor):
            if before.requires_grad and not now.requires_grad:
                raise MismatchError(f"{_name(way)} is cut from the tape")
        return new, new_weak
    if numbers[0] and not new.shape and category(old.dtype) <= category(new.dtype):
        # A number that became a tensor: 0.0, to which tensors are added.
        if not new_weak:
            return new, new_weak
    raise MismatchError(f"{_name(way)} changes from {old} to {new}")


def _type_of(value: Any) -> tuple[TensorType, bool]:
    if isinstance(value, Tensor):
        return value._type, value._weak
    dtype = BY_NUMPY[np.dtype(np.float64 if isinstance(value, float) else np.int64)]
    return TensorType(dtype, ()), True


def _name(way: Way) -> str:
    text = str(way[1])
    for kind, key in way[2:]:
        text += f".{key}" if kind == "attr" else f"[{key!r}]"
    return text


def _difference(a: State, b: State) -> str:
    """The first variable that differs in more than its value."""
    ways = [*a.rest, *b.rest, *a.values, *b.values]
    for way in ways:
        if a.rest.get(way) != b.rest.get(way) or (way in a.values) != (way in b.values):
            return _name(way)
    return "a variable"
