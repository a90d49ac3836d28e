"""Switching gradients on and off, as contexts and as decorators."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from tracegrad.tracer.state import state

F = TypeVar("F", bound=Callable[..., Any])


def is_grad_enabled() -> bool:
    """Whether this thread tracks gradients now."""
    return state.grad_enabled


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside `inference_mode`."""
    return state.inference


class _Mode:
    """Sets the modes of the thread on entry and puts them back on exit; also decorates
    functions.
    """

    def __init__(self, grad_enabled: bool, inference: bool | None = None) -> None:
        self._grad_enabled = grad_enabled
        self._inference = inference
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((state.grad_enabled, state.inference))
        self._set()

    def _set(self) -> None:
        state.set_grad(self._grad_enabled)
        if self._inference is not None:
            state.inference = self._inference

    def __exit__(self, *exc: object) -> None:
        enabled, state.inference = self._before.pop()
        state.set_grad(enabled)

    def clone(self) -> _Mode:
        """A fresh context for another thread or another call."""
        return _Mode(self._grad_enabled, self._inference)

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            return self._generator(function)  # type: ignore[return-value]

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.clone():
                return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A generator that runs in this mode, and its caller, between items, does not."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with self.clone():
                generator = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(next, generator)
            while True:
                try:
                    with self.clone():
                        item = step()
                except StopIteration as stop:
                    return stop.value
                try:
                    sent = yield item
                    step = functools.partial(generator.send, sent)
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as error:
                    step = functools.partial(generator.throw, error)

        return wrapper


class no_grad(_Mode):  # noqa: N801
    """Within it nothing is put on the tape."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        mode = super().__new__(cls)
        if function is None:
            return mode
        mode.__init__()  # type: ignore[misc]
        return mode(function)

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        super().__init__(False)


class enable_grad(_Mode):  # noqa: N801
    """Within it the tape is on, also inside `no_grad`."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        mode = super().__new__(cls)
        if function is None:
            return mode
        mode.__init__()  # type: ignore[misc]
        return mode(function)

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        super().__init__(True)


class set_grad_enabled(_Mode):  # noqa: N801
    """Switches the tape on or off: at once when called, and until the end as a context."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        self._outer = (state.grad_enabled, state.inference)
        self._set()

    def __enter__(self) -> None:
        self._before.append(self._outer)
        self._set()

    def __call__(self, function: F) -> F:
        state.set_grad(self._outer[0])
        return super().__call__(function)


class inference_mode(_Mode):  # noqa: N801
    """`no_grad` whose tensors never enter a tape either."""

    def __new__(cls, mode: bool | Callable[..., Any] = True) -> Any:
        made = super().__new__(cls)
        if not callable(mode):
            return made
        made.__init__()  # type: ignore[misc]
        return made(mode)

    def __init__(self, mode: bool | Callable[..., Any] = True) -> None:
        on = bool(mode)
        super().__init__(not on if on else state.grad_enabled, on)
