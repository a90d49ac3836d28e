"""Compiled graphs on plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracegrad.ir.graph import Graph
from tracegrad.ir.interpret import interpret

Layout = tuple[int, ...] | None


@dataclass
class Executable:
    """A graph ready to run on arrays."""

    graph: Graph
    source: str = ""
    kernels: list[Any] = field(default_factory=list)
    compile_seconds: float = 0.0

    def __call__(self, values: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
        """The outputs for `values`, one for each graph input: arrays or Python numbers."""
        arrays = [
            np.asarray(value, node.dtype.numpy)
            for value, node in zip(values, self.graph.inputs, strict=True)
        ]
        return [np.array(output) for output in interpret(self.graph, arrays)]


def compile_graph(graph: Graph, layouts: Sequence[Layout] | None = None) -> Executable:
    """Compile `graph`; `layouts` gives element strides of inputs that are not C-contiguous."""
    return Executable(graph)
