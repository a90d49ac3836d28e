"""Einstein summation: diagonals, sums, and one batched matrix product for each pair of operands."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from tracegrad.errors import ArgumentError, ShapeError
from tracegrad.ir.families import broadcast_shapes
from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.contraction import permuted, reshaped
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.promotion import promote
from tracegrad.tracer.tensor import Tensor

Labels = tuple[str, ...]

# Names of the axes under an ellipsis, counted from the last one: they are no letters.
_ELLIPSIS = tuple(f".{i}" for i in range(64))


def _labels(term: str, ndim: int, equation: str) -> Labels:
    """One label for each axis of an operand."""
    text = term.replace(" ", "")
    before, dots, after = text.partition("...")
    letters = before + after
    if not all(c in string.ascii_letters for c in letters):
        raise ArgumentError(f"einsum(): invalid subscript in {equation!r}: {term!r}")
    covered = ndim - len(letters)
    if covered < 0 or (covered and not dots):
        raise ShapeError(
            f"einsum(): the number of subscripts in {term!r} does not match the number of "
            f"dimensions ({ndim}) of its operand"
        )
    return (*before, *reversed(_ELLIPSIS[:covered]), *after)


def _output(terms: Sequence[Labels], equation: str, given: str | None) -> Labels:
    """The labels of the result: those after "->", or all that occur once, in order."""
    flat = [label for labels in terms for label in labels]
    covered = [label for label in _ELLIPSIS if label in flat]
    dots = tuple(reversed(covered))
    if given is None:
        once = sorted(
            label for label in set(flat) if label not in _ELLIPSIS and flat.count(label) == 1
        )
        return (*dots, *once)
    before, found, after = given.replace(" ", "").partition("...")
    result = (*before, *(dots if found else ()), *after)
    for label in result:
        if result.count(label) > 1:
            raise ArgumentError(
                f"einsum(): output subscript {label!r} appears more than once in {equation!r}"
            )
        if label not in flat:
            raise ArgumentError(
                f"einsum(): output subscript {label!r} of {equation!r} is in no input"
            )
    return result


def _diagonal(x: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
    """Axes with the same label become one."""
    for label in labels:
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            sizes = x._array.shape[first], x._array.shape[second]
            if sizes[0] != sizes[1]:
                raise ShapeError(
                    f"einsum(): subscript {label!r} is repeated but the sizes {sizes[0]} and "
                    f"{sizes[1]} don't match"
                )
            x = apply(OPS["diagonal"], [x], {"offset": 0, "axis1": first, "axis2": second})
            rest = tuple(a for i, a in enumerate(labels) if i not in (first, second))
            labels = (*rest, label)
    return x, labels


def _sum_out(x: Tensor, labels: Labels, keep: set[str]) -> tuple[Tensor, Labels]:
    """Sum over the axes whose labels nobody else needs."""
    axes = tuple(i for i, label in enumerate(labels) if label not in keep)
    if not axes:
        return x, labels
    summed = apply(OPS["sum"], [x], {"axes": axes, "keepdims": False}, grad_name="SumBackward1")
    return summed, tuple(label for label in labels if label in keep)


def _aligned(x: Tensor, labels: Labels, order: Labels) -> Tensor:
    """`x` with its axes in the order of `order`, of size 1 where it has none."""
    present = tuple(label for label in order if label in labels)
    moved = permuted(x, tuple(labels.index(label) for label in present))
    sizes = dict(zip(present, moved._array.shape, strict=True))
    return reshaped(moved, tuple(sizes.get(label, 1) for label in order))


def _contract(
    a: Tensor, first: Labels, b: Tensor, second: Labels, keep: set[str]
) -> tuple[Tensor, Labels]:
    """The product of two operands, summed over the labels that only they have."""
    a, first = _sum_out(a, first, keep | set(second))
    b, second = _sum_out(b, second, keep | set(first))
    sizes_a = dict(zip(first, a._array.shape, strict=True))
    sizes_b = dict(zip(second, b._array.shape, strict=True))
    shared = [label for label in first if label in sizes_b]
    # An axis of size 1 broadcasts, which a matrix product cannot sum over.
    summed = tuple(x for x in shared if x not in keep and sizes_a[x] == sizes_b[x])
    narrow = [x for x in shared if x not in keep and x not in summed]
    if narrow:
        if sizes_a[narrow[0]] == 1:
            a, first = _sum_out(a, first, set(first) - {narrow[0]})
        else:
            b, second = _sum_out(b, second, set(second) - {narrow[0]})
        return _contract(a, first, b, second, keep)
    batch = tuple(x for x in shared if x in keep)
    rows = tuple(x for x in first if x not in sizes_b)
    columns = tuple(x for x in second if x not in sizes_a)
    result = (*batch, *rows, *columns)
    if not summed:
        order = result
        return apply(OPS["mul"], [_aligned(a, first, order), _aligned(b, second, order)]), order
    inner = math.prod(sizes_a[x] for x in summed)
    left = _aligned(a, first, (*batch, *rows, *summed))
    right = _aligned(b, second, (*batch, *summed, *columns))
    lead_a, lead_b = left._array.shape[: len(batch)], right._array.shape[: len(batch)]
    row_sizes = tuple(sizes_a[x] for x in rows)
    column_sizes = tuple(sizes_b[x] for x in columns)
    y = apply(
        OPS["matmul"],
        [
            reshaped(left, (*lead_a, math.prod(row_sizes), inner)),
            reshaped(right, (*lead_b, inner, math.prod(column_sizes))),
        ],
        grad_name="BmmBackward0",
    )
    lead = broadcast_shapes(lead_a, lead_b, op="einsum")
    return reshaped(y, (*lead, *row_sizes, *column_sizes)), result


@register(method=False)
def einsum(equation: Any, *operands: Any) -> Tensor:
    """Sums of products of elements whose axes are named by letters: `einsum("ij,jk->ik", a, b)`.

    Repeated letters in one operand take its diagonal; letters that are not in the output are summed
    over; `...` stands for axes that broadcast. Without "->" the output has every letter that occurs
    once, in alphabetical order. Operands are multiplied from left to right.
    """
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str):
        equation, operands = _from_lists(equation, operands)
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(operands) or not operands:
        raise ArgumentError(
            f"einsum(): {equation!r} has {len(terms)} operands, but {len(operands)} were given"
        )
    tensors = list(promote(*operands))
    labels = [_labels(term, x.ndim, equation) for term, x in zip(terms, tensors, strict=True)]
    wanted = _output(labels, equation, output if arrow else None)
    _check_sizes(tensors, labels)
    parts = [_diagonal(x, named) for x, named in zip(tensors, labels, strict=True)]
    x, named = parts[0]
    for i, (other, theirs) in enumerate(parts[1:], 1):
        needed = set(wanted).union(*(later for _, later in parts[i + 1 :]))
        x, named = _contract(x, named, other, theirs, needed)
    x, named = _sum_out(x, named, set(wanted))
    return permuted(x, tuple(named.index(label) for label in wanted))


def _check_sizes(tensors: Sequence[Tensor], labels: Sequence[Labels]) -> None:
    sizes: dict[str, int] = {}
    for i, (x, named) in enumerate(zip(tensors, labels, strict=True)):
        for label, size in zip(named, x._array.shape, strict=True):
            known = sizes.get(label, 1)
            if known != 1 and size not in (1, known):
                raise ShapeError(
                    f"einsum(): subscript {label!r} has size {size} for operand {i} which does not "
                    f"broadcast with previously seen size {known}"
                )
            sizes[label] = max(known, size) if size and known else 0


def _from_lists(first: Any, rest: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """`einsum(a, [0, 1], b, [1, 2], [0, 2])` as an equation and operands."""
    arguments = (first, *rest)
    pairs = len(arguments) // 2
    letters = string.ascii_letters

    def spell(places: Any) -> str:
        return "".join("..." if place is ... else letters[place] for place in places)

    equation = ",".join(spell(arguments[2 * i + 1]) for i in range(pairs))
    if len(arguments) % 2:
        equation = f"{equation}->{spell(arguments[-1])}"
    return equation, tuple(arguments[2 * i] for i in range(pairs))
