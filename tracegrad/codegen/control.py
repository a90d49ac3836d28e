"""Plans of loops and branches: where carried values live, and what moves when an iteration ends.

Values of no dimensions are registers. A carried array has a buffer of its own. An iteration that
makes the new array elsewhere exchanges the two addresses at its end; one that only changes elements
works in place. A branch does the same with the memory of its dead operands. The first copy of a
carried array is avoided where the memory is the graph's own and dead afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracegrad.codegen.affine import View, row_major, squeeze
from tracegrad.codegen.steps import (
    Block,
    Branch,
    Buffer,
    Depth,
    Frames,
    Home,
    Kernel,
    Loop,
    Region,
    Root,
    Row,
    Step,
)
from tracegrad.ir.graph import Builder, Graph, Node, scalar_value
from tracegrad.ir.intervals import Interval, inside, intervals_of
from tracegrad.ir.op import OPS
from tracegrad.ir.types import StackType, TensorType, Type, int64

if TYPE_CHECKING:
    from tracegrad.codegen.schedule import Scheduler

_ALIGNMENT = 8


@dataclass
class _Sinks:
    """Where the outputs of a block go: one entry for each.

    A register or a stack takes the value when the block is over; an array is carried in the
    buffer; a view is written; a slot of a frame keeps the address of a stack.
    """

    entries: list[Buffer | View | tuple[Frames, int]]


def plan(scheduler: Scheduler, node: Node) -> None:
    """Add the step of a control node; its items get their places."""
    if scheduler.owned is None:
        _Region(scheduler, node).plan()
    else:
        _PLANNERS[node.op.name](scheduler, node, _Inside(scheduler, node))


def _register(type: Type) -> Buffer:
    return Buffer("register", type.dtype, 1)


def _whole(buffer: Buffer, type: Type) -> View:
    return View(buffer, 0, row_major(type.shape), type.shape)


def _scalar(buffer: Buffer) -> View:
    return View(buffer, 0, (), ())


def _stack() -> Buffer:
    return Buffer("stack", int64, 1)


class _Inside:
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
        scheduler.store(x, _whole(buffer, x.type), x, alone=True)
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
        return _whole(Buffer("temporary", type.dtype, type.size), type)

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


class _Region(_Inside):
    """Operands and results of control flow at the top of a program: they are in memory."""

    def __init__(self, scheduler: Scheduler, node: Node) -> None:
        super().__init__(scheduler, node)
        self.scratch = Buffer("arena", int64, 8)
        self.homes: list[Home] = []
        self.stacks: list[tuple[Buffer, Buffer, bool]] = []
        self.exit = Kernel((), None)
        self.placed: list[tuple[int, View]] = []
        self.arenas: dict[int, Buffer] = {}

    def plan(self) -> None:
        """Add the region."""
        scheduler = self.scheduler
        step = _PLANNERS[self.node.op.name](scheduler, self.node, self)
        region = Region(
            step,
            Block([self.exit], scheduler.places, scheduler.known),
            self.homes,
            self.stacks,
            self.scratch,
        )
        self.keep_apart(step)
        region.position = step.position
        scheduler.steps[step.position] = region
        for index, view in self.placed:
            super().place(index, view)

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
                assert root.target is not None
                home.start = Buffer("temporary", home.end.dtype, home.end.size)
                home.fill = Kernel(home.settle.domain, None)
                view = _whole(home.start, root.node.type)
                home.fill.roots.append(Root(root.node, root.node, view, origin=root.target))

    def stack_operand(self, x: Node) -> Buffer:
        stack = _stack()
        self.stacks.append((stack, self.scheduler.places[x].buffer, True))
        return stack

    def _home(self, type: Type, index: int) -> tuple[Buffer, View]:
        """A variable that begins at the place of a result."""
        item = self.items.get(index)
        if item is None:
            home = _whole(Buffer("temporary", type.dtype, type.size), type)
        else:
            home = self.scheduler.target(item)
        variable = Buffer("row", type.dtype, type.size)
        settle = None
        if item is not None:
            settle = Kernel(squeeze(type.shape), None)
            settle.roots.append(Root(item, item, home, origin=_whole(variable, type)))
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


def _blocks(step: Step) -> list[Block]:
    if isinstance(step, Loop):
        return [step.entry, step.body]
    return [step.entry, *step.blocks] if isinstance(step, Branch) else []


def exchanged(step: Step) -> Iterator[tuple[Buffer, Buffer]]:
    """Every exchange at the end of a block within a step."""
    for block in _blocks(step):
        yield from block.exchange
        for inner in block.steps:
            yield from exchanged(inner)


def loops_within(step: Step) -> Iterator[Loop]:
    """The loops in a step, itself included."""
    if isinstance(step, Loop):
        yield step
    for block in _blocks(step):
        for inner in block.steps:
            yield from loops_within(inner)


class _Entry:
    """What runs before a step: operands of no dimensions go into registers."""

    def __init__(self, scheduler: Scheduler, context: _Inside) -> None:
        self.scheduler = scheduler
        self.context = context
        self.kernel = Kernel((), None)
        self.block = Block([self.kernel], scheduler.places, scheduler.known)

    def register(self, x: Node) -> Buffer:
        """A register that begins with the value of `x`."""
        register = _register(x.type)
        origin = self.scheduler.places.get(x)
        self.kernel.roots.append(Root(x, x, _scalar(register), origin=origin))
        return register

    def view(self, x: Node) -> View:
        """An operand that is only read."""
        if isinstance(x.type, StackType):
            return _scalar(self.context.stack_operand(x))
        if not x.shape:
            return _scalar(self.register(x))
        return self.scheduler.operand(x, "while_loop")


def _plan_loop(scheduler: Scheduler, node: Node, context: _Inside) -> Loop:
    params = node.params
    body: Graph = params["body"]
    carries, slices, frames = params["carries"], params["slices"], params["frames"]
    stacked, saves = params["stacked"], params["saves"]
    operands = node.inputs
    end = len(operands)
    entry = _Entry(scheduler, context)
    limit, go = entry.register(operands[0]), entry.register(operands[1])
    done, at = Buffer("register", int64, 1), Buffer("register", int64, 1)
    views = [_scalar(at)]
    owned: set[Buffer] = set()
    sinks: list[Buffer | View | tuple[Frames, int]] = [go]
    results: list[View] = [_scalar(done)]
    for i, x in enumerate(operands[2 : 2 + carries]):
        if x.shape:
            buffer = context.carried(x, 1 + i)
            owned.add(buffer)
        else:
            buffer = entry.register(x)
        view = _whole(buffer, x.type)
        sinks.append(buffer)
        results.append(view)
        views.append(view)
    views += [entry.view(x) for x in operands[2 + carries : end - slices - frames]]

    rows: list[Row] = []
    head = Kernel((), None)
    inputs = iter(body.inputs[len(views) :])
    for x in operands[end - slices - frames : end - frames]:
        whole = scheduler.operand(x, "while_loop")
        view = View(Buffer("row", x.dtype, 1), 0, whole.strides[1:], whole.shape[1:])
        rows.append(Row(view.buffer, whole))
        views.append(_read(head, next(inputs), view))
    read: list[Frames] = []
    for x in operands[end - frames :]:
        assert isinstance(x.type, StackType)
        layout = _frames(context.stack_operand(x), x.type.elements)
        for (buffer, _), type in zip(layout.slots, x.type.elements, strict=True):
            views.append(_read(head, next(inputs), _whole(buffer, type)))
        read.append(layout)

    bounded = scalar_value(operands[1]) is True and scalar_value(body.outputs[0]) is True
    covered = bounded and scalar_value(operands[0]) == params["length"]
    made = body.outputs[1 + carries :]
    for i, x in enumerate(made[:stacked]):
        type = TensorType(x.dtype, (params["length"], *x.shape))
        whole = context.rows_result(type, 1 + carries + i)
        row = View(Buffer("row", x.dtype, 1), 0, whole.strides[1:], x.shape)
        rows.append(Row(row.buffer, whole))
        sinks.append(row)
        results.append(whole)
        if not covered:
            entry.block.steps.append(_zeros(x, whole))
    saved: list[Frames] = []
    position = stacked
    arenas: dict[Node, Buffer] = {}
    for i, count in enumerate(saves):
        arena = context.arena(1 + carries + stacked + i)
        values = made[position : position + count]
        layout = _frames(_stack(), [x.type for x in values], arena)
        for k, x in enumerate(values):
            if isinstance(x.type, StackType):
                sinks.append((layout, k))
                arenas.setdefault(x, arena)
            else:
                sinks.append(_whole(layout.slots[k][0], x.type))
        saved.append(layout)
        results.append(_scalar(layout.stack))
        position += count

    (known,) = inside(node, scheduler.known)
    block, uses_scratch = _plan_block(body, views, known, owned, sinks, arenas, context, head)
    loop = Loop(
        node,
        entry.block,
        block,
        limit,
        go,
        done,
        at,
        params["reverse"],
        bounded,
        rows,
        read,
        saved,
        context.scratch if uses_scratch else None,
    )
    loop.position = len(scheduler.steps)
    scheduler.steps.append(loop)
    scheduler.uses_scratch |= uses_scratch
    scheduler.handed_over.update(operands, map(scheduler.base_of, operands))
    for i, view in enumerate(results):
        context.place(i, view)
    return loop


def _read(head: Kernel, x: Node, view: View) -> View:
    """The place of a row; of a row of no dimensions, a register that `head` loads."""
    if isinstance(x.type, StackType) or x.shape:
        return view
    register = _scalar(_register(x.type))
    head.roots.append(Root(x, x, register, origin=view))
    return register


def _frames(stack: Buffer, types: Sequence[Type], arena: Buffer | None = None) -> Frames:
    """The layout of a frame: larger elements first would save nothing, all are aligned alike."""
    slots: list[tuple[Buffer, int]] = []
    offset = 0
    for type in types:
        if isinstance(type, StackType):
            slots.append((_stack(), offset))
        else:
            slots.append((Buffer("row", type.dtype, type.size), offset))
        offset += -(-max(type.nbytes, 1) // _ALIGNMENT) * _ALIGNMENT
    return Frames(stack, slots, offset, arena)


def _zeros(row: Node, whole: View) -> Kernel:
    """Zeros for the rows that a loop may not reach."""
    with Builder() as builder:
        zero = builder.constant(0, row.dtype)
        value = OPS["broadcast_to"](zero, shape=whole.shape)
    kernel = Kernel(squeeze(whole.shape), None)
    kernel.roots.append(Root(value, value, whole))
    return kernel


def _plan_branch(scheduler: Scheduler, node: Node, context: _Inside) -> Branch:
    branches: tuple[Graph, ...] = node.params["branches"]
    entry = _Entry(scheduler, context)
    index = entry.register(node.inputs[0])
    owned: set[Buffer] = set()
    views: list[View] = []
    for x in node.inputs[1:]:
        view = entry.view(x)
        if (node, x) in scheduler.updates.consumed:
            owned.add(view.buffer)
        views.append(view)
    types = [x.type for x in branches[0].outputs]
    sinks: list[Buffer | View | tuple[Frames, int]] = []
    homes: set[Buffer] = set()
    for i, type in enumerate(types):
        if isinstance(type, StackType):
            sinks.append(_stack())
        elif not type.shape:
            sinks.append(_register(type))
        else:
            home = _home_among(owned - homes, i, branches, views)
            sinks.append(home or context.array_result(type, i))
            assert isinstance(sinks[-1], Buffer)
            homes.add(sinks[-1])
    blocks = []
    uses_scratch = False
    for branch, known in zip(branches, inside(node, scheduler.known), strict=True):
        arenas: dict[Node, Buffer] = {}
        for i, x in enumerate(branch.outputs):
            if isinstance(x.type, StackType):
                arenas.setdefault(x, context.arena(i))
        head = Kernel((), None)
        block, uses = _plan_block(branch, views, known, owned, sinks, arenas, context, head)
        uses_scratch |= uses
        blocks.append(block)
    step = Branch(node, entry.block, index, blocks)
    step.position = len(scheduler.steps)
    scheduler.steps.append(step)
    scheduler.uses_scratch |= uses_scratch
    scheduler.handed_over.update(node.inputs, map(scheduler.base_of, node.inputs))
    for i, (sink, type) in enumerate(zip(sinks, types, strict=True)):
        assert isinstance(sink, Buffer)
        context.place(i, _whole(sink, type))
    return step


def _plan_depth(scheduler: Scheduler, node: Node, context: _Inside) -> Depth:
    register = _register(node.type)
    step = Depth(node, context.stack_operand(node.inputs[0]), register)
    step.position = len(scheduler.steps)
    scheduler.steps.append(step)
    context.place(0, _scalar(register))
    return step


_PLANNERS: dict[str, Callable[[Scheduler, Node, _Inside], Loop | Branch | Depth]] = {
    "while_loop": _plan_loop,
    "cond": _plan_branch,
    "depth": _plan_depth,
}


def _home_among(
    owned: set[Buffer], i: int, branches: Sequence[Graph], views: Sequence[View]
) -> Buffer | None:
    """The memory of an operand that output `i` is in some branch, changed in place or not."""
    for branch in branches:
        x = branch.outputs[i]
        while x.op.name in ("scatter", "scatter_add", "update_slice"):
            x = x.inputs[0]
        if x.op.name == "input":
            view = views[branch.inputs.index(x)]
            buffer: Buffer = view.buffer
            if buffer in owned and view.is_contiguous() and view.shape == x.shape:
                return buffer
    return None


def _plan_block(
    graph: Graph,
    views: list[View],
    known: Mapping[Node, Interval],
    owned: set[Buffer],
    sinks: Sequence[Buffer | View | tuple[Frames, int]],
    arenas: dict[Node, Buffer],
    context: _Inside,
    head: Kernel,
) -> tuple[Block, bool]:
    """The steps of a body or branch, and whether stacks live within it."""
    from tracegrad.codegen.schedule import scheduled

    uses = [graph.outputs.count(x) for x in graph.outputs]
    wanted = {
        x: sink
        for x, sink, count in zip(graph.outputs, sinks, uses, strict=True)
        if isinstance(sink, View) and x.shape and count == 1 and x.op.name != "input"
    }

    def attempt(scheduler: Scheduler) -> tuple[Block, bool]:
        scheduler.scratch = context.scratch
        scheduler.known = intervals_of(graph, known)
        scheduler.arenas = arenas
        # A copy: an attempt that fails may have put something into it.
        begin = Kernel((), None, list(head.roots), len(scheduler.steps))
        scheduler.steps.append(begin)
        scheduler.visit(wanted)
        scheduler.handed_over.update(graph.outputs)
        exchange = _settle(scheduler, graph, sinks)
        scheduler.drop_private()
        return Block(
            scheduler.steps, scheduler.places, scheduler.known, exchange
        ), scheduler.uses_scratch

    result: tuple[Block, bool] = scheduled(graph, views, attempt, owned)
    return result


def _settle(
    scheduler: Scheduler, graph: Graph, sinks: Sequence[Buffer | View | tuple[Frames, int]]
) -> list[tuple[Buffer, Buffer]]:
    """Bring the outputs of a block to their sinks; what is left to exchange at its end."""
    tail = Kernel((), None)
    exchange: list[tuple[Buffer, Buffer]] = []
    moves: list[tuple[Buffer, Buffer]] = []
    taken: set[Buffer] = set()
    for x, sink in zip(graph.outputs, sinks, strict=True):
        if isinstance(sink, tuple):
            layout, k = sink
            layout.slots[k] = (scheduler.places[x].buffer, layout.slots[k][1])
        elif isinstance(sink, Buffer) and sink.kind == "stack":
            exchange.append((sink, scheduler.places[x].buffer))
        elif not x.shape:
            target = sink if isinstance(sink, View) else _scalar(_register(x.type))
            tail.roots.append(Root(x, x, target, origin=scheduler.places.get(x)))
            if isinstance(sink, Buffer):
                exchange.append((sink, target.buffer))
        elif isinstance(sink, View):
            if scheduler.places.get(x) != sink:
                scheduler.store(x, sink, x, alone=True)
        else:
            source = _memory_of(scheduler, x, taken)
            taken.add(source)
            moves.append((sink, source))
    tail.position = len(scheduler.steps)
    scheduler.steps.append(tail)
    return exchange + _permutation(moves)


def _memory_of(scheduler: Scheduler, x: Node, taken: set[Buffer]) -> Buffer:
    """A buffer that holds `x` and is the block's own to hand over."""
    place = scheduler.places.get(x)
    assert scheduler.owned is not None
    buffer: Buffer
    if place is not None and place.buffer not in taken:
        buffer = place.buffer
        mine = buffer in scheduler.owned or buffer in scheduler.buffers
        if mine and place.offset == 0 and place.is_contiguous():
            return buffer
    buffer = scheduler.buffer("temporary", x)
    scheduler.store(x, _whole(buffer, x.type), x, alone=True)
    return buffer


def _permutation(moves: Sequence[tuple[Buffer, Buffer]]) -> list[tuple[Buffer, Buffer]]:
    """The moves, and where the memory goes that they leave without a name."""
    source_of = dict(moves)
    taken = set(source_of.values())
    result = [(target, source) for target, source in moves if target is not source]
    for target in source_of:
        if target in taken:
            continue
        # The memory of this target is free; at the end of its chain is a name without memory.
        last = source_of[target]
        while last in source_of:
            last = source_of[last]
        result.append((last, target))
    return result
