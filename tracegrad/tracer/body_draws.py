"""Random numbers in the body of a loop that runs a known number of times.

Each iteration draws as many numbers as the others, so where its draws are in the generator's stream
follows from its number: compiled code draws the numbers that eager code draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.errors import TraceError
from tracegrad.ir.op import OPS, Op
from tracegrad.runtime.random import default_generator
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.location import locate
from tracegrad.tracer.tensor import Tensor, wrap

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder
    from tracegrad.tracer.recording import Value
    from tracegrad.tracer.scopes import Scope


class BodyDraws:
    """The draws of one body, which is being traced at `position` of a loop of `trips`."""

    def __init__(
        self, recorder: Recorder, scope: Scope, position: Tensor, trips: int, reverse: bool
    ) -> None:
        self._recorder = recorder
        self._position = position
        self._trips = trips
        self._reverse = reverse
        self._start = default_generator.get_state()
        # Inputs of the body: the seed, the offset of the first iteration, how many numbers each
        # iteration draws.
        self._inputs: list[tuple[Value, Tensor]] = []
        scope.draw = self._draw
        scope.counters = self._counters

    def _draw(
        self, op: Op, counters: Sequence[Tensor], params: dict[str, Any], output: Tensor
    ) -> Value:
        seed, offset = (int(x._values) for x in counters)
        after = default_generator.get_state()
        if after != (seed, offset + output._array.size) or seed != self._start[0]:
            raise locate(
                TraceError(
                    "a function given to a loop or to tg.checkpoint drew random numbers from a "
                    "Generator of its own, or chose the seed. Draw from the default generator "
                    "there"
                )
            )
        nodes = [self._recorder.node_of(x) for x in self._at(offset)]
        builder = self._recorder.scope.builder
        return self._recorder.value_for(builder.append(op, nodes, params))

    def _counters(self) -> tuple[Tensor, Tensor]:
        return self._at(default_generator.get_state()[1])

    def _at(self, offset: int) -> tuple[Tensor, Tensor]:
        """The seed, and the offset that is `offset` in the first iteration."""
        if not self._inputs:
            for name, value in (("seed", self._start[0]), ("offset", self._start[1]), ("drawn", 0)):
                tensor = wrap(np.asarray(value, np.int64))
                self._inputs.append((self._recorder.enter(tensor, name, False), tensor))
        seed, start, each = (tensor for _, tensor in self._inputs)
        number = self._position
        if self._reverse:
            number = apply(OPS["sub"], [constant(np.int64(self._trips - 1)), number])
        here = apply(OPS["add"], [start, apply(OPS["mul"], [number, each])])
        ahead = constant(np.int64(offset - self._start[1]))
        return seed, apply(OPS["add"], [here, ahead])

    @property
    def inputs(self) -> list[Value]:
        """The seed, the offset and how many numbers each iteration draws, in the body; nothing if
        it draws none.
        """
        return [value for value, _ in self._inputs]
