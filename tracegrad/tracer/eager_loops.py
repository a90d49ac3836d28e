"""Loops over functions, run: one iteration after the other, on the ordinary tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir.op import OPS
from tracegrad.runtime.random import default_generator
from tracegrad.tracer.carries import LoopCall, Tree, common_dtypes, settled, tree_of
from tracegrad.tracer.conversion import to_bool, to_int
from tracegrad.tracer.creation import as_tensor
from tracegrad.tracer.device import beside
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.functions import FUNCTIONS
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor


def run(call: LoopCall) -> tuple[Any, Any]:
    """The last carry and the stacked rows."""
    before = state.weak_numbers
    state.weak_numbers = before or call.weak
    try:
        return _run(call)
    finally:
        state.weak_numbers = before


def _run(call: LoopCall) -> tuple[Any, Any]:
    count = call.count
    limit = to_int(count) if isinstance(count, Tensor) else count
    carry = call.init
    no_rows = call.stacks and limit == 0
    if any(carry.weak) or no_rows:
        carry, rows = _tried(call)
        if no_rows:
            return carry.build(carry.leaves), rows
    # A body may write into what it is given, but not into what the loop was given.
    carry = carry.having([_copy(x) for x in carry.leaves])
    made: list[Tree] = []
    differ = False
    done = 0
    while (limit is None or done < limit) and _goes_on(call, carry):
        position = limit - 1 - done if call.reverse and limit is not None else done
        new, row = _once(call, carry, position, made[0] if made else None)
        settled(call.form, carry, new)
        carry = carry.having(new.in_dtypes(carry.dtypes).leaves)
        differ = differ or bool(made and _kinds(row) != _kinds(made[0]))
        made.append(row)
        done += 1
    result = carry.build(carry.leaves)
    if not call.stacks:
        return result, None
    if call.reverse:
        made.reverse()
    if differ:
        dtypes = common_dtypes(call.form, made, lambda i, leaf, other: f"in row {i}")
        made = [row.in_dtypes(dtypes) for row in made]
    columns = zip(*(row.leaves for row in made), strict=True)
    return result, made[0].build([FUNCTIONS["stack"](column) for column in columns])


def _kinds(row: Tree) -> Any:
    return row.structure, [x._type for x in row.leaves]


def _goes_on(call: LoopCall, carry: Tree) -> bool:
    if call.goes_on is None:
        return True
    answer = call.goes_on(carry.build(carry.leaves))
    return to_bool(answer) if isinstance(answer, Tensor) else answer


def _once(call: LoopCall, carry: Tree, position: int, like: Tree | None) -> tuple[Tree, Tree]:
    index = as_tensor(np.asarray(position, np.int64))
    index._weak = call.weak
    xs = call.xs
    slices = xs.build([_slice(x, position) for x in xs.leaves])
    new, row = call.step(index, carry.build(carry.leaves), slices)
    return tree_of(new, carry.structure), tree_of(row, like.structure if like else None)


def _slice(x: Tensor, position: int) -> Tensor:
    """One slice of an operand, with memory of its own."""
    if not x._array.shape[0]:
        return as_tensor(beside(np.zeros(x._array.shape[1:], x._array.dtype), x._array))
    return apply(OPS["gather"], [x, constant(np.int64(position))])


def _copy(x: Tensor) -> Tensor:
    return apply(OPS["cast"], [x], {"dtype": x.dtype}, grad_name="CloneBackward0")


def _tried(call: LoopCall) -> tuple[Tree, Any]:
    """The carry in the dtypes that the body gives it, and rows of no length.

    What type a number takes, and what rows look like that are never made, only the body can tell.
    """
    before = state.grad_enabled, default_generator.get_state()
    state.set_grad(False)
    try:
        carry = call.init
        while True:
            mine = carry.having([_copy(x) for x in carry.leaves])
            new, row = _once(call, mine, 0, None)
            dtypes = settled(call.form, carry, new)
            if dtypes is None:
                break
            carry = call.init.in_dtypes(dtypes)
    finally:
        state.set_grad(before[0])
        default_generator.go_back(before[1])
    return call.init.in_dtypes(carry.dtypes), row.build(_no_rows(row.leaves))


def _no_rows(leaves: Sequence[Tensor]) -> list[Tensor]:
    return [
        as_tensor(beside(np.zeros((0, *x._array.shape), x._array.dtype), x._array)) for x in leaves
    ]
