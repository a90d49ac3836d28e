"""Which axis of which argument or result `vmap` maps over: `in_axes` and `out_axes`.

Such a specification is an int or None for everything below it, or a container like the one that it
speaks of, with a specification for each item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DimError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.structure import Container, Description, Leaf, Static, parts
from tracegrad.tracer.tensor import Tensor

Axis = int | None


def axes_of(structure: Description, axes: Any, what: str, name: str) -> list[Axis]:
    """The axis of each leaf of `structure`, by the specification `axes`.

    `what` is the specification's own name and `name` that of the value, for the ArgumentError where
    they do not fit.
    """
    if axes is None or (isinstance(axes, int | np.integer) and not isinstance(axes, bool)):
        return [None if axes is None else int(axes)] * _leaves(structure)
    inside = parts(axes)
    if inside is None:
        raise ArgumentError(
            f"vmap: {what} has {axes!r} for {name}: an axis is an int, or None for what is not "
            "mapped"
        )
    keys, items = inside
    if not isinstance(structure, Container):
        raise ArgumentError(f"vmap: {what} has {axes!r} for {name}, which is no container")
    of_keys = structure.keys is not None and issubclass(structure.type, dict)
    if of_keys:
        assert structure.keys is not None
        same = keys is not None and set(keys) == set(structure.keys)
        chosen = dict(zip(keys or (), items, strict=False))
        specified = [chosen.get(key) for key in structure.keys]
    else:
        same = len(items) == len(structure.items)
        specified = list(items)
    if not same:
        raise ArgumentError(f"vmap: {what} has {axes!r} for {name}, which is {structure!r}")
    labels = structure.keys or range(len(structure.items))
    return [
        axis
        for item, inner, label in zip(structure.items, specified, labels, strict=True)
        for axis in axes_of(item, inner, what, f"{name}[{label!r}]")
    ]


def _leaves(structure: Description) -> int:
    if isinstance(structure, Leaf):
        return 1
    return 0 if isinstance(structure, Static) else sum(map(_leaves, structure.items))


def positive(axis: int, shape: tuple[int, ...], what: str, name: str) -> int:
    """`axis` counted from the front of `shape`; DimError where it is none of its axes."""
    ndim = len(shape)
    if not -ndim <= axis < ndim:
        raise DimError(f"vmap: {what} has axis {axis} for {name}, whose shape is {list(shape)}")
    return axis % ndim


def size_of(
    mapped: Sequence[tuple[str, Axis, tuple[int, ...]]], axis_size: int | None, what: str
) -> int:
    """The size that all mapped axes have.

    `mapped`: name, axis and shape of each argument. ShapeError where sizes differ, ArgumentError
    where there is none.
    """
    found: tuple[int, str] | None = None
    if axis_size is not None:
        found = int(axis_size), "axis_size"
    for name, axis, shape in mapped:
        if axis is None:
            continue
        size = shape[axis]
        if found is not None and found[0] != size:
            first = found[1]
            raise ShapeError(
                f"vmap: the sizes of mapped axes differ: {found[0]} for {first}, but {size} for "
                f"axis {axis} of {name}, whose shape is {list(shape)}"
            )
        found = found or (size, f"axis {axis} of {name}")
    if found is None:
        raise ArgumentError(
            f"vmap: nothing is mapped: {what} has to have an axis for one argument at least, or "
            "axis_size= to say how many rows there are"
        )
    return found[0]


def moved(x: Tensor, start: int, end: int) -> Tensor:
    """`x` with one axis moved to another place."""
    order = [i for i in range(x.ndim) if i != start]
    order.insert(end, start)
    if start == end:
        return x
    return apply(OPS["transpose"], [x], {"axes": tuple(order)})
