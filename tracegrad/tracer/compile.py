"""`compile`: the decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

from tracegrad.errors import ArgumentError
from tracegrad.tracer.compiled_function import CompiledFunction
from tracegrad.tracer.location import locate


@overload
def compile(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    max_traces: int = 64,
    roll: bool = True,
    memory_budget: int | None = None,
) -> CompiledFunction: ...


@overload
def compile(
    function: None = None,
    *,
    name: str | None = None,
    max_traces: int = 64,
    roll: bool = True,
    memory_budget: int | None = None,
) -> Callable[[Callable[..., Any]], CompiledFunction]: ...


def compile(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    max_traces: int = 64,
    roll: bool = True,
    memory_budget: int | None = None,
) -> Any:
    """Compile `function`, forward and backward; also a decorator, with arguments or without.

    The first call with arguments of some dtypes and shapes traces the function; later calls run
    machine code. Python's `if`, `while` and `for` on tensor values work: each new outcome is traced
    once. Past `max_traces` traces one warning says what differs, and the least recently used go.
    Loops become native loops, however often they run; with `roll=False` each number of iterations
    is traced by itself.

    `memory_budget` bounds the bytes that are saved for the gradient besides the function's inputs
    and results: backward computes more of what forward did. A loop that would save more runs in
    blocks, and backward runs each block once more. None saves what is cheaper saved than computed.
    """
    if function is None:
        return functools.partial(
            compile, name=name, max_traces=max_traces, roll=roll, memory_budget=memory_budget
        )
    if isinstance(function, CompiledFunction):
        return function
    if not callable(function):
        raise locate(
            ArgumentError(
                f"compile() takes a function, not {type(function).__name__}: {function!r}"
            )
        )
    if memory_budget is not None and memory_budget < 0:
        raise locate(ArgumentError(f"memory_budget is a number of bytes, not {memory_budget}"))
    return CompiledFunction(function, name, max_traces, roll, memory_budget)
