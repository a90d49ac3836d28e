"""Loops over functions, traced: one `while_loop` for each, whose body is a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tracegrad.ir.graph import Builder, Graph
from tracegrad.ir.ops.control import while_loop
from tracegrad.tracer.bodies import and_not, trace_body
from tracegrad.tracer.body_graphs import Body
from tracegrad.tracer.carries import LoopCall, Tree, returns_carry, settled, tree_of
from tracegrad.tracer.control import apply_control, apply_with_fault
from tracegrad.tracer.creation import as_tensor
from tracegrad.tracer.device import owned
from tracegrad.tracer.dispatch import constant
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder

# The limit of a loop that only its condition ends.
_ENDLESS = np.int64(2**63 - 1)


def run(call: LoopCall) -> tuple[Any, Any]:
    """The last carry and the stacked rows."""
    carry = call.init
    while True:
        body, new, row = _trace(call, carry)
        dtypes = settled(call.form, carry, new)
        if dtypes is None:
            break
        carry = call.init.in_dtypes(dtypes)
    count = len(carry.leaves)
    limit = call.count if call.count is not None else constant(_ENDLESS)
    if not isinstance(limit, Tensor):
        limit = constant(np.int64(limit))
    go = constant(np.True_) if call.goes_on is None else _flag(call, carry)
    operands = [tensor for _, tensor in body.operands]
    slices = call.xs.leaves
    faulty = body.fault is not None
    start = [constant(np.False_)] if faulty else []
    inputs = [limit, go, *carry.leaves, *start, *operands, *slices]
    params = {
        "body": _graph(call, body, carry),
        "carries": count + faulty,
        "slices": len(slices),
        "frames": 0,
        "stacked": len(row.leaves),
        "length": call.length,
        "saves": (),
        "reverse": call.reverse,
    }
    if faulty:
        results = apply_with_fault(while_loop, inputs, params, 1 + count, body.requirements)
    else:
        results = apply_control(while_loop, inputs, params)
    if body.drawn:
        assert isinstance(call.count, int)
        cast("Recorder", state.recorder).drawn(body.drawn * call.count)
    rows = results[1 + count :]
    return carry.build(results[1 : 1 + count]), row.build(rows) if call.stacks else None


def _flag(call: LoopCall, carry: Tree) -> Tensor:
    """Whether the loop is to begin."""
    assert call.goes_on is not None
    answer = call.goes_on(carry.build(carry.leaves))
    return answer if isinstance(answer, Tensor) else constant(np.bool_(answer))


def _trace(call: LoopCall, carry: Tree) -> tuple[Body, Tree, Tree]:
    """The body, with the carry and the row that it makes.

    Its inputs are the position, the carry and the slices; its outputs the flag, the carry and the
    rows.
    """
    count = len(carry.leaves)

    def once(given: list[Tensor]) -> tuple[Sequence[Tensor], list[Tree]]:
        position, slices = given[0], given[1 + count :]
        position._weak = call.weak
        before_leaves = given[1 : 1 + count]
        before = carry.build(before_leaves)
        made, row = call.step(position, before, call.xs.build(slices))
        new, rows = tree_of(made, carry.structure), tree_of(row)
        returns_carry(call.form, carry, new)
        # A number that is handed on as it was has the type that the other ways give it.
        numbers = [x for x, weak in zip(before_leaves, carry.weak, strict=True) if weak]
        new.weak = [
            weak or any(x is y for y in numbers)
            for x, weak in zip(new.leaves, new.weak, strict=True)
        ]
        leaves = [
            number if weak else x
            for x, number, weak in zip(
                new.leaves, new.in_dtypes(carry.dtypes).leaves, new.weak, strict=True
            )
        ]
        go = constant(np.True_) if call.goes_on is None else _flag(call, new.having(leaves))
        return [go, *leaves, *rows.leaves], [new, rows]

    position = as_tensor(np.asarray(0, np.int64))
    slices = [_first(x) for x in call.xs.leaves]
    names = ["position", *carry.names("carry"), *call.xs.names("x")]
    body = trace_body(
        once,
        [position, *carry.leaves, *slices],
        names,
        call.form,
        carries_fault=True,
        trips=call.count if isinstance(call.count, int) else None,
        reverse=call.reverse,
    )
    new, row = body.trees
    return body, new, row


def _first(x: Tensor) -> Tensor:
    """An example of a slice."""
    shape = x._array.shape[1:]
    return as_tensor(owned(x._array[0]) if len(x._array) else np.zeros(shape, x._array.dtype))


def _graph(call: LoopCall, body: Body, carry: Tree) -> Graph:
    """The body's graph: its operands stand between the carry and the slices."""
    count = 1 + len(carry.leaves)
    slices = len(call.xs.leaves)
    inputs = body.inputs[:count]
    outputs = list(body.outputs)
    if body.fault is not None:
        inputs.append(body.inputs[-1])
        outputs.insert(count, body.fault)
        if call.goes_on is not None:
            # What goes wrong may be what would end the loop.
            builder = Builder("body")
            builder.nodes.extend(body.nodes)
            with builder:
                outputs[0] = and_not(outputs[0], body.fault)
            body.nodes = tuple(builder.nodes)
    inputs += [node for node, _ in body.operands]
    inputs += body.inputs[count : count + slices]
    return body.graph("body", inputs, outputs)
