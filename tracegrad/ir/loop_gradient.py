"""Reverse mode through a loop: what the loop must save, and the loop that runs the other way.

The body is differentiated as any graph is, and its joint graph cut in two. What the backward half
reads of the forward half is saved in each iteration: arrays as rows of larger ones if it is known
how many iterations there are, all else on a stack, where scalars lie side by side. What can be read
again is not saved: the position, the constants, the slices, the frames and the rows are the same
for the same position, whichever way a loop runs. The backward loop runs over the positions in the
opposite direction. It carries the cotangents of the carries and the sums of the cotangents of the
constants; its rows are the cotangents of sliced operands, its saved values those of the frames of
stacks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tracegrad.errors import GraphError
from tracegrad.ir.cotangents import add_cotangents, has_cotangent, zero_cotangent
from tracegrad.ir.dependence import through_iterations
from tracegrad.ir.differentiate import cotangent_graph, joint_graph
from tracegrad.ir.graph import Builder, Graph, Node, inline, scalar_value
from tracegrad.ir.loops import Loop, LoopBuilder, Made, elements, split
from tracegrad.ir.ops.control import item, while_loop
from tracegrad.ir.ops.tracing import settled
from tracegrad.ir.partition import Partition, Saved, cut
from tracegrad.ir.passes import optimize
from tracegrad.ir.prices import body_prices
from tracegrad.ir.reading import PricesOfReading, price_of, prices_of_reading
from tracegrad.ir.settled import settled_reads, with_finals, without_finals
from tracegrad.ir.types import StackType

# Where the backward half finds a value: the part of the loop, and the place there.
_Place = tuple[str, int, int]

Cotangents = list[Node | None]


def loop_cotangents(
    node: Node, given: Mapping[int, Node], wanted: Sequence[bool], again: PricesOfReading
) -> tuple[Node, Cotangents]:
    """The loop that saves what its backward reads, to stand in place of `node`, and the cotangents
    of the node's inputs.

    `given` has the cotangents of results by their index, `wanted` flags the inputs whose cotangents
    are asked for; `again` is the price of reading values of forward in backward. Both loops are
    appended to the current builder. GraphError for a loop that runs in reverse and may stop before
    its limit: where it began is not known.
    """
    loop = Loop.of(node)
    if loop.reverse and not loop.goes_on:
        raise GraphError(f"{node!r} runs in reverse and may stop early: it has no backward")
    flow = _flow(loop, given, wanted[2:])
    if not any(flow.inputs):
        return node, [None] * len(node.inputs)
    reads = {} if loop.remat else settled_reads(node)
    if reads:
        found = _reading_finals(node, reads, given, wanted, again)
        if found is not None:
            return found
    parts = _again(loop, flow) if loop.remat else _halves(loop, flow, again)
    saver = _Saver(loop, parts)
    augmented = saver.loop.append() if saver.saved else node
    return augmented, [None, None, *_backward(saver, flow, given, augmented)]


def _reading_finals(
    node: Node,
    reads: Mapping[int, Sequence[Node]],
    given: Mapping[int, Node],
    wanted: Sequence[bool],
    again: PricesOfReading,
) -> tuple[Node, Cotangents] | None:
    """The same for a loop whose backward finds `reads` in what comes out of it."""
    plain = Loop.of(node)
    loop = with_finals(plain, reads)
    count = len(reads)
    at = len(plain.carry) + len(plain.consts)
    operands = wanted[2:]
    flow = _flow(loop, given, [*operands[:at], *[False] * count, *operands[at:]])
    saver = _Saver(loop, _halves(loop, flow, again, finals=count))
    forward = without_finals(saver.loop, count)
    if forward is None:
        return None
    augmented = forward.append() if saver.saved else node
    finals = [item(augmented, index=1 + i) for i in reads]
    saver.loop = replace(saver.loop, consts=(*plain.consts, *finals))
    cotangents = _backward(saver, flow, given, augmented)
    return augmented, [None, None, *cotangents[:at], *cotangents[at + count :]]


@dataclass(frozen=True, slots=True)
class _Flow:
    """Where cotangents go: flags for the loop's carries, for the body's inputs that get one, and
    for its outputs that have one.
    """

    carries: list[bool]
    inputs: list[bool]
    outputs: list[bool]


def _flow(loop: Loop, given: Mapping[int, Node], operands: Sequence[bool]) -> _Flow:
    carried = len(loop.carry)
    plain = len(loop.body.inputs) - 1 - sum(loop.frame_sizes)
    inputs = [False, *operands[:plain]]
    for flag, size in zip(operands[plain:], loop.frame_sizes, strict=True):
        inputs += [flag] * size
    inputs = [flag and has_cotangent(x) for flag, x in zip(inputs, loop.body.inputs, strict=True)]
    wanted = sum(1 << i for i, flag in enumerate(inputs) if flag)
    outputs = [False, *(1 + i in given for i in range(carried + loop.stacked))]
    for k, group in enumerate(loop.made.saved):
        outputs += [loop.first_stack + k in given and has_cotangent(x) for x in group]
    # The cotangent of a carry is there if something that has one reaches it by way of any number
    # of iterations, and it is of use if it so reaches something wanted.
    reach = through_iterations(loop)
    reached = 0
    for bits, flag in zip(reach, outputs, strict=True):
        reached |= bits if flag else 0
    carries = []
    for i, x in enumerate(loop.inner.carry, 1):
        there = outputs[i] or bool(reached >> i & 1)
        useful = bool((reach[i] | 1 << i) & wanted)
        carries.append(there and useful and has_cotangent(x))
    return _Flow(
        carries,
        [inputs[0], *carries, *inputs[1 + carried :]],
        [outputs[0], *carries, *outputs[1 + carried :]],
    )


# So often a loop is thought to run of which this is not known.
_TRIPS = 4


def _halves(loop: Loop, flow: _Flow, again: PricesOfReading, finals: int = 0) -> Partition:
    """The body's joint graph, cut. The last constants are `finals`, results of the loop itself."""
    trips = _trips(loop)
    prices: list[float | None] = [0.0, *(None for _ in loop.carry)]
    prices += [price_of(x, again) / trips if x.shape else 0.0 for x in (*loop.consts, *loop.xs)]
    for k in range(len(loop.consts) - finals, len(loop.consts)):
        # Whatever stands in for it outside: it has to be saved if this loop is in another.
        price = 0.0 if again is None else price_of(loop.consts[k], {}) / trips
        prices[1 + len(loop.carry) + k] = price
    # Frames: a stack is there, or is passed on by its name.
    prices += [0.0] * (len(loop.body.inputs) - len(prices))
    joint, present = joint_graph(loop.body, flow.inputs, flow.outputs, again=prices)
    joint = optimize(joint)
    n_inputs, n_outputs = len(loop.body.inputs), len(loop.body.outputs)
    kept = set(joint.outputs[1 + len(loop.carry) : n_outputs])
    cost = prices_of_reading((), joint.inputs[:n_inputs], prices)
    for x in joint.nodes:
        if x.op is settled and x.inputs[1] in cost:
            cost[x] = cost[x.inputs[1]]
    return cut(joint, n_inputs, n_outputs, present, body_prices(cost, kept))


