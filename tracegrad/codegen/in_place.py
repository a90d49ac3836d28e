"""Updates in place: which operands an op may overwrite, and an order of the nodes that lets it.

Within control flow `x.at[i].set(v)` changes one element of memory if nobody reads the old `x` after
it. So the readers of the old value go first wherever they do not need the new one.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.ops.control import is_control
from tracegrad.ir.types import TensorType

_UPDATES = frozenset({"scatter", "scatter_add", "update_slice"})


@dataclass(frozen=True)
class Updates:
    """The nodes in the order of computing; `in_place`: the operand that a node overwrites;
    `consumed`: (control flow, operand) where the operand's memory is handed over.
    """

    order: Sequence[Node]
    in_place: dict[Node, Node]
    consumed: set[tuple[Node, Node]]


def plan_updates(graph: Graph, owned: set[Node], roots: set[Node]) -> Updates:
    """What may be overwritten in `graph`: its inputs in `owned` and what is computed into memory of
    its own. A value that an update stores is made a root where it reads what is overwritten.
    """
    return _Planner(graph, owned, roots).plan()


class _Planner:
    def __init__(self, graph: Graph, owned: set[Node], roots: set[Node]) -> None:
        self.graph = graph
        self.owned = owned
        self.roots = roots
        self.users: dict[Node, list[Node]] = {}
        for node in graph.nodes:
            for x in dict.fromkeys(node.inputs):
                self.users.setdefault(x, []).append(node)
        self.kept = set(graph.outputs)
        self.before: dict[Node, set[Node]] = {}

    def plan(self) -> Updates:
        in_place: dict[Node, Node] = {}
        consumed: set[tuple[Node, Node]] = set()
        taken: set[Node] = set()
        for node in self.graph.nodes:
            if node.op.name in _UPDATES:
                base = node.inputs[0]
                # An array whose elements are stored into itself is needed as it was.
                if base in taken or base in node.inputs[1:]:
                    continue
                if self.may_overwrite(node, base):
                    self.separate(node, base)
                    in_place[node] = base
                    taken.add(base)
            elif is_control(node):
                for x in dict.fromkeys(node.inputs):
                    if x in taken or self.is_shared(node, x):
                        continue
                    if self.may_overwrite(node, x):
                        consumed.add((node, x))
                        taken.add(x)
        return Updates(self.order(), in_place, consumed)

    def is_memory(self, x: Node) -> bool:
        """Whether `x` is an array in memory that the graph may overwrite."""
        if not isinstance(x.type, TensorType) or not x.shape:
            return False
        if x in self.owned:
            return True
        return x in self.roots and x.op.name not in ("input", "constant")

    def may_overwrite(self, node: Node, base: Node) -> bool:
        """Whether all other readers of `base` can go before `node`; if so they will."""
        if base in self.kept or not self.is_memory(base):
            return False
        readers = self.readers(base) - {node}
        if not readers:
            return True
        later = self.after(node)
        if readers & later:
            return False
        self.before.setdefault(node, set()).update(readers)
        return True

    def readers(self, base: Node) -> set[Node]:
        """The steps that read the memory of `base`: roots, directly or through what is fused."""
        found: set[Node] = set()
        seen = {base}
        work = [base]
        while work:
            for user in self.users.get(work.pop(), ()):
                if user in self.roots:
                    found.add(user)
                elif user not in seen:
                    seen.add(user)
                    work.append(user)
        return found

    def after(self, node: Node) -> set[Node]:
        """What has to be computed after `node`."""
        found: set[Node] = set()
        later: dict[Node, list[Node]] = {}
        for update, readers in self.before.items():
            for reader in readers:
                later.setdefault(reader, []).append(update)
        work = [node]
        while work:
            x = work.pop()
            for user in (*self.users.get(x, ()), *later.get(x, ())):
                if user not in found:
                    found.add(user)
                    work.append(user)
        return found

    def is_shared(self, node: Node, base: Node) -> bool:
        """Whether control flow gets the memory of `base` by two operands, which would be two values
        at once: twice as it is, or through a view besides.
        """
        if node.inputs.count(base) > 1:
            return True
        views = [x for x in node.inputs if x.shape and x is not base and x not in self.roots]
        return any(self.reads(x, base) for x in views)

    def separate(self, node: Node, base: Node) -> None:
        """Compute an array that is stored into `base` before the store, if it reads `base`."""
        for x in node.inputs[1:]:
            if x.shape and x not in self.roots and self.reads(x, base):
                self.roots.add(x)

    def reads(self, node: Node, base: Node) -> bool:
        """Whether the expression of `node` reads the memory of `base`."""
        work = [node]
        seen = set(work)
        while work:
            for x in work.pop().inputs:
                if x is base:
                    return True
                if x not in self.roots and x not in seen:
                    seen.add(x)
                    work.append(x)
        return False

    def order(self) -> list[Node]:
        """The nodes, each after its operands and after the readers of what it overwrites; otherwise
        as they were.
        """
        number = {node: i for i, node in enumerate(self.graph.nodes)}
        waits: dict[Node, int] = {}
        waiting: dict[Node, list[Node]] = {}
        for node in self.graph.nodes:
            needed = {x for x in (*node.inputs, *self.before.get(node, ())) if x in number}
            waits[node] = len(needed)
            for x in needed:
                waiting.setdefault(x, []).append(node)
        ready = [number[node] for node in self.graph.nodes if waits[node] == 0]
        heapq.heapify(ready)
        listed: list[Node] = []
        while ready:
            node = self.graph.nodes[heapq.heappop(ready)]
            listed.append(node)
            for following in waiting.get(node, ()):
                waits[following] -= 1
                if waits[following] == 0:
                    heapq.heappush(ready, number[following])
        assert len(listed) == len(self.graph.nodes)
        return listed
