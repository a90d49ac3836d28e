"""Which values get memory.

A *root* is a value that is written to memory: an output, a reduction, an operand of a library call,
or a costly value with several readers. Every other elementwise value is computed inside the kernels
that need it, and views are index arithmetic.
"""

from __future__ import annotations

from tracegrad.codegen.affine import (
    VIEWS,
    Affine,
    Index,
    Shape,
    View,
    dot,
    identity,
    row_major,
    squeeze,
    through,
)
from tracegrad.ir.graph import Graph, Node

# A fused expression never grows beyond this many ops: past it, LLVM's time grows faster than the
# gain.
MAX_EXPRESSION = 200

# An expression of more ops than this is not computed once for each of its readers.
MAX_REPEATED = 8
# How many arrays are counted that an expression reads.
_MAX_ARRAYS = 6

COSTLY = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "atan2",
        "erf",
        "erfc",
        "sigmoid",
        "softplus",
        "pow",
        "uniform",
        "normal",
        "random_bits",
        "hypot",
    ]
)
GENERATORS = frozenset({"iota", "uniform", "normal", "random_bits"})
FILLED = frozenset({"concatenate", "pad", "update_slice", "scatter", "scatter_add"})
"""Ops whose buffer is written by several stores, one after the other."""

CALLS = frozenset({"matmul", "cumsum", "cumprod", "sort", "argsort", "nonzero"})
"""Ops that have a template of their own, and want their operands in memory."""


CONTROL = frozenset({"while_loop", "cond", "depth"})
"""Ops that are native control flow, and want their operands in memory or in registers."""


class NotAffineError(Exception):
    """A reshape whose source, `node`, has to be in memory."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.node = node


def choose_roots(
    graph: Graph, places: dict[Node, View], placed: set[Node], *, inside: bool = False
) -> tuple[set[Node], list[Node]]:
    """The roots of `graph`, and the strided inputs that have to be copied first.

    `places` tells where the inputs are; `placed` are values that must get memory besides. `inside`
    of control flow, where a value of no dimensions costs only a register, it is computed once.
    """
    choice = _Choice(graph, places, placed, inside)
    roots = choice.choose_roots()
    return roots, [x for x in choice.copied if not places[x].is_contiguous()]


class _Choice:
    def __init__(
        self, graph: Graph, places: dict[Node, View], placed: set[Node], inside: bool
    ) -> None:
        self.inside = inside
        self.graph = graph
        self.places = places
        self.placed = placed
        self.copied = dict.fromkeys(x for x in graph.inputs if x in placed)

    def choose_roots(self) -> set[Node]:
        """The nodes that are written to memory."""
        readers: dict[Node, int] = {}
        weight: dict[Node, int] = {}
        costly: set[Node] = set()
        arrays: dict[Node, frozenset[Node]] = {}
        roots = {x for x in self.graph.outputs if x.op.name not in ("input", "constant")}
        for node in self.graph.nodes:
            for x in dict.fromkeys(operands_of(node)):
                readers[x] = readers.get(x, 0) + 1
                if self.inside and is_scalar_operand(x, node):
                    roots.add(x)
        for node in self.graph.nodes:
            name = node.op.name
            family = node.op.family
            fused = family in ("elementwise", "source") or name in VIEWS or name in GENERATORS
            if name == "gather":
                fused = True
                self.place_source(node.inputs[0], roots)
            if name in CALLS or name in CONTROL:
                for x in node.inputs:
                    self.place_source(x, roots)
            # A root is written element by element in the order of its source.
            if name == "reshape" and node not in roots and self.needs_memory(node):
                self.place(node.inputs[0], roots)
            taken = name == "gather" and self.inside and not node.shape
            if not fused or taken or node in roots:
                roots.add(node)
                weight[node] = 0
                continue
            below = [x for x in operands_of(node) if x not in roots]
            weight[node] = (name != "constant") + sum(weight.get(x, 0) for x in below)
            if name in COSTLY or any(x in costly for x in below):
                costly.add(node)
            arrays[node] = _arrays_read(node, roots, arrays)
            several = readers.get(node, 0) > 1 and family == "elementwise"
            if (
                node in self.placed
                or weight[node] > MAX_EXPRESSION
                or (several and (node in costly or weight[node] > MAX_REPEATED))
                or (several and _saves_traffic(readers[node], len(arrays[node])))
            ):
                roots.add(node)
                costly.discard(node)
                weight[node] = 0
        return roots

    def needs_memory(self, node: Node) -> bool:
        """Whether the source of this reshape is no affine function of its result's index."""
        source = node.inputs[0]
        view = self.places.get(source)
        if source in self.copied or (view is not None and view.is_contiguous()):
            return False
        return through(node, identity(node.shape), squeeze(node.shape)) is None

    def place_source(self, node: Node, roots: set[Node]) -> None:
        """Make sure that `node` is memory seen through views that strides can express."""
        while node.op.name in VIEWS and node not in roots:
            needs_memory = node.op.name == "reshape" and self.needs_memory(node)
            node = node.inputs[0]
            if needs_memory:
                self.place(node, roots)
                return
        if node.op.name not in ("input", "constant"):
            roots.add(node)

    def place(self, node: Node, roots: set[Node]) -> None:
        """Give `node` C-contiguous memory of its own."""
        if node.op.name == "input":
            self.copied[node] = None
        elif node.op.name != "constant":
            roots.add(node)


def operands_of(node: Node) -> tuple[Node, ...]:
    """What a value is computed from, without what it only waits for."""
    return node.inputs[:1] if node.op.name == "after" else node.inputs


def _arrays_read(
    node: Node, roots: set[Node], arrays: dict[Node, frozenset[Node]]
) -> frozenset[Node]:
    """The arrays of the node's own size that its expression reads from memory, or some of them."""
    found: set[Node] = set()
    for x in operands_of(node):
        if len(found) >= _MAX_ARRAYS:
            break
        if x.type.size == node.type.size and x.shape:
            found |= {x} if x in roots or x.op.name == "input" else arrays.get(x, frozenset())
    return frozenset(found)


def _saves_traffic(readers: int, arrays: int) -> bool:
    """Whether it moves no more memory to write a value, and read it again, than to compute it anew
    for each reader from the arrays that it is made of.

    Sums that grow from layer to layer, as the gradient along residual connections does, would
    otherwise be added up from their beginning in each layer, by a kernel of its own each.
    """
    return readers * arrays >= arrays + 1 + readers


def is_scalar_operand(x: Node, user: Node) -> bool:
    """Whether an array is computed from `x`, which has no dimensions: it is then computed first,
    and not for each element.
    """
    return not x.shape and bool(user.shape) and x.op.family in ("elementwise", "indexing")


def view_of(node: Node, places: dict[Node, View]) -> View | None:
    """`node` as a strided window into memory, or None when it is not one."""
    loops = squeeze(node.shape)
    index: Index | None = identity(node.shape)
    current = node
    while index is not None:
        place = places.get(current)
        if place is not None:
            return _strided(place, node.shape, dot(index, place.strides, len(loops), place.offset))
        if current.op.name not in VIEWS:
            return None
        place = places.get(current.inputs[0])
        if current.op.name == "reshape" and place is not None and place.is_contiguous():
            flat = dot(index, row_major(current.shape), len(loops), place.offset)
            return _strided(place, node.shape, flat)
        index = through(current, index, loops)
        current = current.inputs[0]
    return None


def _strided(place: View, shape: Shape, offset: Affine) -> View:
    coefs = iter(offset.coefs)
    strides = tuple(0 if size == 1 else next(coefs) for size in shape)
    return View(place.buffer, offset.const, strides, shape)
