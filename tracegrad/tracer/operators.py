"""Python's operators on tensors. The plain ones go straight to their op; the others are the named
functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions import METHODS
from tracegrad.tracer.inplace import assign
from tracegrad.tracer.promotion import promote
from tracegrad.tracer.tape import mark
from tracegrad.tracer.tensor import Tensor

Operator = Callable[..., Any]

_OPERANDS = (Tensor, bool, int, float, np.ndarray, np.generic)


def _direct(name: str) -> tuple[Operator, Operator]:
    """The operator of an elementwise op that takes every pair of dtypes, and its reflection."""
    op = OPS[name]

    def forward(self: Tensor, other: Any) -> Any:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        return apply(op, promote(self, other))

    def reflected(self: Tensor, other: Any) -> Any:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        return apply(op, promote(other, self))

    return forward, reflected


def _named(name: str) -> tuple[Operator, Operator]:
    """The operator that is the named function `name`, and its reflection."""

    def forward(self: Tensor, other: Any) -> Any:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        return METHODS[name](self, other)

    def reflected(self: Tensor, other: Any) -> Any:
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        return METHODS[name](promote(other, self)[0], self)

    return forward, reflected


def _augmented(name: str, forward: Operator) -> Operator:
    def method(self: Tensor, other: Any) -> Any:
        since = mark()
        value = forward(self, other)
        if value is NotImplemented or self._weak:
            # A Python number, as which an argument of compiled code is given, does not change.
            return value
        return assign(self, value, name, since=since)

    return method


_DIRECT = ("add", "mul")
_NAMED = {
    "sub": "sub",
    "truediv": "div",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "pow",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}
_COMPARISONS = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
_UNARY = {"neg": "neg", "invert": "bitwise_not", "abs": "abs"}


def _unary(name: str) -> Operator:
    return lambda self: METHODS[name](self)


def operators() -> dict[str, Operator]:
    """The dunder methods by name."""
    table: dict[str, Operator] = {"__pos__": lambda self: self}
    for name in _DIRECT:
        table[f"__{name}__"], table[f"__r{name}__"] = _direct(name)
    for name, function in _NAMED.items():
        table[f"__{name}__"], table[f"__r{name}__"] = _named(function)
    for name in (*_DIRECT, *_NAMED):
        function = _NAMED.get(name, name)
        table[f"__i{name}__"] = _augmented(f"{function}_", table[f"__{name}__"])
    for name, function in _COMPARISONS.items():
        table[f"__{name}__"] = _direct(function)[0]
    for name, function in _UNARY.items():
        table[f"__{name}__"] = _unary(function)
    return table
