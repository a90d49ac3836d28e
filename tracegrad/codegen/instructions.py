"""What a kernel does, as data: loads, formulas, folds and stores, pass by pass.

The instructions know their addresses as affine functions of the loops and say nothing of text or
target.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tracegrad.codegen.affine import Affine
from tracegrad.codegen.steps import Buffer, Kernel
from tracegrad.ir.graph import Node
from tracegrad.ir.types import DType

PRELUDE = -1
"""The row-level stage before the first pass."""


class Address(NamedTuple):
    """`offset + sum(clamp(value, 0, size - 1) * stride)` elements into a buffer.

    The values are indices read from data, given with the stride and the size of the axis that they
    address; the size is None where an index is known to be within.
    """

    buffer: Buffer
    offset: Affine
    gathered: tuple[tuple[str, int, int | None], ...] = ()


@dataclass
class Let:
    """`name = expression`: a formula over earlier names, or with `address` a load, or with `index`
    a loop index.
    """

    name: str
    text: str = ""
    address: Address | None = None
    index: Affine | None = None


@dataclass
class Store:
    """Write a value to memory, or add it there."""

    address: Address
    value: str
    accumulate: bool = False


@dataclass
class Fold:
    """Fold a value into an accumulator of the row."""

    name: str
    value: str
    node: Node
    linear: Affine
    address: Address | None = None


Instruction = Let | Store | Fold


@dataclass(eq=False)
class Block:
    """Instructions of one level and stage.

    known   the name of each value that has one.
    chains  how many functions such as exp are computed one after the other for a name.
    """

    code: list[Instruction] = field(default_factory=list)
    known: dict[Any, str] = field(default_factory=dict)
    chains: dict[str, int] = field(default_factory=dict)

    @property
    def chain(self) -> int:
        """The length of the longest chain of functions such as exp."""
        return max(self.chains.values(), default=0)


@dataclass
class Lowered:
    """A kernel's instructions. `rows[s + 1]` runs after pass `s`; `rows[0]` before all passes.

    `column`: sums grow in memory, at the addresses `totals`, and not in registers. `costly`: how
    many functions such as exp are computed for each element.
    """

    kernel: Kernel
    passes: list[Block]
    rows: list[Block]
    constants: list[tuple[str, Any, DType]]
    column: bool
    totals: list[Address]
    costly: int
