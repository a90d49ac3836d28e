"""The text of a generated function, the words of its table, and how it is launched."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from tracegrad.codegen.steps import Buffer

HEADER = (
    "from tracegrad.codegen.primitives import *\n\n\ndef kernel(pointers, table, start, stop):\n"
)

Slot = tuple[str, Any]


@dataclass
class Launch:
    """A kernel's text, the words it needs, and how far its outermost loop runs.

    A word is ("buffer", Buffer), ("view", View) for a buffer from the view's offset on, or ("int",
    n); `extent` steps of the outermost loop, each of which costs as much as about `work` elements
    of a simple loop. `threads`: it runs steps of its own that are large enough for several threads.
    `serial`: only one thread may run it. `blas`: it calls BLAS.
    """

    source: str
    words: list[Slot]
    extent: int
    work: int
    threads: bool = False
    serial: bool = False
    blas: bool = False

    def grain(self, least: int) -> int:
        """The smallest part of the extent that is worth a thread, which takes at least so much
        work.
        """
        return self.extent + 1 if self.serial else max(1, least // max(self.work, 1))


class Text:
    """The text of one function: what it reads from its table at the start, then its statements.

    `written`: the buffers that it stores to.
    """

    def __init__(self, written: set[Buffer]) -> None:
        self.words: list[Slot] = []
        self.head: list[str] = []
        self.body: list[str] = []
        self.pointers: dict[Buffer, str] = {}
        self.written = written

    def word(self, kind: str, value: Any) -> int:
        """The position of a new word of the table."""
        self.words.append((kind, value))
        return len(self.words) - 1

    def integer(self, value: int, hint: str) -> str:
        """A name for an integer that is a word of the table."""
        position = self.word("int", value)
        name = f"{hint}{position}"
        self.head.append(f"{name} = word(table, {position})")
        return name

    def size(self, value: int, hint: str, of: Hashable) -> str:
        """A name for a size or stride that is the same wherever `of` is the same."""
        return self.integer(value, hint)

    def pointer(self, buffer: Buffer) -> str:
        """A name for the address of a buffer."""
        name = self.pointers.get(buffer)
        if name is None:
            position = self.word("buffer", buffer)
            name = f"p{position}"
            number = sum(x in self.written for x in self.pointers)
            if buffer in self.written and number < 16:
                call = f"output_{buffer.dtype.short}(pointers, word(table, {position}), {number})"
            else:
                call = f"pointer_{buffer.dtype.short}(pointers, word(table, {position}))"
            self.head.append(f"{name} = {call}")
            self.pointers[buffer] = name
        return name

    def register(self, buffer: Buffer) -> str | None:
        """The value of a buffer that is a local variable; None for one in memory."""
        return None

    def assign(self, buffer: Buffer, value: str) -> str | None:
        """The statement that gives a local variable its value; None for a buffer in memory."""
        return None

    def is_written(self, buffer: Buffer) -> bool:
        """Whether a load from `buffer` may meet a store of this function."""
        return buffer in self.written

    def line(self, depth: int, text: str) -> None:
        """Add a statement."""
        self.body.append("    " * depth + text)

    @property
    def source(self) -> str:
        head = "".join(f"    {line}\n" for line in self.head)
        body = "".join(f"    {line}\n" for line in self.body)
        return HEADER + head + body
