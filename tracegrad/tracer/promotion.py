"""Bringing operands to one dtype by PyTorch's rules, where tensors of dimension 0 and numbers are
weak.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, DtypeError
from tracegrad.ir import types
from tracegrad.ir.op import OPS
from tracegrad.ir.types import DType, category, promote_types
from tracegrad.tracer.dispatch import apply, constant, number
from tracegrad.tracer.location import locate
from tracegrad.tracer.state import state
from tracegrad.tracer.tensor import Tensor, wrap

Operand = Tensor | bool | int | float | np.ndarray[Any, Any] | np.generic

_default = types.float32


def get_default_dtype() -> DType:
    """The dtype of new floating-point tensors."""
    return _default


def set_default_dtype(dtype: DType) -> None:
    """Make `dtype`, a floating one, that of new floating-point tensors."""
    global _default
    if not isinstance(dtype, DType) or not dtype.is_floating_point:
        raise locate(
            DtypeError(
                "only floating-point types are supported as the default type, "
                f"not {getattr(dtype, 'name', dtype)!r}"
            )
        )
    _default = dtype


def number_dtype(value: Any) -> DType:
    """The dtype that a Python number alone would get."""
    if isinstance(value, (bool, np.bool_)):
        return types.bool_
    if isinstance(value, (int, np.integer)):
        return types.int64
    return _default


def is_number(value: object) -> bool:
    """Whether `value` is a Python or NumPy scalar that promotes weakly."""
    return isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating))


def only_numbers(operands: Sequence[Any]) -> bool:
    """Whether the operands are Python numbers, at least one of them an argument of a compiled
    function.
    """
    weak = False
    for operand in operands:
        if isinstance(operand, Tensor):
            if not operand._weak:
                return False
            weak = True
        elif not is_number(operand):
            return False
    return weak


def result_type(*operands: Any) -> DType:
    """The dtype of an operation on the operands: tensors, numbers or dtypes.

    Three classes rank: tensors with dimensions, tensors of dimension 0, numbers. A lower class
    changes the result only by a higher category (bool < integral < floating).
    """
    ranks: list[DType | None] = [None, None, None]
    # Among themselves the numbers of a compiled function compute as Python's do.
    alone = only_numbers(operands)
    for operand in operands:
        if isinstance(operand, Tensor):
            rank = 2 if operand._weak else (0 if operand.ndim else 1)
            dtype = operand.dtype
            if operand._weak and dtype.is_floating_point and not alone:
                dtype = _default
        elif isinstance(operand, DType):
            rank = 0
            dtype = operand
        elif is_number(operand):
            rank = 2
            dtype = number_dtype(operand)
            if alone and dtype.is_floating_point:
                dtype = types.float64
        else:
            raise locate(
                ArgumentError(f"expected a tensor or a number, not {type(operand).__name__}")
            )
        known = ranks[rank]
        ranks[rank] = dtype if known is None else promote_types(known, dtype)
    result: DType | None = None
    for found in ranks:
        if found is not None and (result is None or category(found) > category(result)):
            result = found
    if result is None:
        raise ArgumentError("result_type needs at least one operand")
    return result


def cast(tensor: Tensor, dtype: DType) -> Tensor:
    """`tensor` in another dtype; itself if it has that already."""
    if tensor._array.dtype == dtype.numpy:
        return tensor
    if tensor._literal is not None:
        return constant(tensor._literal, dtype.numpy)
    return apply(OPS["cast"], [tensor], {"dtype": dtype})


def _on_array(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor on the memory of an operand that is an array."""
    tensor = wrap(array)
    if state.recorder is not None:
        state.recorder.fresh(tensor)
    return tensor


def to_tensor(operand: Operand, dtype: DType | None = None) -> Tensor:
    """An operand as a tensor: numbers become constants, arrays tensors on their memory."""
    if isinstance(operand, Tensor):
        return operand if dtype is None else cast(operand, dtype)
    if is_number(operand):
        return constant(operand, (dtype or number_dtype(operand)).numpy)
    if isinstance(operand, (np.ndarray, np.generic)):
        tensor = _on_array(np.asarray(operand))
        return tensor if dtype is None else cast(tensor, dtype)
    raise locate(ArgumentError(f"expected a tensor or a number, not {type(operand).__name__}"))


def promote(*operands: Operand) -> tuple[Tensor, ...]:
    """The operands as tensors of one dtype. Shapes are left alone: ops broadcast by themselves."""
    if len(operands) == 2:
        # The common pairs, for speed: equal dtypes, and a number that takes the dtype of a tensor
        # of its category or a higher one.
        a, b = operands
        if type(a) is Tensor and type(b) is Tensor and not a._weak and not b._weak:
            if a._array.dtype is b._array.dtype:
                return a, b
        elif type(a) is Tensor and type(b) in _RANK and not a._weak:
            dtype = a._array.dtype
            if _KIND_RANK[dtype.kind] >= _RANK[type(b)]:
                return a, number(b, dtype)  # type: ignore[arg-type]
        elif type(b) is Tensor and type(a) in _RANK and not b._weak:
            dtype = b._array.dtype
            if _KIND_RANK[dtype.kind] >= _RANK[type(a)]:
                return number(a, dtype), b  # type: ignore[arg-type]
    return promote_to(None, operands)


_RANK: dict[type, int] = {bool: 0, int: 1, float: 2}
_KIND_RANK = {"b": 0, "u": 1, "i": 1, "f": 2}


def promote_to(dtype: DType | None, operands: Sequence[Operand]) -> tuple[Tensor, ...]:
    """The operands as tensors of `dtype`, or of the one they promote to."""
    if dtype is None:
        first = operands[0]
        if isinstance(first, Tensor) and not first._weak:
            kind = first._array.dtype
            for other in operands:
                if not isinstance(other, Tensor) or other._weak or other._array.dtype is not kind:
                    break
            else:
                return tuple(operands)  # type: ignore[arg-type]
        operands = [_on_array(x) if isinstance(x, np.ndarray) and x.ndim else x for x in operands]
        dtype = result_type(*operands)
    return tuple([to_tensor(operand, dtype) for operand in operands])
