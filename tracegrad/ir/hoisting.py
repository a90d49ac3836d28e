"""Products of small matrices taken out of loops, as one product of large ones.

In a recurrent network each step multiplies a few rows by the same weights, and reverse mode adds up
an outer product for each. One large product does the same work several times faster:

    matmul(x, w)          of a slice and a constant: of all slices before the loop
    a row matmul(v, w)    by a constant: the loop stacks `v`, and the product comes after it
    sum + matmul(a, b)    the loop stacks `a` and `b`, and one product sums over all steps too
    sum + sum(b)          so it is with sums of what is stacked then

For loops that run a known number of times, over as many slices.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from tracegrad.ir.control_passes import rewrite_control
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.loop_reduction import Results
from tracegrad.ir.loops import Loop, LoopBuilder, Made
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.contraction import matmul
from tracegrad.ir.ops.control import item, while_loop
from tracegrad.ir.sparse import uses_of

# Products with more rows than this gain nothing, and what is stacked takes no more bytes than this.
_ROWS = 128
_BYTES = 2**27


def hoist_products(graph: Graph) -> Graph:
    """`graph` with products of matrices before and after its loops instead of in them."""

    def change(node: Node, used: Set[int]) -> Results | None:
        return _hoisted(Loop.of(node)) if node.op is while_loop else None

    return rewrite_control(graph, change)


@dataclass
class _Products:
    """What to take out of a loop: products of slices, rows, sums of products, and sums of what
    those have stacked.
    """

    before: dict[Node, tuple[Node, Node]] = field(default_factory=dict)
    rows: dict[int, tuple[Node, Node]] = field(default_factory=dict)
    sums: dict[int, tuple[Node, Node]] = field(default_factory=dict)
    totals: dict[int, Node] = field(default_factory=dict)


def _hoisted(loop: Loop) -> Results | None:
    trips = loop.trips
    if trips is None or trips < 2:
        return None
    found = _products(loop, trips)
    if not (found.before or found.rows or found.sums):
        return None
    return _rebuilt(loop, found, trips)


def _products(loop: Loop, trips: int) -> _Products:
    found = _Products()
    uses = uses_of(loop.body)
    slices = dict(zip(loop.inner.slices, loop.xs, strict=True))
    for node in loop.body.nodes:
        if _is_small_product(node, trips):
            x, w = node.inputs
            weights = _outside(loop, w)
            if x in slices and weights is not None:
                found.before[node] = slices[x], weights
    for i, row in enumerate(loop.made.rows):
        if _is_small_product(row, trips) and uses[row] == 1 and row not in found.before:
            x, w = row.inputs
            weights = _outside(loop, w)
            if weights is not None:
                found.rows[i] = x, weights
    terms = {}
    for i, (start, end) in enumerate(zip(loop.inner.carry, loop.made.carry, strict=True)):
        if end.op.name == "add" and start in end.inputs and uses[start] == uses[end] == 1:
            (term,) = (x for x in end.inputs if x is not start)
            if uses[term] == 1 and term.type == start.type:
                terms[i] = term
    for i, term in terms.items():
        factors = _factors(term)
        if factors is not None:
            a, b = factors
            # Inner sizes are the rows of a step.
            stacked = trips * (a.type.nbytes + b.type.nbytes)
            if a.shape[1] <= _ROWS and stacked <= _BYTES and a.shape[1] < min(term.shape):
                found.sums[i] = factors
    stacked_anyway = {b for _, b in found.sums.values()}
    for i, term in terms.items():
        if term.op.name == "sum" and term.inputs[0] in stacked_anyway:
            found.totals[i] = term
    return found


def _is_small_product(x: Node, trips: int) -> bool:
    return (
        x.op is matmul
        and all(operand.ndim == 2 for operand in x.inputs)
        and x.shape[0] <= _ROWS
        and trips * (x.type.nbytes + x.inputs[0].type.nbytes) <= _BYTES
    )


def _factors(x: Node) -> tuple[Node, Node] | None:
    """`a` and `b` if `x` is their matrix product; nodes of the body."""
    if x.op is matmul and all(operand.ndim == 2 for operand in x.inputs):
        a, b = x.inputs
        return a, b
    return None


def _outside(loop: Loop, x: Node) -> Node | None:
    """What a constant of the body, or its transpose, is outside of the loop."""
    if x in loop.inner.consts:
        return loop.consts[loop.inner.consts.index(x)]
    if x.op.name == "transpose" and x.inputs[0] in loop.inner.consts:
        outside = loop.consts[loop.inner.consts.index(x.inputs[0])]
        return OPS["transpose"](outside, axes=x.params["axes"])
    return None


def _rebuilt(loop: Loop, found: _Products, trips: int) -> Results:
    products = {node: _product(x, w) for node, (x, w) in found.before.items()}
    with LoopBuilder(loop.body.name) as inside:
        inner = loop.inner
        new: dict[Node, Node] = {inner.position: inside.position}
        summed = found.sums.keys() | found.totals.keys()
        carried = [i for i in range(len(loop.carry)) if i not in summed]
        for i in carried:
            new[inner.carry[i]] = inside.carry(loop.carry[i], _name(inner.carry[i]))
        for outside, x in zip(loop.consts, inner.consts, strict=True):
            new[x] = inside.const(outside, _name(x))
        for outside, x in zip(loop.xs, inner.slices, strict=True):
            new[x] = inside.slice(outside, _name(x))
        for outside, frame in zip(loop.stacks, inner.frames, strict=True):
            new.update(zip(frame, inside.frame(outside, "saved"), strict=True))
        dropped = {loop.made.carry[i] for i in summed}
        for node in loop.body.nodes:
            if node in products:
                new[node] = inside.slice(products[node], "product")
            elif node not in dropped:
                new[node] = inside.body.adopt(node, [new[x] for x in node.inputs])
        made = loop.made
        rows = [
            new[found.rows[i][0]] if i in found.rows else new[row]
            for i, row in enumerate(made.rows)
        ]
        places: dict[int, tuple[int, int]] = {}
        for i, (a, b) in found.sums.items():
            # Stacked with the rows of a step first; what is stacked already is there once.
            pair = (OPS["transpose"](new[a], axes=(1, 0)), new[b])
            for x in pair:
                if x not in rows:
                    rows.append(x)
            places[i] = rows.index(pair[0]), rows.index(pair[1])
        smaller = inside.finish(
            loop.limit,
            loop.go,
            Made(
                new[made.go],
                tuple(new[made.carry[i]] for i in carried),
                tuple(rows),
                tuple(tuple(new[x] for x in group) for group in made.saved),
            ),
            length=trips,
            reverse=loop.reverse,
            remat=loop.remat,
            origin=loop.body.origin,
        )
    node = smaller.append()
    results = {0: item(node, index=0)}
    results.update({1 + i: item(node, index=1 + k) for k, i in enumerate(carried)})
    stacked = [item(node, index=smaller.first_row + k) for k in range(len(rows))]
    for i in range(loop.stacked):
        row = stacked[i]
        if i in found.rows:
            row = _product(row, found.rows[i][1])
        results[loop.first_row + i] = row
    for i, (first, second) in places.items():
        a, b = _long(stacked[first]), _long(stacked[second])
        results[1 + i] = loop.carry[i] + matmul(OPS["transpose"](a, axes=(1, 0)), b)
    for i, term in found.totals.items():
        (x,) = term.inputs
        axes = (0, *(1 + axis for axis in term.params["axes"]))
        row = stacked[next(second for j, (_, second) in places.items() if found.sums[j][1] is x)]
        total = OPS["sum"](row, axes=axes, keepdims=False)
        results[1 + i] = loop.carry[i] + OPS["reshape"](total, shape=term.shape)
    for k in range(len(loop.saves)):
        results[loop.first_stack + k] = item(node, index=smaller.first_stack + k)
    return results


def _name(x: Node) -> str:
    return str(x.params["name"])


def _long(x: Node) -> Node:
    """All rows of all steps below each other."""
    return OPS["reshape"](x, shape=(x.shape[0] * x.shape[1], x.shape[2]))


def _product(x: Node, w: Node) -> Node:
    """The product with `w` for each step."""
    return OPS["reshape"](matmul(_long(x), w), shape=(*x.shape[:2], w.shape[1]))
