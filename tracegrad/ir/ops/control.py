"""Control flow: loops and branches, whose bodies are graphs among the parameters.

Such an op has several results: its type is a tuple, and `item` takes one of them.

    while_loop(limit, go, *carry, *consts, *xs, *stacks; body, carries, slices, frames, stacked,
               length, saves, reverse)

runs `body` while `go` is true and fewer than `limit` iterations are done. The body maps

    (position, *carry, *consts, *one slice of each of xs, *the frame of each of stacks)
    to (go, *carry, *rows, *saved values)

`position` counts 0, 1, ..., or limit - 1, limit - 2, ... in a loop that runs in `reverse`; slices,
frames and rows are those at the position. The results are

    (number of iterations done, *carry, *the rows stacked, *a stack for each group of saved values)

`carries`, `slices`, `frames` say how many of the operands are carried, sliced, stacks; `stacked`
how many rows the body makes, and `length` the size of the leading axis of sliced operands and
stacked rows (None where there are none); rows of positions that are not reached are zero. `saves`
has the number of saved values in each group; reverse mode puts there what it needs. With `remat`,
which need not be given where it is False, it saves the carries alone, and computes all else again.

    cond(index, *operands; branches)

is the graph number `index`, clamped to the nearest one, on the operands.

    checkpoint(*operands; body)

is the graph `body` on the operands. Reverse mode saves nothing of it, and computes it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ShapeError
from tracegrad.ir.families import general
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.op import NONDIFFERENTIABLE, Array
from tracegrad.ir.types import (
    StackType,
    TensorType,
    TupleType,
    Type,
    bool_,
    int64,
)

INDEX = TensorType(int64, ())
FLAG = TensorType(bool_, ())


def row_of(type: Type) -> TensorType:
    """The type of one slice along the leading axis."""
    return TensorType(type.dtype, type.shape[1:])


def stack_rows(type: Type, length: int) -> TensorType:
    """The type of `length` values stacked along a new leading axis."""
    return TensorType(type.dtype, (length, *type.shape))


def _infer_while_loop(
    *types: Type,
    body: Graph,
    carries: int,
    slices: int,
    frames: int,
    stacked: int,
    length: int | None,
    saves: tuple[int, ...],
    reverse: bool,
    remat: bool = False,
) -> Any:
    consts = len(types) - 2 - carries - slices - frames
    carry = types[2 : 2 + carries]
    const = types[2 + carries : 2 + carries + consts]
    xs = types[2 + carries + consts : len(types) - frames]
    stacks = types[len(types) - frames :]
    _expect("while_loop", "limit and go", types[:2], (INDEX, FLAG))
    for x in xs:
        if not x.shape or x.shape[0] != length:
            raise ShapeError(f"while_loop: an operand {x} is sliced, but length is {length}")
    if (stacked or slices) and length is None:
        raise ShapeError("while_loop: sliced operands and stacked rows need a length")
    taken: list[Type] = [INDEX, *carry, *const, *map(row_of, xs)]
    for stack in stacks:
        if not isinstance(stack, StackType):
            raise ShapeError(f"while_loop: an operand is {stack}, not a stack")
        taken += stack.elements
    _expect("while_loop", "the body's inputs", [x.type for x in body.inputs], taken)
    made = [x.type for x in body.outputs]
    _expect("while_loop", "what the body carries", made[: 1 + carries], (FLAG, *carry))
    if len(made) != 1 + carries + stacked + sum(saves):
        raise ShapeError(f"while_loop: the body has {len(made)} outputs")
    rows = made[1 + carries : 1 + carries + stacked]
    groups: list[Type] = []
    at = 1 + carries + stacked
    for count in saves:
        groups.append(StackType(tuple(made[at : at + count])))
        at += count
    return TupleType((INDEX, *carry, *(stack_rows(x, length or 0) for x in rows), *groups))


def _expect(op: str, what: str, found: Sequence[Type], wanted: Sequence[Type]) -> None:
    if tuple(found) != tuple(wanted):
        listed = ", ".join(map(str, found))
        raise ShapeError(f"{op}: {what} are ({listed}), not ({', '.join(map(str, wanted))})")


def _evaluate_while_loop(
    limit: Array,
    go: Array,
    *operands: Any,
    body: Graph,
    carries: int,
    slices: int,
    frames: int,
    stacked: int,
    length: int | None,
    saves: tuple[int, ...],
    reverse: bool,
    remat: bool = False,
) -> Any:
    from tracegrad.ir.interpret import interpret

    end = len(operands)
    carry = list(operands[:carries])
    consts = operands[carries : end - slices - frames]
    xs = operands[end - slices - frames : end - frames]
    stacks = operands[end - frames :]
    count = max(int(limit), 0)
    rows = [
        np.zeros((length or 0, *x.shape), x.dtype.numpy)
        for x in body.outputs[1 + carries : 1 + carries + stacked]
    ]
    pushed: list[list[list[Any]]] = [[] for _ in saves]
    done = 0
    running = bool(go)
    while running and done < count:
        position = count - 1 - done if reverse else done
        frame = [value for stack in stacks for value in stack[position]]
        slice_of = [x[position] for x in xs]
        made = interpret(body, [np.asarray(position), *carry, *consts, *slice_of, *frame])
        running = bool(made[0])
        carry = made[1 : 1 + carries]
        at = 1 + carries
        for row in rows:
            row[position] = made[at]
            at += 1
        for group, size in zip(pushed, saves, strict=True):
            group.append(made[at : at + size])
            at += size
        done += 1
    if reverse:
        # A frame is found by its position, not by when it was made.
        pushed = [[[]] * (count - done) + group[::-1] for group in pushed]
    return (np.asarray(done), *carry, *rows, *pushed)


while_loop = general(
    "while_loop",
    family="control",
    infer=_infer_while_loop,
    evaluate=_evaluate_while_loop,
    vjp=NONDIFFERENTIABLE,
    arity=None,
    samples=[],
    grad_name="WhileLoopBackward",
)


def _infer_cond(index: Type, *operands: Type, branches: tuple[Graph, ...]) -> Any:
    _expect("cond", "the index", (index,), (INDEX,))
    results = tuple(x.type for x in branches[0].outputs)
    for branch in branches:
        _expect("cond", "the inputs of a branch", [x.type for x in branch.inputs], operands)
        _expect("cond", "the outputs of a branch", [x.type for x in branch.outputs], results)
    return TupleType(results)


def _evaluate_cond(index: Array, *operands: Any, branches: tuple[Graph, ...]) -> Any:
    from tracegrad.ir.interpret import interpret

    chosen = branches[min(max(int(index), 0), len(branches) - 1)]
    return tuple(interpret(chosen, operands))


cond = general(
    "cond",
    family="control",
    infer=_infer_cond,
    evaluate=_evaluate_cond,
    vjp=NONDIFFERENTIABLE,
    arity=None,
    samples=[],
    grad_name="CondBackward",
)


def _infer_checkpoint(*operands: Type, body: Graph) -> Any:
    _expect("checkpoint", "the inputs of the body", [x.type for x in body.inputs], operands)
    return TupleType(tuple(x.type for x in body.outputs))


def _evaluate_checkpoint(*operands: Array, body: Graph) -> Any:
    from tracegrad.ir.interpret import interpret

    return tuple(interpret(body, operands))


checkpoint = general(
    "checkpoint",
    family="control",
    infer=_infer_checkpoint,
    evaluate=_evaluate_checkpoint,
    vjp=NONDIFFERENTIABLE,
    arity=None,
    samples=[],
    grad_name="CheckpointBackward",
)


def _infer_item(value: Type, index: int) -> Any:
    if not isinstance(value, TupleType):
        raise ShapeError(f"item: takes a tuple, not {value}")
    return value.elements[index]


# One result of an op that has several.
item = general(
    "item",
    family="control",
    infer=_infer_item,
    evaluate=lambda value, index: value[index],
    vjp=NONDIFFERENTIABLE,
    samples=[],
)


def _infer_unset(*, type: Type) -> Any:
    return type


def _evaluate_unset(*, type: Type) -> Any:
    if isinstance(type, StackType):
        return []
    return np.zeros(type.shape, type.dtype.numpy)


# A value that nobody reads: what a branch gives for a result that only other branches have.
unset = general(
    "unset",
    family="control",
    infer=_infer_unset,
    evaluate=_evaluate_unset,
    vjp=NONDIFFERENTIABLE,
    arity=0,
    samples=[],
)


def _infer_depth(stack: Type) -> Any:
    if not isinstance(stack, StackType):
        raise ShapeError(f"depth: takes a stack, not {stack}")
    return INDEX


# How many frames a stack holds.
depth = general(
    "depth",
    family="control",
    infer=_infer_depth,
    evaluate=lambda stack: np.asarray(len(stack)),
    vjp=NONDIFFERENTIABLE,
    samples=[],
)


def items(node: Node) -> list[Node]:
    """Every result of a node whose type is a tuple."""
    assert isinstance(node.type, TupleType)
    return [item(node, index=i) for i in range(len(node.type.elements))]


_CONTROL = frozenset((while_loop, cond, checkpoint))


def is_control(node: Node) -> bool:
    """Whether a node has graphs among its parameters."""
    return node.op is while_loop or node.op is cond or node.op is checkpoint


def has_control(graph: Graph) -> bool:
    """Whether there is a loop or a branch in `graph`."""
    return not _CONTROL.isdisjoint(graph.ops)


def graphs_of(node: Node) -> tuple[Graph, ...]:
    """The graphs among a node's parameters."""
    if node.op is while_loop or node.op is checkpoint:
        return (node.params["body"],)
    return node.params["branches"] if node.op is cond else ()


def with_graphs(node: Node, graphs: Sequence[Graph]) -> dict[str, Any]:
    """The parameters of a node with other graphs in place of its own."""
    if node.op is cond:
        return {**node.params, "branches": tuple(graphs)}
    return {**node.params, "body": graphs[0]}
