"""Kernels as Numba source text for CUDA, with the arguments that each launch hands to its kernel.

A kernel is a function of pointers and numbers, in the order in which the text names them. Its
threads are laid out in two dimensions, and the text knows their number only when it runs:

- A map runs over its elements, one thread each, in strides of the whole grid.
- A kernel with reductions gives each value that is kept (a *row*) to a lane, threads of equal x,
  whose parts, along y, share the elements that are reduced and fold what each has found. So one
  text serves a block for a row, a warp for a row, a thread for a row, and blocks of columns:
  `lanes` chooses by the sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tracegrad.codegen.folding import better, combination, identity, is_search, operand
from tracegrad.codegen.formula import REGISTER
from tracegrad.codegen.instructions import Block, Fold, Let, Lowered, Store
from tracegrad.codegen.printer import Printer, addresses
from tracegrad.codegen.steps import Buffer
from tracegrad.codegen.text import Slot, Text

HEADER = "from tracegrad.codegen.cuda_primitives import *\n\n\ndef kernel({}):\n"

# Threads of a block, at most, and of a warp.
BLOCK = 256
WARP = 32
# A part has at least so many elements to fold, or the fold across parts is most of the work.
LEAST_PART = 4

# Positions from here on take 64 bits, which are slow to divide.
_WIDE = 1 << 31
# What adds to memory at once, whoever adds to it at the same time.
ATOMIC = frozenset({"i32", "i64", "f32", "f64"})


@dataclass
class DeviceLaunch:
    """A kernel's text, its arguments, and what its threads share out.

    signature   the type of each argument: "i64", "f64", or "*f32" for a pointer.
    words       the arguments: ("buffer", Buffer), ("view", View), ("int", n), ("real", x), or
                ("number", Buffer) for an input of no dimensions by value.
    rows        the elements of a map, or the values that a reduction keeps.
    inner       the elements of each row; 0 for a map, and -1 where a block is a square.
    along_rows  neighbours in memory are neighbouring rows.
    serial      only one thread may run it.
    """

    source: str
    signature: tuple[str, ...]
    words: list[Slot]
    rows: int
    inner: int = 0
    along_rows: bool = False
    serial: bool = False


def lanes(launch: DeviceLaunch, block: int = BLOCK) -> tuple[int, int]:
    """The threads of a block: how many lanes, and how many parts each has."""
    if launch.serial:
        return 1, 1
    if launch.inner < 0:
        return math.isqrt(block), math.isqrt(block)
    if not launch.inner:
        return block, 1
    parts = 1
    while parts < block and parts * 2 * LEAST_PART <= launch.inner:
        parts *= 2
    if launch.along_rows:
        # A warp reads neighbours.
        side = min(WARP, block)
        return side, max(min(parts, block // side), 1)
    # Where a row is short, a lane is a thread.
    return (block, 1) if parts * LEAST_PART < WARP else (1, max(parts, min(WARP, block)))


class _ArgumentText(Text):
    """The text of a function whose words are its arguments."""

    def __init__(self, written: set[Buffer], numbers: set[Buffer]) -> None:
        super().__init__(written)
        self.numbers = numbers
        self.given: dict[Buffer, str] = {}
        self.names: list[str] = []
        self.types: list[str] = []

    def argument(self, kind: str, value: object, type: str, hint: str) -> str:
        """The name of a new argument."""
        name = f"{hint}{self.word(kind, value)}"
        self.names.append(name)
        self.types.append(type)
        return name

    def integer(self, value: int, hint: str) -> str:
        return self.argument("int", value, "i64", hint)

    def register(self, buffer: Buffer) -> str | None:
        if buffer not in self.numbers:
            return None
        if buffer not in self.given:
            type = "f64" if buffer.dtype.kind == "f" else "i64"
            given = self.argument("number", buffer, type, "k")
            self.given[buffer] = f"x{given[1:]}"
            self.head.append(f"{self.given[buffer]} = {REGISTER[buffer.dtype.name]}({given})")
        return self.given[buffer]

    def pointer(self, buffer: Buffer) -> str:
        name = self.pointers.get(buffer)
        if name is None:
            name = self.argument("buffer", buffer, f"*{buffer.dtype.short}", "p")
            self.pointers[buffer] = name
        return name

    @property
    def source(self) -> str:
        lines = "".join(f"    {line}\n" for line in (*self.head, *self.body))
        return HEADER.format(", ".join(self.names)) + lines


def emit(lowered: Lowered, numbers: set[Buffer]) -> DeviceLaunch:
    """The Numba source of a lowered kernel; its sums must be in registers. `numbers`: the inputs
    that it gets by value.
    """
    assert not lowered.column
    text = _ArgumentText({x.buffer for x in addresses(lowered, writes=True)}, numbers)
    printer = KernelPrinter(lowered, text)
    printer.print()
    kernel = lowered.kernel
    rows = math.prod(kernel.rows)
    inner = 0 if kernel.axes is None else math.prod(kernel.domain[i] for i in kernel.axes)
    scatters = [x for x in kernel.roots if x.indices]
    # Sums that meet are atomic; what overwrites each other must keep its order.
    atomic = all(x.accumulate and x.node.dtype.short in ATOMIC for x in scatters)
    serial = kernel.serial and not atomic
    return DeviceLaunch(
        text.source, tuple(text.types), text.words, rows, inner, kernel.is_column, serial
    )


class KernelPrinter(Printer):
    """Prints a kernel into a text."""

    text: _ArgumentText
    # What a thread has to be to store what it has computed.
    _condition: str | None = None

    def loop_groups(self) -> Sequence[Sequence[int]]:
        kernel = self.kernel
        if kernel.axes is None:
            return [range(len(kernel.domain))]
        return [kernel.kept, kernel.axes]

    def print(self) -> None:
        """Print the kernel."""
        for name, value, dtype in self.lowered.constants:
            register = REGISTER[dtype.name]
            if dtype.kind == "f":
                given = self.text.argument("real", float(value), "f64", "k")
            else:
                given = self.integer(int(value), "k")
            self.text.head.append(f"{name} = {register}({given})")
        if self.kernel.axes is None:
            self.print_map()
        else:
            self.print_rows()

    def print_map(self) -> None:
        """One thread for each element."""
        (group,) = self.groups
        total = self.integer(math.prod(size for _, size in group), "n")
        self.line(0, "at = cuda.grid(1)")
        self.line(0, f"while at < {total}:")
        self.positions("at", group, 1)
        (block,) = self.lowered.passes
        self.code(block, 1, group[-1][0] if group else None)
        self.line(1, "at += cuda.gridsize(1)")

    def print_rows(self) -> None:
        """One lane for each row, its parts beside each other."""
        outer, inner = self.groups
        rows = self.integer(math.prod(size for _, size in outer), "n")
        length = self.integer(math.prod(size for _, size in inner), "n")
        for name, value in (
            ("lane", "cuda.threadIdx.x"),
            ("lanes", "cuda.blockDim.x"),
            ("part", "cuda.threadIdx.y"),
            ("parts", "cuda.blockDim.y"),
            # The parts of a single lane are warps, whose threads can read each other's registers.
            ("width", "WARP if lanes == 1 else 1"),
            ("first", "cuda.blockIdx.x * lanes"),
        ):
            self.line(0, f"{name} = {value}")
        folds = [x for block in self.lowered.passes for x in block.code if isinstance(x, Fold)]
        for fold in folds:
            for name, register in _held(fold):
                self.line(0, f"{name}_held = cuda.shared.array({BLOCK}, kind_{register})")
        # All threads of a block go round equally often, since they wait for each other in a fold;
        # what is beyond the last row computes the last one, and keeps it to itself.
        self.line(0, f"while first < {rows}:")
        self.line(1, f"mine = first + lane < {rows}")
        self.line(1, f"at = min(first + lane, {rows} - 1)")
        self.positions("at", outer, 1)
        row = outer[-1][0] if outer else None
        self.row_code(self.lowered.rows[0], row)
        for block, after in zip(self.lowered.passes, self.lowered.rows[1:], strict=True):
            self.print_pass(block, inner, length)
            self.row_code(after, row)
        self.line(1, "first += cuda.gridDim.x * lanes")

    def row_code(self, block: Block, row: int | None) -> None:
        """What is computed once for a row: by each of its parts, stored by the first."""
        self._condition = "mine and part == 0"
        self.code(block, 1, row)

    def print_pass(self, block: Block, inner: Sequence[tuple[int, int]], length: str) -> None:
        """One walk over the reduced loops."""
        folds = [x for x in block.code if isinstance(x, Fold)]
        for fold in folds:
            start = identity(fold)
            if is_search(fold):
                self.line(1, f"{fold.name} = i64(0)")
                self.line(1, f"{fold.name}_best = {start}")
            else:
                self.line(1, f"{fold.name} = {start}")
        self.line(1, "of = part")
        self.line(1, f"while of < {length}:")
        self.positions("of", inner, 2)
        self._condition = "mine"
        self.code(block, 2, inner[-1][0] if inner else None)
        self.line(2, "of += parts")
        if folds:
            self.share(folds)

    def share(self, folds: Sequence[Fold]) -> None:
        """Fold what the parts of a lane have found; all of them have the result."""
        self.line(1, "reach = width // 2")
        self.line(1, "while reach > 0:")
        for fold in folds:
            for name, register in _held(fold):
                self.line(2, f"{name}_other = shuffle_{register}({name}, reach)")
            self.merge(fold, 2)
        self.line(2, "reach = reach // 2")
        self.line(1, "if part % width == 0:")
        for fold in folds:
            for name, _ in _held(fold):
                self.line(2, f"{name}_held[part // width * lanes + lane] = {name}")
        self.line(1, "cuda.syncthreads()")
        for fold in folds:
            for name, _ in _held(fold):
                self.line(1, f"{name} = {name}_held[lane]")
        self.line(1, "of = 1")
        self.line(1, "while of < parts // width:")
        for fold in folds:
            for name, _ in _held(fold):
                self.line(2, f"{name}_other = {name}_held[of * lanes + lane]")
            self.merge(fold, 2)
        self.line(2, "of += 1")
        self.line(1, "cuda.syncthreads()")

    def merge(self, fold: Fold, depth: int) -> None:
        """Fold what another part has found. Of equal values the first is searched for."""
        name = fold.name
        if not is_search(fold):
            text = combination(fold, exact=True).format(name, f"{name}_other")
            self.line(depth, f"{name} = {text}")
            return
        mine, other = f"{name}_best", f"{name}_best_other"
        theirs = better(fold).format(mine, other)
        ours = better(fold).format(other, mine)
        earlier = f"({name}_other < {name})"
        self.line(depth, f"{name}_new = ({theirs}) | ({earlier} & (({ours}) == False))")
        self.line(depth, f"{name} = where({name}_new, {name}_other, {name})")
        self.line(depth, f"{mine} = where({name}_new, {other}, {mine})")

    def positions(self, index: str, group: Sequence[tuple[int, int]], depth: int) -> None:
        """The variables of a group of loops at a position that counts over all of them."""
        rest = index
        wide = "" if math.prod(size for _, size in group) < _WIDE else "_wide"
        for loop, size in reversed(group[1:]):
            count = self.integer(size, "n")
            self.line(depth, f"{self.loop(loop)} = remains{wide}({rest}, {count})")
            self.line(depth, f"{self.loop(loop)}_up = quotient{wide}({rest}, {count})")
            rest = f"{self.loop(loop)}_up"
        if group:
            self.line(depth, f"{self.loop(group[0][0])} = {rest}")

    # ------------------------------------------------------------------ instructions

    def value(self, let: Let, innermost: int | None) -> str:
        if let.address is not None:
            buffer = let.address.buffer
            number = self.text.register(buffer)
            if number is not None:
                return number
            read = "load" if self.text.is_written(buffer) else "read"
            return f"{read}_{buffer.dtype.short}({self.address(let.address, innermost)})"
        return super().value(let, innermost)

    def store(self, store: Store, depth: int, innermost: int | None) -> None:
        if self._condition is not None:
            self.line(depth, f"if {self._condition}:")
            depth += 1
        name = "add" if store.accumulate else "store"
        short = store.address.buffer.dtype.short
        self.line(depth, f"{name}_{short}({self.address(store.address, innermost)}, {store.value})")

    def fold(self, fold: Fold, depth: int, innermost: int | None) -> None:
        if is_search(fold):
            self.search(fold, depth, innermost)
        else:
            text = combination(fold, exact=True).format(fold.name, fold.value)
            self.line(depth, f"{fold.name} = {text}")


def _held(fold: Fold) -> list[tuple[str, str]]:
    """The variables of a fold, and what type each is."""
    register = REGISTER[operand(fold).name]
    if is_search(fold):
        return [(f"{fold.name}_best", register), (fold.name, "i64")]
    return [(fold.name, register)]
