"""Where operands and results of control flow are: within other control flow, or in a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracegrad.codegen.affine import View, squeeze
from tracegrad.codegen.blocks import exchanged, new_stack, whole_view
from tracegrad.codegen.steps import Buffer, Home, Kernel, Root, Step
from tracegrad.ir.graph import Node
from tracegrad.ir.op import OPS
from tracegrad.ir.types import StackType, Type, int64

if TYPE_CHECKING:
    from tracegrad.codegen.schedule import Scheduler


class Surroundings:
    """Where operands and results of a step are, whose own surroundings are control flow."""

    def __init__(self, scheduler: Scheduler, node: Node) -> None:
        self.scheduler = scheduler
        self.node = node
        self.items = scheduler.items_of(node)
        self.scratch = scheduler.scratch

    def stack_operand(self, x: Node) -> Buffer:
        """The variable of a stack that is an operand."""
        buffer: Buffer = self.scheduler.places[x].buffer
        return buffer

    def carried(self, x: Node, index: int) -> Buffer:
        """A buffer that begins with the value of an array, and may be overwritten."""
        scheduler = self.scheduler
        place = scheduler.places.get(x)
        buffer: Buffer
        if (self.node, x) in scheduler.updates.consumed and place is not None:
            buffer = place.buffer
            return buffer
        buffer = scheduler.buffer("temporary", x)
        scheduler.store(x, whole_view(buffer, x.type), x, alone=True)
        return buffer

    def array_result(self, type: Type, index: int) -> Buffer:
        """Memory for an array among the results of a branch."""
        item = self.items.get(index)
        shape = Node(OPS["unset"], (), {"type": type}, type, None) if item is None else item  # type: ignore[arg-type]
        return self.scheduler.buffer("temporary", shape)

    def rows_result(self, type: Type, index: int) -> View:
        """Memory for stacked rows."""
        item = self.items.get(index)
        if item is not None:
            return self.scheduler.target(item)
        return whole_view(Buffer("temporary", type.dtype, type.size), type)

    def arena(self, index: int) -> Buffer:
        """Where the memory of a stack among the results comes from."""
        item = self.items.get(index)
        known = None if item is None else self.scheduler.arenas.get(item)
        if known is None:
            self.scheduler.uses_scratch = True
            return self.scratch
        return known

    def result(self, index: int) -> Node | None:
        """The node of a result; None if nobody reads it."""
        return self.node if self.node.op.name == "depth" else self.items.get(index)

    def place(self, index: int, view: View) -> None:
        """A result is there."""
        item = self.result(index)
        if item is not None:
            self.scheduler.places[item] = view
            self.scheduler.step_of[item] = len(self.scheduler.steps) - 1


class Top(Surroundings):
    """Operands and results of control flow at the top of a program: they are in memory."""

    def __init__(self, scheduler: Scheduler, node: Node) -> None:
        super().__init__(scheduler, node)
        self.scratch = Buffer("arena", int64, 8)
        self.homes: list[Home] = []
        self.stacks: list[tuple[Buffer, Buffer, bool]] = []
        self.exit = Kernel((), None)
        self.placed: list[tuple[int, View]] = []
        self.arenas: dict[int, Buffer] = {}

    def keep_apart(self, step: Step) -> None:
        """Let arrays that change places with each other begin in other memory than they end in: the
        place of one may hold another at the end.
        """
        groups: dict[Buffer, Buffer] = {}

        def leader(x: Buffer) -> Buffer:
            while x in groups:
                x = groups[x]
            return x

        for a, b in exchanged(step):
            first, second = leader(a), leader(b)
            if first is not second:
                groups[first] = second
        leaders = [leader(home.variable) for home in self.homes]
        for home, group in zip(self.homes, leaders, strict=True):
            if leaders.count(group) > 1 and home.settle is not None:
                (root,) = home.settle.roots
                home.start = Buffer("temporary", home.end.dtype, home.end.size)
                home.fill = Kernel(home.settle.domain, None)
                view = whole_view(home.start, root.node.type)
                home.fill.roots.append(Root(root.node, root.node, view, origin=root.target))

    def stack_operand(self, x: Node) -> Buffer:
        stack = new_stack()
        self.stacks.append((stack, self.scheduler.places[x].buffer, True))
        return stack

    def _home(self, type: Type, index: int) -> tuple[Buffer, View]:
        """A variable that begins at the place of a result."""
        item = self.items.get(index)
        if item is None:
            home = whole_view(Buffer("temporary", type.dtype, type.size), type)
        else:
            home = self.scheduler.target(item)
        variable = Buffer("row", type.dtype, type.size)
        settle = None
        if item is not None:
            settle = Kernel(squeeze(type.shape), None)
            settle.roots.append(Root(item, item, home, origin=whole_view(variable, type)))
            self.placed.append((index, home))
        self.homes.append(Home(variable, home.buffer, home.buffer, settle))
        return variable, home

    def carried(self, x: Node, index: int) -> Buffer:
        variable, home = self._home(x.type, index)
        self.scheduler.store(x, home, x, alone=True)
        return variable

    def array_result(self, type: Type, index: int) -> Buffer:
        return self._home(type, index)[0]

    def arena(self, index: int) -> Buffer:
        found = self.arenas.get(index)
        if found is None:
            item = self.items.get(index)
            found = self.scratch if item is None else self.scheduler.target(item).buffer
            self.arenas[index] = found
        return found

    def place(self, index: int, view: View) -> None:
        item = self.result(index)
        if item is None or any(index == known for known, _ in self.placed):
            return
        if isinstance(item.type, StackType):
            arena = self.arena(index)
            self.stacks.append((view.buffer, arena, False))
            self.placed.append((index, View(arena, 0, (), ())))
        elif view.buffer.kind == "register":
            target = self.scheduler.target(item)
            self.exit.roots.append(Root(item, item, target, origin=view))
            self.placed.append((index, target))
        else:
            self.placed.append((index, view))

    def finish(self) -> None:
        """The results get their places, when the region is among the steps."""
        for index, view in self.placed:
            super().place(index, view)
