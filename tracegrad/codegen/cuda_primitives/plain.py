"""The words of CUDA kernels by their plain meaning, on numbers of NumPy: for the simulator."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir.op import OPS
from tracegrad.ir.types import float16, float32, float64, int64

# No thread of the simulator reads the registers of another.
WARP = 1

_KINDS: dict[str, Any] = {
    "b1": np.bool_,
    "u8": np.uint8,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
}
# One addition at a time, as an atomic one is.
_adding = threading.Lock()


def _converter(kind: Any) -> Callable[[Any], Any]:
    """Numbers to a type, integers modulo its range."""
    return lambda value: np.asarray(value).astype(kind)[()]


def f16(value: Any) -> Any:
    """A float32 with the digits of a float16."""
    return np.float32(np.float16(value))


def _load(pointer: Any, index: Any) -> Any:
    return pointer[index]


def _load_f16(pointer: Any, index: Any) -> Any:
    return np.float32(pointer[index])


def _store(pointer: Any, index: Any, value: Any) -> None:
    pointer[index] = value


def _add(pointer: Any, index: Any, value: Any) -> None:
    with _adding:
        pointer[index] = pointer[index] + value


def quotient(position: int, size: int) -> int:
    """How many times a size is in a position."""
    return position // size


def remains(position: int, size: int) -> int:
    """What is left of the position."""
    return position % size


quotient_wide, remains_wide = quotient, remains


def where(condition: Any, a: Any, b: Any) -> Any:
    """One of two values."""
    return a if condition else b


def sigmoid(x: Any) -> Any:
    """The logistic function."""
    return OPS["sigmoid"].evaluate(np.asarray(x))[()]


def _of_op(name: str) -> Callable[..., Any]:
    """A function by the evaluation of an op."""
    return lambda *operands: OPS[name].evaluate(*map(np.asarray, operands))[()]


def _draw(name: str, dtype: Any, register: Any) -> Callable[[int, int, int], Any]:
    """One element of a random op."""

    def element(seed: Any, offset: Any, position: Any) -> Any:
        first = np.int64(np.uint64(int(offset) + int(position) & 0xFFFFFFFFFFFFFFFF))
        drawn = OPS[name].evaluate(np.asarray(seed), np.asarray(first), shape=(1,), dtype=dtype)
        return register(drawn[0])

    return element


_NUMPY = (
    "exp exp2 expm1 log log2 log10 log1p sqrt sin cos tan sinh cosh tanh hypot fmod maximum "
    "minimum floor ceil trunc rint isnan isinf isfinite remainder"
)
_OPS = "erf erfc pow"
_INVERSE = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2"}
_INVERSE |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}

_WORDS: dict[str, Any] = {
    **{code: _converter(kind) for code, kind in _KINDS.items()},
    **{f"kind_{code}": kind for code, kind in _KINDS.items()},
    **{f"{read}_{code}": _load for code in _KINDS for read in ("load", "read")},
    **{f"store_{code}": _store for code in _KINDS},
    **{f"add_{code}": _add for code in ("u8", "i8", "i16", "i32", "i64", "f16", "f32", "f64")},
    "load_f16": _load_f16,
    "read_f16": _load_f16,
    "store_f16": _store,
    **{name: getattr(np, name) for name in _NUMPY.split()},
    **{name: _of_op(name) for name in _OPS.split()},
    **{name: getattr(np, numpy) for name, numpy in _INVERSE.items()},
    "fabs": np.abs,
    "floor_div": np.floor_divide,
    "integer_abs": lambda x: np.abs(np.int64(x)),
    "integer_fmod": lambda a, b: np.fmod(np.int64(a), np.int64(b)),
    "integer_pow": lambda a, b: _of_op("pow")(np.int64(a), np.int64(b)),
    "add_apart": np.add,
    "sub_apart": np.subtract,
    "philox_random_bits_i64": _draw("random_bits", int64, np.int64),
}
for _name in ("uniform", "normal"):
    for _dtype, _register in ((float16, np.float32), (float32, np.float32), (float64, np.float64)):
        _WORDS[f"philox_{_name}_{_dtype.short}"] = _draw(_name, _dtype, _register)

globals().update(_WORDS)
_OWN = ("WARP", "f16", "quotient", "quotient_wide", "remains", "remains_wide", "sigmoid", "where")
__all__ = [*_OWN, *_WORDS]
