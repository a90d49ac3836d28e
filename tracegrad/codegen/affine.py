"""Where an element comes from: affine functions of the loop variables, pulled back through views.

A kernel's loops run over one index space. The index of any value that the kernel reads is,
dimension by dimension, an affine function of the loop variables; a transpose, slice, flip,
broadcast or reshape only rewrites those functions, which is why views cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracegrad.ir.graph import Node

Shape = tuple[int, ...]


class Affine(NamedTuple):
    """`const + sum(coefs[k] * loop_variable[k])`."""

    const: int
    coefs: Shape

    def __add__(self, other: Affine) -> Affine:  # type: ignore[override]
        return Affine(
            self.const + other.const,
            tuple(a + b for a, b in zip(self.coefs, other.coefs, strict=True)),
        )

    def scaled(self, factor: int, shift: int = 0) -> Affine:
        """`factor * self + shift`."""
        return Affine(self.const * factor + shift, tuple(c * factor for c in self.coefs))


Index = tuple[Affine, ...]
"""One affine function for each dimension of a value."""


def identity(shape: Shape) -> Index:
    """Each dimension of `shape` is its own loop; sizes of 1 need none and stay at 0."""
    rank = len(shape) - shape.count(1)
    index: list[Affine] = []
    loop = 0
    for size in shape:
        coefs = [0] * rank
        if size != 1:
            coefs[loop] = 1
            loop += 1
        index.append(Affine(0, tuple(coefs)))
    return tuple(index)


def squeeze(shape: Shape) -> Shape:
    """`shape` without its sizes of 1: the loops that a kernel over it needs."""
    return tuple(size for size in shape if size != 1)


def row_major(shape: Shape) -> Shape:
    """Element strides of a C-contiguous array."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def dot(index: Index, strides: Sequence[int], rank: int, offset: int = 0) -> Affine:
    """The element offset of `index` in a buffer with these strides."""
    const = offset
    coefs = [0] * rank
    for entry, stride in zip(index, strides, strict=True):
        const += entry.const * stride
        for loop, coef in enumerate(entry.coefs):
            if coef:
                coefs[loop] += coef * stride
    return Affine(const, tuple(coefs))


def align(index: Index, shape: Shape, source: Shape) -> Index:
    """The index of an operand of shape `source` that broadcasts to `shape`."""
    entries = index[len(shape) - len(source) :]
    if 1 not in source:
        return entries
    return tuple(
        entry.scaled(0) if size == 1 else entry for entry, size in zip(entries, source, strict=True)
    )


def split(entry: Affine, sizes: Shape, loops: Shape) -> Index | None:
    """`entry`, an index into prod(sizes) elements, as an index into `sizes`; None where that is not
    affine.

    Each loop term must be a multiple of the inner size, or the terms that are not must together
    stay below it.
    """
    found: list[Affine] = []
    for size in reversed(sizes[1:]):
        if size == 1:
            found.append(entry.scaled(0))
            continue
        low = entry.const % size
        reach = low
        quotient: list[int] = []
        remainder: list[int] = []
        for coef, extent in zip(entry.coefs, loops, strict=True):
            if coef % size == 0:
                quotient.append(coef // size)
                remainder.append(0)
            elif coef < 0:
                return None
            else:
                quotient.append(0)
                remainder.append(coef)
                reach += coef * (extent - 1)
        if reach >= size:
            return None
        found.append(Affine(low, tuple(remainder)))
        entry = Affine(entry.const // size, tuple(quotient))
    found.append(entry)
    return tuple(reversed(found))


def _through_transpose(node: Node, index: Index, loops: Shape) -> Index:
    axes = node.params["axes"]
    source: list[Affine] = list(index)
    for position, axis in enumerate(axes):
        source[axis] = index[position]
    return tuple(source)


def _through_broadcast(node: Node, index: Index, loops: Shape) -> Index:
    return align(index, node.shape, node.inputs[0].shape)


def _through_slice(node: Node, index: Index, loops: Shape) -> Index:
    starts = node.params["starts"]
    strides = node.params["strides"]
    return tuple(
        entry.scaled(stride, start)
        for entry, start, stride in zip(index, starts, strides, strict=True)
    )


def _through_flip(node: Node, index: Index, loops: Shape) -> Index:
    axes = node.params["axes"]
    return tuple(
        entry.scaled(-1, size - 1) if axis in axes else entry
        for axis, (entry, size) in enumerate(zip(index, node.shape, strict=True))
    )


def _through_reshape(node: Node, index: Index, loops: Shape) -> Index | None:
    source = node.inputs[0].shape
    if 0 in source:
        return tuple(Affine(0, (0,) * len(loops)) for _ in source)
    linear = dot(index, row_major(node.shape), len(loops))
    return split(linear, source, loops) if source else ()


def _through_after(node: Node, index: Index, loops: Shape) -> Index:
    return index


_THROUGH: dict[str, Callable[[Node, Index, Shape], Index | None]] = {
    "transpose": _through_transpose,
    "broadcast_to": _through_broadcast,
    "slice": _through_slice,
    "flip": _through_flip,
    "reshape": _through_reshape,
    "after": _through_after,
}

VIEWS = frozenset(_THROUGH)
"""The movement ops that are index arithmetic only."""


def through(node: Node, index: Index, loops: Shape) -> Index | None:
    """The index of a view's source, given the view's own index; None for a reshape that is not
    affine here.
    """
    return _THROUGH[node.op.name](node, index, loops)


@dataclass(frozen=True, slots=True)
class View:
    """A strided window into a buffer, in elements."""

    buffer: Any
    offset: int
    strides: Shape
    shape: Shape

    def is_contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps (the offset may be anything)."""
        return all(
            size == 1 or stride == expected
            for size, stride, expected in zip(
                self.shape, self.strides, row_major(self.shape), strict=True
            )
        )
