"""The distinct elements of a tensor: how many there are depends on its values."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.functions.gathering import nonzero
from tracegrad.tracer.functions.joining import cat
from tracegrad.tracer.functions.operands import as_tensor
from tracegrad.tracer.functions.reductions import cumsum
from tracegrad.tracer.functions.sorting import argsort
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.tensor import Tensor


@register()
def unique(
    input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> Any:
    """The distinct elements in ascending order, whatever `sorted` says; every NaN is one of them.

    With `return_inverse` also which of them each element is, in the shape of `input`; with
    `return_counts` how often each occurs. The length of the result is a guard of a trace.
    """
    x: Any = as_tensor(input, "unique")
    x = x.reshape(-1)
    order: Any = argsort(x)
    values = x[order]
    first = constant(np.ones(min(1, x._array.size), np.bool_), np.dtype(np.bool_))
    is_new = cat([first, apply(OPS["ne"], [values[1:], values[:-1]])])
    places: Any = nonzero(is_new)
    starts = places[:, 0]
    found = [values[starts]]
    if return_inverse:
        ranks: Any = cumsum(is_new, 0)
        ranks = ranks - 1
        found.append(ranks[argsort(order)].reshape(input._array.shape))
    if return_counts:
        end: Any = constant(np.array([x._array.size]), np.dtype(np.int64))
        ends: Any = cat([starts[1:], end[: starts._array.size]])
        found.append(ends - starts)
    return found[0] if len(found) == 1 else tuple(found)
