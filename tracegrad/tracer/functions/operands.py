"""What the named functions do with their operands before they call an op."""

from __future__ import annotations

from typing import Any

from tracegrad.errors import ArgumentError
from tracegrad.ir.types import DType, float64
from tracegrad.tracer.promotion import (
    Operand,
    cast,
    get_default_dtype,
    only_numbers,
    promote_to,
    result_type,
)
from tracegrad.tracer.tensor import Tensor


def as_tensor(value: Any, name: str) -> Tensor:
    """`value` if it is a tensor; ArgumentError naming the function otherwise."""
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"{name}(): argument 'input' must be Tensor, not {type(value).__name__}"
        )
    return value


def floating_input(x: Tensor, name: str) -> Tensor:
    """`x`, in the default dtype if it is not floating."""
    x = as_tensor(x, name)
    return x if x.dtype.kind == "f" else cast(x, get_default_dtype())


def promote_floating(*operands: Operand) -> tuple[Tensor, ...]:
    """The operands in their common dtype, or in the default one if that is not floating."""
    dtype = result_type(*operands)
    if dtype.kind != "f":
        dtype = float64 if only_numbers(operands) else get_default_dtype()
    return promote_to(dtype, operands)


def in_dtype(x: Tensor, dtype: DType | None) -> Tensor:
    """`x` in `dtype`, if one is given."""
    return x if dtype is None else cast(x, dtype)
