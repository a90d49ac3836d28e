"""What a scheduled program consists of: buffers, kernels with their roots, calls, and the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tracegrad.codegen.affine import Index, Shape, View
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.types import DType


@dataclass(eq=False)
class Buffer:
    """A piece of memory. `kind` is "input", "output", "temporary" or "constant"; `position` counts
    within it.
    """

    kind: str
    dtype: DType
    size: int
    position: int = 0
    literal: Any = None

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(eq=False)
class Root:
    """One thing that a kernel does for each element of its domain: store a value, or fold it.

    `value` is what is computed. A reduction (`fold`) accumulates it and stores the result in
    `target` at the row; `indices` make the store a scatter, `accumulate` one that adds. A copy of
    what is in memory already reads it at `origin`. `target` is None for a value that only its own
    kernel reads.
    """

    node: Node
    value: Node
    target: View | None
    indices: tuple[Node, ...] = ()
    fold: bool = False
    accumulate: bool = False
    origin: View | None = None


@dataclass(eq=False)
class Kernel:
    """A loop nest over `domain` (sizes other than 1); `axes` are the reduced loops, None while
    there are none.

    `ops`: how many ops it computes. `serial`: its stores may hit one element twice.
    """

    domain: Shape
    axes: tuple[int, ...] | None
    roots: list[Root] = field(default_factory=list)
    position: int = 0
    ops: int = 0
    serial: bool = False

    @property
    def kept(self) -> tuple[int, ...]:
        """The loops that are not reduced."""
        return tuple(i for i in range(len(self.domain)) if i not in (self.axes or ()))

    @property
    def is_column(self) -> bool:
        """Whether it keeps the last loop, so that it accumulates into memory row by row."""
        return is_column(self.domain, self.axes or ())

    @property
    def rows(self) -> Shape:
        return tuple(self.domain[i] for i in self.kept)


@dataclass(eq=False)
class Call:
    """A step with a template of its own: a matrix product, a scan, a sort."""

    node: Node
    operands: tuple[View, ...]
    target: View
    position: int = 0


Step = Kernel | Call


@dataclass
class Schedule:
    """What to run, in order, and the memory it works on."""

    graph: Graph
    steps: list[Step]
    places: dict[Node, View]
    inputs: list[Buffer]
    outputs: list[Buffer]
    buffers: list[Buffer]


Read = tuple[Node, Index | None]
"""A value in memory and the index at which it is read; None where that depends on data."""


def squeezed_axes(shape: Shape, axes: Shape) -> Shape:
    """`axes` of `shape`, numbered among the sizes other than 1."""
    numbers: dict[int, int] = {}
    for i, size in enumerate(shape):
        if size != 1:
            numbers[i] = len(numbers)
    return tuple(numbers[i] for i in axes if i in numbers)


def is_column(domain: Shape, axes: Shape) -> bool:
    """Whether a reduction keeps the last loop, so that it accumulates into memory row by row."""
    return bool(domain) and bool(axes) and len(domain) - 1 not in axes
