"""What a loop carries and a branch returns: nested containers whose leaves are tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DtypeError, ShapeError
from tracegrad.ir import types
from tracegrad.ir.types import DType, category
from tracegrad.tracer import promotion
from tracegrad.tracer.creation import as_tensor
from tracegrad.tracer.dispatch import constant
from tracegrad.tracer.growing import kind_of
from tracegrad.tracer.structure import (
    Container,
    Description,
    assemble,
    flatten,
    leaf_names,
    parts,
    unflatten,
)
from tracegrad.tracer.tensor import Tensor


@dataclass
class Tree:
    """Nested containers, taken apart.

    leaves  tensors of the dtypes that they have by themselves.
    given   what stood there: for a Python number that number, otherwise the tensor.
    weak    marks the Python numbers.
    """

    structure: Description
    leaves: list[Tensor]
    given: list[Any]
    weak: list[bool]

    def build(self, leaves: Sequence[Tensor]) -> Any:
        """Containers like these with other leaves."""
        return unflatten(self.structure, leaves)

    def having(self, leaves: list[Tensor]) -> Tree:
        """The same containers with other leaves."""
        return Tree(self.structure, leaves, list(leaves), self.weak)

    def in_dtypes(self, dtypes: Sequence[DType]) -> Tree:
        """The same with the leaves in other dtypes; numbers are rounded once."""
        pairs = zip(self.given, dtypes, strict=True)
        leaves = [promotion.to_tensor(value, dtype) for value, dtype in pairs]
        return Tree(self.structure, leaves, self.given, self.weak)

    @property
    def dtypes(self) -> list[DType]:
        """The dtypes of the leaves."""
        return [x.dtype for x in self.leaves]

    def names(self, name: str) -> list[str]:
        """A name for each leaf."""
        return leaf_names(self.structure, name)


Step = Callable[[Tensor, Any, Any], tuple[Any, Any]]


@dataclass
class LoopCall:
    """A loop over functions.

    form     how the user's program calls it.
    step     `step(position, carry, slice)` gives the next carry and a row.
    init     the carry at the beginning; `xs` what is sliced.
    goes_on  whether to go on with a carry; None for a loop that runs `count` times.
    length   the number of slices and of rows; None where there are none.
    stacks   it makes rows.
    weak     the position stands for a Python number.
    """

    form: str
    step: Step
    init: Tree
    xs: Tree
    goes_on: Callable[[Any], Tensor | bool] | None = None
    count: int | Tensor | None = None
    length: int | None = None
    stacks: bool = False
    reverse: bool = False
    weak: bool = False


def tree_of(value: Any, like: Description | None = None) -> Tree:
    """`value` taken apart; Python numbers, also bool, and arrays become tensors.

    The keys of a dictionary take the order that they have in `like`.
    """
    given: list[tuple[Any, bool]] = []
    leaves: list[Any] = []
    structure = flatten(_of_tensors(value, given, like), leaves)
    return Tree(structure, leaves, [item for item, _ in given], [weak for _, weak in given])


def _of_tensors(value: Any, given: list[tuple[Any, bool]], like: Description | None) -> Any:
    if isinstance(value, Tensor):
        given.append((value, value._weak))
        if value._weak and value.dtype.is_floating_point:
            return promotion.cast(value, promotion.get_default_dtype())
        return value
    if isinstance(value, bool | int | float | np.bool_):
        given.append((value, True))
        return constant(value, promotion.number_dtype(value).numpy)
    if isinstance(value, np.ndarray | np.generic):
        tensor = as_tensor(value)
        given.append((tensor, False))
        return tensor
    inside = parts(value)
    if inside is None:
        return value
    keys, items = inside
    known = like.keys if isinstance(like, Container) else None
    if isinstance(value, dict) and known and keys and set(keys) == set(known):
        keys, items = known, [value[key] for key in known]
    below = like.items if isinstance(like, Container) and len(like.items) == len(items) else None
    made = [
        _of_tensors(item, given, below[i] if below is not None else None)
        for i, item in enumerate(items)
    ]
    return assemble(kind_of(value), keys, made)


def same_structure(form: str, wanted: Tree, found: Tree, what: str, other: str) -> None:
    """ArgumentError if two trees differ in more than the types of their leaves."""
    if wanted.structure != found.structure:
        raise ArgumentError(
            f"{form}: {what} has the structure {found.structure!r}, but {other} "
            f"{wanted.structure!r}"
        )


def returns_carry(form: str, carry: Tree, made: Tree) -> None:
    """ArgumentError if a body does not return the structure that its loop carries."""
    same_structure(form, carry, made, "what the body returns", "what it carries")


def settled(form: str, carry: Tree, made: Tree) -> list[DType] | None:
    """The dtypes that a carry must have from the beginning, given what one run makes of it; None if
    it has them already.

    A leaf that was a Python number takes the dtype that the body gives it, where that is of the
    same category or a higher one. All other changes are errors: ArgumentError, ShapeError or
    DtypeError.
    """
    returns_carry(form, carry, made)
    dtypes = []
    changed = False
    labels = carry.names("carry")
    for i, (old, new) in enumerate(zip(carry.leaves, made.leaves, strict=True)):
        if old._array.shape != new._array.shape:
            raise ShapeError(
                f"{form}: the body turns {labels[i]}, {old._type}, into {new._type}: what is "
                "carried keeps its shape"
            )
        wanted = old.dtype
        if new.dtype is not wanted and not fits(new, made.weak[i], wanted):
            if not carry.weak[i] or category(new.dtype) < category(wanted):
                raise DtypeError(
                    f"{form}: the body turns {labels[i]}, {old._type}, into {new._type}: what is "
                    "carried keeps its dtype"
                )
            wanted = new.dtype
            changed = True
        dtypes.append(wanted)
    return dtypes if changed else None


def fits(value: Tensor, weak: bool, dtype: DType) -> bool:
    """Whether a value takes `dtype` by itself: a Python number, in a dtype that can hold it."""
    return weak and category(value.dtype) <= category(dtype)


Where = Callable[[int, "int | None", int], str]
"""Where the number of a branch is taken, its leaf comes from, and another branch is not."""


def _in_branch(i: int, leaf: int | None, other: int) -> str:
    return f"in branch {i}"


def common_dtypes(form: str, trees: Sequence[Tree], where: Where = _in_branch) -> list[DType]:
    """The dtypes of the results of a branch whichever is taken; the errors of branches that
    differ.
    """
    first = trees[0]
    for i, tree in enumerate(trees[1:], 1):
        what, before = f"what is returned {where(i, None, 0)}", f"that {where(0, None, i)}"
        same_structure(form, first, tree, what, before)
    dtypes = []
    for k, label in enumerate(first.names("result")):
        leaves = [tree.leaves[k] for tree in trees]
        strong = [x for x, tree in zip(leaves, trees, strict=True) if not tree.weak[k]]
        dtype = (strong or leaves)[0].dtype
        for x, tree in zip(leaves, trees, strict=True):
            if tree.weak[k] and category(x.dtype) > category(dtype):
                dtype = x.dtype
        for i, (x, tree) in enumerate(zip(leaves, trees, strict=True)):
            if x._array.shape != leaves[0]._array.shape:
                raise ShapeError(
                    f"{form}: {label} is {leaves[0]._type} {where(0, k, i)} and {x._type} "
                    f"{where(i, k, 0)}"
                )
            if x.dtype is not dtype and not fits(x, tree.weak[k], dtype):
                other = next(j for j, y in enumerate(leaves) if y.dtype is not x.dtype)
                raise DtypeError(
                    f"{form}: {label} is {leaves[other]._type} {where(other, k, i)} and {x._type} "
                    f"{where(i, k, other)}"
                )
        dtypes.append(dtype)
    return dtypes


def truth_of(form: str, value: Any, what: str) -> Tensor | bool:
    """A bool, or a bool tensor of dimension 0; ArgumentError for anything else."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype == np.bool_:
        return as_tensor(value)
    if isinstance(value, Tensor) and value.ndim == 0 and value.dtype is types.bool_:
        return value
    found = str(value._type) if isinstance(value, Tensor) else type(value).__name__
    raise ArgumentError(
        f"{form}: {what} has to be a bool or a bool tensor of shape (), not {found}"
    )
