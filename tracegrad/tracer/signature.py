"""What of a call's arguments picks the compiled code: one hashable key."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.types import BY_NUMPY
from tracegrad.tracer.device import Device, cpu, device_of
from tracegrad.tracer.tensor import Tensor

Layout = tuple[int, ...]


class TensorKey:
    """Dtype, shape, strides and device of arrays. There is one of each, so identity is equality."""

    __slots__ = ("device", "dtype", "shape", "strides")

    def __init__(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        device: Device,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.strides = strides
        self.device = device

    def __repr__(self) -> str:
        name = BY_NUMPY[self.dtype].short if self.dtype in BY_NUMPY else str(self.dtype)
        strides = "" if self.strides is None else f" strides {list(self.strides)}"
        where = "" if self.device is cpu else f" on {self.device}"
        return f"{name}[{', '.join(map(str, self.shape)) or '()'}]{strides}{where}"


_keys: dict[Hashable, TensorKey] = {}


def key_of_array(array: np.ndarray[Any, Any]) -> TensorKey:
    """The one `TensorKey` of arrays like this."""
    strides = None if array.flags.c_contiguous else array.strides
    key = (array.dtype, array.shape, strides, device_of(array))
    found = _keys.get(key)
    if found is None:
        found = _keys.setdefault(key, TensorKey(*key))
    return found


def key_of(tensor: Tensor) -> TensorKey:
    """The `TensorKey` of a tensor, remembered on it as long as its array stays the same."""
    cached = tensor._key
    if cached is not None and cached[0] is tensor._array:
        key: TensorKey = cached[1]
        return key
    key = key_of_array(tensor._array)
    tensor._key = (tensor._array, key)
    return key


def leaf_key(leaf: Any) -> Any:
    """The part of a dynamic leaf in the key of a call; hashable."""
    if isinstance(leaf, Tensor):
        return key_of(leaf), leaf.requires_grad
    if isinstance(leaf, np.ndarray | np.generic):
        return key_of_array(np.asarray(leaf))
    return type(leaf)


class Binder:
    """Puts keyword arguments and defaults into their places, so that each call has one form.

    What counts is the signature of the function that is called, not of one that it wraps: a
    decorator may tell an argument that was given from a default, and a keyword from a position.

    names  of the parameters that can be given by position, for messages: what is wrapped tells them
           where a decorator takes anything.
    count  of the parameters that can be given by position.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.names: Sequence[str] = ()
        self.count = 0
        self._own: Sequence[str] = ()
        self._defaults: dict[str, Any] = {}
        self._keyword_defaults: dict[str, Any] = {}
        self._name = getattr(function, "__name__", type(function).__name__)
        self._signature: inspect.Signature | None = None
        try:
            signature = inspect.signature(function, follow_wrapped=False)
            self.names = _positional(inspect.signature(function))
        except (TypeError, ValueError):
            return
        if isinstance(function, np.ufunc | functools.partial):
            # The keywords of the one are for arrays, and contradict each other if they are filled
            # in with their defaults; those of the other may change, and it fills them in itself.
            return
        self._own = _positional(signature)
        self.count = len(self._own)
        if not _takes_anything(signature):
            self._signature = signature
        for parameter in signature.parameters.values():
            if parameter.default is not parameter.empty:
                by_position = parameter.name in self._own
                defaults = self._defaults if by_position else self._keyword_defaults
                defaults[parameter.name] = parameter.default

    @property
    def is_plain(self) -> bool:
        """Whether a call with every parameter by position has this form already."""
        return self._signature is not None and not self._keyword_defaults

    def bind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with all that can be positional by position, defaults included.

        TypeError, with the function's name, if the call does not fit the function.
        """
        signature = self._signature
        if signature is None:
            return args, kwargs
        if len(args) < len(self._own) and not kwargs:
            missing = self._own[len(args) :]
            if all(name in self._defaults for name in missing):
                args = (*args, *(self._defaults[name] for name in missing))
                return args, dict(self._keyword_defaults)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{self._name}() was called with the wrong arguments: {error}"
            ) from None
        bound.apply_defaults()
        return bound.args, bound.kwargs


def _positional(signature: inspect.Signature) -> Sequence[str]:
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [each.name for each in signature.parameters.values() if each.kind in kinds]


def _takes_anything(signature: inspect.Signature) -> bool:
    kinds = [each.kind for each in signature.parameters.values()]
    return kinds == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
