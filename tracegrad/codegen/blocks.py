"""Blocks: bodies of loops and graphs of branches as steps, and what they exchange at their end.

Each output of a block has a sink. A register or a stack takes the value when the block is over, an
array is carried in a buffer, a view is written, and a slot of a frame keeps the address of a stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from tracegrad.codegen.affine import View, row_major
from tracegrad.codegen.steps import Block, Branch, Buffer, Frames, Kernel, Loop, Root, Step
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.intervals import Interval, intervals_of
from tracegrad.ir.types import Type, int64

if TYPE_CHECKING:
    from tracegrad.codegen.schedule import Scheduler

Sink = Buffer | View | tuple[Frames, int]


def new_register(type: Type) -> Buffer:
    """A register for a value of no dimensions."""
    return Buffer("register", type.dtype, 1)


def whole_view(buffer: Buffer, type: Type) -> View:
    """A buffer as the array that fills it."""
    return View(buffer, 0, row_major(type.shape), type.shape)


def scalar_view(buffer: Buffer) -> View:
    """A register, or the variable of a stack, as a place."""
    return View(buffer, 0, (), ())


def new_stack() -> Buffer:
    """A variable for the address of a stack."""
    return Buffer("stack", int64, 1)


def plan_block(
    graph: Graph,
    views: list[View],
    known: Mapping[Node, Interval],
    owned: set[Buffer],
    sinks: Sequence[Sink],
    arenas: dict[Node, Buffer],
    scratch: Buffer,
    head: Kernel,
    ready: Mapping[Node, View],
    apart: Set[Node] = frozenset(),
) -> tuple[Block, bool]:
    """The steps of a body or branch, and whether stacks live within it.

    `ready`: values that are in memory already. `apart`: see `Block`.
    """
    from tracegrad.codegen.schedule import scheduled

    uses = [graph.outputs.count(x) for x in graph.outputs]
    wanted = {
        x: sink
        for x, sink, count in zip(graph.outputs, sinks, uses, strict=True)
        if isinstance(sink, View) and x.shape and count == 1 and x.op.name != "input"
    }

    def attempt(scheduler: Scheduler) -> tuple[Block, bool]:
        scheduler.scratch = scratch
        scheduler.known = intervals_of(graph, known)
        scheduler.arenas = arenas
        # A copy: an attempt that fails may have put something into it.
        begin = Kernel((), None, list(head.roots), len(scheduler.steps))
        scheduler.steps.append(begin)
        for x, view in ready.items():
            scheduler.places[x] = view
            scheduler.step_of[x] = -1
        scheduler.visit(wanted)
        scheduler.handed_over.update(graph.outputs)
        exchange = _settle(scheduler, graph, sinks)
        scheduler.mark_private()
        block = Block(scheduler.steps, scheduler.places, scheduler.known, exchange, apart)
        return block, scheduler.uses_scratch

    result: tuple[Block, bool] = scheduled(graph, views, attempt, owned)
    return result


def _settle(
    scheduler: Scheduler, graph: Graph, sinks: Sequence[Sink]
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
            target = sink if isinstance(sink, View) else scalar_view(new_register(x.type))
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
    scheduler.store(x, whole_view(buffer, x.type), x, alone=True)
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
