"""Random Python functions with loops, branches and changes of every kind of state."""

from __future__ import annotations

import linecache
import random
import types

import tracegrad as tg

STATE = ("a", "b", "c", 'd["p"]', "o.t", "h[0]")
NUMBERS = ("k", "m", "1", "2", "n", "o.n")


class Generator:
    """Writes one function of a tensor `x` with five elements and a number `n`.

    `lists`: it appends to lists, and more of its loops run a known number of times.
    """

    def __init__(self, seed: int, lists: bool = False) -> None:
        self.random = random.Random(seed)
        self.lists = lists
        self.lines: list[str] = []
        self.indent = 1
        self.loops = 0
        self.counters: list[str] = []
        self.names = 0

    def source(self) -> str:
        """The text of the function `f`."""
        self.line("k = 0; m = 1; a = x; b = x * 2; c = x + 1; d = {'p': x * 0.5}")
        self.line("h = [x * 0.3, 7]; w = x * 1; o = Space(t=x * 0.7, n=2)")
        if self.lists:
            self.line("p = []; q = [x * 0.1]; o.r = []; u = [x * j for j in range(4)]")
        self.block(0, 2, False)
        self.loops = 0
        self.line(f"for z in range({'9' if self.lists else 'n'}):")
        self.inside(1, self.random.randint(1, 4), "z")
        self.block(0, 2, False)
        results = "a, b, c, d['p'], o.t, h[0], w, k, m, o.n"
        if self.lists:
            results += ", *p[-12:], *q[::7], tg.stack([x, *p]), sum(q), len(q), tg.cat([x, *o.r])"
        self.line(f"return {results}")
        return "def f(x, n):\n" + "\n".join(self.lines) + "\n"

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def block(self, depth: int, count: int, in_loop: bool) -> None:
        for _ in range(count):
            self.statement(depth, in_loop)

    def inside(self, depth: int, count: int, counter: str = "") -> None:
        """The body of a loop, or with no counter of a branch."""
        self.indent += 1
        if counter:
            self.counters.append(counter)
        self.block(depth, count, bool(self.counters))
        if counter:
            self.counters.pop()
        self.indent -= 1

    def tensor(self) -> str:
        return self.random.choice(STATE)

    def number(self) -> str:
        return self.random.choice((*NUMBERS, *self.counters))

    def tensor_expression(self) -> str:
        x, y = self.tensor(), self.tensor()
        return self.random.choice(
            (
                f"{x} * 0.9",
                f"{x} + {y} * 0.1",
                f"({x} - {y}).sin()",
                f"{x} * {self.number()} * 0.01 + {y}",
                f"tg.where({x} > 0.5, {x} * 0.5, {y})",
                f"{x}.cos()",
                x,
                f"{x} * {x}.mean()",
            )
        )

    def number_expression(self) -> str:
        x, y = self.number(), self.number()
        return self.random.choice((f"{x} + 1", f"{x} % 3", x, f"({x} + {y}) % 7", f"{x} - 1"))

    def condition(self) -> str:
        x, y = self.tensor(), self.tensor()
        return self.random.choice(
            (
                f"{x}.sum() > {self.random.choice(('1.0', '2.0', '0.0'))}",
                f"{self.number()} % 2 == 0",
                f"{self.number()} > 3",
                f"{x}[1] < {y}[2]",
                f"{self.number()} < {self.number()}",
            )
        )

    def statement(self, depth: int, in_loop: bool) -> None:
        choice = self.random.choice
        if self.lists and self.random.random() < 0.3:
            self.line(self.list_statement())
            return
        kind = self.random.random()
        if kind < 0.3:
            self.line(f"{self.tensor()} = {self.tensor_expression()}")
        elif kind < 0.4:
            self.line(f"{choice(('k', 'm', 'o.n'))} = {self.number_expression()}")
        elif kind < 0.47:
            self.line(f"a, b = b, {self.tensor_expression()}")
        elif kind < 0.53:
            self.line(f"c = c.clone(); c[{choice('012')}] = {self.tensor()}[1] * 0.5")
        elif kind < 0.57:
            place, source = choice(("1", "k % 4", "m % 4")), choice(("0", "2", "n % 4"))
            self.line(f"w[{place}] = w[{source}] * 0.5 + 0.1")
        elif kind < 0.58:
            self.line("a = a + w")
        elif kind < 0.6:
            self.line("b = b + 0.1 * tg.rand(5, dtype=tg.float64)")
        elif kind < 0.75 and depth < 3:
            self.line(f"if {self.condition()}:")
            self.inside(depth + 1, self.random.randint(1, 2))
            if self.random.random() < 0.5:
                self.line("else:")
                self.inside(depth + 1, self.random.randint(1, 2))
        elif kind < 0.9 and depth < 3 and self.loops < 3:
            self.loop(depth)
        elif kind < 0.95 and in_loop:
            self.line(f"if {self.condition()}: {choice(('break', 'continue', 'return a, b, k'))}")
        else:
            self.line("m += 1")

    def list_statement(self) -> str:
        name = self.random.choice(("p", "q", "q", "o.r"))
        kind = self.random.random()
        if kind < 0.35:
            return f"{name}.append({self.tensor_expression()})"
        if kind < 0.5:
            return f"{name}.append({self.tensor()})"
        if kind < 0.6:
            return f"{name} += [{self.tensor_expression()}, {self.tensor_expression()}]"
        if kind < 0.8:
            return f"{self.tensor()} = q[{self.random.choice(('-1', '-1', '0'))}] * 0.9 + 0.01"
        if kind < 0.85:
            return f"{name}.append(w)"
        if kind < 0.92:
            index = self.random.choice((f"{self.number()} % 4", f"-1 - {self.number()} % 3"))
            return f"{self.tensor()} = u[{index}] * 0.3 + {self.tensor()} * 0.5"
        return self.random.choice(
            (
                "b = b + tg.stack(q).mean(0) * 0.1",
                f"k = k + len({name})",
                f"a = a * 0.9 if {name} else a + 0.1",
                "p = []",
                "u[1] = u[2] * 0.5 + 0.1",
                f"c = c + sum({name}, x) * 0.01",
                "q.append(p[0]) if p else None",
            )
        )

    def loop(self, depth: int) -> None:
        choice = self.random.choice
        self.loops += 1
        self.names += 1
        name = f"i{self.names}"
        if self.random.random() < 0.6:
            bounds = choice(("n", "9", "n + 1", "k % 5", "1, n", "n, 0, -1"))
            if self.lists and self.random.random() < 0.6:
                bounds = choice(("8", "9", "3", "2, 18, 2"))
            self.line(f"for {name} in range({bounds}):")
        else:
            more = choice(("", f" and {self.tensor()}.sum() < 50"))
            self.line(f"{name} = 0")
            self.line(f"while {name} < {choice(('n', 'n + 2', '8'))}{more}:")
            self.indent += 1
            self.line(f"{name} += 1")
            self.indent -= 1
        self.inside(depth + 1, self.random.randint(1, 4), name)
        if self.random.random() < 0.2:
            self.line("else:")
            self.indent += 1
            self.line("m = m + 100")
            self.indent -= 1


def program(seed: int, lists: bool = False) -> tuple[types.FunctionType, str]:
    """A function, and its text."""
    source = Generator(seed, lists).source()
    name = f"<program {seed}>"
    linecache.cache[name] = len(source), None, source.splitlines(True), name
    names = {"tg": tg, "Space": types.SimpleNamespace, "__name__": "random_program"}
    exec(compile(source, name, "exec"), names)
    return names["f"], source
