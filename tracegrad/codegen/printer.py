"""A kernel's loops, addresses and instructions as text, for any target.

The text holds the structure only: sizes, strides, offsets and constants are integers that each
launch brings. So one compiled kernel serves every size, and equal structures are equal text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracegrad.codegen.affine import Affine
from tracegrad.codegen.folding import better, is_search
from tracegrad.codegen.instructions import Address, Block, Fold, Let, Lowered, Store
from tracegrad.codegen.text import Text


def addresses(lowered: Lowered, writes: bool = False) -> list[Address]:
    """All addresses of a kernel, or those it writes."""
    kinds = (Store, Fold) if writes else (Store, Fold, Let)
    blocks = [*lowered.passes, *lowered.rows]
    code = [x for block in blocks for x in block.code]
    return [x.address for x in code if isinstance(x, kinds) and x.address is not None]


class Printer:
    """Prints a kernel into a text. Targets say in which order loops run, and what becomes of
    stores and folds.

    `prefix` keeps the names of several kernels in one function apart.
    """

    def __init__(self, lowered: Lowered, text: Text, depth: int = 0, prefix: str = "") -> None:
        self.lowered = lowered
        self.kernel = lowered.kernel
        self.text = text
        self.depth = depth
        self.prefix = prefix
        self.integers: dict[tuple[int, Affine | None, int], str] = {}
        self.groups = self.collapse()
        self.live = {loop for group in self.groups for loop, _ in group}

    # ------------------------------------------------------------------ loops

    def loop_groups(self) -> Sequence[Sequence[int]]:
        """The loops from outside to inside, in groups of neighbours that may merge."""
        raise NotImplementedError

    def instructions(self) -> list[Any]:
        blocks = [*self.lowered.passes, *self.lowered.rows]
        return [x for block in blocks for x in block.code]

    def affines(self) -> list[Affine]:
        found = [address.offset for address in addresses(self.lowered)]
        found += [
            x.index for x in self.instructions() if isinstance(x, Let) and x.index is not None
        ]
        found += [x.linear for x in self.instructions() if isinstance(x, Fold) and is_search(x)]
        return found

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

    # ------------------------------------------------------------------ text

    def integer(self, value: int, hint: str) -> str:
        return self.text.integer(value, hint)

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

    def search(self, fold: Fold, depth: int, innermost: int | None) -> None:
        """Compare an element with the best so far."""
        name, value = fold.name, fold.value
        self.line(depth, f"{name}_new = {better(fold).format(f'{name}_best', value)}")
        position = f"i64({self.offset(fold.linear, innermost)})"
        self.line(depth, f"{name} = where({name}_new, {position}, {name})")
        self.line(depth, f"{name}_best = where({name}_new, {value}, {name}_best)")

    def store(self, store: Store, depth: int, innermost: int | None) -> None:
        """Write a value to memory."""
        raise NotImplementedError

    def fold(self, fold: Fold, depth: int, innermost: int | None) -> None:
        """Take an element into an accumulator."""
        raise NotImplementedError
