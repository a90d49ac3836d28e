"""Going back in a recording: what was recorded since a checkpoint is taken out again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.tracer.inputs import Binding, Memory
from tracegrad.tracer.recording import Value

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder
    from tracegrad.tracer.tensor import Tensor


@dataclass(frozen=True)
class Content:
    """What a piece of memory held at a checkpoint, and how its tensor stood on the tape.

    `storage_version` is how often it had been written.
    """

    memory: Memory
    version: int
    value: Value
    grad_fn: Any
    output_nr: int
    requires_grad: bool


class Checkpoint:
    """Where a recording stood.

    segment, position  the segment that was being recorded, and how many nodes it had.
    contents           of each memory, by the identity of its storage.
    arrays             copies of memory made before it was first written after the checkpoint.
    """

    def __init__(self, recorder: Recorder) -> None:
        scope = recorder.scope
        segment = scope.segments[-1]
        self.segment = len(scope.segments) - 1
        self.position = len(segment.builder.nodes)
        self.imports = len(segment.builder.inputs)
        self.requirements = len(segment.requirements)
        self.outcomes = len(recorder.outcomes)
        self.inputs = len(scope.inputs if recorder.in_body else recorder.inputs)
        self.registrations = len(recorder.registrations)
        self.seed = None if recorder.in_body else recorder.draws.mark()
        self.answered: dict[Hashable, Hashable] = dict(scope.answered)
        self.required = set(scope.required)
        self.grad_written = frozenset(recorder.grad_written)
        self.contents: dict[int, Content] = {}
        self.arrays: dict[int, np.ndarray[Any, Any]] = {}
        for key, memory in recorder.memories.items():
            root = memory.root
            if root is not None and memory.value is not None:
                self.contents[key] = Content(
                    memory,
                    memory.version,
                    memory.value,
                    root._grad_fn,
                    root._output_nr,
                    root._requires_grad,
                )

    def keep(self, storage: int, root: Tensor) -> None:
        """The memory of `root` is about to be written: keep what the checkpoint saw there."""
        if storage in self.contents and storage not in self.arrays:
            self.arrays[storage] = root._values.copy()

    def changed(self) -> list[Content]:
        """The memories that were there and have been written since."""
        return [item for item in self.contents.values() if item.memory.version != item.version]

    def is_before(self, value: Value) -> bool:
        """Whether a value was known at the checkpoint."""
        if value.segment < 0:
            return True
        if value.segment != self.segment:
            return value.segment < self.segment
        return value.position < self.position


def roll_back(recorder: Recorder, to: Checkpoint) -> None:
    """Take out of the recording what came after the checkpoint. Inputs keep their numbers."""
    scope = recorder.scope
    del scope.segments[to.segment + 1 :]
    segment = scope.segments[-1]
    segment.guard = None
    builder = segment.builder
    builder.truncate(to.position, to.imports)
    del segment.sources[to.imports :]
    del segment.requirements[to.requirements :]
    kept = set(map(id, builder.inputs))
    segment.imports = {ref: node for ref, node in segment.imports.items() if id(node) in kept}
    segment.positions = {id(node): i for i, node in enumerate(builder.nodes)}
    scope.answered = dict(to.answered)
    scope.required = set(to.required)
    scope.numbers.go_back(to.segment)
    del recorder.outcomes[to.outcomes :]
    for content in to.changed():
        memory = content.memory
        memory.value = content.value
        # A new version: what was bound to a value in between is bound no more.
        memory.version += 1
        assert memory.root is not None
        memory.root._trace = Binding(recorder, content.value, memory.version)
