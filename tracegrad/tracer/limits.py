"""The ranges of dtypes, by PyTorch's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.errors import DtypeError
from tracegrad.ir.types import DType
from tracegrad.tracer.location import locate
from tracegrad.tracer.promotion import get_default_dtype


class finfo:  # noqa: N801
    """The limits of a floating dtype: bits, eps, max, min, tiny, resolution."""

    def __init__(self, dtype: DType | None = None) -> None:
        dtype = dtype or get_default_dtype()
        if not dtype.is_floating_point:
            raise locate(DtypeError(f"finfo() requires a floating point dtype, not {dtype.name}"))
        limits: np.finfo[Any] = np.finfo(dtype.numpy.type)
        self.dtype = dtype.name
        self.bits = int(limits.bits)
        self.eps = float(limits.eps)
        self.max = float(limits.max)
        self.min = float(limits.min)
        self.tiny = self.smallest_normal = float(limits.smallest_normal)
        self.resolution = float(limits.resolution)


class iinfo:  # noqa: N801
    """The limits of an integer dtype: bits, max, min."""

    def __init__(self, dtype: DType) -> None:
        if not dtype.is_integral:
            raise locate(DtypeError(f"iinfo() requires an integer dtype, not {dtype.name}"))
        limits: np.iinfo[Any] = np.iinfo(dtype.numpy.type)
        self.dtype = dtype.name
        self.bits = int(limits.bits)
        self.max = int(limits.max)
        self.min = int(limits.min)