def _again(loop: Loop, flow: _Flow) -> Partition:
    """The body's gradient, with all that it needs of the body computed once more."""
    gradient, present = cotangent_graph(loop.body, flow.inputs, flow.outputs)
    read = {x for node in gradient.nodes for x in node.inputs}.union(gradient.outputs)
    saved = [i for i in range(len(loop.body.inputs)) if gradient.inputs[i] in read]
    inputs = [gradient.inputs[i] for i in saved]
    backward = replace(gradient, inputs=(*inputs, *gradient.inputs[len(loop.body.inputs) :]))
    return Partition(loop.body, tuple(Saved("input", i) for i in saved), backward, present)


def frame_bytes(loop: Loop) -> float:
    """An estimate of the bytes that an iteration of the loop saves for its gradient."""
    with Builder(loop.body.name):
        reads = settled_reads(loop.append())
    at, count = len(loop.carry) + len(loop.consts), len(reads)
    loop = with_finals(loop, reads) if reads else loop
    kinds = [has_cotangent(x) for x in loop.operands]
    kinds[at : at + count] = [False] * count
    given = [has_cotangent(x) for x in (*loop.carry, *loop.made.rows)]
    outputs = {1 + i: loop.body.outputs[1 + i] for i, flag in enumerate(given) if flag}
    flow = _flow(loop, outputs, kinds)
    saver = _Saver(loop, _halves(loop, flow, None, finals=count))
    return sum(map(_bytes, saver.saved))


