"""While a function is recorded, values are computed when somebody asks for them.

What a recorded function returns comes from compiled code, and most of what it computes on the way
nobody looks at. So an operation on arrays gets memory for its result, which costs nothing as long
as nobody touches it, and waits. A condition, a number for Python, a check of an index: each
computes what it needs, and nothing else. A tensor that is still alive when the recording is over
has left the function by a way of its own: it gets its value then.

An operation waits only where it is known how the memory of its result is laid out, so that strides
are those of eager code. Before any memory is written to, everything that waits is computed, and
nothing waits any more.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.ir.op import Array, Op
from tracegrad.ir.types import TensorType, Type, opaque
from tracegrad.tracer.state import state

if TYPE_CHECKING:
    from tracegrad.tracer.dispatch import Call


def untouched(memory: Array) -> Array:
    """Memory that waits for its values. Tests fill it with bad ones, so that a read is seen."""
    return memory


class _Waiting:
    """One operation that has not been computed: `evaluate()` gives the values of its results."""

    __slots__ = ("arrays", "evaluate", "results")

    def __init__(
        self, evaluate: Callable[[], Sequence[Any]], arrays: Sequence[Array], results: list[Array]
    ) -> None:
        self.evaluate = evaluate
        self.arrays = arrays
        # The memory is held by the tensors that have it: when these are gone, nobody waits.
        self.results = [weakref.ref(memory) for memory in results]


class Deferrals:
    """The operations of one recording that wait, by the memory of their results.

    quietly   calls a function without NumPy's floating-point warnings.
    """

    def __init__(self, quietly: Callable[..., Any]) -> None:
        self._quietly = quietly
        self._waiting: dict[int, _Waiting] = {}
        self._open = True

    def run(self, call: Call, arrays: Sequence[Array], params: dict[str, Any]) -> Any:
        """The result of an operation: memory that waits for its value, or the value."""
        if call.is_view and self._open:
            result = self._quietly(call.evaluate, *arrays, **params)
            if owner_of(result) is owner_of(arrays[0]):
                return result
        memory = memory_for(call, arrays) if self._open and call.may_wait else None
        if memory is None:
            for array in arrays:
                self.compute(array)
            return self._quietly(call.evaluate, *arrays, **params)
        self._waiting[id(memory)] = _Waiting(
            lambda: (self._quietly(call.evaluate, *arrays, **params),), arrays, [memory]
        )
        return memory

    def run_graph(
        self,
        evaluate: Callable[[], Sequence[Array]],
        arrays: Sequence[Array],
        types: Sequence[Type],
    ) -> Sequence[Array]:
        """The results of a graph that has results of these types for `arrays`: memory that waits
        for what `evaluate` gives, or that.
        """
        waits = self._open and all(isinstance(type, TensorType) for type in types)
        # A device computes beside the host anyhow.
        if not waits or not all(type(x) is np.ndarray and x.flags.c_contiguous for x in arrays):
            for array in arrays:
                self.compute(array)
            return evaluate()
        results = [untouched(np.empty(type.shape, type.dtype.numpy)) for type in types]
        waiting = _Waiting(evaluate, arrays, results)
        self._waiting.update((id(memory), waiting) for memory in results)
        return results

    def compute(self, array: Array) -> None:
        """Let an array have its value, if its memory waits for one."""
        if not self._waiting:
            return
        # Without recursion: what an operation needs may be a long chain.
        work = [owner_of(array)]
        while work:
            found = self._found(work[-1])
            if found is None:
                work.pop()
                continue
            missing = [memory for x in found.arrays if self._found(memory := owner_of(x))]
            if missing:
                work += missing
                continue
            self._fill(found)

    def settle(self) -> None:
        """Compute everything that waits, and let nothing wait from now on: memory will change."""
        self._open = False
        # In the order in which they were asked for, so that each finds its operands.
        for found in list(self._waiting.values()):
            for memory in _alive(found):
                self.compute(memory)
        self._waiting.clear()

    def finish(self) -> None:
        """The recording is over: compute what somebody still has."""
        # From the last on, since an operation that is dropped lets go of its operands.
        survivors: dict[int, tuple[_Waiting, list[Array]]] = {}
        while self._waiting:
            _, found = self._waiting.popitem()
            alive = _alive(found)
            if alive:
                survivors[id(found)] = found, alive
            del found, alive
        for found, _ in reversed(survivors.values()):
            self._fill(found)

    def _found(self, memory: Array) -> _Waiting | None:
        found = self._waiting.get(id(memory))
        # The memory may be gone, and its number that of another array.
        return found if found is not None and any(x is memory for x in _alive(found)) else None

    def _fill(self, found: _Waiting) -> None:
        for reference, value in zip(found.results, found.evaluate(), strict=True):
            memory = reference()
            if memory is not None:
                np.copyto(memory, value, casting="unsafe")
                self._waiting.pop(id(memory), None)


def _alive(waiting: _Waiting) -> list[Array]:
    """The memory of results that somebody has."""
    found = (reference() for reference in waiting.results)
    return [memory for memory in found if memory is not None]


def settle() -> None:
    """Before memory changes: nothing of this thread waits any more."""
    if state.deferrals is not None:
        state.deferrals.settle()


def may_wait(op: Op, type: TensorType) -> bool:
    """Whether an operation with a result of this type may wait."""
    return type.dtype is not opaque and op.family not in ("random", "source", "control")


def memory_for(call: Call, arrays: Sequence[Array]) -> Array | None:
    """Memory for the result of a call, laid out as that of eager code is; None where only NumPy
    knows how that will be.
    """
    shape = call.type.shape
    if (
        call.is_product
        or all(array.flags.c_contiguous for array in arrays)
        or len(shape) - shape.count(1) <= 1
    ):
        return untouched(np.empty(shape, call.dtype))
    if not call.is_elementwise:
        return None
    # As NumPy's own functions choose it: in the order of the operands' axes.
    dtypes = [*(array.dtype for array in arrays), call.dtype]
    return untouched(np.nditer([*arrays, None], ["zerosize_ok"], op_dtypes=dtypes).operands[-1])


def owner_of(array: Array) -> Array:
    """The array that has the memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
