"""Random Python functions on tensors for hypothesis: assignments, branches, loops, in-place writes.

They come as source text and are loaded as a module's text is, so that tracebacks and `inspect` see
their lines. Values stay tame, loops are bounded, and what is written in place is copied where it is
read, so that the tape of the eager run stands.
"""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

import tracegrad as tg

VECTORS = ("a", "b", "c")
_numbers = itertools.count()

HEAD = """\
def helper(v, w):
    if v.sum() > w[0]:
        return (v - w).sin()
    return v * 0.5 + w


def generated(x, n, rate):
    a = x * 1.0
    b = x.sin() + rate
    c = x * x * 0.5
    buf = x * 0.1
    count = 0
"""


class Writer:
    """Writes one function, statement by statement."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.lines: list[str] = []
        self.loops = 0

    def choose(self, *options: str) -> str:
        return self.draw(st.sampled_from(options))

    def vector(self, depth: int = 0) -> str:
        """An expression for a vector of three."""
        kind = self.choose(*(["name"] * 3 if depth > 1 else ["name", "unary", "binary", "call"]))
        if kind == "unary":
            return f"({self.vector(depth + 1)}).{self.choose('tanh', 'sin', 'sigmoid')}()"
        if kind == "binary":
            left, right = self.vector(depth + 1), self.vector(depth + 1)
            sign = self.choose("+", "-", "*")
            return f"({left} {sign} {right}).tanh()"
        if kind == "call":
            return f"helper({self.vector(depth + 1)}, {self.vector(depth + 1)})"
        scaled = self.choose("{}", "{} * rate", "{} * 0.7", "({} + count * 0.1)", "{} * {}[0]")
        name = self.choose(*VECTORS, "x", "buf.clone()")
        return scaled.format(name, self.choose(*VECTORS))

    def condition(self) -> str:
        """A comparison of tensors, numbers or both."""
        name = self.choose(*VECTORS, "x")
        other = self.choose(*VECTORS)
        return self.choose(
            f"{name}.sum() > {self.choose('0.3', '-0.4', 'rate', '0.0')}",
            f"{name}[0] < {other}[1]",
            f"({name} > {other}).any()",
            f"-0.5 < {name}[2] < 0.8",
            f"{name}.max() > 0.6 and {other}.min() < 0.1",
            f"count % 2 == {self.choose('0', '1')}",
            f"n > {self.choose('0', '1', '2')}",
        )

    def write(self, indent: int, text: str) -> None:
        self.lines.append("    " * indent + text)

    def block(self, indent: int, depth: int, in_loop: bool) -> None:
        for _ in range(self.draw(st.integers(1, 3))):
            self.statement(indent, depth, in_loop)

    def statement(self, indent: int, depth: int, in_loop: bool) -> None:
        kinds = ["assign", "assign", "item", "slice", "swap", "list"]
        if depth < 3:
            kinds += ["if", "if", "for", "while"]
        if in_loop:
            kinds += ["leave", "count"]
        getattr(self, f"_{self.choose(*kinds)}")(indent, depth, in_loop)

    def _assign(self, indent: int, depth: int, in_loop: bool) -> None:
        self.write(indent, f"{self.choose(*VECTORS)} = {self.vector()}")

    def _swap(self, indent: int, depth: int, in_loop: bool) -> None:
        self.write(indent, f"{self.choose('a, b = b, a', 'b, c = c * 0.9, b', 'a = b')}")

    def _list(self, indent: int, depth: int, in_loop: bool) -> None:
        name, other = self.choose(*VECTORS), self.choose(*VECTORS)
        self.write(indent, f"{name} = {other} * sum([v * 0.3 if v > 0 else -v for v in {name}])")
        self.write(indent, f"{name} = {name}.tanh()")

    def _item(self, indent: int, depth: int, in_loop: bool) -> None:
        place = self.choose("0", "-1", "n % 3", "count % 3")
        self.write(indent, f"buf[{place}] = {self.choose(*VECTORS)}[{self.choose('0', '1', '2')}]")

    def _slice(self, indent: int, depth: int, in_loop: bool) -> None:
        part = self.choose("1:", ":2", "1:2", ":")
        sign = self.choose("+=", "-=", "=")
        self.write(indent, f"buf[{part}] {sign} ({self.vector()})[{part}]")

    def _count(self, indent: int, depth: int, in_loop: bool) -> None:
        self.write(indent, "count += 1")

    def _leave(self, indent: int, depth: int, in_loop: bool) -> None:
        self.write(indent, f"if {self.condition()}:")
        self.write(indent + 1, self.choose("break", "continue", "return a.sum() + buf.sum()"))

    def _if(self, indent: int, depth: int, in_loop: bool) -> None:
        self.write(indent, f"if {self.condition()}:")
        self.block(indent + 1, depth + 1, in_loop)
        if self.draw(st.booleans()):
            self.write(indent, "else:")
            self.block(indent + 1, depth + 1, in_loop)

    def _for(self, indent: int, depth: int, in_loop: bool) -> None:
        name = f"i{self.loops}"
        self.loops += 1
        bound = self.choose("n", "2", "3", "n + 1", "0")
        self.write(indent, f"for {name} in range({bound}):")
        self.write(indent + 1, f"{self.choose(*VECTORS)} = {self.vector()} + {name} * 0.1")
        self.block(indent + 1, depth + 1, True)

    def _while(self, indent: int, depth: int, in_loop: bool) -> None:
        name = f"k{self.loops}"
        self.loops += 1
        self.write(indent, f"{name} = 0")
        self.write(indent, f"while {name} < {self.choose('2', '3', 'n')} and {self.condition()}:")
        self.write(indent + 1, f"{name} += 1")
        self.block(indent + 1, depth + 1, True)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """The text of a function `generated(x, n, rate)` of a vector, an int and a float."""
    writer = Writer(draw)
    for _ in range(draw(st.integers(1, 4))):
        writer.statement(1, 0, False)
    end = "    return (a * b + c).sum() + (buf.clone() * c).sum()"
    return HEAD + "\n".join([*writer.lines, end]) + "\n"


def load(source: str) -> Callable[..., Any]:
    """The function of a text, as if it stood in a file."""
    name = f"generated_{next(_numbers)}.py"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {"tg": tg, "__name__": "generated"}
    exec(compile(source, name, "exec"), names)
    found: Callable[..., Any] = names["generated"]
    return found
