"""Cotangents that carry a mask, so that the branch of `where` that was not taken never brings in
NaN.

The gradient of `where(x > 0, sqrt(x), 0)` at x = 0 is 0. The plain chain rule masks the cotangent
first and then multiplies it by the derivative of the square root: 0 * inf = NaN. Here the cotangent
stays unmasked, its mask travels beside it through elementwise ops, and the mask is applied after
the local derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tracegrad.ir.graph import Node, scalar_value
from tracegrad.ir.op import OPS


class Masked(NamedTuple):
    """The cotangent `value` where every condition of `mask` has the truth beside it, and zero
    elsewhere.
    """

    value: Node
    mask: tuple[tuple[Node, bool], ...] = ()

    def under(self, mask: tuple[tuple[Node, bool], ...]) -> Masked:
        """This cotangent where `mask` holds too."""
        return Masked(self.value, tuple(dict.fromkeys((*mask, *self.mask))))

    def node(self) -> Node:
        """The cotangent itself, the mask applied."""
        value = self.value
        for condition, truth in self.mask:
            value = _where(condition, value, 0) if truth else _where(condition, 0, value)
        return value


def _where(condition: Node, a: Node | float | bool, b: Node | float | bool) -> Node:
    return OPS["where"](condition, a, b)


def peel(value: Node) -> Masked:
    """Take the masks off a cotangent: `where(c, v, 0)` is `v` masked by `c`. Any rule may be
    written so.
    """
    mask: list[tuple[Node, bool]] = []
    while value.op.name == "where":
        condition, a, b = value.inputs
        if _is_zero(b) and a.shape == value.shape:
            mask.append((condition, True))
            value = a
        elif _is_zero(a) and b.shape == value.shape:
            mask.append((condition, False))
            value = b
        else:
            break
    return Masked(value, tuple(reversed(mask)))


def _is_zero(node: Node) -> bool:
    return bool(scalar_value(node) == 0)


def add(contributions: Sequence[Masked]) -> Masked:
    """The sum of the cotangents that a value gets from its users.

    It stays masked if all of them have the same mask. Cotangents from the two branches of one
    `where` need no addition: one of them counts at each element.
    """
    groups: dict[frozenset[tuple[Node, bool]], Masked] = {}
    for new in contributions:
        key = frozenset(new.mask)
        old = groups.get(key)
        groups[key] = new if old is None else Masked(old.value + new.value, old.mask)
    parts = list(groups.values())
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2 and len(parts[0].mask) == len(parts[1].mask) == 1:
        (condition, truth), (other, _) = parts[0].mask[0], parts[1].mask[0]
        if condition is other:
            a, b = (part.value for part in (parts if truth else reversed(parts)))
            return Masked(_where(condition, a, b))
    total = parts[0].node()
    for part in parts[1:]:
        total = total + part.node()
    return Masked(total)


def conjunction(mask: Sequence[tuple[Node, bool]], shape: tuple[int, ...]) -> Node | None:
    """One bool node of `shape` that is true where all of `mask` holds; None for an empty mask."""
    result: Node | None = None
    for condition, truth in mask:
        if result is None:
            result = condition if truth else _where(condition, False, _true(condition))
        else:
            result = _where(condition, result, False) if truth else _where(condition, False, result)
    if result is not None and result.shape != shape:
        result = OPS["broadcast_to"](result, shape=shape)
    return result


def _true(like: Node) -> Node:
    from tracegrad.ir.graph import Builder

    return Builder.current().constant(True, like.dtype)
