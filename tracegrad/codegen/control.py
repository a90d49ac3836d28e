"""Plans of loops and branches: where carried values live, and what moves when an iteration ends.

Values of no dimensions are registers. A carried array has a buffer of its own. An iteration that
makes the new array elsewhere exchanges the two addresses at its end; one that only changes elements
works in place. A branch does the same with the memory of its dead operands. The first copy of a
carried array is avoided where the memory is the graph's own and dead afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tracegrad.codegen.affine import View, squeeze
from tracegrad.codegen.blocks import (
    Sink,
    new_register,
    new_stack,
    plan_block,
    scalar_view,
    whole_view,
)
from tracegrad.codegen.chains import sums_apart
from tracegrad.codegen.gemm import TILED_OPERAND
from tracegrad.codegen.steps import (
    Block,
    Branch,
    Buffer,
    Depth,
    Frames,
    Kernel,
    Loop,
    Region,
    Root,
    Row,
)
from tracegrad.codegen.surroundings import Surroundings, Top
from tracegrad.ir.graph import Builder, Graph, Node, scalar_value
from tracegrad.ir.intervals import inside
from tracegrad.ir.op import OPS
from tracegrad.ir.types import StackType, TensorType, Type, int64

if TYPE_CHECKING:
    from tracegrad.codegen.schedule import Scheduler

_ALIGNMENT = 8


def plan(scheduler: Scheduler, node: Node) -> None:
    """Add the step of a control node; its items get their places."""
    if scheduler.owned is None:
        _plan_region(scheduler, node)
    else:
        _PLANNERS[node.op.name](scheduler, node, Surroundings(scheduler, node))


def _plan_region(scheduler: Scheduler, node: Node) -> None:
    top = Top(scheduler, node)
    step = _PLANNERS[node.op.name](scheduler, node, top)
    top.keep_apart(step)
    end = Block([top.exit], scheduler.places, scheduler.known)
    scheduler.steps[step.position] = Region(
        step, end, top.homes, top.stacks, top.scratch, step.position
    )
    top.finish()


class _Entry:
    """What runs before a step: operands of no dimensions go into registers."""

    def __init__(self, scheduler: Scheduler, context: Surroundings) -> None:
        self.scheduler = scheduler
        self.context = context
        self.kernel = Kernel((), None)
        self.block = Block([self.kernel], scheduler.places, scheduler.known)

    def register(self, x: Node) -> Buffer:
        """A register that begins with the value of `x`."""
        register = new_register(x.type)
        origin = self.scheduler.places.get(x)
        self.kernel.roots.append(Root(x, x, scalar_view(register), origin=origin))
        return register

    def view(self, x: Node) -> View:
        """An operand that is only read."""
        if isinstance(x.type, StackType):
            return scalar_view(self.context.stack_operand(x))
        if not x.shape:
            return scalar_view(self.register(x))
        return self.scheduler.operand(x, "while_loop")


def _plan_loop(scheduler: Scheduler, node: Node, context: Surroundings) -> Loop:
    params = node.params
    body: Graph = params["body"]
    carries, slices, frames = params["carries"], params["slices"], params["frames"]
    stacked, saves = params["stacked"], params["saves"]
    operands = node.inputs
    end = len(operands)
    entry = _Entry(scheduler, context)
    limit, go = entry.register(operands[0]), entry.register(operands[1])
    done, at = Buffer("register", int64, 1), Buffer("register", int64, 1)
    views = [scalar_view(at)]
    owned: set[Buffer] = set()
    sinks: list[Sink] = [go]
    results: list[View] = [scalar_view(done)]
    for i, x in enumerate(operands[2 : 2 + carries]):
        if x.shape:
            buffer = context.carried(x, 1 + i)
            owned.add(buffer)
        else:
            buffer = entry.register(x)
        view = whole_view(buffer, x.type)
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
            views.append(_read(head, next(inputs), whole_view(buffer, type)))
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
        layout = _frames(new_stack(), [x.type for x in values], arena)
        for k, x in enumerate(values):
            if isinstance(x.type, StackType):
                sinks.append((layout, k))
                arenas.setdefault(x, arena)
            else:
                sinks.append(whole_view(layout.slots[k][0], x.type))
        saved.append(layout)
        results.append(scalar_view(layout.stack))
        position += count

    (known,) = inside(node, scheduler.known)
    scratch = context.scratch
    ready = _turned(scheduler, body, carries, operands[2:])
    apart = sums_apart(body, carries)
    block, uses_scratch = plan_block(
        body, views, known, owned, sinks, arenas, scratch, head, ready, apart
    )
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
        scratch if uses_scratch else None,
    )
    loop.position = len(scheduler.steps)
    scheduler.steps.append(loop)
    scheduler.uses_scratch |= uses_scratch
    scheduler.handed_over.update(operands, map(scheduler.base_of, operands))
    for i, view in enumerate(results):
        context.place(i, view)
    return loop


def _turned(
    scheduler: Scheduler, body: Graph, carries: int, operands: Sequence[Node]
) -> dict[Node, View]:
    """Transposed constants that each iteration multiplies by, as matrices of their own: the product
    of small matrices wants the rows of its right operand in one piece.
    """
    outer = dict(zip(body.inputs[1:], operands, strict=False))
    carried = set(body.inputs[1 : 1 + carries])
    ready: dict[Node, View] = {}
    for node in body.nodes:
        x = node.inputs[-1] if node.op.name == "matmul" else node
        if x.op.name != "transpose" or x in ready or x.type.size > TILED_OPERAND:
            continue
        source = x.inputs[0]
        if source in carried or source not in outer or outer[source].type != source.type:
            continue
        with Builder() as builder:
            turned = builder.adopt(x, [outer[source]])
        buffer = scheduler.buffer("temporary", turned)
        ready[x] = whole_view(buffer, turned.type)
        scheduler.store(turned, ready[x], turned, alone=True)
        scheduler.handed_over.add(turned)
    return ready


def _read(head: Kernel, x: Node, view: View) -> View:
    """The place of a row; of a row of no dimensions, a register that `head` loads."""
    if isinstance(x.type, StackType) or x.shape:
        return view
    register = scalar_view(new_register(x.type))
    head.roots.append(Root(x, x, register, origin=view))
    return register


def _frames(stack: Buffer, types: Sequence[Type], arena: Buffer | None = None) -> Frames:
    """The layout of a frame: larger elements first would save nothing, all are aligned alike."""
    slots: list[tuple[Buffer, int]] = []
    offset = 0
    for type in types:
        if isinstance(type, StackType):
            slots.append((new_stack(), offset))
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


def _plan_branch(scheduler: Scheduler, node: Node, context: Surroundings) -> Branch:
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
    sinks: list[Sink] = []
    homes: set[Buffer] = set()
    for i, type in enumerate(types):
        if isinstance(type, StackType):
            sinks.append(new_stack())
        elif not type.shape:
            sinks.append(new_register(type))
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
        block, uses = plan_block(
            branch, views, known, owned, sinks, arenas, context.scratch, head, {}
        )
        uses_scratch |= uses
        blocks.append(block)
    step = Branch(node, entry.block, index, blocks)
    step.position = len(scheduler.steps)
    scheduler.steps.append(step)
    scheduler.uses_scratch |= uses_scratch
    scheduler.handed_over.update(node.inputs, map(scheduler.base_of, node.inputs))
    for i, (sink, type) in enumerate(zip(sinks, types, strict=True)):
        assert isinstance(sink, Buffer)
        context.place(i, whole_view(sink, type))
    return step


def _plan_depth(scheduler: Scheduler, node: Node, context: Surroundings) -> Depth:
    register = new_register(node.type)
    step = Depth(node, context.stack_operand(node.inputs[0]), register)
    step.position = len(scheduler.steps)
    scheduler.steps.append(step)
    context.place(0, scalar_view(register))
    return step


_PLANNERS: dict[str, Callable[[Scheduler, Node, Surroundings], Loop | Branch | Depth]] = {
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
