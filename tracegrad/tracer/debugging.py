"""Looking at values from within compiled code: `debug_print` and `breakpoint_if`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.errors import TracegradError
from tracegrad.tracer.access import Path
from tracegrad.tracer.conversion import clone, detach, to_bool
from tracegrad.tracer.location import locate, user_place
from tracegrad.tracer.state import state
from tracegrad.tracer.stores import take_apart
from tracegrad.tracer.structure import Container, builder_of
from tracegrad.tracer.tensor import Tensor


class Message:
    """A text that is printed at every call of compiled code, with the values of that call.

    It stands among the stores of a trace: something that is done when the values are there.
    """

    def __init__(self, form: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._form = form
        self._values: Any = (args, kwargs)
        self._build: Callable[[Sequence[Any]], Any] = list
        self.count = 0

    def take_apart(self, known: dict[int, Path]) -> list[Any]:
        """The leaves of what is printed, which are to be results of the trace."""
        leaves: list[Any] = []
        described = take_apart(self._values, leaves, known)
        self._build = builder_of(Container(list, None, (described,)))
        self.count = len(leaves)
        self._values = None
        return leaves

    def target(self, arguments: Sequence[Any]) -> Any:
        """Nothing is changed."""
        return None

    def apply(self, target: Any, arguments: Sequence[Any], made: Sequence[Any]) -> None:
        """Print it, with the results `made`."""
        ((args, kwargs),) = self._build(made)
        _write(self._form, args, kwargs)

    def print_now(self) -> None:
        """Print it with the values of the trace, where the trace comes to no end."""
        if self._values is not None:
            _write(self._form, *self._values)


def _write(form: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    sys.stdout.write(form.format(*args, **kwargs) + "\n")


def debug_print(fmt: str, *args: Any, **kwargs: Any) -> None:
    """Print `fmt.format(*args, **kwargs)`, eagerly and at every call of compiled code.

    Compiled code prints when the call is done, in the order of the program, with the values that
    tensors had at this line. Nothing is guarded, and gradients are not changed.
    TraceError in a function that is given to `tg.scan`, `tg.cond` and the like: those run as a
    whole.
    """
    recorder = state.recorder
    if recorder is None:
        _write(fmt, *_detached(args, kwargs, lambda x: x))
        return
    try:
        recorder.later(Message(fmt, *_detached(args, kwargs, clone)))
    except TracegradError as error:
        locate(error)
        raise


def _detached(
    args: tuple[Any, ...], kwargs: dict[str, Any], copied: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, tensors off the tape. A copy of one does not see later writes."""

    def change(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        made = copied(detach(value))
        made._weak = value._weak
        return made

    return tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}


def breakpoint_if(condition: Any) -> None:
    """Stop in the debugger, as `breakpoint()` does, where `condition` is true.

    In compiled code the condition is a guard: as long as it is false, machine code runs. Each time
    it is true, the function runs in Python once more, so that the debugger shows its variables with
    the values of this call.
    """
    if not (to_bool(condition) if isinstance(condition, Tensor) else condition):
        return
    recorder = state.recorder
    if recorder is not None:
        recorder.run_again()
    place = user_place()
    if place is not None:
        sys.stderr.write(f"tg.breakpoint_if: true at {place}\n")
    # The debugger may look at tensors without leaving a guard.
    with _unrecorded():
        sys.breakpointhook()


@contextlib.contextmanager
def _unrecorded() -> Any:
    recorder = state.recorder
    state.record_by(None)
    try:
        yield
    finally:
        state.record_by(recorder)
