"""Random numbers during a trace: the default generator's offset is a value like others.

A draw takes the counters from the offset on, and moves it. A loop carries the offset from one
iteration to the next; so how many numbers a call draws may depend on how often its loops run.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

from tracegrad.errors import TraceError
from tracegrad.ir.op import OPS
from tracegrad.runtime.random import default_generator
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.recording import Drawn
from tracegrad.tracer.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder

_START = np.int64(0)


class Draws:
    """Follows the default generator from where it stood when the trace began."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._start = default_generator.get_state()
        self._expected = self._start
        self._chosen = default_generator.chosen
        self._is_chosen = False
        self._first = self._base = wrap(np.asarray(self._start[1], np.int64))
        self._seed = wrap(np.asarray(self._start[0], np.int64))
        self._offset: Tensor | None = self._base
        # How far the offset is ahead of the base.
        self._ahead = 0
        self._is_input = False

    # ------------------------------------------------------------------------ draws

    def take(self, seed: Tensor, offset: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Seed and offset of a draw, as values of the trace.

        TraceError for a draw from another generator: its state would not go on in compiled code.
        """
        count = drawn._array.size
        before = int(seed._values), int(offset._values)
        if default_generator.get_state() != (before[0], before[1] + count):
            raise TraceError(
                "a compiled function drew random numbers from a Generator of its own. Draw them "
                "outside and pass them as an argument, or use the default generator"
            )
        self._follow(before)
        counters = self._counters()
        self._move(count)
        return counters

    def counters(self) -> tuple[Tensor, Tensor]:
        """Seed and offset of the next draw."""
        self._follow(default_generator.get_state())
        return self._counters()

    def skip(self, count: int) -> None:
        """A loop drew `count` numbers."""
        default_generator.advance(count)
        self._move(count)

    def _follow(self, now: tuple[int, int]) -> None:
        """What the function chose itself is the same at each call."""
        if now == self._expected and default_generator.chosen == self._chosen:
            return
        self._expected = now
        self._chosen = default_generator.chosen
        self._is_chosen = True
        self._seed, self._base = (constant(np.int64(x)) for x in now)
        self._offset = self._base
        self._ahead = 0

    def _counters(self) -> tuple[Tensor, Tensor]:
        if not self._is_chosen and not self._is_input:
            self.enter()
        return self._seed, self._current()

    def enter(self) -> None:
        """Make what the generator is when the call begins inputs of the trace."""
        self._is_input = True
        self._recorder.enter_generator("seed", self._seed)
        self._recorder.enter_generator("offset", self._first)

    def _current(self) -> Tensor:
        if self._offset is None:
            ahead = constant(np.int64(self._ahead))
            self._offset = apply(OPS["add"], [self._base, ahead])
        return self._offset

    def _move(self, count: int) -> None:
        if count:
            self._expected = default_generator.get_state()
            self._ahead += count
            self._offset = None

    # ------------------------------------------------------------------------ loops

    def mark(self) -> Hashable:
        """Equal for two times if no seed was chosen between them, or the same as before."""
        self._follow(default_generator.get_state())
        return self._is_chosen, self._expected[0]

    @property
    def offset(self) -> Tensor:
        """The offset of the next draw; another tensor once something has been drawn."""
        self._follow(default_generator.get_state())
        return self._current()

    def go_on_from(self, offset: Tensor) -> None:
        """The offset is another now: what a loop carries, or where it came to."""
        self._expected = self._expected[0], int(offset._values)
        default_generator.go_back(self._expected)
        self._base = self._offset = offset
        self._ahead = 0

    # -------------------------------------------------------------------------- end

    def end(self) -> Drawn:
        """How the call leaves the generator."""
        self._follow(default_generator.get_state())
        chosen = self._expected if self._is_chosen else None
        if self._base is self._first:
            return Drawn(self._ahead)
        if self._base._literal is not None:
            return Drawn(chosen=chosen)
        start = constant(_START) if chosen else self._first
        count = apply(OPS["sub"], [self._current(), start])
        number = self._recorder.value_of(count).ref
        return Drawn(0, number, None if chosen is None else (chosen[0], 0))

    def restore(self) -> None:
        """Go back to where the trace began."""
        default_generator.go_back(self._start)
