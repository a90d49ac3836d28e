"""NumPy's functions on tensors: `np.sin(t)` is `tg.sin(t)`, differentiable and traced.

What has no counterpart here runs in NumPy on the tensor's values, and gives an array; that needs a
tensor without gradient, as `numpy()` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.tracer.conversion import numpy
from tracegrad.tracer.functions import FUNCTIONS
from tracegrad.tracer.inplace import assign
from tracegrad.tracer.movement import movedim, permute, reversed_axes
from tracegrad.tracer.tape import mark
from tracegrad.tracer.tensor import Tensor

# NumPy's name: ours, where they differ.
_RENAMED = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "power": "pow",
    "float_power": "pow",
    "negative": "neg",
    "absolute": "abs",
    "fabs": "abs",
    "mod": "remainder",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "rint": "round",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "equal": "eq",
    "not_equal": "ne",
    "invert": "bitwise_not",
    "left_shift": "bitwise_left_shift",
    "right_shift": "bitwise_right_shift",
    "max": "amax",
    "min": "amin",
    "concatenate": "cat",
    "clip": "clamp",
    "expand_dims": "unsqueeze",
}

# Functions of one name but another meaning, or with other defaults.
_DIFFERENT = frozenset(
    {
        "isclose",
        "allclose",
        "array_equal",
        "sort",
        "split",
        "array_split",
        "norm",
        "cumprod",
        "median",
        "unique",
        "dot",
    }
)

Function = Callable[..., Any]


def _ours(name: str) -> Function | None:
    if name in _DIFFERENT:
        return None
    return FUNCTIONS.get(_RENAMED.get(name, name))


def array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """A ufunc with a tensor among its operands; `out=` may be a tensor."""
    function = _ours(ufunc.__name__)
    out = kwargs.pop("out", None)
    if method != "__call__" or function is None or kwargs:
        if out is not None:
            kwargs["out"] = tuple(_plain(target) for target in out)
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)
    since = mark()
    result = function(*inputs)
    if out is None:
        return result
    (target,) = out
    if isinstance(target, Tensor):
        return assign(target, result, ufunc.__name__, since=since)
    target[...] = numpy(result)
    return target


def _plain(value: Any) -> Any:
    """`value` with the arrays of the tensors in it."""
    if isinstance(value, Tensor):
        return numpy(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(part) for part in value])
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value


def _transpose(x: Tensor, axes: Any = None) -> Tensor:
    return reversed_axes(x) if axes is None else permute(x, *axes)


def _variance(name: str) -> Function:
    def function(x: Tensor, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
        return FUNCTIONS[name](x, dim=axis, correction=ddof, keepdim=keepdims)

    return function


_SPECIAL: dict[str, Function] = {
    "transpose": _transpose,
    "swapaxes": lambda x, a, b: _transpose(x, _swapped(x.ndim, a, b)),
    "moveaxis": movedim,
    "reshape": lambda x, shape: x.reshape(shape),
    "ravel": lambda x: x.reshape(-1),
    "squeeze": lambda x, axis=None: x.squeeze(axis),
    "broadcast_to": lambda x, shape: x.expand(shape),
    "var": _variance("var"),
    "std": _variance("std"),
    "shape": lambda x: tuple(x.shape),
    "ndim": lambda x: x.ndim,
    "size": lambda x, axis=None: x.numel() if axis is None else x.shape[axis],
    "copy": lambda x: x.clone(),
}


def _swapped(ndim: int, a: int, b: int) -> list[int]:
    axes = list(range(ndim))
    axes[a], axes[b] = axes[b], axes[a]
    return axes


def array_function(self: Tensor, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """A function of NumPy with a tensor among its arguments."""
    name = func.__name__
    function = _SPECIAL.get(name) if name in _SPECIAL else _ours(name)
    if function is None:
        return func(*_plain(args), **_plain(kwargs))
    return function(*args, **kwargs)
