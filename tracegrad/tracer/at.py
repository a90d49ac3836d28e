"""`x.at[index].set(value)` and its like: indexed updates that leave `x` alone, and give a new one.

The names are JAX's and the indices NumPy's. In compiled code nothing is copied where nobody reads
the old value any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir.op import OPS
from tracegrad.tracer.conversion import clone
from tracegrad.tracer.device import cpu, moved
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions import FUNCTIONS
from tracegrad.tracer.indexing import accumulate_item, get_item, set_item
from tracegrad.tracer.location import located
from tracegrad.tracer.loops import scan
from tracegrad.tracer.promotion import to_tensor
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor


class At:
    """`x.at`: index it to say which elements are meant."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __getitem__(self, index: Any) -> Place:
        return Place(self._tensor, index)

    def __repr__(self) -> str:
        return f"<.at of {self._tensor._type}>"


class Place:
    """Some elements of a tensor. Each method gives the whole tensor with these changed.

    Values broadcast to the shape of the elements and take the tensor's dtype. Where an array of
    integers names an element several times, `set` keeps the last value, and the other methods
    count each.
    """

    __slots__ = ("_index", "_tensor")

    def __init__(self, tensor: Tensor, index: Any) -> None:
        self._tensor = tensor
        self._index = index

    def __repr__(self) -> str:
        return f"<elements {self._index!r} of {self._tensor._type}>"

    @located
    def get(self) -> Tensor:
        """The elements: `x[index]`."""
        return get_item(self._tensor, self._index)

    @located
    def set(self, value: Any) -> Tensor:
        """`value` in place of the elements."""
        result = clone(self._tensor)
        set_item(result, self._index, _number(value))
        return result

    @located
    def add(self, value: Any) -> Tensor:
        """The elements and `value` added up."""

        def scatter_add(x: Tensor, value: Tensor, indices: list[Tensor]) -> Tensor:
            return apply(OPS["scatter_add"], [x, value, *indices])

        return self._changed("add", value, scatter_add)

    @located
    def subtract(self, value: Any) -> Tensor:
        """The elements less `value`."""
        return self._changed("sub", value, _one_by_one("sub"))

    @located
    def multiply(self, value: Any) -> Tensor:
        """The elements times `value`."""
        return self._changed("mul", value, _one_by_one("mul"))

    @located
    def divide(self, value: Any) -> Tensor:
        """The elements divided by `value`."""
        return self._changed("div", value, _one_by_one("div"))

    @located
    def power(self, value: Any) -> Tensor:
        """The elements to the power of `value`."""
        return self._changed("pow", value, _one_by_one("pow"))

    @located
    def min(self, value: Any) -> Tensor:
        """The smaller of each element and `value`."""
        return self._changed("minimum", value, _one_by_one("minimum"))

    @located
    def max(self, value: Any) -> Tensor:
        """The greater of each element and `value`."""
        return self._changed("maximum", value, _one_by_one("maximum"))

    @located
    def apply(self, function: Callable[[Tensor], Any]) -> Tensor:
        """`function` of the elements in place of them."""
        result = clone(self._tensor)
        set_item(result, self._index, function(get_item(result, self._index)))
        return result

    mul = multiply
    sub = subtract
    div = divide

    def _changed(self, name: str, value: Any, repeated: Any) -> Tensor:
        result = clone(self._tensor)
        source = to_tensor(_number(value), result.dtype)
        if not accumulate_item(result, self._index, source, repeated):
            combined = FUNCTIONS[name](get_item(result, self._index), source)
            set_item(result, self._index, combined)
        return result


def _number(value: Any) -> Any:
    """Lists as arrays."""
    return np.asarray(value) if isinstance(value, list | tuple) else value


def _one_by_one(name: str) -> Callable[[Tensor, Tensor, list[Tensor]], Tensor]:
    """An update that counts an element as often as it is named."""

    def update(x: Tensor, value: Tensor, indices: list[Tensor]) -> Tensor:
        lead = np.broadcast_shapes(*(i._array.shape for i in indices))
        size = int(np.prod(lead, dtype=np.int64))
        rows = _reshaped(value, (size, *value._array.shape[len(lead) :]))
        flat = [_reshaped(_spread(i, lead), (size,)) for i in indices]
        if _is_known(indices) and _are_different(flat):
            new = FUNCTIONS[name](apply(OPS["gather"], [x, *flat]), rows)
            return apply(OPS["scatter"], [x, new, *flat])

        def step(carry: Tensor, item: Any) -> tuple[Tensor, None]:
            row, at = item
            new = FUNCTIONS[name](apply(OPS["gather"], [carry, *at]), row)
            return apply(OPS["scatter"], [carry, new, *at]), None

        carry: Tensor = scan(step, x, (rows, flat))[0]
        return carry

    return update


def _is_known(indices: list[Tensor]) -> bool:
    """Whether the indices are the same in each run."""
    recorder = state.recorder
    return recorder is None or all(recorder.is_constant(i) for i in indices)


def _are_different(flat: list[Tensor]) -> bool:
    """Whether no element is named twice."""
    columns = np.stack([moved(i._values, cpu) for i in flat])
    return np.unique(columns, axis=1).shape == columns.shape


def _reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x._array.shape == shape else apply(OPS["reshape"], [x], {"shape": shape})


def _spread(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x._array.shape == shape else apply(OPS["broadcast_to"], [x], {"shape": shape})
