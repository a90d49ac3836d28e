"""Sums that are added up in place.

The cotangent of an element that was read is an array of zeros but for that element. In the body of
a loop it costs as much as the whole array to make it and to add it, in every iteration. Here the
terms of a sum of arrays are told apart:

    scatter_add(zeros, v, i)     is added to the sum of the others by scatter_add itself
    pad(v) of a small v          likewise, by an update of a slice
    terms for the same place     are one term
    pads side by side            are a concatenation
    a sum that a loop makes,
    starting at zeros            starts at the sum of the others
    or at one of the above       likewise, and that is added to it
    what branches give           is added to it in each branch, where zeros need nothing
    what was set to zero and
    has something added there    is set to that

The order of the terms changes, and 0.0 + -0.0 may be -0.0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from tracegrad.ir.graph import Builder, Graph, Node, inline
from tracegrad.ir.loops import Loop
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import cond, item, while_loop
from tracegrad.ir.sparse import added, in_a_row, is_sparse, is_zero, place_of, uses_of, zeroed_place


def add_in_place(graph: Graph, *, inside: bool) -> Graph:
    """`graph` with sums of arrays made in place where that saves work.

    `inside`: the graph is the body of a loop or branch. Elsewhere only sums that loops and branches
    make, and pads side by side, are looked at: an array more or less costs little there.
    """
    return _Sums(graph, inside).rewritten()


def _is_array_sum(x: Node) -> bool:
    return (
        x.op.name == "add"
        and bool(x.shape)
        and x.dtype.kind != "b"
        and all(operand.type == x.type for operand in x.inputs)
    )


@dataclass(slots=True)
class _Terms:
    """The terms of one sum by how they are added."""

    dense: list[Node] = field(default_factory=list)
    loops: list[Node] = field(default_factory=list)
    branches: list[Node] = field(default_factory=list)
    sparse: list[Node] = field(default_factory=list)
    zeros: int = 0


class _Sums:
    def __init__(self, graph: Graph, inside: bool) -> None:
        self.graph = graph
        self.inside = inside
        self.uses = uses_of(graph)
        self.number = {x: i for i, x in enumerate(graph.nodes)}
        # What stands in place of a node.
        self.instead: dict[Node, Node] = {}
        self.scratch = Builder(graph.name)

    def rewritten(self) -> Graph:
        absorbed: set[Node] = set()
        # From the last to the first: a sum comes before those that are terms of it.
        with self.scratch:
            for node in reversed(self.graph.nodes):
                if _is_array_sum(node) and node not in absorbed:
                    leaves = self._leaves(node, absorbed)
                    self._plan(node, leaves)
        return self._emitted() if self.instead else self.graph

    def _leaves(self, root: Node, absorbed: set[Node]) -> list[Node]:
        leaves = []
        work = [root]
        while work:
            node = work.pop()
            if node is root or (_is_array_sum(node) and self.uses[node] == 1):
                absorbed.add(node)
                work.extend(reversed(node.inputs))
            else:
                leaves.append(node)
        return leaves

    def _sorted(self, leaves: Sequence[Node]) -> _Terms:
        terms = _Terms()
        for x in leaves:
            if is_zero(x):
                terms.zeros += 1
            elif self.uses[x] > 1:
                terms.dense.append(x)
            elif self.inside and is_sparse(x, self.uses):
                terms.sparse.append(x)
            elif self._is_sum_of_loop(x):
                terms.loops.append(x)
            elif _is_sparse_in_branches(x):
                terms.branches.append(x)
            else:
                terms.dense.append(x)
        return terms

    def _together(self, leaves: list[Node]) -> list[Node]:
        """The terms, with those for the same place as one."""
        if not self.inside:
            return leaves
        first: dict[Hashable, int] = {}
        joined: list[Node] = []
        for x in leaves:
            place = place_of(x) if self.uses[x] == 1 else None
            if place is None or place not in first:
                if place is not None:
                    first[place] = len(joined)
                joined.append(x)
                continue
            other = joined[first[place]]
            inputs = list(x.inputs)
            i = 0 if x.op.name == "pad" else 1
            inputs[i] = other.inputs[i] + x.inputs[i]
            made = self.scratch.append(x.op, inputs, x.params, x.loc)
            self.uses[made] = 1
            joined[first[place]] = made
        return joined if len(joined) < len(leaves) else leaves

    def _side_by_side(self, leaves: list[Node]) -> list[Node]:
        """The terms, with pads that fill all of the sum between them as one."""
        pads = [x for x in leaves if x.op.name == "pad" and self.uses[x] == 1]
        if len(pads) < 2:
            return leaves
        parts = in_a_row(pads)
        if parts is None:
            return leaves
        axis, ordered = parts
        values = [x.inputs[0] for x in ordered]
        joined = OPS["concatenate"](*values, axis=axis)
        self.uses[joined] = 1
        return [joined, *(x for x in leaves if x not in pads)]

    def _is_sum_of_loop(self, x: Node) -> bool:
        """Whether `x` is what a loop has added to zeros, or to what is zero but in a few places."""
        if x.op is not item or x.inputs[0].op is not while_loop:
            return False
        loop = Loop.of(x.inputs[0])
        i = x.params["index"] - 1
        if not 0 <= i < len(loop.carry):
            return False
        start = loop.carry[i]
        near_zero = is_zero(start) or (self.inside and is_sparse(start, self.uses))
        return near_zero and _only_adds(loop, i)

    def _filled(self, leaves: list[Node]) -> list[Node]:
        """The terms, those that are zero somewhere with the terms that are for that place."""
        if not self.inside:
            return leaves
        places = {place: x for x in leaves if self.uses[x] == 1 and (place := place_of(x))}
        for x in list(leaves):
            other = places.get(zeroed_place(x)) if self.uses[x] == 1 else None
            if other is not None and other in leaves:
                value = other.inputs[0 if other.op.name == "pad" else 1]
                filled = self.scratch.append(
                    x.op, (x.inputs[0], value, *x.inputs[2:]), x.params, x.loc
                )
                leaves = [filled if leaf is x else leaf for leaf in leaves if leaf is not other]
                self.uses[filled] = 1
        return leaves

    def _plan(self, root: Node, all_leaves: list[Node]) -> None:
        leaves = self._filled(self._side_by_side(self._together(all_leaves)))
        terms = self._sorted(leaves)
        special = len(terms.loops) + len(terms.branches) + len(terms.sparse)
        if not special and not terms.zeros and leaves is all_leaves:
            return
        # What everything else is added to.
        for kind in (terms.dense, terms.loops, terms.branches, terms.sparse):
            if kind:
                total = kind.pop(0)
                break
        else:
            total = leaves[0]
        for x in terms.dense:
            total = OPS["add"](total, x)
        rest = []
        for x in sorted((*terms.loops, *terms.branches), key=self.number.__getitem__):
            if self._depends(total, x.inputs[0]):
                rest.append(x)
            else:
                total = self._through(x, total)
        for x in terms.sparse:
            total = added(total, x)
        for x in rest:
            total = OPS["add"](total, x)
        self.instead[root] = total

    def _now(self, node: Node) -> Node:
        while node in self.instead:
            node = self.instead[node]
        return node

    def _depends(self, x: Node, on: Node) -> bool:
        target = self._now(on)
        seen: set[Node] = set()
        work = [x]
        while work:
            node = self._now(work.pop())
            if node is target:
                return True
            if node not in seen:
                seen.add(node)
                work.extend(node.inputs)
        return False

    def _through(self, x: Node, total: Node) -> Node:
        """`total` plus the result `x` of a loop or of branches, which add to it themselves."""
        source = self._now(x.inputs[0])
        index = x.params["index"]
        if source.op is while_loop:
            inputs = list(source.inputs)
            start = inputs[1 + index]
            inputs[1 + index] = total if is_zero(start) else added(total, start)
            made = self.scratch.append(source.op, inputs, source.params, source.loc)
        else:
            branches = tuple(_adding(branch, index) for branch in source.params["branches"])
            made = self.scratch.append(
                cond, (*source.inputs, total), {"branches": branches}, source.loc
            )
        self.instead[source] = made
        return item(made, index=index)

    def _emitted(self) -> Graph:
        graph = self.graph
        with Builder(graph.name) as builder:
            builder.inputs.extend(graph.inputs)
            new: dict[Node, Node] = {x: x for x in graph.inputs}
            for root in (*graph.nodes, *graph.outputs):
                # A node that another one stands for comes where that one can be computed.
                work = [root]
                while work:
                    node = self._now(work[-1])
                    missing = [x for x in map(self._now, node.inputs) if x not in new]
                    if node in new or not missing:
                        work.pop()
                        if node not in new:
                            inputs = [new[self._now(x)] for x in node.inputs]
                            same = all(x is y for x, y in zip(inputs, node.inputs, strict=True))
                            new[node] = builder.keep(node) if same else builder.adopt(node, inputs)
                    else:
                        work.extend(missing)
            return builder.finish([new[self._now(x)] for x in graph.outputs], graph.origin)


def _adding(branch: Graph, index: int) -> Graph:
    """The branch with one operand more, to which its result `index` is added."""
    with Builder(branch.name) as builder:
        inputs = [builder.input(x.type, x.params["name"], x.loc) for x in branch.inputs]
        total = builder.input(branch.outputs[index].type, "sum")
        outputs = list(inline(builder, branch, inputs))
        outputs[index] = total if is_zero(outputs[index]) else total + outputs[index]
        return builder.finish(outputs, branch.origin)


def _is_sparse_in_branches(x: Node) -> bool:
    if x.op is not item or x.inputs[0].op is not cond:
        return False
    for branch in x.inputs[0].params["branches"]:
        result = branch.outputs[x.params["index"]]
        if is_zero(result) or is_sparse(result, uses_of(branch)):
            return True
    return False


def _only_adds(loop: Loop, i: int) -> bool:
    """Whether all that the body does with a carry is to add to it."""
    return _adds_to(loop.body, loop.inner.carry[i], loop.made.carry[i])


def _adds_to(graph: Graph, start: Node, x: Node) -> bool:
    """Whether `x` is `start` with something added, and `start` is not read for anything else."""
    uses = uses_of(graph)
    depends = {start}
    for node in graph.nodes:
        if any(operand in depends for operand in node.inputs):
            depends.add(node)
    while x is not start:
        if uses[x] != 1:
            return False
        before = _before(x, depends)
        if before is None:
            return False
        # The update of a slice reads twice what it adds to.
        if x.op.name == "update_slice":
            if uses[before] != 2:
                return False
            uses[before] = 1
        x = before
    return uses[start] == 1


def _before(x: Node, depends: set[Node]) -> Node | None:
    """What `x` adds something to that depends on the same; None if that is not all that it does."""
    name = x.op.name
    on = [operand for operand in x.inputs if operand in depends]
    if name == "add" and len(on) == 1 and on[0].type == x.type:
        return on[0]
    if name == "scatter_add" and on == [x.inputs[0]]:
        return x.inputs[0]
    if name == "update_slice":
        base, value = x.inputs
        if value.op.name == "add":
            part = value.inputs[0]
            if part.op.name == "slice" and part.inputs[0] is base and part.params == x.params:
                other: Node = value.inputs[1]
                return base if other not in depends else None
    if x.op is item and on:
        return _before_control(x.inputs[0], x.params["index"], depends)
    return None


def _before_control(node: Node, index: int, depends: set[Node]) -> Node | None:
    """The one operand that depends on the same, if result `index` is that with something added."""
    places = [i for i, operand in enumerate(node.inputs) if operand in depends]
    if len(places) != 1:
        return None
    (place,) = places
    if node.op is while_loop:
        loop = Loop.of(node)
        adds = place == 1 + index < 2 + len(loop.carry) and _only_adds(loop, index - 1)
    else:
        adds = all(
            _adds_to(branch, branch.inputs[place - 1], branch.outputs[index])
            for branch in node.params["branches"]
        )
    return node.inputs[place] if adds else None
