"""Prefix sums of any associative function, in a number of steps that grows with the logarithm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.errors import ArgumentError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.tracer.carries import Tree, tree_of
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions import FUNCTIONS
from tracegrad.tracer.location import located
from tracegrad.tracer.movement import axis_of, window
from tracegrad.tracer.tensor import Tensor

Leaves = list[Tensor]


@located
def associative_scan(
    fn: Callable[[Any, Any], Any], elems: Any, reverse: bool = False, axis: int = 0
) -> Any:
    """The sums of the first 1, 2, ... elements along `axis`, where `fn(a, b)` is the sum.

    `elems` is a tensor or a container of tensors of one size along `axis`; `fn` takes two such,
    combines them element by element along the axis, and has to be associative. With `reverse` the
    sums run from the end, and `fn` gets the later elements first.
    """
    tree = tree_of(elems)
    if not tree.leaves:
        raise ArgumentError("tg.associative_scan: there are no tensors to scan")
    for x in tree.leaves:
        if x.ndim == 0:
            raise ShapeError(f"tg.associative_scan: {x._type} has no axis to scan along")
    axes = [axis_of(axis, x.ndim) for x in tree.leaves]
    sizes = {x._array.shape[a] for x, a in zip(tree.leaves, axes, strict=True)}
    if len(sizes) > 1:
        listed = ", ".join(str(x._type) for x in tree.leaves)
        raise ShapeError(
            f"tg.associative_scan: the tensors have several sizes along axis {axis}: {listed}"
        )
    leaves = [_turned(x, a) if reverse else x for x, a in zip(tree.leaves, axes, strict=True)]
    found = _Scan(fn, tree, axes).run(leaves, sizes.pop())
    return tree.build([_turned(x, a) if reverse else x for x, a in zip(found, axes, strict=True)])


class _Scan:
    """Pairs are combined, their sums scanned, and the sums in between filled in: see Blelloch,
    "Prefix sums and their applications" (1990).
    """

    def __init__(self, fn: Callable[[Any, Any], Any], tree: Tree, axes: Sequence[int]) -> None:
        self.fn = fn
        self.tree = tree
        self.axes = axes

    def run(self, leaves: Leaves, size: int) -> Leaves:
        if size < 2:
            return leaves
        pairs = self._combined(
            self._every_second(leaves, 0, size - 1), self._every_second(leaves, 1, size)
        )
        odd = self.run(pairs, size // 2)
        # The sums that end at an even place: those before it, and one element more.
        before = [
            window(x, axis, 0, (size - 1) // 2, 1, "")
            for x, axis in zip(odd, self.axes, strict=True)
        ]
        first = [window(x, axis, 0, 1, 1, "") for x, axis in zip(leaves, self.axes, strict=True)]
        if size == 2:
            even = first
        else:
            later = self._combined(before, self._every_second(leaves, 2, size))
            even = [
                FUNCTIONS["cat"]([x, y], axis)
                for x, y, axis in zip(first, later, self.axes, strict=True)
            ]
        return [_interleaved(x, y, axis) for x, y, axis in zip(even, odd, self.axes, strict=True)]

    def _every_second(self, leaves: Leaves, start: int, limit: int) -> Leaves:
        return [
            window(x, axis, start, limit, 2, "") for x, axis in zip(leaves, self.axes, strict=True)
        ]

    def _combined(self, a: Leaves, b: Leaves) -> Leaves:
        made = tree_of(self.fn(self.tree.build(a), self.tree.build(b)), self.tree.structure)
        if made.structure != self.tree.structure:
            raise ArgumentError(
                f"tg.associative_scan: the function returned {made.structure!r}, not "
                f"{self.tree.structure!r}"
            )
        for x, y in zip(made.leaves, a, strict=True):
            if x._array.shape != y._array.shape:
                raise ShapeError(
                    f"tg.associative_scan: the function turns {y._type} into {x._type}: it has to "
                    "combine element by element along the axis"
                )
        return made.leaves


def _interleaved(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """`even` and `odd`, which is as long or one shorter, in turn."""
    shape = odd._array.shape
    count = shape[axis]
    both = FUNCTIONS["stack"]([window(even, axis, 0, count, 1, ""), odd], axis + 1)
    joined = apply(
        OPS["reshape"], [both], {"shape": (*shape[:axis], 2 * count, *shape[axis + 1 :])}
    )
    if even._array.shape[axis] == count:
        return joined
    last: Tensor = FUNCTIONS["cat"]([joined, window(even, axis, count, count + 1, 1, "")], axis)
    return last


def _turned(x: Tensor, axis: int) -> Tensor:
    return apply(OPS["flip"], [x], {"axes": (axis,)})
