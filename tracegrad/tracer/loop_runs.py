"""Running a rolled loop while it is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir.graph import Graph
from tracegrad.ir.interpret import interpret
from tracegrad.ir.op import Array
from tracegrad.ir.passes import optimize
from tracegrad.tracer.program import executable_for, without_detach
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor

# So many iterations are interpreted before the loop is compiled by itself.
_FEW = 200


def run_loop(
    body: Graph, inputs: Sequence[Tensor], carries: int, graph: Graph, operands: Sequence[Tensor]
) -> list[Array]:
    """The results of a loop with this `body` on `inputs`: how many iterations were done, and what
    is carried. `graph` on `operands` is the same loop.
    """
    arrays = [x._array for x in inputs]
    limit = int(arrays[0])
    going = bool(arrays[1])
    carry = list(arrays[2 : 2 + carries])
    consts = list(arrays[2 + carries :])
    done = 0
    while going and done < limit:
        if done == _FEW:
            compiled = executable_for(optimize(without_detach(graph)), (None,) * len(graph.inputs))
            return compiled([np.asarray(x._array, order="C") for x in operands])
        made: list[Any] = state.quietly(interpret, body, [np.asarray(done), *carry, *consts])
        going = bool(made[0])
        carry = made[1:]
        done += 1
    return [np.asarray(done), *(np.array(x) for x in carry)]
