"""`range` in the loops of a function that is traced: a `for` loop that counts can be rolled."""

from __future__ import annotations

import builtins
import operator
import sys
from types import FrameType
from typing import Any

import numpy as np

from tracegrad.config import config
from tracegrad.ir.op import OPS
from tracegrad.tracer.conversion import iterate
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.liveness import analysed
from tracegrad.tracer.location import user_frame
from tracegrad.tracer.loop_bodies import Body
from tracegrad.tracer.loop_closing import ClosingVisit
from tracegrad.tracer.loop_sites import is_suitable, line_of, refusal_of
from tracegrad.tracer.loop_visits import Visit
from tracegrad.tracer.range_names import NAME
from tracegrad.tracer.recording import Value
from tracegrad.tracer.rolling import RollFailedError, Rolling, Site
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor


def count_up(*arguments: Any) -> Any:
    """`range`, which in a `for` loop of a traced function can take tensors and be rolled."""
    recorder: Any = state.recorder
    rolling = None if recorder is None else recorder.rolling
    if rolling is None or not 1 <= len(arguments) <= 3:
        return range(*arguments)
    frame = sys._getframe(1)
    head = _head(frame, "CALL")
    if head is None:
        return range(*arguments)
    key = frame.f_code, head
    bounds = [_bound(x) for x in arguments]
    if key in rolling.disabled or any(x is None for x in bounds):
        return range(*arguments)
    start, stop, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    if not isinstance(step, int) or step == 0:
        return range(*arguments)
    static = isinstance(start, int) and isinstance(stop, int)
    if static and len(range(start, stop, step)) < config.unroll_limit:
        return range(*arguments)
    return Counter(rolling, frame, head, start, stop, step)


def rows_of(tensor: Tensor) -> Any:
    """`iter(tensor)`: the tensors along the first axis, which a `for` loop can be rolled over."""
    recorder: Any = state.recorder
    rolling = None if recorder is None else recorder.rolling
    frame = user_frame()
    if rolling is None or tensor.ndim == 0 or frame is None:
        return iterate(tensor)
    head = _head(frame, "GET_ITER")
    if head is None or (frame.f_code, head) in rolling.disabled:
        return iterate(tensor)
    if len(tensor._array) < config.unroll_limit:
        return iterate(tensor)
    return Rows(rolling, frame, head, tensor)


def attach() -> None:
    """Make ours known under the name that code which is traced has for `range`."""
    setattr(builtins, NAME, count_up)


def _bound(value: Any) -> Any:
    """An argument of `range`: an int, or a tensor that is one; None for anything else."""
    if isinstance(value, Tensor):
        if value._literal is not None:
            return None
        return value if value.ndim == 0 and value._array.dtype.kind == "i" else None
    try:
        number = operator.index(value)
    except TypeError:
        return None
    return number if -(2**62) < number < 2**62 else None


def _head(frame: FrameType, what: str) -> int | None:
    """The head of the `for` loop whose iterable a running call makes, or whose iterator a running
    GET_ITER does; None if that stands elsewhere.
    """
    if not is_suitable(frame.f_code):
        return None
    code = analysed(frame.f_code)
    at: int | None = code.at(frame)
    if what == "CALL":
        at = code.following.get(code.at(frame))
    if at is None or code.steps[at].opname != "GET_ITER":
        return None
    head = code.following.get(at)
    return head if head is not None and code.steps[head].opname == "FOR_ITER" else None


