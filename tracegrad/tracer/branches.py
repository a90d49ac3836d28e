"""`cond` and `switch`: one of several functions, chosen by a value.

Eagerly the chosen function is called. While a function is compiled, all of them are traced, each
into a graph, and the choice is one op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError
from tracegrad.ir import types
from tracegrad.ir.graph import Builder, Node
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import cond as cond_op
from tracegrad.tracer.bodies import trace_body
from tracegrad.tracer.body_graphs import Body
from tracegrad.tracer.carries import Tree, common_dtypes, tree_of, truth_of
from tracegrad.tracer.control import apply_control, apply_with_fault
from tracegrad.tracer.conversion import to_int
from tracegrad.tracer.location import located
from tracegrad.tracer.promotion import cast
from tracegrad.tracer.state import state
from tracegrad.tracer.structure import Description
from tracegrad.tracer.tensor import Tensor

Function = Callable[..., Any]


@located
def cond(pred: Any, true_fun: Function, false_fun: Function, *operands: Any) -> Any:
    """`true_fun(*operands)` if `pred` is true, else `false_fun(*operands)`.

    `pred` is a bool or a bool tensor of shape (). Operands and results are tensors, numbers or
    containers of them. In compiled code both functions have to return the same structure, shapes
    and dtypes, and only the chosen one runs.
    """
    chosen = truth_of("tg.cond", pred, "pred")
    if isinstance(chosen, bool) or state.recorder is None:
        return _called(true_fun if chosen else false_fun, operands)
    return _traced("tg.cond", cast(chosen, types.int64), [false_fun, true_fun], operands)


@located
def switch(index: Any, branches: Sequence[Function], *operands: Any) -> Any:
    """`branches[index](*operands)`; an index out of range means the nearest branch.

    `index` is an int or an integer tensor of shape (). See `cond`.
    """
    branches = list(branches)
    if not branches:
        raise ArgumentError("tg.switch: there are no branches")
    if isinstance(index, Tensor):
        if index.ndim or index.dtype.kind not in "iu":
            raise ArgumentError(
                f"tg.switch: index has to be an integer of shape (), not {index._type}"
            )
        if state.recorder is not None and len(branches) > 1:
            return _traced("tg.switch", cast(index, types.int64), branches, operands)
        index = to_int(index) if len(branches) > 1 else 0
    elif isinstance(index, bool) or not isinstance(index, int | np.integer):
        raise ArgumentError(f"tg.switch: index has to be an integer, not {type(index).__name__}")
    return _called(branches[min(max(int(index), 0), len(branches) - 1)], operands)


def _called(function: Function, operands: Sequence[Any]) -> Any:
    tree = tree_of(function(*operands))
    return tree.build(tree.leaves)


def _traced(form: str, index: Tensor, branches: list[Function], operands: Sequence[Any]) -> Any:
    bodies: list[Body] = []
    trees: list[Tree] = []
    for branch in branches:
        like = trees[0].structure if trees else None

        def run(
            _: list[Tensor], branch: Function = branch, like: Description | None = like
        ) -> tuple[list[Tensor], list[Tree]]:
            tree = tree_of(branch(*operands), like)
            return tree.leaves, [tree]

        bodies.append(trace_body(run, [], [], form))
        trees += bodies[-1].trees
    dtypes = common_dtypes(form, trees)
    read: dict[int, Tensor] = {}
    for body in bodies:
        for _, tensor in body.operands:
            read[id(tensor)] = tensor
    faulty = any(body.fault is not None for body in bodies)
    graphs = tuple(_graph(body, list(read.values()), dtypes, faulty) for body in bodies)
    inputs = [index, *read.values()]
    params = {"branches": graphs}
    if faulty:
        requirements = [item for body in bodies for item in body.requirements]
        results = apply_with_fault(cond_op, inputs, params, len(dtypes), requirements)
    else:
        results = apply_control(cond_op, inputs, params)
    return trees[0].build(results)


def _graph(body: Body, read: Sequence[Tensor], dtypes: Sequence[Any], faulty: bool) -> Any:
    """A branch as a graph that takes everything that any branch reads."""
    builder = Builder("branch")
    builder.nodes.extend(body.nodes)
    own: dict[int, Node] = {id(tensor): node for node, tensor in body.operands}
    # So that the names of those that are added are others.
    builder.inputs.extend(own.values())
    inputs = []
    for tensor in read:
        node = own.get(id(tensor))
        inputs.append(builder.input(tensor._type) if node is None else node)
    with builder:
        outputs = [
            x if x.dtype is dtype else OPS["cast"](x, dtype=dtype)
            for x, dtype in zip(body.outputs, dtypes, strict=True)
        ]
        if faulty:
            outputs.append(builder.constant(False) if body.fault is None else body.fault)
    body.nodes = tuple(builder.nodes)
    return body.graph("branch", inputs, outputs)
