"""Equal values of different segments: a condition that was asked once needs no second guard."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from tracegrad.ir.graph import Node
from tracegrad.tracer.recording import Segment, Value


class Numbering:
    """Gives the values of one trace numbers that are equal for values computed in the same way."""

    def __init__(self) -> None:
        self._of_node: dict[Node, int] = {}
        self._of_expression: dict[Hashable, int] = {}
        # Segments before this one are complete and have been numbered.
        self._complete = 0

    def number(self, value: Value, segments: Sequence[Segment]) -> int:
        """The number of a value."""
        if value.segment < 0:
            return self._intern(("input", value.position))
        assert value.node is not None
        # Segments in order: imports refer to earlier ones, whose nodes have numbers by then.
        for segment in segments[self._complete :]:
            self._number_all(segment)
        self._complete = len(segments) - 1
        return self._of_node[value.node]

    def go_back(self, count: int) -> None:
        """Segments from number `count` on were taken out, or are incomplete again."""
        self._complete = min(self._complete, count)

    def _number_all(self, segment: Segment) -> None:
        for node, source in zip(segment.builder.inputs, segment.sources, strict=True):
            if node not in self._of_node:
                if source.segment < 0:
                    self._of_node[node] = self._intern(("input", source.position))
                else:
                    assert source.node is not None
                    self._of_node[node] = self._of_node[source.node]
        for node in segment.builder.nodes:
            if node not in self._of_node:
                operands = tuple(self._of_node[x] for x in node.inputs)
                # What is not pure is equal to nothing else.
                key = (node.op.name, operands, node.frozen_params)
                self._of_node[node] = self._intern(key if node.op.pure else id(node))

    def _intern(self, key: Hashable) -> int:
        return self._of_expression.setdefault(key, len(self._of_expression))