class Counter:
    """The iterator of one `for` loop over a range.

    steps    how many items were given out.
    position the number of the item after which comes; `index` the same as a tensor, once a loop
             node has counted.
    """

    def __init__(
        self, rolling: Rolling, frame: FrameType, head: int, start: Any, stop: Any, step: int
    ) -> None:
        code = analysed(frame.f_code)
        self.rolling = rolling
        self.frame = frame
        self.head = head
        self.start = start
        self.step = step
        self.steps = 0
        self.position = 0
        self.index: Any = None
        self.ended = False
        if isinstance(start, int) and isinstance(stop, int):
            self.limit: Any = len(range(start, stop, step))
        elif step > 0:
            self.limit = stop - start if step == 1 else (stop - start + (step - 1)) // step
        else:
            self.limit = (start - stop + (-step - 1)) // -step
        inner = next(loop for loop in code.loops_around(head) if loop.header == head)
        self.site = Site((frame.f_code, head), line_of(code, head), inner.offsets)
        self.site.frame = frame
        self.site.refusal = refusal_of(code, inner.offsets)
        if self.site.refusal is not None:
            rolling.report(self.site, self.site.refusal)
        rolling.begin(frame, self.site)
        rolling.sites[id(self)] = self.site

    def __iter__(self) -> Counter:
        return self

    def __next__(self) -> Any:
        rolling = self.rolling
        recorder: Any = state.recorder
        if self.ended:
            raise StopIteration
        if recorder is None or recorder.rolling is not rolling or self.site.refusal is not None:
            return self._next()
        rolling.leave_inner(self.frame, self.site)
        rolling.ranges[id(self.frame), self.head] = self
        return CountVisit(rolling, self.site, self).visit()

    def _next(self) -> Any:
        """The next item, without looking around."""
        if not self.goes_on():
            self.end()
            raise StopIteration
        return self.advance()

    def goes_on(self) -> bool:
        """Whether there is another item. What depends on the call becomes a condition."""
        if self.index is None and isinstance(self.limit, int):
            return self.position < self.limit
        recorder: Any = state.recorder
        more = (self.position if self.index is None else self.index) < self.limit
        value = bool(more._values)
        return bool(recorder.ask(more, "bool", value)) if recorder is not None else value

    def end(self) -> None:
        """There is no other item."""
        self.ended = True
        self.site.reset()
        self.rolling.ranges.pop((id(self.frame), self.head), None)

    def advance(self) -> Any:
        """The item at the position, and on to the next."""
        index: Any = self.index
        place: Any = self.position if index is None else index
        self.position += 1
        self.steps += 1
        if index is not None:
            self.index = index + 1
        if self.step != 1:
            place = place * self.step
        if isinstance(self.start, int) and self.start == 0:
            # A tensor of its own: nobody may change the counter.
            return place if index is None else place + 0
        return self.start + place


class Rows(Counter):
    """The iterator of one `for` loop over a tensor.

    Where the loop may be rolled, a row is a copy, of which the tensor would not see a change.
    """

    def __init__(self, rolling: Rolling, frame: FrameType, head: int, tensor: Tensor) -> None:
        super().__init__(rolling, frame, head, 0, len(tensor._array), 1)
        self.tensor: Any = tensor

    def advance(self) -> Any:
        """The row at the position, and on to the next."""
        place = super().advance()
        if not isinstance(place, Tensor):
            return self.tensor[place]
        place._weak = False
        row = apply(OPS["gather"], [self.tensor, place])
        self.rolling.copies[id(row._storage)] = self.site
        return row


class CountVisit(ClosingVisit):
    """A visit of a `for` loop over a range: the next item is asked for."""

    def __init__(self, rolling: Rolling, site: Site, counter: Counter) -> None:
        super().__init__(rolling, site, [counter.frame])
        self.counter = counter

    def visit(self) -> Any:
        """The next item. StopIteration if there is none."""
        site, counter = self.site, self.counter
        now = self.look()
        if now is None:
            return counter._next()
        now.position = counter.position
        code = self.try_closing(now)
        if code is None:
            code = self.begin_as_known(now)
        if code is not None:
            return self._after(code)
        if site.refusal is not None or (site.start is None and counter.index is not None):
            if counter.index is not None:
                reason = site.refusal or self.reason
                raise RollFailedError(site, reason, True)
            return counter._next()
        self.rolling.counts.visits += 1
        carries = self.prepare(now)
        if not counter.goes_on():
            counter.end()
            raise StopIteration
        if carries is not None:
            self.cut(now, carries, None)
        return counter.advance()

    def carry_position(self, visit: Visit) -> Value | None:
        """The number of the iteration becomes a tensor."""
        counter = self.counter
        index = counter.index
        if index is None:
            index = constant(np.int64(counter.position))
        index._weak = True
        counter.index, value = self._carry_tensor(index)
        counter.index._weak = True
        return value

    def first(self, start: Visit) -> int:
        """The number of the iteration that the loop begins with."""
        return start.position

    def trips(self, start: Visit) -> int | None:
        """As many as there are items left, if a constant range has them."""
        limit = self.counter.limit
        return limit - start.position if isinstance(limit, int) else None

    def bounds(self, start: Visit, body: Body) -> tuple[Tensor, Tensor]:
        """As many iterations as there are items left."""
        limit = self.counter.limit
        if isinstance(limit, int):
            limit = constant(np.int64(limit - start.position))
        elif start.position:
            limit = limit - start.position
        return limit, constant(np.True_)

    def position_now(self) -> int:
        """The number of the iteration that Python is about to execute."""
        return self.counter.position

    def _after(self, code: int) -> Any:
        counter, start = self.counter, self.site.start
        assert start is not None
        if code == 0:
            counter.end()
            raise StopIteration
        # The last iteration was begun and given up.
        back = start.position - 1
        self.count._weak = True
        count: Any = self.count
        counter.index = count + back if back else count
        counter.position = int(counter.index._values)
        self.go_on_from(None)
        return counter.advance()
