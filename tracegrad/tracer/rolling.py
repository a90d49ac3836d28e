"""Plain Python loops become `while_loop` nodes while they are traced.

A loop is followed at its site, the place where it asks whether to go on. Twice in a row the state
of the loop is looked at there. What changed is what the loop carries: fresh tensors are put in its
place, and the next iteration is recorded in terms of them. When Python comes by again, that
recording is a path through the body. The recording goes back to where the loop began, one loop node
takes the place of all iterations, and Python finds the state at the loop's end.

An iteration that goes another way at a condition inside stops the loop node before it. Python
executes that iteration; if it comes back to the site, it was one more path through the body.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

from tracegrad.ir.graph import Loc
from tracegrad.log import log
from tracegrad.tracer.checkpoints import Checkpoint, roll_back
from tracegrad.tracer.growing import Choice, Watch, begin, end
from tracegrad.tracer.inputs import Memory, StartAnew
from tracegrad.tracer.liveness import analysed
from tracegrad.tracer.location import user_frame
from tracegrad.tracer.loop_paths import Path, Recorded
from tracegrad.tracer.loop_records import KnownLoops, LoopRecord, Origin, SiteKey
from tracegrad.tracer.loop_sites import Spot, frames_of
from tracegrad.tracer.recording import Value
from tracegrad.tracer.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.tracer.loop_bodies import Body
    from tracegrad.tracer.loop_rows import Growth
    from tracegrad.tracer.loop_visits import Carry, Trial, Visit
    from tracegrad.tracer.ranges import Counter
    from tracegrad.tracer.recorder import Recorder
    from tracegrad.tracer.stores import Places


class RollFailedError(StartAnew):
    """A loop that was rolled, or was about to be, turned out not to fit: trace once more, with the
    loop `key` left alone; `for_good` if it will never fit.
    """

    def __init__(self, site: Site, reason: str, for_good: bool) -> None:
        super().__init__(reason)
        self.site = site
        self.key = site.key
        self.place = site.place
        self.reason = reason
        self.for_good = for_good


class Site:
    """A site and what is known of it."""

    def __init__(self, key: SiteKey, line: int, offsets: frozenset[int]) -> None:
        self.key = key
        self.place = str(Loc(key[0].co_filename, line))
        self.offsets = offsets
        self.frame: FrameType | None = None
        self.start: Visit | None = None
        self.previous: Visit | None = None
        self.trial: Trial | None = None
        self.carries: list[Carry] = []
        self.paths: list[Path] = []
        # Values from before the loop that its body uses, by their place.
        self.outer: dict[tuple[int, int], Value] = {}
        # The lists that it appends to, claims on them with their last items, and whether they lack
        # what a loop node appends.
        self.growths: list[Growth] = []
        self.claims: list[tuple[Watch, Any]] = []
        self.choices: list[Choice] = []
        self.is_incomplete = False
        self.failures = 0
        self.refusal: str | None = None

    @cached_property
    def has_subscripts(self) -> bool:
        """Whether its body, as far as it stands in the function itself, takes items."""
        steps = analysed(self.key[0]).steps
        return any(
            step.opname == "BINARY_SUBSCR" or (step.opname == "BINARY_OP" and step.argrepr == "[]")
            for offset, step in steps.items()
            if offset in self.offsets
        )

    def reset(self) -> None:
        """The loop was left, or has to be looked at anew."""
        self.release()
        if self.is_incomplete:
            self.is_incomplete = False
            reason = "it appends to a list, and was left before its end in an iteration of its own"
            raise RollFailedError(self, reason, True)
        self.growths = []
        self.start = self.previous = self.trial = None
        self.carries = []
        self.paths = []
        self.outer = {}

    def claim(
        self, recorder: Recorder, items: list[Any], before: int, length: int, last: Any, name: str
    ) -> None:
        """Let nobody ask for what a list holds while an iteration that appends to it is recorded.

        `last`: the item at its end, if the loop carries that.
        """

        def refuse() -> None:
            rolling = recorder.rolling
            if rolling is None or not rolling.is_inside(self):
                self.reset()
                return
            raise RollFailedError(self, f"its body looks at {name}, which it appends to", True)

        watch = Watch(items, recorder, refuse, before, length, last is not None)
        begin(watch)
        self.claims.append((watch, last))

    def release(self) -> None:
        """The lists may be looked at again."""
        for watch, last in self.claims:
            end(watch)
            if last is not None:
                list.__setitem__(watch.items, watch.length - 1, last)
        for choice in self.choices:
            end(choice)
        self.claims = []
        self.choices = []


@dataclass
class Counts:
    """What tells one time in a trace from another: the same in all traces of one path.

    loops  what the loop nodes so far are.
    """

    loops: tuple[int, ...] = ()
    visits: int = 0
    carried: int = 0


class Rolling:
    """Rolls the loops of one trace.

    known      loops that earlier traces rolled. `disabled` says of some sites why they are left
               alone.
    met_loops  whether there was a loop that might have been rolled: then two traces may differ.
    """

    def __init__(
        self,
        recorder: Recorder,
        places: Places,
        known: KnownLoops,
        disabled: dict[SiteKey, str],
    ) -> None:
        self.recorder = recorder
        self.places = places
        self.known = known
        self.disabled = {**known.unrolled, **disabled}
        self.sites: dict[Any, Site] = {}
        self.leaders: dict[Any, Site] = {}
        self.ranges: dict[Any, Counter] = {}
        self.met_loops = False
        self.counts = Counts()
        self._dropped: dict[int, Site] = {}
        # Copies in place of views, by the identity of their storage.
        self.copies: dict[int, Site] = {}
        # What loops have appended to lists, and what was on the same memory, in the same way.
        self.appended: dict[int, Site] = {}
        # Identities are compared, so what has one stays alive.
        self.kept: list[Any] = []

    def finish(self) -> None:
        """The function has come to its end. RollFailedError if a list lacks items."""
        for site in list(self.sites.values()):
            site.reset()

    def release(self) -> None:
        """All lists may be looked at again."""
        for site in self.sites.values():
            site.release()

    def close(self) -> None:
        """Forget all frames and tensors."""
        self.release()
        self.sites.clear()
        self.leaders.clear()
        self.ranges.clear()
        self.copies.clear()
        self.appended.clear()
        self._dropped.clear()
        self.kept.clear()

    # ------------------------------------------------------------------ conditions

    def condition(self, tensor: Tensor, ask: Callable[[], bool]) -> bool:
        """Python asks for the truth of `tensor`; `ask` is what happens where nothing is rolled."""
        frame = user_frame()
        found = frames_of(frame) if frame is not None else None
        if found is None:
            return ask()
        frames, spot = found
        site = self._site_of(frames[0], spot)
        if site is None:
            return ask()
        from tracegrad.tracer.loop_conditions import Condition

        return Condition(self, site, frames, spot).visit(tensor, ask)

    def _site_of(self, frame: FrameType, spot: Spot) -> Site | None:
        code = frame.f_code
        key = code, spot.offset
        here = id(frame), spot.offset
        site = self.sites.get(here)
        if site is None:
            site = Site(key, spot.line, spot.offsets | spot.copies)
            site.frame = frame
            site.refusal = spot.refusal or self.disabled.get(key)
            self.sites[here] = site
            if spot.refusal is not None:
                self.report(site, spot.refusal)
        if site.refusal is not None:
            return None
        leader = self.leaders.setdefault((id(frame), min(spot.offsets)), site)
        if leader is not site:
            if leader.refusal is None:
                return None
            self.leaders[id(frame), min(spot.offsets)] = site
        self.leave_inner(frame, site)
        return site

    def leave_inner(self, frame: FrameType, site: Site) -> None:
        """Loops inside of this one have come to their end."""
        for other in self.sites.values():
            if other is not site and other.frame is frame and other.offsets < site.offsets:
                other.reset()

    def begin(self, frame: FrameType, site: Site) -> None:
        """A loop is executed anew, and so are those inside of it."""
        for other in self.sites.values():
            if other is not site and other.frame is frame and other.offsets <= site.offsets:
                other.reset()

    def report(self, site: Site, reason: str) -> None:
        """Note why a loop is not rolled."""
        self.disabled.setdefault(site.key, reason)
        self.known.note(site.place, reason)
        log("trace", lambda: f"the loop at {site.place} is not rolled: {reason}")

    # ---------------------------------------------------------------------- failure

    def check_concrete(self, value: Value, kind: str) -> None:
        """Python asks for a number or an array. RollFailedError if a loop carries that."""
        for site in self.open_sites():
            trial = site.trial
            assert trial is not None
            if self.recorder.depends_on(value, trial.refs):
                if site.paths:
                    # Only a rare iteration asks, which may be the last: it is left as it is.
                    site.reset()
                    continue
                inside = self.is_inside(site)
                asked = f"{kind}() of a value that it carries"
                raise RollFailedError(
                    site, f"its body asks for {asked}" if inside else asked, inside
                )

    def before_write(self, memory: Memory) -> None:
        """A memory is about to change: keep what it held where loops may begin."""
        site = self.copies.get(id(memory.storage))
        if site is not None:
            raise RollFailedError(site, "it changes rows of a tensor in place", True)
        site = self.appended.get(id(memory.storage))
        if site is not None:
            reason = "a tensor that it appends to a list is changed in place afterwards"
            raise RollFailedError(site, reason, True)
        if memory.root is None:
            return
        for each in self.sites.values():
            for visit in (each.start, each.previous):
                if visit is not None:
                    visit.checkpoint.keep(id(memory.storage), memory.root)

    def open_sites(self) -> list[Site]:
        """The sites whose iteration is being recorded."""
        found = []
        for site in self.sites.values():
            if site.trial is not None:
                if self.is_inside(site) or not site.paths:
                    found.append(site)
                else:
                    # The loop was left in that iteration.
                    site.reset()
        return found

    def is_inside(self, site: Site) -> bool:
        """Whether the loop of a site is being executed now."""
        frame = user_frame()
        while frame is not None:
            if frame is site.frame:
                return analysed(frame.f_code).at(frame) in site.offsets
            frame = frame.f_back
        return False

    def stale(self, value: Value) -> RollFailedError:
        """A value is used that was computed in an iteration which a loop node has replaced."""
        site = self._dropped.get(id(value.node))
        assert site is not None
        at = value.node.loc if value.node is not None else None
        return RollFailedError(
            site, f"what one of its iterations computed, at {at}, is used later", True
        )

    def drop(self, site: Site, to: Checkpoint) -> None:
        """Take out of the recording what the iterations of a loop recorded."""
        segments = self.recorder.segments
        for number in range(to.segment, len(segments)):
            nodes = segments[number].builder.nodes
            for node in nodes[to.position if number == to.segment else 0 :]:
                self._dropped[id(node)] = site
                self.kept.append(node)
        roll_back(self.recorder, to)
        assert site.start is not None
        self.counts = replace(site.start.counts)
        for other in list(self.sites.values()):
            if other is not site and other.start is not None:
                start = other.start.checkpoint
                if (start.segment, start.position) > (to.segment, to.position):
                    other.reset()

    def note(self, site: Site, body: Body) -> None:
        """A loop was rolled."""
        self.known.note(site.place, None)
        carries = tuple(carry.key for carry in site.carries)
        key = site.key, carries, body.graph.key, tuple(site.growths)
        self.counts.loops += (hash(key),)
        log("trace", lambda: f"the loop at {site.place} is one node")

    def number(self) -> int:
        """A number for one more carried value."""
        self.counts.carried += 1
        return self.counts.carried

    # ---------------------------------------------------------------------- records

    def key(self, site: Site) -> Hashable:
        """What this time in this trace has in common with the same time in another, or in another
        iteration of a loop around.
        """
        outcomes = self.recorder.outcomes
        counts = self.counts
        around = self.trials()
        base: tuple[Hashable, ...] = (None, tuple(outcomes), counts.loops, counts.visits)
        if around:
            trial, start = around[-1].trial, around[-1].start
            assert trial is not None and start is not None
            # What the loop around does not carry is part of what a record says, as it was then.
            base = (
                (start.key, tuple(carry.ways for carry in trial.carries)),
                tuple(outcomes[trial.outcomes :]),
                counts.loops[len(trial.counts.loops) :],
                tuple(carry.key for carry in trial.carries),
                counts.visits - trial.counts.visits,
            )
        return (*base, site.key)

    def trials(self) -> list[Site]:
        """The sites whose iteration is being recorded, the outermost first."""
        inside = [site for site in self.open_sites() if self.is_inside(site)]
        return sorted(inside, key=lambda site: site.trial.place)  # type: ignore[union-attr]

    def origin_of(self, value: Value) -> Origin | None:
        """Where a value comes from; None if no other trace could find it."""
        for depth, recorded in enumerate(map(self._recorded, reversed(self.trials()))):
            ref = recorded.ref(value)
            if ref[0] == "hidden":
                return None
            if ref[0] != "outer":
                return depth, ref
        return -1, ("outer", value.ref)

    def tensor_of(self, origin: Origin) -> Tensor | None:
        """The tensor that has the value which comes from there; None if there is none."""
        depth, ref = origin
        if depth < 0:
            return self.recorder.tensor_at(ref[1])
        around = self.trials()[::-1]
        if depth >= len(around):
            return None
        trial = around[depth].trial
        assert trial is not None
        if ref[0] == "node":
            shift = trial.position if ref[1] == 0 else 0
            return self.recorder.tensor_at((trial.segment + ref[1], ref[2] + shift))
        places = [place for place, known in trial.refs.items() if known == ref]
        return self.recorder.tensor_at(places[0]) if places else None

    def _recorded(self, site: Site) -> Recorded:
        trial, start = site.trial, site.start
        assert trial is not None and start is not None
        return Recorded(
            self.recorder.segments, trial.segment, trial.position, start.checkpoint, trial.refs
        )

    def record_of(self, site: Site) -> LoopRecord | None:
        """What is known of the loop that may begin now."""
        return self.known.records.get(self.key(site))
