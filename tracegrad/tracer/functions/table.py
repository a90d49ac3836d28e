"""Where the named functions are listed, and what their public forms have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tracegrad.errors import TracegradError
from tracegrad.tracer.inplace import with_out
from tracegrad.tracer.location import locate

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


class Decorator(Protocol):
    """What gives back the very function that it is called with."""

    def __call__(self, implementation: F, /) -> F: ...


METHODS: dict[str, Function] = {}
"""Functions that become methods of `Tensor`: their first argument is the tensor."""

FUNCTIONS: dict[str, Function] = {}
"""Functions that become public names of `tracegrad`."""

FUNCTIONAL: dict[str, Function] = {}
"""Functions that become public names of `tracegrad.nn.functional`."""

LINALG: dict[str, Function] = {}
"""Functions that become public names of `tracegrad.linalg`."""

_SYNONYMS = {"axis": "dim", "keepdims": "keepdim"}


def public(function: Function) -> Function:
    """The form that users call: NumPy's `axis=` and `keepdims=` are taken for `dim=` and
    `keepdim=`, and errors say where in the user's program the call is.
    """
    takes = inspect.signature(function).parameters
    synonyms = {new: old for new, old in _SYNONYMS.items() if old in takes}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            for name, meant in synonyms.items():
                if name in kwargs:
                    kwargs[meant] = kwargs.pop(name)
        try:
            return function(*args, **kwargs)
        except TracegradError as error:
            locate(error)
            raise

    return wrapper


def register(
    *names: str,
    function: bool = True,
    method: bool = True,
    out: bool = False,
    functional: bool = False,
    linalg: bool = False,
) -> Decorator:
    """List a function by its names (its own first one by default); `out`: with PyTorch's `out=`."""

    def enter(implementation: F) -> F:
        form = public(implementation)
        for name in names or (implementation.__name__,):
            if method:
                METHODS[name] = form
            if function:
                FUNCTIONS[name] = with_out(form) if out else form
            if functional:
                FUNCTIONAL[name] = form
            if linalg:
                LINALG[name] = form
        return implementation

    return enter
