"""What it costs to have a value of forward in backward: saved, or computed once more.

Prices are bytes moved, since memory is what bounds most programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from tracegrad.ir.graph import Node

# Prices beside the bytes themselves, in bytes: one more array to allocate, pass and wrap; one
# more array to pass.
_NEW_ARRAY = 2048
_KEPT_ARRAY = 64

# Elementwise ops that cost about as much as reading their operands from memory, or more.
# fmt: off
_COSTLY = frozenset({
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "hypot", "logaddexp",
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh",
    "atanh", "erf", "erfc", "sigmoid", "softplus",
})
# fmt: on
_FREE = frozenset({"constant", "iota", "reshape", "transpose", "broadcast_to", "slice", "detach"})


class Prices(NamedTuple):
    """What it costs to have a value in backward, in bytes moved.

    saving       of a value of forward, given the set of forward's outputs.
    recomputing  once more from its operands: 0 for what is free, infinity for what must not be.
    """

    saving: Callable[[Node, set[Node]], float]
    recomputing: Callable[[Node], float]


def _price_of_saving(x: Node, outputs: set[Node]) -> float:
    if x.op.name == "input" or x in outputs:
        # Alive anyway; backward still has to read it.
        return x.type.nbytes / 8 + _KEPT_ARRAY
    if x.op.family in ("elementwise", "movement"):
        # Inside a fused kernel it would never be written to memory.
        return 2.0 * x.type.nbytes + _NEW_ARRAY
    return 1.0 * x.type.nbytes + _NEW_ARRAY


def _price_of_recomputing(x: Node) -> float:
    """0 for what is free, infinity for what backward must never do once more."""
    if x.op.name in _FREE:
        return 0.0
    if not x.op.pure:
        return np.inf
    if x.op.family == "elementwise":
        return x.type.nbytes * (1.0 if x.op.name in _COSTLY else 1 / 16) + 1
    if x.op.family == "movement":
        return x.type.nbytes / 4 + 1
    return np.inf


WHOLE_PROGRAM = Prices(_price_of_saving, _price_of_recomputing)

# In the body of a loop, where a value saved is pushed on a stack in every iteration. Scalars are in
# registers there, so that prices are in sixteenths of a byte: a push and a pop are worth some ten
# simple operations, a function or a division more.
_UNIT = 16
_READ_AGAIN = 4
_SLOW = frozenset({"div", "sqrt", "rsqrt", "reciprocal", "remainder", "fmod", "floor_divide"})


def body_prices(again: Mapping[Node, float], kept: set[Node]) -> Prices:
    """Prices in the body of a loop or a branch.

    `again` has what can be read again as it is, since it does not change from iteration to
    iteration or is there for each, and the bytes that this takes for an iteration. The outputs in
    `kept` can be read again too.
    """

    def saving(x: Node, outputs: set[Node]) -> float:
        if x in again or x in kept:
            return _READ_AGAIN + _UNIT * again.get(x, 0.0)
        if not x.shape:
            return _UNIT * (x.type.nbytes + 2)
        # On a tie what exists as an array anyway.
        exists = x.op.name == "input" or x in outputs
        return _UNIT * (2.0 * x.type.nbytes + (8 if exists else 16))

    def recomputing(x: Node) -> float:
        if x.op.name == "gather" and x.inputs[0] in again:
            return _UNIT * (x.type.nbytes / 2 + 1)
        price = _price_of_recomputing(x)
        if x.shape or x.op.family != "elementwise" or not price:
            return _UNIT * price
        return _UNIT * (60.0 if x.op.name in _COSTLY else 5.0 if x.op.name in _SLOW else 1.0)

    return Prices(saving, recomputing)


# Multiplications of a matrix product that take as long as to move one byte.
_PER_BYTE = 4


def scarce_prices(scarcity: float) -> Prices:
    """Prices of a whole program where saving costs so many times as much.

    Then what is else never done twice may be worth it: matrix products, reductions, scans, sorts.
    """

    def saving(x: Node, outputs: set[Node]) -> float:
        price = _price_of_saving(x, outputs)
        return price if x.op.name == "input" or x in outputs else scarcity * price

    def recomputing(x: Node) -> float:
        price = _price_of_recomputing(x)
        if np.isfinite(price) or not x.op.pure or x.op.family == "control":
            return price
        if x.op.family == "contraction":
            return x.type.size * x.inputs[0].shape[-1] / _PER_BYTE + 1
        return float(x.type.nbytes + sum(y.type.nbytes for y in x.inputs)) + 1

    return Prices(saving, recomputing)
