"""Random numbers during a trace: which of the generator's counters a draw took."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from tracegrad.errors import TraceError
from tracegrad.runtime.random import default_generator

if TYPE_CHECKING:
    from tracegrad.tracer.tensor import Tensor


class Draws:
    """Follows the default generator from where it stood when the trace began."""

    def __init__(self) -> None:
        self._start = default_generator.get_state()
        self._expected = self._start
        self._reseeded = False

    def take(self, seed: Tensor, offset: Tensor, drawn: Tensor) -> int | None:
        """How far ahead of the start a draw is; None if the function chose the seed itself.

        TraceError for a draw from another generator: its state would not go on in compiled code.
        """
        state = int(seed._array), int(offset._array)
        after = state[0], state[1] + drawn._array.size
        if default_generator.get_state() != after:
            raise TraceError(
                "a compiled function drew random numbers from a Generator of its own. Draw them "
                "outside and pass them as an argument, or use the default generator"
            )
        if state != self._expected:
            self._reseeded = True
        self._expected = after
        return None if self._reseeded else state[1] - self._start[1]

    def ahead(self) -> int | None:
        """How far ahead of the start the next draw is; None if the function chose the seed."""
        state = default_generator.get_state()
        if state != self._expected:
            self._reseeded = True
            self._expected = state
        return None if self._reseeded else state[1] - self._start[1]

    def catch_up(self) -> None:
        """What the generator gave since the last draw was drawn by a loop."""
        self._expected = default_generator.get_state()

    def mark(self) -> Hashable:
        """Equal for two times between which nothing was drawn."""
        return default_generator.get_state(), self._expected

    def end(self) -> tuple[int, tuple[int, int] | None]:
        """How many numbers were drawn, and the state to set if the function chose the seed."""
        now = default_generator.get_state()
        if self._reseeded or now != self._expected:
            return 0, now
        return now[1] - self._start[1], None

    def restore(self) -> None:
        """Go back to where the trace began."""
        default_generator.set_state(self._start)
