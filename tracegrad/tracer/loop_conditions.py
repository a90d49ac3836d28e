"""The conditions of `while` loops, as sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy as np

from tracegrad.ir.op import OPS
from tracegrad.tracer.conditions import as_truth
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.loop_bodies import Body
from tracegrad.tracer.loop_closing import ClosingVisit
from tracegrad.tracer.loop_sites import Spot
from tracegrad.tracer.loop_visits import Visit
from tracegrad.tracer.rolling import Rolling, Site
from tracegrad.tracer.tensor import Tensor

# How often a loop may run that only its condition ends.
_ENDLESS = np.int64(2**63 - 1)


class Condition(ClosingVisit):
    """A visit of the condition of a `while` loop."""

    def __init__(
        self, rolling: Rolling, site: Site, frames: Sequence[FrameType], spot: Spot
    ) -> None:
        super().__init__(rolling, site, frames)
        self.spot = spot

    def visit(self, tensor: Tensor, ask: Callable[[], bool]) -> bool:
        """Whether Python goes on: what it is told."""
        site = self.site
        condition = as_truth(tensor)
        now = self.look()
        if now is None:
            return ask()
        now.condition = condition
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
        elif any(
            (id(self.frames[0]), head) not in self.rolling.ranges
            for head in self.spot.escapes(outcome)
        ):
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
            value = bool(self.last_condition._values)
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
    return apply(OPS["logical_not"], [condition])
