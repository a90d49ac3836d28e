"""From a scheduled kernel to instructions: what is loaded, computed, folded and stored, pass by
pass.

A kernel that reduces has *row level* (once for each row) and *inner level* (for each element); the
inner level is walked in passes, since a value that needs a finished reduction has to wait for the
next walk over the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from tracegrad.codegen.affine import (
    VIEWS,
    Affine,
    Index,
    View,
    align,
    dot,
    identity,
    row_major,
    squeeze,
    through,
)
from tracegrad.codegen.formula import REGISTER, expression
from tracegrad.codegen.instructions import (
    PRELUDE,
    Address,
    Block,
    Fold,
    Let,
    Lowered,
    Store,
)
from tracegrad.codegen.lending import Repeat, lenders
from tracegrad.codegen.loop_order import prefers_columns
from tracegrad.codegen.placement import COSTLY, view_of
from tracegrad.codegen.steps import Kernel, Root
from tracegrad.ir.graph import Node, scalar_value
from tracegrad.ir.intervals import Interval, stays_within
from tracegrad.ir.types import DType, int64


def lower(
    kernel: Kernel,
    places: dict[Node, View],
    known: Mapping[Node, Interval],
    prefix: str = "",
    apart: Set[Node] = frozenset(),
    inline: bool = False,
    columns: bool = True,
) -> Lowered:
    """The instructions of `kernel`; `places` tells where the values in memory are.

    `known`: intervals of integers. `prefix` begins every name, where several kernels share a
    function, and `inline` says that it is part of one. `apart`: sums that no product is fused into.
    `columns`: sums may grow in memory.
    """
    column = kernel.is_column and not any(root.needs_register for root in kernel.roots)
    column = column and columns
    first = _Lowering(kernel, places, known, prefix, apart, column, {})
    lowered = first.run()
    lent = lenders(lowered, first.repeated, first.stage_of_root)
    if not inline and columns:
        column = prefers_columns(lowered)
    if lent or column != lowered.column:
        lowered = _Lowering(kernel, places, known, prefix, apart, column, lent).run()
    return lowered


class _Lowering:
    def __init__(
        self,
        kernel: Kernel,
        places: dict[Node, View],
        known: Mapping[Node, Interval],
        prefix: str,
        apart: Set[Node],
        column: bool,
        lent: Mapping[Node, View],
    ) -> None:
        self.column = column
        self.lent = lent
        self.repeated: list[Repeat] = []
        self.position = 0
        self.intervals = known
        self.apart = apart
        self.prefix = prefix
        self.kernel = kernel
        self.places = places
        self.rank = len(kernel.domain)
        self.made: dict[Node, Root] = {}
        self.stage_of_root: dict[Node, int] = {}
        self.stages: dict[tuple[Node, Index], int] = {}
        self.passes: list[Block] = []
        self.rows: list[Block] = [Block()]
        self.constants: dict[Any, tuple[str, Any, DType]] = {}
        self.count = 0
        self.costly = 0

    def run(self) -> Lowered:
        for position, root in enumerate(self.kernel.roots):
            self.position = position
            self.lower_root(root)
        while len(self.rows) <= len(self.passes):
            self.rows.append(Block())
        return Lowered(
            self.kernel,
            self.passes,
            self.rows,
            list(self.constants.values()),
            self.column,
            [self.row_address(root) for root in self.kernel.roots if root.fold],
            self.costly,
        )

    def lower_root(self, root: Root) -> None:
        kernel = self.kernel
        value = root.value
        inner = squeeze(value.shape) == kernel.domain
        index = identity(value.shape)
        if not inner:
            index = tuple(self.spread(entry) for entry in index)
        if root.origin is not None and value not in self.made:
            block = self.pass_block(0) if inner else self.row_block(PRELUDE)
            self.stage_of_root[root.node] = 0 if inner else PRELUDE
            name = self.load(block, root.origin, index, (value, index))
            self.finish(root, block, name, index)
        else:
            stage = self.stage(value, index, root)
            if inner:
                block = self.pass_block(stage + 1)
                self.stage_of_root[root.node] = stage + 1
            else:
                block = self.row_block(stage)
                self.stage_of_root[root.node] = stage
            name = self.emit(value, index, block, root)
            self.finish(root, block, name, index)
        if root.fold or (root.value is root.node and root.origin is None):
            self.made[root.node] = root

    def spread(self, entry: Affine) -> Affine:
        """A function of the row's own loops as a function of all loops of the kernel."""
        coefs = [0] * self.rank
        for loop, coef in zip(self.kernel.kept, entry.coefs, strict=True):
            coefs[loop] = coef
        return Affine(entry.const, tuple(coefs))

    def finish(self, root: Root, block: Block, name: str, index: Index) -> None:
        """Store or fold the value of a root."""
        if root.fold:
            shape = root.value.shape
            axes = root.node.params["axes"]
            strides = row_major(tuple(shape[i] for i in axes))
            linear = dot(tuple(index[i] for i in axes), strides, self.rank)
            target = self.row_address(root) if self.is_stored(root) else None
            accumulator = f"{self.prefix}r{len(self.stage_of_root)}"
            block.code.append(Fold(accumulator, name, root.node, linear, target))
            self.row_block(self.stage_of_root[root.node]).known[root.node] = accumulator
            if target is not None and not self.column:
                row = self.row_block(self.stage_of_root[root.node])
                row.code.append(Store(target, accumulator))
        elif self.is_stored(root):
            gathered: list[tuple[str, int, int | None]] = []
            target_view = root.target
            if root.indices:
                lead = len(target_view.shape) - (len(root.value.shape) - self.lead(root))
                axes = zip(root.indices, target_view.strides, target_view.shape, strict=False)
                for x, stride, size in axes:
                    at = align(
                        index[: self.lead(root)], root.value.shape[: self.lead(root)], x.shape
                    )
                    name_of = self.emit(x, at, block, root)
                    gathered.append((name_of, stride, self.clamped(x, size)))
                rest = index[self.lead(root) :]
                offset = dot(rest, target_view.strides[lead:], self.rank, target_view.offset)
            else:
                offset = dot(index, target_view.strides, self.rank, target_view.offset)
            address = Address(target_view.buffer, offset, tuple(gathered))
            block.code.append(Store(address, name, root.accumulate))
        elif root.node in self.lent:
            view = self.lent[root.node]
            address = Address(view.buffer, dot(index, view.strides, self.rank, view.offset))
            block.code.append(Store(address, name))

    @staticmethod
    def lead(root: Root) -> int:
        """How many leading axes of a scattered value are the broadcast shape of its indices."""
        return max((x.ndim for x in root.indices), default=0)

    def is_stored(self, root: Root) -> bool:
        """Whether a root's value is put into its memory; sums of columns grow there."""
        return not root.private or self.column

    def row_address(self, root: Root) -> Address:
        """Where a reduction's result goes."""
        node = root.node
        index = tuple(self.spread(entry) for entry in identity(node.shape))
        return Address(
            root.target.buffer, dot(index, root.target.strides, self.rank, root.target.offset)
        )

    def pass_block(self, number: int) -> Block:
        while len(self.passes) <= number:
            self.passes.append(Block())
        return self.passes[number]

    def row_block(self, stage: int) -> Block:
        while len(self.rows) <= stage + 1:
            self.rows.append(Block())
        return self.rows[stage + 1]

    # ------------------------------------------------------------------ stages

    def is_row_level(self, root: Root) -> bool:
        return root.fold or squeeze(root.value.shape) != self.kernel.domain

    def stage(self, node: Node, index: Index, root: Root) -> int:
        """The last pass that must be over before this value can be computed; PRELUDE if none."""
        made = self.made.get(node)
        if made is not None and self.is_row_level(made):
            return self.stage_of_root[node]
        if node in self.places and made is None and node is not root.node:
            return PRELUDE
        key = (node, index)
        found = self.stages.get(key)
        if found is None:
            operands = self.operands(node, index)
            found = max((self.stage(x, at, root) for x, at in operands), default=PRELUDE)
            self.stages[key] = found
        return found

    def operands(self, node: Node, index: Index) -> list[tuple[Node, Index]]:
        """The inputs that are computed to compute `node`, with their indices."""
        if node.op.name in VIEWS:
            pulled = through(node, index, self.kernel.domain)
            return [] if pulled is None else [(node.inputs[0], pulled)]
        if node.op.name == "gather":
            lead = node.ndim - (node.inputs[0].ndim - len(node.inputs) + 1)
            return [(x, align(index[:lead], node.shape[:lead], x.shape)) for x in node.inputs[1:]]
        return [(x, align(index, node.shape, x.shape)) for x in node.inputs]

    # ------------------------------------------------------------------ values

    def fresh(self) -> str:
        self.count += 1
        return f"{self.prefix}v{self.count}"

    def let(
        self, block: Block, key: Any, text: str, operands: Sequence[str], costly: bool = False
    ) -> str:
        name = self.fresh()
        block.code.append(Let(name, text))
        block.known[key] = name
        block.chains[name] = max((block.chains.get(x, 0) for x in operands), default=0) + costly
        return name

    def find(self, block: Block, key: Any) -> str | None:
        """The name of a value already computed where `block` can see it."""
        if key in block.known:
            return block.known[key]
        limit = self.passes.index(block) if block in self.passes else self.rows.index(block) - 1
        visible = self.rows[: limit + 1] if block in self.passes else self.rows[: limit + 2]
        return next((row.known[key] for row in visible if key in row.known), None)

    def emit(self, node: Node, index: Index, block: Block, root: Root | None = None) -> str:
        """The name of `node` at `index`, computed in `block` if it is not yet known there."""
        made = self.made.get(node)
        if made is not None and made.fold:
            known = self.find(block, node)
            assert known is not None, f"{node} is read before its pass is over"
            return known
        key = (node, index)
        known = self.find(block, key)
        if known is not None:
            return known
        if node in self.places and made is None and (root is None or node is not root.node):
            return self.load(block, self.places[node], index, key)
        if made is not None and self.is_other_block(made, block):
            if self.is_stored(made):
                return self.load(block, self.places[node], index, key)
            if node in self.lent:
                return self.load(block, self.lent[node], index, key)
            self.repeated.append(Repeat(made, self.passes.index(block), self.position))
        return self.compute(node, index, block, root)

    def is_other_block(self, made: Root, block: Block) -> bool:
        """Whether a value stored by this kernel was stored in an earlier pass."""
        stage = self.stage_of_root[made.node]
        return not self.is_row_level(made) and block is not self.pass_block(stage)

    def load(self, block: Block, view: View, index: Index, key: Any) -> str:
        offset = dot(index, view.strides, self.rank, view.offset)
        at = ("load", view.buffer, offset)
        known = self.find(block, at)
        if known is None:
            known = self.fresh()
            block.code.append(Let(known, address=Address(view.buffer, offset)))
            block.known[at] = known
        block.known[key] = known
        return known

    def compute(self, node: Node, index: Index, block: Block, root: Root | None) -> str:
        key = (node, index)
        name = node.op.name
        costly = name in COSTLY
        self.costly += costly and block in self.passes
        if name == "constant":
            known = self.constant(node)
        elif name in VIEWS:
            known = self.view(node, index, block, root)
        elif name == "gather":
            known = self.gather(node, index, block, root)
        elif name == "iota":
            known = self.iota(node, index, block)
        elif name in ("uniform", "normal", "random_bits"):
            arguments = [self.emit(x, (), block, root) for x in node.inputs]
            linear = dot(index, row_major(node.shape), self.rank)
            counter = self.index(block, linear)
            register = REGISTER[node.dtype.name]
            text = (
                f"{register}(philox_{name}_{node.dtype.short}({', '.join(arguments)}, {counter}))"
            )
            return self.let(block, key, text, arguments, costly)
        elif name == "cast":
            argument = self.emit(node.inputs[0], index, block, root)
            text = conversion(argument, node.inputs[0].dtype, node.dtype)
            return self.let(block, key, text, [argument])
        else:
            arguments = [
                self.emit(x, align(index, node.shape, x.shape), block, root) for x in node.inputs
            ]
            dtype = node.inputs[-1].dtype
            text = f"{name}_apart({{}}, {{}})"
            if node not in self.apart:
                text = expression(node.op.scalar, len(arguments), dtype, node.dtype)
            return self.let(block, key, text.format(*arguments), arguments, costly)
        block.known[key] = known
        return known

    def view(self, node: Node, index: Index, block: Block, root: Root | None) -> str:
        source = node.inputs[0]
        pulled = through(node, index, self.kernel.domain)
        if pulled is not None:
            return self.emit(source, pulled, block, root)
        place = self.places[source]
        flat = dot(index, row_major(node.shape), self.rank, place.offset)
        address = Address(place.buffer, flat)
        name = self.fresh()
        block.code.append(Let(name, address=address))
        return name

    def gather(self, node: Node, index: Index, block: Block, root: Root | None) -> str:
        source = node.inputs[0]
        indices = node.inputs[1:]
        rest = source.ndim - len(indices)
        lead = node.ndim - rest
        view = view_of(source, self.places)
        assert view is not None
        gathered: list[tuple[str, int, int | None]] = []
        for x, stride, size in zip(indices, view.strides, view.shape, strict=False):
            at = align(index[:lead], node.shape[:lead], x.shape)
            gathered.append((self.emit(x, at, block, root), stride, self.clamped(x, size)))
        offset = dot(index[lead:], view.strides[len(indices) :], self.rank, view.offset)
        name = self.fresh()
        block.code.append(Let(name, address=Address(view.buffer, offset, tuple(gathered))))
        return name

    def clamped(self, index: Node, size: int) -> int | None:
        """The size that an index has to be clamped to; None if it needs not."""
        return None if stays_within(index, size, self.intervals) else size

    def iota(self, node: Node, index: Index, block: Block) -> str:
        counter = self.index(block, index[node.params["axis"]])
        return conversion(counter, int64, node.dtype)

    def index(self, block: Block, position: Affine) -> str:
        key = ("index", position)
        known = block.known.get(key)
        if known is None:
            known = self.fresh()
            block.code.append(Let(known, index=position))
            block.known[key] = known
        return known

    def constant(self, node: Node) -> str:
        value = scalar_value(node)
        key = (node.params["value"], node.dtype)
        if key not in self.constants:
            self.constants[key] = (f"{self.prefix}c{len(self.constants)}", value, node.dtype)
        return self.constants[key][0]


def conversion(name: str, source: DType, target: DType) -> str:
    """The text that converts a register from one dtype to another."""
    if source is target:
        return name
    # The register of float16 is wider: at a cast, its value has to be what float16 can hold.
    if target.name == "float16":
        return f"f16({name})"
    if source.name == "float16":
        name = f"f16({name})"
    if target.kind == "b":
        return f"({name} != {REGISTER[source.name]}(0))"
    if source.kind == "f" and target.kind in "iu":
        # Through int64, so that a negative value wraps in an unsigned type as in NumPy.
        return f"{REGISTER[target.name]}(i64({name}))"
    return f"{REGISTER[target.name]}({name})"
