"""Kernels as Numba source text for the CPU, with the table of integers that each launch hands to
its kernel.

The text holds the structure only: sizes, strides, offsets and constants are words of the table,
read at the start. So one compiled kernel serves every size, and equal structures are equal text.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import Any

from tracegrad.codegen.folding import combination, identity, is_search, total_of
from tracegrad.codegen.formula import REGISTER
from tracegrad.codegen.instructions import Block, Fold, Let, Lowered, Store
from tracegrad.codegen.loop_order import crosses, nest_order
from tracegrad.codegen.printer import Printer, addresses
from tracegrad.codegen.text import Launch, Text
from tracegrad.ir.types import DType

# A float accumulator takes so many elements before it is added to the row's total, which is in
# float64: short enough that rounding stays below NumPy's pairwise sum, long enough that the inner
# loop is all vector work.
RUN = 4096
# Columns that a column-wise reduction keeps in cache while it walks the rows.
STRIP = 2048
# The rows and columns of a tile of a transposition: a few lines of cache each way.
TILE = 32

# An exp, a tanh or their like takes as long as so many elements of a loop that only multiplies and
# adds: tanh in float32 0.6 ns, x * x + x 0.08.
COSTLY_WORK = 7

# How many vectors of elements a loop computes side by side, where so many functions such as exp
# wait one for the other: 4 such functions take 0.7 of the time of one vector after the other with
# 4 side by side, and 0.6 with 8; 16 functions 0.4.
SIDE_BY_SIDE = (1, 1, 4, 8)
# Around a call all registers go through memory, and more than so many gain nothing.
SIDE_BY_SIDE_OF_CALLS = 4
_CALL = re.compile(r"\b(cos|erf|fmod|hypot|pow|sin|tan)\(")

# Integers up to this are part of the text of control flow.
_SMALL = 8


def emit(lowered: Lowered) -> Launch:
    """The Numba source of a lowered kernel."""
    text = Text({x.buffer for x in addresses(lowered, writes=True)})
    extent = KernelPrinter(lowered, text).print()
    total = math.prod(lowered.kernel.domain)
    work = total * (1 + COSTLY_WORK * lowered.costly) // max(extent, 1)
    return Launch(text.source, text.words, extent, work, serial=lowered.kernel.serial)


class KernelPrinter(Printer):
    """Prints a kernel into a text: the whole of it, or as a part of a larger function.

    `inline`: all of the outermost loop runs here; otherwise it runs from `start` to `stop`.
    """

    def __init__(
        self, lowered: Lowered, text: Text, depth: int = 0, inline: bool = False, prefix: str = ""
    ) -> None:
        self.inline = inline
        super().__init__(lowered, text, depth, prefix)

    # ------------------------------------------------------------------ loops

    def loop_groups(self) -> list[list[int]]:
        """Loops that may merge with their neighbours: rows, reduced ones, a kept last one."""
        kernel = self.kernel
        order = list(range(len(kernel.domain))) if self.inline else nest_order(self.lowered)
        if kernel.axes is None:
            return [order]
        kept = [loop for loop in order if loop in kernel.kept]
        reduced = [loop for loop in order if loop in kernel.axes]
        if self.lowered.column:
            return [kept[:-1], reduced, kept[-1:]]
        return [kept, reduced]

    # ------------------------------------------------------------------ words

    def declare_constants(self) -> None:
        for name, value, dtype in self.lowered.constants:
            register = REGISTER[dtype.name]
            if self.inline and _is_structure(value, dtype):
                self.text.head.append(f"{name} = {register}({value})")
            elif dtype.kind == "f":
                (bits,) = struct.unpack("<q", struct.pack("<d", value))
                position = self.text.word("int", bits)
                self.text.head.append(f"{name} = {register}(real(table, {position}))")
            else:
                position = self.text.word("int", int(value))
                read = f"word(table, {position})"
                text = f"({read} != 0)" if dtype.kind == "b" else f"{register}({read})"
                self.text.head.append(f"{name} = {text}")

    # ------------------------------------------------------------------ text

    def interleave(self, block: Block, depth: int) -> None:
        """The end of an innermost loop over a block."""
        count = SIDE_BY_SIDE[min(block.chain, len(SIDE_BY_SIDE) - 1)]
        if any(isinstance(x, Let) and _CALL.search(x.text) for x in block.code):
            count = min(count, SIDE_BY_SIDE_OF_CALLS)
        if count > 1:
            self.line(depth, f"interleave({count})")

    def store(self, store: Store, depth: int, innermost: int | None) -> None:
        assignment = self.text.assign(store.address.buffer, store.value)
        if assignment is not None:
            self.line(depth, assignment)
            return
        place = self.address(store.address, innermost)
        value = store.value
        if store.accumulate:
            register = REGISTER[store.address.buffer.dtype.name]
            value = f"{register}(load_output({place}) + {value})"
        self.line(depth, f"store({place}, {value})")

    def fold(self, fold: Fold, depth: int, innermost: int | None) -> None:
        if self.lowered.column:
            assert fold.address is not None
            place = self.address(fold.address, innermost)
            text = combination(fold, exact=True).format(f"load_output({place})", fold.value)
            self.line(depth, f"store({place}, {text})")
        elif is_search(fold):
            self.search(fold, depth, innermost)
        else:
            run = f"{fold.name}_run"
            self.line(depth, f"{run} = {combination(fold).format(run, fold.value)}")

    def print(self) -> int:
        """Print the kernel; how far its outermost loop runs."""
        self.declare_constants()
        if self.lowered.column:
            return self.print_columns()
        return self.print_map() if self.kernel.axes is None else self.print_rows()

    def loops(self, group: Sequence[tuple[int, int]], depth: int, parallel: bool) -> int:
        """Open the loops of a group; the depth inside."""
        for loop, size in group:
            name = self.loop(loop)
            if parallel and not self.inline:
                self.line(depth, f"for {name} in range(start, stop):")
            else:
                self.line(depth, f"for {name} in range({self.integer(size, 'n')}):")
            parallel = False
            depth += 1
        return depth

    def print_map(self) -> int:
        (group,) = self.groups
        tiled = len(group) > 1 and not self.inline
        if tiled and crosses(self.lowered, inner=group[-1][0], outer=group[-2][0]):
            depth = self.tiles(group)
        else:
            depth = self.loops(group, 0, parallel=True)
        (block,) = self.lowered.passes
        self.code(block, depth, group[-1][0] if group else None)
        if group:
            self.interleave(block, depth)
        return group[0][1] if group else 1

    def tiles(self, group: Sequence[tuple[int, int]]) -> int:
        """Open the loops of a group so that the last two run over tiles; the depth inside."""
        *outer, (row, rows), (column, columns) = group
        depth = self.loops(outer, 0, parallel=True)
        bounds = ("0", self.integer(rows, "n")) if outer else ("start", "stop")
        for loop, (lo, hi) in ((row, bounds), (column, ("0", self.integer(columns, "n")))):
            self.line(depth, f"for m{loop} in range({lo}, {hi}, {TILE}):")
            self.line(depth + 1, f"e{loop} = min(m{loop} + {TILE}, {hi})")
            depth += 1
        for loop in (row, column):
            self.line(depth, f"for {self.loop(loop)} in range(m{loop}, e{loop}):")
            depth += 1
        return depth

    def print_rows(self) -> int:
        outer, inner = self.groups
        depth = self.loops(outer, 0, parallel=True)
        row = outer[-1][0] if outer else None
        self.code(self.lowered.rows[0], depth, row)
        for block, after in zip(self.lowered.passes, self.lowered.rows[1:], strict=True):
            self.print_pass(block, inner, depth)
            self.code(after, depth, row)
        return outer[0][1] if outer else 1

    def print_pass(self, block: Block, inner: Sequence[tuple[int, int]], depth: int) -> None:
        """One walk over the reduced loops."""
        folds = [x for x in block.code if isinstance(x, Fold)]
        for fold in folds:
            if is_search(fold):
                self.line(depth, f"{fold.name} = i64(0)")
                self.line(depth, f"{fold.name}_best = {identity(fold)}")
            else:
                self.line(depth, f"{fold.name} = {total_of(fold, identity(fold))}")
        runs = [fold for fold in folds if not is_search(fold)]
        at = depth
        innermost = inner[-1][0] if inner else None
        if not inner:
            self.open_runs(runs, at)
            self.code(block, at, None)
        elif not runs:
            at = self.loops(inner, at, parallel=False)
            self.code(block, at, innermost)
            self.interleave(block, at)
        else:
            at = self.loops(inner[:-1], at, parallel=False)
            loop, size = inner[-1]
            end = self.integer(size, "n")
            block_start = f"{self.prefix}m{loop}"
            self.line(at, f"for {block_start} in range(0, {end}, {RUN}):")
            at += 1
            self.open_runs(runs, at)
            block_end = f"min({block_start} + {RUN}, {end})"
            self.line(at, f"for {self.loop(loop)} in range({block_start}, {block_end}):")
            self.code(block, at + 1, innermost)
            self.interleave(block, at + 1)
        for fold in runs:
            name = fold.name
            run = total_of(fold, f"{name}_run")
            self.line(at, f"{name} = {combination(fold, exact=True, total=True).format(name, run)}")
        for fold in runs:
            register = REGISTER[fold.node.dtype.name]
            self.line(depth, f"{fold.name} = {register}({fold.name})")

    def open_runs(self, runs: Sequence[Fold], depth: int) -> None:
        for fold in runs:
            self.line(depth, f"{fold.name}_run = {identity(fold)}")

    def print_columns(self) -> int:
        """Walk the rows once for each strip of columns, accumulating in memory: every access is
        along a row.
        """
        outer, reduced, (last,) = self.groups
        folds = [x for x in self.lowered.passes[0].code if isinstance(x, Fold)]
        loop, size = last
        if outer:
            depth = self.loops(outer, 0, parallel=True)
            lo, hi = "0", self.integer(size, "n")
        else:
            depth = 0
            lo, hi = ("0", self.integer(size, "n")) if self.inline else ("start", "stop")
        strip, end = f"{self.prefix}m{loop}", f"{self.prefix}e{loop}"
        self.line(depth, f"for {strip} in range({lo}, {hi}, {STRIP}):")
        depth += 1
        self.line(depth, f"{end} = min({strip} + {STRIP}, {hi})")
        columns = f"for {self.loop(loop)} in range({strip}, {end}):"
        self.line(depth, columns)
        self.code(self.lowered.rows[0], depth + 1, loop)
        for fold in folds:
            assert fold.address is not None
            self.line(depth + 1, f"store({self.address(fold.address, loop)}, {identity(fold)})")
        inside = self.loops(reduced, depth, parallel=False)
        self.line(inside, columns)
        self.code(self.lowered.rows[0], inside + 1, loop)
        self.code(self.lowered.passes[0], inside + 1, loop)
        self.interleave(self.lowered.passes[0], inside + 1)
        epilogue = self.lowered.rows[1]
        if epilogue.code:
            self.line(depth, columns)
            self.code(self.lowered.rows[0], depth + 1, loop)
            for fold in folds:
                assert fold.address is not None
                place = self.address(fold.address, loop)
                self.line(depth + 1, f"{fold.name} = load_output({place})")
            self.code(epilogue, depth + 1, loop)
        return outer[0][1] if outer else size


def _is_structure(value: Any, dtype: DType) -> bool:
    """Whether a constant within control flow is part of the text: LLVM has to see that the element
    `i - 1` is the one of the iteration before, and that a loop never stops by its flag.
    """
    return dtype.kind == "b" or (dtype.kind in "iu" and abs(value) <= _SMALL)
