"""Element types and tensor types, and PyTorch's rules for promoting one dtype to another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class DType:
    """One element type. There is a single instance of each, so identity is equality.

    `kind` is one of 'b' (bool), 'u' (unsigned), 'i' (signed), 'f' (floating); `short` is the IR's
    spelling.
    """

    name: str
    short: str
    kind: str
    numpy: np.dtype[np.generic]

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.numpy.itemsize

    @property
    def is_floating_point(self) -> bool:
        return self.kind == "f"

    @property
    def is_integral(self) -> bool:
        return self.kind in "iu"

    def __repr__(self) -> str:
        return f"tracegrad.{self.name}"

    def __reduce__(self) -> str:
        # Pickling and copying by name keep the instance unique.
        return self.name


def _dtype(name: str, short: str, kind: str) -> DType:
    return DType(name, short, kind, np.dtype(name))


bool_ = DType("bool", "b1", "b", np.dtype("bool"))
uint8 = _dtype("uint8", "u8", "u")
int8 = _dtype("int8", "i8", "i")
int16 = _dtype("int16", "i16", "i")
int32 = _dtype("int32", "i32", "i")
int64 = _dtype("int64", "i64", "i")
float16 = _dtype("float16", "f16", "f")
float32 = _dtype("float32", "f32", "f")
float64 = _dtype("float64", "f64", "f")

DTYPES: tuple[DType, ...] = (
    bool_,
    uint8,
    int8,
    int16,
    int32,
    int64,
    float16,
    float32,
    float64,
)
# What a value has that is no tensor: the tuple of results of a loop, a stack of frames.
opaque = DType("opaque", "opaque", "o", np.dtype(object))

BY_SHORT = {dtype.short: dtype for dtype in DTYPES}
BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES}

_SIGNED = (int8, int16, int32, int64)
_FLOATS = (float16, float32, float64)
_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2}


@cache
def promote_types(a: DType, b: DType) -> DType:
    """The dtype that holds both, by PyTorch's table: floating always beats integral."""
    if a is b:
        return a
    if _CATEGORY[a.kind] != _CATEGORY[b.kind]:
        return a if _CATEGORY[a.kind] > _CATEGORY[b.kind] else b
    if a.kind == "f":
        return max(a, b, key=_FLOATS.index)
    if "u" in (a.kind, b.kind):
        signed = b if a.kind == "u" else a
        # uint8 does not fit into int8: the pair needs the next larger signed type.
        return int16 if signed is int8 else signed
    return max(a, b, key=_SIGNED.index)


def category(dtype: DType) -> int:
    """0 for bool, 1 for integers, 2 for floating point: the ladder of PyTorch's promotion."""
    return _CATEGORY[dtype.kind]


@dataclass(frozen=True)
class TensorType:
    """The type of a value in the IR: element type and concrete shape."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.shape)) if self.shape else "()"
        return f"{self.dtype.short}[{inside}]"


@dataclass(frozen=True)
class StackType:
    """Frames of values, one for each iteration of a loop; how many is known when it runs."""

    elements: tuple[Type, ...]

    dtype: ClassVar[DType] = opaque
    shape: ClassVar[tuple[int, ...]] = ()
    ndim: ClassVar[int] = 0
    size: ClassVar[int] = 1
    # What it takes to name it; how much it holds is not known here.
    nbytes: ClassVar[int] = 8

    def __str__(self) -> str:
        return f"stack[{', '.join(map(str, self.elements)) or '()'}]"


@dataclass(frozen=True)
class TupleType:
    """The results of an op that has several; the op `item` takes one of them."""

    elements: tuple[Type, ...]

    dtype: ClassVar[DType] = opaque
    shape: ClassVar[tuple[int, ...]] = ()
    ndim: ClassVar[int] = 0
    size: ClassVar[int] = 1

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.elements)

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.elements))
        return f"({inside},)" if len(self.elements) == 1 else f"({inside})"


Type = TensorType | StackType | TupleType


def type_of(array: npt.NDArray[np.generic]) -> TensorType:
    """The tensor type of a NumPy array; KeyError for a dtype that tracegrad does not know."""
    return TensorType(BY_NUMPY[array.dtype], array.shape)
