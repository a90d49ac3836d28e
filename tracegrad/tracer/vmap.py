"""`vmap`: a function of one row, applied to all rows of its arguments at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, get_args

import numpy as np

from tracegrad.errors import ArgumentError
from tracegrad.ir.op import OPS
from tracegrad.tracer.carries import Tree, tree_of
from tracegrad.tracer.creation import as_tensor
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.location import located
from tracegrad.tracer.mapped_axes import Axis, axes_of, moved, positive, size_of
from tracegrad.tracer.rows import Randomness, over_rows
from tracegrad.tracer.structure import flatten, leaf_names, unflatten
from tracegrad.tracer.tensor import Tensor

Function = Callable[..., Any]


class _Unset:
    def __repr__(self) -> str:
        return "unset"


_UNSET: Final = _Unset()


def vmap(
    f: Function,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: int | None = None,
    randomness: Randomness = "error",
    *,
    in_dims: Any = _UNSET,
    out_dims: Any = _UNSET,
) -> Function:
    """A function that maps `f` over an axis of its arguments.

    `f` is written for one row, and sees tensors without the mapped axis. It runs once, or where it
    asks for the truth of what differs from row to row, once for each way through it; then each row
    takes its own way. It may not ask for a number that differs from row to row.

    in_axes     the axis of each argument that is mapped, or None for an argument that is the same
                for all rows: one int for all, or a tuple with an entry for each argument, which is
                an int, None, or a container like the argument. Tensors among keyword arguments are
                mapped over axis 0, numbers there are not mapped.
    out_axes    where the mapped axis is in the results, in the same manner. None: the result is the
                same for all rows, and comes without the axis.
    axis_size   the number of rows, where no argument says it.
    randomness  what random numbers in `f` are: "error", "same" for all rows, or "different".

    `in_dims` and `out_dims` are PyTorch's names of `in_axes` and `out_axes`. Raises ShapeError for
    mapped axes of different sizes, DimError for one out of range, ArgumentError for a
    specification that does not fit the arguments.
    """
    axes = in_axes if isinstance(in_dims, _Unset) else in_dims
    places = out_axes if isinstance(out_dims, _Unset) else out_dims
    what = "in_axes" if isinstance(in_dims, _Unset) else "in_dims"
    what_out = "out_axes" if isinstance(out_dims, _Unset) else "out_dims"
    if randomness not in get_args(Randomness):
        raise ArgumentError(
            f"vmap: randomness is one of {get_args(Randomness)}, not {randomness!r}"
        )

    @functools.wraps(f, assigned=("__name__", "__qualname__", "__doc__", "__module__"))
    @located
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _Call(args, kwargs, axes, axis_size, what)

        def of_row(rows: list[Tensor]) -> Tree:
            row_args, row_kwargs = call.arguments(rows)
            return tree_of(f(*row_args, **row_kwargs))

        results, batched = over_rows(of_row, call.mapped, call.size, randomness, f)
        structure = results.structure
        ends = axes_of(structure, places, what_out, "the result")
        names = leaf_names(structure, "the result")
        arranged = [
            _placed(x, flag, end, call.size, what_out, name)
            for x, flag, end, name in zip(results.leaves, batched, ends, names, strict=True)
        ]
        return results.build(arranged)

    return wrapper


class _Call:
    """The arguments of one call: what is mapped, with the mapped axis in front, and what is not.

    size     the number of rows.
    mapped   the tensors that are mapped.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        axes: Any,
        axis_size: int | None,
        what: str,
    ) -> None:
        if isinstance(axes, tuple | list) and len(axes) != len(args):
            raise ArgumentError(
                f"vmap: {what} has {len(axes)} entries, but the function was called with "
                f"{len(args)} arguments"
            )
        self._leaves: list[Any] = []
        self._structure = flatten((list(args), kwargs), self._leaves)
        of_args: list[Any] = []
        described = [flatten(value, of_args) for value in args]
        names = [
            name
            for i, description in enumerate(described)
            for name in leaf_names(description, f"argument {i}")
        ]
        found: list[Axis] = []
        for i, description in enumerate(described):
            entry = axes[i] if isinstance(axes, tuple | list) else axes
            found += axes_of(description, entry, what, f"argument {i}")
        for name, value in kwargs.items():
            below: list[Any] = []
            names += leaf_names(flatten(value, below), f"argument {name}")
            found += [None if isinstance(leaf, int | float) else 0 for leaf in below]
        self._axes = [
            None if axis is None else _checked(leaf, axis, what, name)
            for leaf, axis, name in zip(self._leaves, found, names, strict=True)
        ]
        listed = [
            (name, axis, np.shape(leaf._array if isinstance(leaf, Tensor) else leaf))
            for leaf, axis, name in zip(self._leaves, self._axes, names, strict=True)
        ]
        self.size = size_of(listed, axis_size, what)
        self.mapped = [
            moved(as_tensor(leaf), axis, 0)
            for leaf, axis in zip(self._leaves, self._axes, strict=True)
            if axis is not None
        ]

    def arguments(self, rows: list[Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments for one row."""
        remaining = iter(rows)
        leaves = [
            leaf if axis is None else next(remaining)
            for leaf, axis in zip(self._leaves, self._axes, strict=True)
        ]
        args, kwargs = unflatten(self._structure, leaves)
        return args, kwargs


def _checked(leaf: Any, axis: int, what: str, name: str) -> int:
    """The axis of an argument that is mapped, counted from the front."""
    if isinstance(leaf, int | float):
        raise ArgumentError(
            f"vmap: {what} has axis {axis} for {name}, which is the {type(leaf).__name__} {leaf}. "
            f"Only tensors can be mapped over: use None in {what}"
        )
    array = leaf._array if isinstance(leaf, Tensor) else np.asarray(leaf)
    return positive(axis, array.shape, what, name)


def _placed(x: Tensor, batched: bool, end: Axis, size: int, what: str, name: str) -> Tensor:
    """A result with the axis of rows where it is wanted."""
    if end is None:
        if batched:
            raise ArgumentError(
                f"vmap: {what} has None for {name}, but it differs from row to row: say an axis"
            )
        return x
    if not batched:
        x = apply(OPS["broadcast_to"], [x], {"shape": (size, *x._array.shape)})
    return moved(x, 0, positive(end, x._array.shape, what, name))
