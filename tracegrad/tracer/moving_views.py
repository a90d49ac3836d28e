"""What `x[i]` gives where `i` is known only when compiled code runs: a gathered copy, which Python
must not tell from a view. Writing into it writes into `x`; after a write into `x` it is read anew.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import numpy as np

from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.views import memory_root

if TYPE_CHECKING:
    from tracegrad.tracer.recorder import Recorder


class MovingView:
    """One read at indices of a running program.

    source   what was gathered from, the addressed axes in front; its memory is that of `x`.
    indices  what was gathered at.
    result   the gathered tensor.
    """

    def __init__(self, source: Tensor, indices: list[Tensor], result: Tensor) -> None:
        self.source = source
        self.indices = indices
        self.result = result
        self.place = result._trace.value.ref

    def read(self) -> Tensor:
        """What stands there now."""
        return apply(OPS["gather"], [self.source, *self.indices], grad_name="SelectBackward0")


def watch(source: Tensor, indices: list[Tensor], result: Tensor) -> None:
    """`result` was gathered from `source`: from now on it is a view of it."""
    recorder = cast("Recorder", state.recorder)
    view = MovingView(source, indices, result)
    recorder.memory_of(source).views.append(view)
    recorder.memory_of(result).shows = view


def follow(target: Tensor, since: int) -> None:
    """The memory of `target` was written: so is what it shows, and all that shows it changes."""
    from tracegrad.tracer.inplace import assign

    recorder = cast("Recorder", state.recorder)
    memory = recorder.memory_of(target)
    shown = memory.shows
    if shown is not None and recorder.can_use(*shown.indices):
        root, _ = memory_root(target)
        new = apply(OPS["scatter"], [shown.source, root, *shown.indices])
        assign(shown.source, new, "__setitem__", since=since)
    _renew(recorder, target)


def _renew(recorder: Recorder, target: Tensor) -> None:
    """Read anew what shows the memory of `target`, and what shows that."""
    memory = recorder.memory_of(target)
    if not memory.views:
        return
    memory.views = [view for view in memory.views if _in_use(view, recorder)]
    for view in memory.views:
        result = view.result
        if not recorder.can_use(result, *view.indices):
            continue
        new = view.read()
        recorder.before_write(result)
        np.copyto(result._array, new._array)
        result._storage.version += 1
        recorder.mutate(result, new)
        result._grad_fn = new._grad_fn
        result._output_nr = new._output_nr
        result._requires_grad = new._requires_grad
        _renew(recorder, result)


class _Holder:
    """Holds a tensor as the memories of a trace do."""

    def __init__(self, result: object) -> None:
        self.result = result


def _references(view: MovingView | _Holder) -> int:
    return sys.getrefcount(view.result)


_ONE = _references(_Holder(object()))


def _in_use(view: MovingView, recorder: Recorder) -> bool:
    """Whether anybody but the trace has the result, or a view of it."""
    # As its memory's root, in the list of what the trace made, and perhaps by its value.
    held = 2 + recorder.is_holder(view.result, view.place)
    return _references(view) > _ONE + held