def _bytes(x: Node) -> float:
    """Of a stack those of all its frames."""
    if not isinstance(x.type, StackType) or x.op is not item or x.inputs[0].op is not while_loop:
        return x.type.nbytes
    loop = Loop.of(x.inputs[0])
    frame = loop.made.saved[x.params["index"] - loop.first_stack]
    return _trips(loop) * sum(map(_bytes, frame))


def _trips(loop: Loop) -> int:
    """How often the loop runs, as far as that is known."""
    limit = scalar_value(loop.limit) if loop.goes_on else None
    return loop.length or _TRIPS if limit is None else max(int(limit), 1)


class _Saver:
    """The loop with what its backward reads among its results.

    loop    The augmented loop.
    places  For each value that the backward half reads, where it is.
    saved   The values of the body that are saved for it.
    """

    def __init__(self, loop: Loop, parts: Partition) -> None:
        forward = parts.forward
        outputs = forward.outputs[: len(loop.body.outputs)]
        body = Graph(forward.name, forward.inputs, forward.nodes, outputs, forward.origin)
        whole = replace(loop, body=body)
        fixed = _fixed_places(whole)
        # New results come after all others, whose numbers stay: stacks, where there are some.
        length = None if loop.saves else loop.trips
        rows: dict[Node, int] = {}
        pushed: dict[Node, int] = {}
        self.parts = parts
        self.places: list[_Place] = []
        for saved in parts.saved:
            x = (forward.inputs if saved.kind == "input" else forward.outputs)[saved.index]
            place = fixed.get(x)
            if place is None and length is not None and x.shape:
                place = ("row", loop.stacked + rows.setdefault(x, len(rows)), 0)
            elif place is None:
                place = ("saved", len(loop.saves), pushed.setdefault(x, len(pushed)))
            self.places.append(place)
        made = whole.made
        if rows:
            made = replace(made, rows=(*made.rows, *rows))
        if pushed:
            made = replace(made, saved=(*made.saved, tuple(pushed)))
        self.saved = (*rows, *pushed)
        self.loop = replace(
            whole,
            body=replace(body, outputs=made.all),
            stacked=len(made.rows),
            length=length if rows else loop.length,
            saves=tuple(map(len, made.saved)),
        )


def _fixed_places(loop: Loop) -> dict[Node, _Place]:
    """Where to read again what the loop has for each position anyway."""
    places: dict[Node, _Place] = {}
    for k, group in enumerate(loop.made.saved):
        places.update((x, ("saved", k, e)) for e, x in enumerate(group))
    places.update((x, ("row", i, 0)) for i, x in enumerate(loop.made.rows))
    inner = loop.inner
    for k, frame in enumerate(inner.frames):
        places.update((x, ("frame", k, e)) for e, x in enumerate(frame))
    places.update((x, ("slice", i, 0)) for i, x in enumerate(inner.slices))
    places.update((x, ("const", i, 0)) for i, x in enumerate(inner.consts))
    places[inner.position] = ("position", 0, 0)
    for x in loop.body.nodes:
        if x.op is settled and x.inputs[1] in places:
            places[x] = places[x.inputs[1]]
    return places


