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

from tracegrad.codegen.affine import Affine
from tracegrad.codegen.formula import REGISTER, expression
from tracegrad.codegen.instructions import Address, Block, Fold, Let, Lowered, Store
from tracegrad.codegen.loop_order import crosses, nest_order
from tracegrad.codegen.steps import SEARCHES
from tracegrad.codegen.text import Launch, Text
from tracegrad.ir.types import DType, float64
from tracegrad.ir.types import bool_ as boolean

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


def addresses(lowered: Lowered, writes: bool = False) -> list[Address]:
    """All addresses of a kernel, or those it writes."""
    kinds = (Store, Fold) if writes else (Store, Fold, Let)
    blocks = [*lowered.passes, *lowered.rows]
    code = [x for block in blocks for x in block.code]
    return [x.address for x in code if isinstance(x, kinds) and x.address is not None]


class KernelPrinter:
    """Prints a kernel into a text: the whole of it, or as a part of a larger function.

    `inline`: all of the outermost loop runs here; otherwise it runs from `start` to `stop`.
    `prefix` keeps the names of several kernels in one function apart.
    """

    def __init__(
        self, lowered: Lowered, text: Text, depth: int = 0, inline: bool = False, prefix: str = ""
    ) -> None:
        self.lowered = lowered
        self.kernel = lowered.kernel
        self.text = text
        self.depth = depth
        self.inline = inline
        self.prefix = prefix
        self.integers: dict[tuple[int, Affine | None, int], str] = {}
        self.groups = self.collapse()
        self.live = {loop for group in self.groups for loop, _ in group}

    # ------------------------------------------------------------------ loops

    def instructions(self) -> list[Any]:
        blocks = [*self.lowered.passes, *self.lowered.rows]
        return [x for block in blocks for x in block.code]

    def affines(self) -> list[Affine]:
        found = [address.offset for address in addresses(self.lowered)]
        found += [
            x.index for x in self.instructions() if isinstance(x, Let) and x.index is not None
        ]
        found += [x.linear for x in self.instructions() if isinstance(x, Fold) and _is_arg(x)]
        return found

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

    def collapse(self) -> list[list[tuple[int, int]]]:
        """Merge neighbouring loops wherever every address steps evenly over both; (loop, size) by
        group.
        """
        affines = self.affines()
        groups: list[list[tuple[int, int]]] = []
        for loops in self.loop_groups():
            group: list[tuple[int, int]] = []
            for loop in reversed(loops):
                size = self.kernel.domain[loop]
                if group:
                    inner, extent = group[0]
                    if all(a.coefs[loop] == a.coefs[inner] * extent for a in affines):
                        group[0] = (inner, extent * size)
                        continue
                group.insert(0, (loop, size))
            groups.append(group)
        return groups

    # ------------------------------------------------------------------ words

    def integer(self, value: int, hint: str) -> str:
        return self.text.integer(value, hint)

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

    def line(self, depth: int, text: str) -> None:
        self.text.line(self.depth + depth, text)

    def loop(self, number: int) -> str:
        """The variable of a loop."""
        return f"{self.prefix}j{number}"

    def offset(self, affine: Affine, innermost: int | None) -> str:
        """An affine function as text; only a unit step of the innermost loop is part of the
        structure.
        """
        terms: list[str] = []
        for loop, coef in enumerate(affine.coefs):
            if coef == 0 or loop not in self.live:
                continue
            if coef == 1 and loop == innermost:
                terms.append(self.loop(loop))
            else:
                key = (loop, affine, coef)
                if key not in self.integers:
                    self.integers[key] = self.integer(coef, "s")
                terms.append(f"{self.loop(loop)} * {self.integers[key]}")
        if affine.const:
            key = (-1, affine, affine.const)
            if key not in self.integers:
                self.integers[key] = self.integer(affine.const, "o")
            terms.append(self.integers[key])
        return " + ".join(terms) or "0"

    def address(self, address: Address, innermost: int | None) -> str:
        text = self.offset(address.offset, innermost)
        for axis, (name, stride, size) in enumerate(address.gathered):
            of = address.buffer, axis, size, stride
            if size is None:
                text += f" + {name}"
            else:
                last = self.text.size(size - 1, "n", of)
                text += f" + max(min({name}, {last}), 0)"
            if stride != 1:
                text += f" * {self.text.size(stride, 's', of)}"
        return f"{self.text.pointer(address.buffer)}, {text}"

    def code(self, block: Block, depth: int, innermost: int | None) -> None:
        """The instructions of a block; folds go to their run's accumulator."""
        for x in block.code:
            if isinstance(x, Let):
                self.line(depth, f"{x.name} = {self.value(x, innermost)}")
            elif isinstance(x, Store):
                self.store(x, depth, innermost)
            else:
                self.fold(x, depth, innermost)

    def interleave(self, block: Block, depth: int) -> None:
        """The end of an innermost loop over a block."""
        count = SIDE_BY_SIDE[min(block.chain, len(SIDE_BY_SIDE) - 1)]
        if any(isinstance(x, Let) and _CALL.search(x.text) for x in block.code):
            count = min(count, SIDE_BY_SIDE_OF_CALLS)
        if count > 1:
            self.line(depth, f"interleave({count})")

    def value(self, let: Let, innermost: int | None) -> str:
        if let.address is not None:
            register = self.text.register(let.address.buffer)
            if register is not None:
                return register
            read = "load_output" if self.text.is_written(let.address.buffer) else "load"
            return f"{read}({self.address(let.address, innermost)})"
        if let.index is not None:
            return self.offset(let.index, innermost)
        return let.text

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
            text = _combine(fold, exact=True).format(f"load_output({place})", fold.value)
            self.line(depth, f"store({place}, {text})")
        elif _is_arg(fold):
            name, value = fold.name, fold.value
            scalar = fold.node.op.scalar["better"]
            better = expression(scalar, 2, _operand(fold), boolean, fold=True)
            better = better.format(f"{name}_best", value)
            self.line(depth, f"{name}_new = {better}")
            self.line(
                depth,
                f"{name} = where({name}_new, i64({self.offset(fold.linear, innermost)}), {name})",
            )
            self.line(depth, f"{name}_best = where({name}_new, {value}, {name}_best)")
        else:
            run = f"{fold.name}_run"
            self.line(depth, f"{run} = {_combine(fold).format(run, fold.value)}")

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
            if _is_arg(fold):
                self.line(depth, f"{fold.name} = i64(0)")
                self.line(depth, f"{fold.name}_best = {_identity(fold)}")
            else:
                self.line(depth, f"{fold.name} = {_total(fold, _identity(fold))}")
        runs = [fold for fold in folds if not _is_arg(fold)]
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
            run = _total(fold, f"{name}_run")
            self.line(at, f"{name} = {_combine(fold, exact=True, total=True).format(name, run)}")
        for fold in runs:
            register = REGISTER[fold.node.dtype.name]
            self.line(depth, f"{fold.name} = {register}({fold.name})")

    def open_runs(self, runs: Sequence[Fold], depth: int) -> None:
        for fold in runs:
            self.line(depth, f"{fold.name}_run = {_identity(fold)}")

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
            self.line(depth + 1, f"store({self.address(fold.address, loop)}, {_identity(fold)})")
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


