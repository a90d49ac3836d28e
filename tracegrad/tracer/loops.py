"""`while_loop`, `fori_loop`, `scan` and `map`: loops over functions, in JAX's spelling.

Eagerly they are plain loops of Python over tensors, and that is their meaning. While a function is
compiled, the functions given to them are traced once, and the loop is one op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, ShapeError
from tracegrad.ir import types
from tracegrad.ir.op import OPS
from tracegrad.tracer import eager_loops, traced_loops
from tracegrad.tracer.carries import LoopCall, Tree, tree_of, truth_of
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.location import located
from tracegrad.tracer.promotion import cast
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor

Function = Callable[..., Any]

# What a loop slices that slices nothing.
NOTHING = tree_of(None)


@located
def while_loop(cond_fun: Function, body_fun: Function, init_val: Any) -> Any:
    """`val = init_val; while cond_fun(val): val = body_fun(val); return val`.

    The value is a tensor, a number or a container of them, and keeps its structure, shapes and
    dtypes; a number in `init_val` takes the dtype that the body gives it. The functions work on
    tensors and change nothing in place that they did not make.
    """
    form = "tg.while_loop"

    def goes_on(carry: Any) -> Tensor | bool:
        return truth_of(form, cond_fun(carry), "what cond_fun returns")

    def step(position: Tensor, carry: Any, x: Any) -> tuple[Any, Any]:
        return body_fun(carry), None

    return _run(LoopCall(form, step, tree_of(init_val), NOTHING, goes_on))[0]


@located
def fori_loop(lower: Any, upper: Any, body_fun: Function, init_val: Any) -> Any:
    """`val = init_val; for i in range(lower, upper): val = body_fun(i, val); return val`.

    The bounds are ints or integer tensors of shape (): another bound compiles nothing. `i` is an
    int64 tensor of shape (). See `while_loop`.
    """
    form = "tg.fori_loop"
    first, last = _bound(lower, "lower"), _bound(upper, "upper")
    weak = all(isinstance(x, int) or x._weak for x in (lower, upper))

    if isinstance(first, int) and isinstance(last, int):
        count: int | Tensor = max(last - first, 0)
    else:
        count = apply(OPS["sub"], [_tensor(last), _tensor(first)])
    start = None if isinstance(first, int) and first == 0 else _tensor(first)

    def step(position: Tensor, carry: Any, x: Any) -> tuple[Any, Any]:
        i = position if start is None else apply(OPS["add"], [position, start])
        i._weak = weak
        return body_fun(i, carry), None

    return _run(LoopCall(form, step, tree_of(init_val), NOTHING, count=count, weak=weak))[0]


@located
def scan(
    f: Function, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """`carry, y = f(carry, x)` for each slice `x` of `xs` along its first axis.

    Returns the last carry and the `y` stacked along a new first axis. `xs` is a tensor or a
    container of tensors, all of one length, or None with `length` given. With `reverse` the last
    slice comes first; each `y` stands where its `x` stood. See `while_loop`.
    """
    form = "tg.scan"
    slices = tree_of(xs)
    extent = _length(form, slices, length)

    def step(position: Tensor, carry: Any, x: Any) -> tuple[Any, Any]:
        returned = f(carry, x)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ArgumentError(
                f"{form}: the function has to return (carry, y), not {type(returned).__name__}"
            )
        return returned

    call = LoopCall(form, step, tree_of(init), slices, None, extent, extent, True, reverse)
    return _run(call)


@located
def map(f: Function, xs: Any) -> Any:
    """`f(x)` for each slice `x` of `xs` along its first axis, stacked; one after the other."""
    form = "tg.map"
    slices = tree_of(xs)
    extent = _length(form, slices, None)

    def step(position: Tensor, carry: Any, x: Any) -> tuple[Any, Any]:
        return None, f(x)

    return _run(LoopCall(form, step, NOTHING, slices, None, extent, extent, True))[1]


def _run(call: LoopCall) -> tuple[Any, Any]:
    return eager_loops.run(call) if state.recorder is None else traced_loops.run(call)


def _bound(value: Any, name: str) -> int | Tensor:
    """A bound of a `fori_loop`: an int, or an int64 tensor."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Tensor) and value.ndim == 0 and value.dtype.kind in "iu":
        return cast(value, types.int64)
    found = str(value._type) if isinstance(value, Tensor) else type(value).__name__
    raise ArgumentError(f"tg.fori_loop: {name} has to be an integer of shape (), not {found}")


def _tensor(bound: int | Tensor) -> Tensor:
    return bound if isinstance(bound, Tensor) else constant(np.int64(bound))


def _length(form: str, slices: Tree, length: int | None) -> int:
    """How many slices there are. ShapeError where the operands do not agree."""
    found = length
    label = "length"
    for x, name in zip(slices.leaves, slices.names("xs"), strict=True):
        if x.ndim == 0:
            raise ShapeError(f"{form}: {name} is {x._type}, which has no first axis to go along")
        extent = x._array.shape[0]
        if found is None:
            found, label = extent, name
        elif extent != found:
            raise ShapeError(f"{form}: {name} has {extent} slices, but {label} has {found}")
    if found is None:
        raise ArgumentError(
            f"{form}: without xs the number of iterations has to be given as length"
        )
    return int(found)