def _backward(saver: _Saver, flow: _Flow, given: Mapping[int, Node], augmented: Node) -> Cotangents:
    """Append the loop that runs the other way; the cotangents of the loop's operands."""
    loop = saver.loop
    outer = Builder.current()

    def result(index: int) -> Node:
        return outer.append(item, (augmented,), {"index": index})

    present = iter(saver.parts.present)
    got = [flag and next(present) for flag in flow.inputs]
    summed = got[1 + len(loop.carry) : 1 + len(loop.carry) + len(loop.consts)]
    # What the two cotangents at the end of the loop start as.
    finals = [
        given.get(1 + i) or zero_cotangent(x)
        for i, (flag, x) in enumerate(zip(flow.carries, loop.carry, strict=True))
        if flag
    ]
    zeros = [zero_cotangent(x) for flag, x in zip(summed, loop.consts, strict=True) if flag]
    limit = loop.limit if loop.goes_on else result(0)
    go = outer.constant(True)
    with LoopBuilder(f"{loop.body.name}_backward") as inside:
        gs = [inside.carry(x, "g") for x in finals]
        sums = [inside.carry(x, "sum") for x in zeros]
        rows = [
            inside.slice(given[i], "g_row")
            for i in range(loop.first_row, loop.first_stack)
            if i in given
        ]
        frames = [
            x
            for i in range(loop.first_stack, len(elements(augmented)))
            if i in given
            for x in inside.frame(given[i], "g_saved")
        ]
        read = [_read(place, loop, inside, result) for place in saver.places]
        found = iter(inline(inside.body, saver.parts.backward, [*read, *gs, *rows, *frames]))
        cotangents = [next(found) if flag else None for flag in got]
        made, indices = _sorted(loop, flow, cotangents, gs, sums, inside)
        backward = inside.finish(
            limit,
            go,
            made,
            length=loop.length,
            reverse=not loop.reverse,
            remat=loop.remat,
            origin="backward",
        )
    node = backward.append()
    return [None if i is None else item(node, index=i) for i in indices]


def _read(place: _Place, loop: Loop, inside: LoopBuilder, result: Callable[[int], Node]) -> Node:
    """The value at `place` of the forward loop, in the body of the backward loop."""
    part, i, e = place
    if part == "const":
        return inside.const(loop.consts[i], _name(loop.inner.consts[i]))
    if part == "slice":
        return inside.slice(loop.xs[i], _name(loop.inner.slices[i]))
    if part == "frame":
        return inside.frame(loop.stacks[i], "saved")[e]
    if part == "row":
        return inside.slice(result(loop.first_row + i), "row")
    if part == "saved":
        return inside.frame(result(loop.first_stack + i), "saved")[e]
    return inside.position


def _name(x: Node) -> str:
    return str(x.params["name"])


def _sorted(
    loop: Loop,
    flow: _Flow,
    cotangents: Sequence[Node | None],
    gs: Sequence[Node],
    sums: Sequence[Node],
    inside: LoopBuilder,
) -> tuple[Made, list[int | None]]:
    """What the backward body makes of the cotangents of the forward body's inputs, and for each
    operand of the forward loop which result of the backward loop is its cotangent.
    """
    sizes = (1, len(loop.carry), len(loop.consts), len(loop.xs))
    _, carry, consts, slices, rest = split(cotangents, sizes)
    frames = split(rest, loop.frame_sizes)[:-1]
    carried = [x for x, flag in zip(carry, flow.carries, strict=True) if flag]
    after = [x or zero_cotangent(g) for x, g in zip(carried, gs, strict=True)]
    totals = [add_cotangents(a, x) for a, x in zip(sums, filter(None, consts), strict=True)]
    rows = [x for x in slices if x]
    groups = [
        _group(loop, k, frame, inside) if any(frame) else None for k, frame in enumerate(frames)
    ]
    saved = tuple(x for x in groups if x)
    made = Made(inside.body.constant(True), (*after, *totals), tuple(rows), saved)
    there = [*flow.carries, *map(bool, consts), *map(bool, slices), *map(bool, groups)]
    indices = itertools.count(1)
    return made, [next(indices) if flag else None for flag in there]


def _group(
    loop: Loop, k: int, frame: Sequence[Node | None], inside: LoopBuilder
) -> tuple[Node, ...]:
    """The cotangents of the frame of a stack, zeros where there is none."""
    inner = loop.inner.frames[k]
    return tuple(
        g or zero_cotangent(inside.frame(loop.stacks[k], "saved")[e] if _is_stack(x) else x)
        for e, (g, x) in enumerate(zip(frame, inner, strict=True))
        if has_cotangent(x)
    )


def _is_stack(x: Node) -> bool:
    return isinstance(x.type, StackType)
