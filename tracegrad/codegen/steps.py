"""What a scheduled program consists of: buffers, kernels with their roots, calls, and the whole."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from tracegrad.codegen.affine import Index, Shape, View
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.intervals import Interval
from tracegrad.ir.types import DType

SEARCHES = frozenset({"argmax", "argmin"})
"""Reductions whose result is a position."""


@dataclass(eq=False)
class Buffer:
    """A piece of memory. `kind` is "input", "output", "temporary" or "constant"; `position` counts
    within it.

    Within control flow there are also a "register", a local variable that holds one element; a
    "row", memory whose address is found in each iteration; and a "stack", the address of frames.
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
    what is in memory already reads it at `origin`. A `private` value is one that only its
    own kernel reads: it is stored where that serves the kernel.
    """

    node: Node
    value: Node
    target: View
    indices: tuple[Node, ...] = ()
    fold: bool = False
    accumulate: bool = False
    origin: View | None = None
    private: bool = False

    @property
    def needs_register(self) -> bool:
        """Whether memory cannot hold the accumulator of a reduction: float16 has too few digits,
        and the search for a position also keeps the best value.
        """
        node = self.node
        return self.fold and (node.dtype.name == "float16" or node.op.name in SEARCHES)


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
    """A step with a template of its own: a matrix product, a scan, a sort.

    `accumulate`: a product that is added to what is at its target.
    """

    node: Node
    operands: tuple[View, ...]
    target: View
    position: int = 0
    accumulate: bool = False


@dataclass(eq=False)
class Row:
    """The part of an array that one iteration of a loop reads or writes.

    `buffer` is where the part is; the whole has its rows along the leading axis.
    """

    buffer: Buffer
    whole: View


@dataclass(eq=False)
class Frames:
    """The frames of a stack, and what one iteration finds or leaves there.

    Each slot is a row, or a stack whose address is kept, at an offset in bytes; `size` is that of
    a frame. `arena`, of a stack that the loop makes: where its memory comes from.
    """

    stack: Buffer
    slots: list[tuple[Buffer, int]]
    size: int
    arena: Buffer | None = None


@dataclass(eq=False)
class Block:
    """Steps that run in order, and then the exchange of variables that ends them: pairs of the
    buffer that takes a value or an address, and the one that has it. `known`: intervals of
    integers. `apart`: sums whose products are rounded by themselves.
    """

    steps: list[Step]
    places: dict[Node, View]
    known: Mapping[Node, Interval]
    exchange: list[tuple[Buffer, Buffer]] = field(default_factory=list)
    apart: Set[Node] = frozenset()


@dataclass(eq=False)
class Loop:
    """A while loop as native code; registers hold its limit, its flag and its counters.

    `entry` runs before it. `bounded`: the loop runs to its limit for certain.
    """

    node: Node
    entry: Block
    body: Block
    limit: Buffer
    go: Buffer
    done: Buffer
    at: Buffer
    reverse: bool
    bounded: bool
    rows: list[Row]
    read: list[Frames]
    saved: list[Frames]
    scratch: Buffer | None
    position: int = 0


@dataclass(eq=False)
class Branch:
    """A choice between blocks by the number in a register."""

    node: Node
    entry: Block
    index: Buffer
    blocks: list[Block]
    position: int = 0


@dataclass(eq=False)
class Depth:
    """How many frames a stack holds, into a register."""

    node: Node
    stack: Buffer
    register: Buffer
    position: int = 0


@dataclass(eq=False)
class Home:
    """An array that a region changes: a variable for where it is, and where it ends up.

    The variable begins as the address of `start`, which `fill` copies there if it is another
    buffer than `end`. What it points at in the end `settle` copies to `end`, if it is elsewhere;
    None for an array that nobody reads.
    """

    variable: Buffer
    start: Buffer
    end: Buffer
    settle: Kernel | None
    fill: Kernel | None = None


@dataclass(eq=False)
class Region:
    """Control flow at the top of a program: one native function.

    homes    arrays that are carried, or made by a branch.
    stacks   variables for stacks whose arenas are buffers outside: read at the start where the
             flag is set, noted there at the end otherwise.
    scratch  the arena of stacks that live within.
    exit     runs at the end: results in registers go to memory.
    """

    step: Loop | Branch | Depth
    exit: Block
    homes: list[Home]
    stacks: list[tuple[Buffer, Buffer, bool]]
    scratch: Buffer
    position: int = 0


Step = Kernel | Call | Loop | Branch | Depth | Region


@dataclass
class Schedule:
    """What to run, in order, and the memory it works on."""

    graph: Graph
    steps: list[Step]
    places: dict[Node, View]
    known: Mapping[Node, Interval]
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
