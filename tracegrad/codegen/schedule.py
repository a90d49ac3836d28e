"""From a graph to a list of steps: which roots one kernel computes together.

Roots over the same index space are gathered into one kernel as long as each reads what the others
wrote only at its own element, or at its own row: that is what fuses siblings, prologues and
epilogues of reductions, and whole row-wise computations such as softmax.

The work is one pass in graph order; each root looks at a bounded number of kernels to join, so cost
is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tracegrad.codegen import control
from tracegrad.codegen.affine import (
    VIEWS,
    Index,
    Shape,
    View,
    align,
    identity,
    row_major,
    squeeze,
    through,
)
from tracegrad.codegen.fusion import fits
from tracegrad.codegen.in_place import Updates, plan_updates
from tracegrad.codegen.pieces import Piece, pieces_of
from tracegrad.codegen.placement import (
    CALLS,
    CONTROL,
    FILLED,
    NotAffineError,
    choose_roots,
    view_of,
)
from tracegrad.codegen.product_sums import product_sums
from tracegrad.codegen.steps import (
    Buffer,
    Call,
    Kernel,
    Read,
    Root,
    Schedule,
    Step,
    squeezed_axes,
)
from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.intervals import Interval, intervals_of
from tracegrad.ir.types import StackType, int64

# How many kernels, counted from the last, a root may join.
LOOK_BACK = 8
# At most so many values are written by one kernel.
MAX_ROOTS = 24
# Nor does one kernel compute more than this many ops: LLVM's time grows faster beyond.
MAX_OPS = 320
# Words that describe the memory of a stack, see `primitives.regions`.
ARENA_WORDS = 8


def schedule(graph: Graph, layouts: list[Shape | None]) -> Schedule:
    """Plan `graph`, whose inputs have the given element strides (None: C-contiguous)."""
    inputs = [_memory("input", node, position) for position, node in enumerate(graph.inputs)]
    views = [
        View(buffer, 0, layout or row_major(node.shape), node.shape)
        for buffer, node, layout in zip(inputs, graph.inputs, layouts, strict=True)
    ]
    planned: Schedule = scheduled(graph, views, lambda scheduler: scheduler.run(inputs))
    return planned


def scheduled(
    graph: Graph,
    views: list[View],
    plan: Callable[[Scheduler], Any],
    owned: set[Buffer] | None = None,
) -> Any:
    """What `plan` makes of a scheduler for `graph`, which is begun anew when a reshape turns out to
    need its source in memory.
    """
    placed: set[Node] = set()
    while True:
        try:
            return plan(Scheduler(graph, views, placed, owned))
        except NotAffineError as failure:
            # Rare: the reshape looked affine on its own, but is not where a consumer reads it.
            placed.add(failure.node)


def _memory(kind: str, node: Node, position: int = 0) -> Buffer:
    """A buffer for the value of a node; of a stack, for the words of its arena."""
    if isinstance(node.type, StackType):
        return Buffer(kind, int64, ARENA_WORDS, position)
    return Buffer(kind, node.dtype, node.type.size, position)


class Scheduler:
    """Plans the steps of one graph, whose inputs are at the given places.

    `owned`, of a graph within control flow: the buffers among its inputs that it may overwrite once
    their values are dead; None for a whole program. Within control flow values of no dimensions
    are in registers.
    """

    def __init__(
        self, graph: Graph, views: list[View], placed: set[Node], owned: set[Buffer] | None
    ) -> None:
        self.graph = graph
        self.steps: list[Step] = []
        self.places: dict[Node, View] = dict(zip(graph.inputs, views, strict=True))
        self.step_of: dict[Node, int] = dict.fromkeys(graph.inputs, -1)
        # Of a value that waits for others, the first step that may compute it.
        self.first_step: dict[Node, int] = {}
        self.copies: dict[Node, View] = {}
        self.ops_of: dict[Node, int] = {}
        self.handed_over: set[Node] = set()
        self.read_by: dict[Node, set[int]] = {}
        # A dictionary, since it is asked whether a buffer is the graph's own.
        self.buffers: dict[Buffer, None] = {}
        self.owned = owned
        # Within control flow: the arena of stacks that live within, and those of stacks that leave.
        self.scratch = Buffer("arena", int64, ARENA_WORDS)
        self.arenas: dict[Node, Buffer] = {}
        self.uses_scratch = False
        # Intervals of integers.
        self.known: Mapping[Node, Interval] = {}
        self.wanted: dict[Node, View] = {}
        self._items: dict[Node, dict[int, Node]] = {}
        for node in graph.nodes:
            if node.op.name == "item":
                self._items.setdefault(node.inputs[0], {})[node.params["index"]] = node
        self.roots, copied = choose_roots(graph, self.places, placed, inside=owned is not None)
        self.updates: Updates = Updates(graph.nodes, {}, set())
        if owned is not None:
            mine = {x for x in graph.inputs if self.places[x].buffer in owned}
            self.updates = plan_updates(graph, mine, self.roots)
        # Sums of products, each with the term that is there first and the product added to it; and
        # for each such term the sum in whose place it is.
        self.sums = product_sums(graph)
        self.sum_of = {first: node for node, (first, _) in self.sums.items()}
        self.added = {product for _, product in self.sums.values()}
        self.roots.update(self.sums)
        for node in copied:
            self.copy_input(node)

    def buffer(self, kind: str, node: Node, position: int = 0) -> Buffer:
        if kind == "temporary" and isinstance(node.type, StackType):
            kind = "arena" if self.owned is None else "stack"
        elif kind == "temporary" and self.owned is not None and not node.shape:
            kind = "register"
        made = _memory(kind, node, position)
        self.buffers[made] = None
        return made

    def copy_input(self, node: Node) -> None:
        """Read a strided input through a contiguous copy from here on."""
        view = self.places[node]
        target = View(self.buffer("temporary", node), 0, row_major(node.shape), node.shape)
        kernel = self.open(Kernel(squeeze(node.shape), None))
        kernel.roots.append(Root(node, node, target, origin=view))
        self.places[node] = target
        self.step_of[node] = kernel.position

    def place_constant(self, node: Node) -> None:
        buffer = self.buffer("constant", node)
        buffer.literal = node.params["value"].array
        self.places[node] = View(buffer, 0, row_major(node.shape), node.shape)
        self.step_of[node] = -1

    # ------------------------------------------------------------------ the pass

    def run(self, inputs: list[Buffer]) -> Schedule:
        """The schedule of a whole program."""
        self.known = intervals_of(self.graph)
        outputs: list[Buffer] = []
        wanted: dict[Node, View] = {}
        for position, node in enumerate(self.graph.outputs):
            buffer = self.buffer("output", node, position)
            outputs.append(buffer)
            if node not in wanted and node.op.name not in ("input", "constant"):
                wanted[node] = View(buffer, 0, row_major(node.shape), node.shape)
        self.visit(wanted)
        for node, buffer in zip(self.graph.outputs, outputs, strict=True):
            if node not in wanted or wanted[node].buffer is not buffer:
                # An input or a constant that is returned, or a value that is returned twice:
                # outputs own memory.
                self.store(node, View(buffer, 0, row_major(node.shape), node.shape), node)
        self.mark_private()
        return Schedule(
            self.graph, self.steps, self.places, self.known, inputs, outputs, list(self.buffers)
        )

    def visit(self, wanted: dict[Node, View]) -> None:
        """Visit the nodes in order, giving each root its step; where it is `wanted`, if it is."""
        self.wanted = wanted
        for node in self.updates.order:
            if node.op.name == "constant" and node.shape:
                self.place_constant(node)
            if node not in self.roots or node in self.places or node in self.added:
                continue
            if node.op.name in CONTROL:
                control.plan(self, node)
            else:
                self.compute(node, self.target(node))

    def target(self, node: Node) -> View:
        """Where a root goes: where it is wanted, over its dead operand, or into new memory. The
        first term of a sum of products goes where that would, and the sum is there then.
        """
        if node in self.sums:
            return self.places[self.sums[node][0]]
        while node in self.sum_of:
            node = self.sum_of[node]
        base = self.updates.in_place.get(node)
        if base is not None:
            return self.places[base]
        wanted = self.wanted.get(node)
        if wanted is not None:
            return wanted
        return View(self.buffer("temporary", node), 0, row_major(node.shape), node.shape)

    def mark_private(self) -> None:
        """Mark the temporaries that nobody outside of their own kernel reads."""
        for step in self.steps:
            if not isinstance(step, Kernel):
                continue
            for root in step.roots:
                private = (
                    root.target.buffer.kind == "temporary"
                    and (root.value is root.node or root.fold)
                    and root.origin is None
                    and self.read_by.get(root.node, set()) <= {step.position}
                )
                root.private = private and root.node not in self.handed_over

    def compute(self, node: Node, target: View) -> None:
        """Add the step that makes `node` and remember where it is."""
        call = self.sums[node][1] if node in self.sums else node
        name = call.op.name
        if name in CALLS:
            operands = tuple(self.operand(x, name) for x in call.inputs)
            self.handed_over.update(self.base(x) for x in call.inputs)
            step: Step = Call(call, operands, target, len(self.steps), call is not node)
            self.steps.append(step)
        elif name == "unset":
            if target.buffer.kind == "register":
                with Builder() as builder:
                    self.store(node, target, builder.constant(0, node.dtype))
            self.places[node] = target
            self.step_of.setdefault(node, -1)
            return
        elif name in FILLED:
            # Over its dead operand, only what changes is stored.
            first = 1 if node in self.updates.in_place else 0
            for piece in pieces_of(node, target)[first:]:
                self.store_piece(node, piece)
            self.places[node] = target
            self.step_of[node] = len(self.steps) - 1
            return
        elif node.op.family == "reduction":
            self.reduce(node, target)
            return
        else:
            value, stored = self.unshaped(node, target)
            self.store(node, stored, value)
            self.places[node] = target
            return
        self.places[node] = target
        self.step_of[node] = step.position

    def unshaped(self, node: Node, target: View) -> tuple[Node, View]:
        """What to compute for a value that is another in a new shape, and where to put it: the
        other one, in its own shape, where its elements lie in the same order.
        """
        while node.op.name == "reshape" and node not in self.places and target.is_contiguous():
            node = node.inputs[0]
            target = View(target.buffer, target.offset, row_major(node.shape), node.shape)
        return node, target

    def operand(self, node: Node, name: str) -> View:
        """An operand of a library call or of control flow as memory; copied there when its strides
        do not suit the library.
        """
        view = view_of(node, self.places)
        suits = suits_gemm if name == "matmul" else View.is_contiguous
        if view is not None and (name in CONTROL or suits(view)):
            return view
        copy = self.copies.get(node)
        if copy is None:
            copy = View(self.buffer("temporary", node), 0, row_major(node.shape), node.shape)
            self.store(node, copy, node, alone=True)
            self.copies[node] = copy
            self.handed_over.add(node)
        return copy

    # ------------------------------------------------------------------ kernels

    def reads_of(self, node: Node) -> list[Read]:
        """The memory that a root with this value reads."""
        return [(node, identity(node.shape))] if node in self.places else self.frontier(node)

    def frontier(self, node: Node) -> list[Read]:
        """What memory the expression of `node` reads, with the index there as a function of the
        node's own index.

        The index is None where it depends on data (gather) or comes by a flat reshape.
        """
        loops = squeeze(node.shape)
        found: dict[tuple[Node, Index | None], None] = {}
        seen: set[tuple[Node, Index]] = set()
        work: list[tuple[Node, Index]] = [(node, identity(node.shape))]
        first = True
        while work:
            current, index = work.pop()
            if (current, index) in seen:
                continue
            seen.add((current, index))
            if current in self.places and not first:
                found[current, index] = None
                continue
            first = False
            name = current.op.name
            if name in VIEWS:
                if name == "after":
                    self.wait(node, current.inputs[1:])
                source = current.inputs[0]
                pulled = through(current, index, loops)
                if pulled is None:
                    if source not in self.places or not self.places[source].is_contiguous():
                        raise NotAffineError(source)
                    found[source, None] = None
                else:
                    work.append((source, pulled))
            elif name == "gather":
                found[self.base(current.inputs[0]), None] = None
                lead = current.ndim - (current.inputs[0].ndim - len(current.inputs) + 1)
                for x in current.inputs[1:]:
                    work.append((x, align(index[:lead], current.shape[:lead], x.shape)))
            elif name == "constant" and current.shape:
                self.place_constant(current)
            else:
                for x in current.inputs:
                    work.append((x, align(index, current.shape, x.shape)))
        self.ops_of[node] = len(seen)
        return list(found)

    def wait(self, value: Node, others: Sequence[Node]) -> None:
        """Compute a value only after what others are made of is in memory."""
        work = list(others)
        seen: set[Node] = set()
        while work:
            x = work.pop()
            if x in seen:
                continue
            seen.add(x)
            if x in self.places:
                self.first_step[value] = max(self.first_step.get(value, 0), self.step_of[x] + 1)
            else:
                work.extend(x.inputs)

    def items_of(self, node: Node) -> dict[int, Node]:
        """The nodes that take one result of `node`, by the number of the result."""
        return self._items.get(node, {})

    def base_of(self, node: Node) -> Node:
        """The node that a chain of views looks at; itself if it is none in memory."""
        while node not in self.places and node.op.name in VIEWS:
            node = node.inputs[0]
        return node

    def base(self, node: Node) -> Node:
        """The node in memory that a chain of views looks at."""
        while node not in self.places and node not in self.copies:
            node = node.inputs[0]
        return node

    def store(self, node: Node, target: View, value: Node, *, alone: bool = False) -> None:
        """Put "store `value` into `target`" into a kernel that fits, or into a new one."""
        reads = self.reads_of(value)
        root = Root(node, value, target, origin=self.places.get(value))
        kernel = None if alone else self.join(value, None, reads)
        self.place_root(root, reads, kernel or self.open(Kernel(squeeze(value.shape), None)))

    def store_piece(self, node: Node, piece: Piece) -> None:
        """A kernel for one of the stores that make up `node`, after those before it."""
        reads = self.reads_of(piece.value)
        for x in piece.indices:
            reads += [(y, None) for y, _ in self.reads_of(x)]
        root = Root(
            node,
            piece.value,
            piece.window,
            piece.indices,
            accumulate=piece.accumulate,
            origin=self.places.get(piece.value),
        )
        kernel = Kernel(squeeze(piece.value.shape), None, serial=bool(piece.indices))
        self.place_root(root, reads, self.open(kernel))

    def place_root(self, root: Root, reads: list[Read], kernel: Kernel) -> None:
        """Make `root` part of `kernel`."""
        kernel.roots.append(root)
        kernel.ops += self.ops_of.get(root.value, 1)
        for x, _ in reads:
            self.read_by.setdefault(x, set()).add(kernel.position)
        if root.node not in self.places:
            self.step_of[root.node] = kernel.position

    def reduce(self, node: Node, target: View) -> None:
        """Put a reduction into a kernel that fits, or into a new one."""
        value = node.inputs[0]
        axes = squeezed_axes(value.shape, node.params["axes"])
        reads = self.reads_of(value)
        kernel = self.join(value, axes, reads, node.op.name)
        kernel = kernel or self.open(Kernel(squeeze(value.shape), axes))
        kernel.axes = axes
        self.place_root(Root(node, value, target, fold=True), reads, kernel)
        self.places[node] = target

    def open(self, kernel: Kernel) -> Kernel:
        """Add a kernel at the end."""
        kernel.position = len(self.steps)
        self.steps.append(kernel)
        return kernel

    def join(
        self,
        value: Node,
        axes: tuple[int, ...] | None,
        reads: list[Read],
        reduction: str = "",
    ) -> Kernel | None:
        """The latest kernel that a root with these reads may join; None to open a new one."""
        domain = squeeze(value.shape)
        ops = self.ops_of.get(value, 1)
        earliest = max((self.step_of[x] for x, _ in reads), default=0)
        earliest = max(earliest, self.first_step.get(value, 0))
        for step in reversed(self.steps[max(earliest, len(self.steps) - LOOK_BACK, 0) :]):
            if not isinstance(step, Kernel) or step.serial or len(step.roots) >= MAX_ROOTS:
                continue
            if step.ops + ops > MAX_OPS:
                continue
            if fits(step, domain, axes, reads, reduction, self.step_of):
                return step
        return None


def suits_gemm(view: View) -> bool:
    """Whether BLAS can read the last two axes: one of them has stride 1, the other steps over whole
    rows.
    """
    rows, columns = view.shape[-2:]
    row_stride, column_stride = view.strides[-2:]
    if 0 in view.shape:
        return True
    plain = columns == 1 or column_stride == 1
    turned = rows == 1 or row_stride == 1
    return (plain and (rows == 1 or row_stride >= columns)) or (
        turned and (columns == 1 or column_stride >= rows)
    )
