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

from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from tracegrad.log import log
from tracegrad.tracer.checkpoints import Checkpoint, roll_back
from tracegrad.tracer.inputs import Memory, StartAnew
from tracegrad.tracer.location import user_frame
from tracegrad.tracer.loop_paths import Path
from tracegrad.tracer.loop_sites import Spot, frames_of
from tracegrad.tracer.recording import Value
from tracegrad.tracer.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.ir.graph import Node
    from tracegrad.tracer.loop_visits import Carry, Trial, Visit
    from tracegrad.tracer.ranges import Counter
    from tracegrad.tracer.recorder import Recorder
    from tracegrad.tracer.stores import Places

SiteKey = tuple[CodeType, int]


class RollFailedError(StartAnew):
    """A loop that was rolled, or was about to be, turned out not to fit: trace once more, with the
    site `key` left alone; `for_good` if it will never fit.
    """

    def __init__(self, key: SiteKey, reason: str, for_good: bool) -> None:
        super().__init__(reason)
        self.key = key
        self.reason = reason
        self.for_good = for_good


class Site:
    """A site and what is known of it."""

    def __init__(self, key: SiteKey, name: str, line: int, offsets: frozenset[int]) -> None:
        self.key = key
        self.name = name
        self.line = line
        self.offsets = offsets
        self.frame: FrameType | None = None
        self.start: Visit | None = None
        self.previous: Visit | None = None
        self.trial: Trial | None = None
        self.carries: list[Carry] = []
        self.paths: list[Path] = []
        # Values from before the loop that its body uses, by their place.
        self.outer: dict[tuple[int, int], Value] = {}
        self.failures = 0
        self.refusal: str | None = None

    def reset(self) -> None:
        """The loop was left, or has to be looked at anew."""
        self.start = self.previous = self.trial = None
        self.carries = []
        self.paths = []
        self.outer = {}


class Rolling:
    """Rolls the loops of one trace.

    disabled  why sites are left alone, by key. `rolled` the loops that were rolled, for reports.
    """

    def __init__(self, recorder: Recorder, places: Places, disabled: dict[SiteKey, str]) -> None:
        self.recorder = recorder
        self.places = places
        self.disabled = disabled
        self.sites: dict[Any, Site] = {}
        self.leaders: dict[Any, Site] = {}
        self.ranges: dict[Any, Counter] = {}
        self.rolled: list[Site] = []
        self.active = True
        self._carried = 0
        self._dropped: dict[int, Site] = {}
        self._kept: list[Node] = []

    def close(self) -> None:
        """Forget all frames and tensors."""
        self.active = False
        self.sites.clear()
        self.leaders.clear()
        self.ranges.clear()
        self._dropped.clear()
        self._kept.clear()

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
        from tracegrad.tracer.loop_visits import Condition

        return Condition(self, site, frames, spot).visit(tensor, ask)

    def _site_of(self, frame: FrameType, spot: Spot) -> Site | None:
        code = frame.f_code
        key = code, spot.offset
        here = id(frame), spot.offset
        site = self.sites.get(here)
        if site is None:
            site = Site(key, code.co_name, spot.line, spot.offsets | spot.copies)
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
        self._leave_inner(frame, site)
        return site

    def _leave_inner(self, frame: FrameType, site: Site) -> None:
        """Loops inside of this one have come to their end."""
        for other in self.sites.values():
            if other is not site and other.frame is frame and other.offsets < site.offsets:
                other.reset()

    def report(self, site: Site, reason: str) -> None:
        """Note why a loop is not rolled."""
        self.disabled.setdefault(site.key, reason)
        log("trace", lambda: f"the loop at {site.name}:{site.line} is not rolled: {reason}")

    # ---------------------------------------------------------------------- failure

    def check_concrete(self, value: Value, kind: str) -> None:
        """Python asks for a number or an array. RollFailedError if it is one that a loop carries."""
        for site in self.open_sites():
            trial = site.trial
            assert trial is not None
            if self.recorder.depends_on(value, trial.refs):
                inside = self.is_inside(site)
                asked = f"{kind}() of a value that it carries"
                raise RollFailedError(
                    site.key, f"its body asks for {asked}" if inside else asked, inside
                )

    def before_write(self, memory: Memory) -> None:
        """A memory is about to change: keep what it held where loops may begin."""
        if memory.root is None:
            return
        for site in self.sites.values():
            for visit in (site.start, site.previous):
                if visit is not None:
                    visit.checkpoint.keep(id(memory.storage), memory.root)

    def open_sites(self) -> list[Site]:
        """The sites whose iteration is being recorded."""
        return [site for site in self.sites.values() if site.trial is not None]

    def is_inside(self, site: Site) -> bool:
        """Whether the loop of a site is being executed now."""
        frame = user_frame()
        while frame is not None:
            if frame is site.frame:
                return frame.f_lasti in site.offsets
            frame = frame.f_back
        return False

    def stale(self, value: Value) -> RollFailedError:
        """A value is used that was computed in an iteration which a loop node has replaced."""
        site = self._dropped.get(id(value.node))
        assert site is not None
        return RollFailedError(
            site.key, f"what one of its iterations computed, {value.node.loc}, is used later", True
        )

    def drop(self, site: Site, to: Checkpoint) -> None:
        """Take out of the recording what the iterations of a loop recorded."""
        segments = self.recorder.segments
        for number in range(to.segment, len(segments)):
            nodes = segments[number].builder.nodes
            for node in nodes[to.position if number == to.segment else 0 :]:
                self._dropped[id(node)] = site
                self._kept.append(node)
        roll_back(self.recorder, to)
        for other in list(self.sites.values()):
            if other is not site and other.start is not None:
                start = other.start.checkpoint
                if (start.segment, start.position) > (to.segment, to.position):
                    other.reset()

    def note(self, site: Site) -> None:
        """A loop was rolled."""
        self.rolled.append(site)
        log("trace", lambda: f"the loop at {site.name}:{site.line} is one node")

    def number(self) -> int:
        """A number for one more carried value."""
        self._carried += 1
        return self._carried