def _is_arg(fold: Fold) -> bool:
    return fold.node.op.name in SEARCHES


def _operand(fold: Fold) -> DType:
    return fold.node.inputs[0].dtype


def _widened(fold: Fold) -> bool:
    """Whether runs are added up in float64: sums and products of floats."""
    return _operand(fold).kind == "f" and fold.node.op.name in ("sum", "prod")


def _total(fold: Fold, value: str) -> str:
    return f"f64({value})" if _widened(fold) else value


def _combine(fold: Fold, exact: bool = False, total: bool = False) -> str:
    """The folding step; `exact` keeps the order of additions, `total` works in the total's own
    type.
    """
    dtype = float64 if total and _widened(fold) else _operand(fold)
    combine = fold.node.op.scalar["combine"]
    text = expression(combine, 2, dtype, dtype, fold=True)
    if exact:
        text = text.replace("_reassoc", "")
        text = text.replace("add({0}, {1})", "({0} + {1})").replace("mul({0}, {1})", "({0} * {1})")
    return text


def _identity(fold: Fold) -> str:
    """The value that a fold starts from, in the operand's register."""
    dtype = _operand(fold)
    register = REGISTER[dtype.name]
    if _is_arg(fold):
        token = "-inf" if fold.node.op.name == "argmax" else "+inf"
    else:
        token = fold.node.op.scalar["identity"]
    if token not in ("-inf", "+inf"):
        return f"{register}({token})"
    if dtype.kind == "f":
        return f"{register}({'-' if token == '-inf' else ''}f64(1.0) / f64(0.0))"
    if dtype.kind == "b":
        return f"{register}({token == '+inf'})"
    bits = dtype.itemsize * 8
    low, high = (0, 2**bits - 1) if dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return f"{register}({low if token == '-inf' else high})"
