"""What one step of a schedule does, for people: what it fuses, and the memory that it moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tracegrad.codegen.affine import VIEWS
from tracegrad.codegen.instructions import Address, Fold, Let, Lowered, Store
from tracegrad.codegen.lowering import lower
from tracegrad.codegen.steps import Buffer, Call, Kernel, Region, Root, Schedule, Step
from tracegrad.codegen.text import Launch
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.ops.control import graphs_of

# More names than this are counted only.
_LISTED = 10
# What is index arithmetic, or no computation.
_SILENT = VIEWS | {"constant", "item", "input"}


@dataclass(frozen=True)
class Explanation:
    """What a step does.

    ops            The ops that it computes, in the order of the graph.
    over           The sizes of its loops, or of the operands of a library call.
    read_bytes     What it reads of arrays in memory, each element once.
    written_bytes  What it writes.
    passes         How often it walks over what it reduces, a row after the other.

    Of control flow, the bytes are those of its arrays, once, however often it runs.
    """

    ops: tuple[str, ...]
    over: str
    read_bytes: int
    written_bytes: int
    passes: int = 1

    @property
    def text(self) -> str:
        """One line: the ops, then the sizes."""
        names = list(self.ops[:_LISTED]) or ["copy"]
        if len(self.ops) > _LISTED:
            names.append(f"and {len(self.ops) - _LISTED} more")
        return f"{' '.join(names)} {self.over}"


def explain(step: Step, planned: Schedule, launch: Launch) -> Explanation:
    """What a step of a whole program does."""
    if isinstance(step, Kernel):
        return _of_kernel(step, planned)
    if isinstance(step, Call):
        shapes = ", ".join(str(list(view.shape)) for view in step.operands)
        read = {view.buffer: math.prod(view.shape) for view in step.operands}
        written = {step.target.buffer: math.prod(step.target.shape)}
        if step.accumulate:
            read |= written
        ops = (step.node.op.name, "add") if step.accumulate else (step.node.op.name,)
        return Explanation(ops, f"of {shapes}", _bytes(read), _bytes(written))
    assert isinstance(step, Region)
    inside = tuple(_names(step.step.node))
    buffers = [x if kind == "buffer" else x.buffer for kind, x in launch.words if kind in _PLACES]
    known = dict.fromkeys(x for x in buffers if x.kind in _ARRAYS)
    read = {x: x.size for x in known if x.kind != "output"}
    written = {x: x.size for x in known if x.kind in ("output", "temporary")}
    return Explanation(inside, "as native control flow", _bytes(read), _bytes(written))


_PLACES = frozenset({"buffer", "view"})
_ARRAYS = frozenset({"input", "constant", "temporary", "output"})


def _bytes(elements: dict[Buffer, int]) -> int:
    """The bytes of so many elements of each buffer."""
    return sum(min(n, x.size) * x.dtype.itemsize for x, n in elements.items())


# ------------------------------------------------------------------------------------- kernels


def _of_kernel(kernel: Kernel, planned: Schedule) -> Explanation:
    lowered = lower(kernel, planned.places, planned.known)
    read: dict[Buffer, int] = {}
    written: dict[Buffer, int] = {}
    for address, stores in _addresses(lowered):
        # A loop that does not move the address sees the same elements again.
        steps = zip(kernel.domain, address.offset.coefs, strict=True)
        moving = math.prod(size for size, coef in steps if coef)
        elements = math.prod(kernel.domain) if address.gathered else moving
        side = written if stores else read
        side[address.buffer] = side.get(address.buffer, 0) + elements
    over = "over " + ("x".join(map(str, kernel.domain)) or "1")
    if kernel.axes:
        over += f", reducing {'x'.join(str(kernel.domain[i]) for i in kernel.axes)}"
    passes = max(sum(bool(block.code) for block in lowered.passes), 1)
    if passes > 1:
        over += f" in {passes} passes"
    ops = _fused(kernel.roots, planned)
    return Explanation(ops, over, _bytes(read), _bytes(written), passes)


def _addresses(lowered: Lowered) -> Iterator[tuple[Address, bool]]:
    """Where a kernel reads and writes, each place once."""
    seen: dict[tuple[Address, bool], None] = {}
    for block in (*lowered.passes, *lowered.rows):
        for x in block.code:
            if isinstance(x, Let) and x.address is not None:
                seen[x.address, False] = None
            elif isinstance(x, Store | Fold) and x.address is not None:
                seen[x.address, True] = None
    # What a kernel has just written itself is in a register or in cache.
    made = {address.buffer for address, stores in seen if stores}
    return iter([(a, s) for a, s in seen if s or a.buffer not in made])


def _fused(roots: Sequence[Root], planned: Schedule) -> tuple[str, ...]:
    """The ops that these roots compute."""
    own = {root.node for root in roots}
    # A copy computes nothing.
    computing = [root for root in roots if root.origin is None]
    found = {root.node for root in computing}
    work = [x for root in computing for x in (root.value, *root.indices)]
    seen: set[Node] = set()
    while work:
        x = work.pop()
        if x not in seen:
            seen.add(x)
            work.extend(y for y in x.inputs if y in own or y not in planned.places)
    found |= seen
    order = {x: i for i, x in enumerate(planned.graph.nodes)}
    listed = sorted((x for x in found if x in order), key=order.__getitem__)
    return tuple(x.op.name for x in listed if x.op.name not in _SILENT)


# -------------------------------------------------------------------------------- control flow


def _names(node: Node) -> Iterator[str]:
    yield node.op.name
    yield from _in_graphs(graphs_of(node))


def _in_graphs(graphs: Iterable[Graph]) -> Iterator[str]:
    for graph in graphs:
        for node in graph.nodes:
            if node.op.name not in _SILENT:
                yield from _names(node)
