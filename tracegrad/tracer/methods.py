"""Everything that is attached to `Tensor`: operators, conversions, views, in-place forms, named
functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.ir import types
from tracegrad.ir.types import DType
from tracegrad.tracer import (
    conversion,
    creation,
    inplace,
    movement,
    numpy_interop,
    printing,
    scalars,
)
from tracegrad.tracer.at import At
from tracegrad.tracer.autograd import tensor_backward
from tracegrad.tracer.functions import METHODS
from tracegrad.tracer.indexing import get_item, set_item
from tracegrad.tracer.operators import operators
from tracegrad.tracer.promotion import cast
from tracegrad.tracer.randomness import RANDOM_METHODS
from tracegrad.tracer.ranges import rows_of
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.views import is_view

# fmt: off
IN_PLACE = (
    "add", "sub", "mul", "div", "true_divide", "divide", "multiply", "subtract", "floor_divide",
    "remainder", "fmod", "pow", "square", "neg", "negative", "abs", "absolute", "sign", "sgn",
    "floor", "ceil", "round", "trunc", "frac", "exp", "exp2", "expm1", "log", "log2", "log10",
    "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
    "cosh", "tanh", "asinh", "acosh", "atanh", "arcsin", "arccos", "arctan", "atan2", "arctan2",
    "erf", "erfc", "sigmoid", "relu", "clamp", "clip", "clamp_min", "clamp_max", "hypot", "lerp",
    "addcmul", "addcdiv", "masked_fill", "where", "bitwise_and", "bitwise_or", "bitwise_xor",
    "bitwise_not", "bitwise_left_shift", "bitwise_right_shift", "logical_and", "logical_or",
    "logical_xor", "logical_not", "eq", "ne", "lt", "le", "gt", "ge", "cumsum", "cumprod", "tril",
    "triu", "index_add", "index_copy", "index_fill", "scatter", "scatter_add", "masked_scatter",
    "nan_to_num", "fix", "softmax", "log_softmax",
)
# fmt: on
"""The functions whose in-place forms (`add_`) exist where the function does."""

VIEW_IN_PLACE = ("squeeze", "unsqueeze", "transpose", "t")
"""Views whose in-place form changes the shape of the tensor itself."""

_CASTS: dict[str, DType] = {
    "float": types.float32,
    "double": types.float64,
    "half": types.float16,
    "int": types.int32,
    "long": types.int64,
    "short": types.int16,
    "char": types.int8,
    "byte": types.uint8,
    "bool": types.bool_,
}


def _caster(name: str, dtype: DType) -> Callable[[Tensor], Tensor]:
    def method(self: Tensor) -> Tensor:
        return cast(self, dtype)

    method.__name__ = name
    method.__doc__ = f"This tensor in {dtype.name}; itself if it is so already."
    return method


def _methods() -> dict[str, Any]:
    table: dict[str, Any] = dict(METHODS)
    table.update(movement.VIEW_METHODS)
    for name in IN_PLACE:
        if name in METHODS:
            table[f"{name}_"] = inplace.in_place(METHODS[name], f"{name}_")
    table.update(RANDOM_METHODS)
    table.update(_new_tensors())
    table.update(operators())
    table.update({name: _caster(name, dtype) for name, dtype in _CASTS.items()})
    for name in ("item", "tolist", "numpy", "detach", "detach_", "to", "type_as", "cpu", "cuda"):
        table[name] = getattr(conversion, name)
    for name in ("clone", "contiguous", "stride", "storage_offset", "data_ptr", "is_contiguous"):
        table[name] = getattr(conversion, name)
    table |= {
        "size": conversion.size,
        "type": conversion.type_,
        "get_device": conversion.get_device,
        "dim": lambda self: self._array.ndim,
        "numel": conversion.numel,
        "nelement": conversion.numel,
        "element_size": lambda self: self._array.itemsize,
        "is_floating_point": conversion.is_floating_point,
        "is_complex": lambda self: False,
        "is_signed": lambda self: self._array.dtype.kind in "if",
        "ndimension": lambda self: self._array.ndim,
        "copy_": inplace.copy_,
        "fill_": inplace.fill_,
        "zero_": inplace.zero_,
        "backward": tensor_backward,
        "_is_view": is_view,
        "__getitem__": get_item,
        "__setitem__": set_item,
        "__bool__": conversion.to_bool,
        "__int__": conversion.to_int,
        "__float__": conversion.to_float,
        "__index__": conversion.to_index,
        "__len__": conversion.length,
        "__iter__": rows_of,
        "__contains__": conversion.contains,
        "__deepcopy__": conversion.deepcopy,
        "__reduce_ex__": lambda self, protocol: conversion.reduce(self),
        "__array__": conversion.array,
        "__array_ufunc__": numpy_interop.array_ufunc,
        "__array_function__": numpy_interop.array_function,
        "__repr__": printing.tensor_repr,
        "__format__": scalars.format_,
        "__hash__": scalars.hash_,
        "__str__": scalars.text,
        "at": property(At),
        "data": property(conversion.data_of, conversion.set_data),
        "T": property(movement.reversed_axes),
        "mT": property(movement.matrix_transpose),
        "H": property(movement.matrix_transpose),
        "is_cuda": property(lambda self: self.device.type == "cuda"),
        "is_sparse": property(lambda self: False),
        "__cuda_array_interface__": property(conversion.cuda_array_interface),
        "itemsize": property(lambda self: self._array.itemsize),
        "nbytes": property(lambda self: self._array.nbytes),
        "_version": property(lambda self: self._storage.version),
    }
    return table


def _new_tensors() -> dict[str, Any]:
    """`x.new_zeros(2, 3)`: a new tensor of the dtype of `x`, where `x` is."""

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def method(self: Tensor, *size: Any, dtype: DType | None = None, **options: Any) -> Tensor:
            options.setdefault("device", self.device)
            return make(*size, dtype=dtype or self.dtype, **options)

        return method

    return {
        "new_zeros": filled(creation.zeros),
        "new_ones": filled(creation.ones),
        "new_empty": filled(creation.empty),
        "new_full": filled(creation.full),
        "new_tensor": filled(creation.tensor),
    }


def attach() -> None:
    """Give `Tensor` its methods."""
    for name, method in _methods().items():
        setattr(Tensor, name, method)
