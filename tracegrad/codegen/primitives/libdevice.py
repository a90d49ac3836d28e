"""CUDA's own mathematical functions, which take the place of ours where code is for a GPU.

They are made for it, and within 2 ulp but for a few: the CUDA C++ Programming Guide, appendix
"Mathematical Functions", lists the error of each.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

# `__nv_<name>` for float64 and `__nv_<name>f` for float32, of one operand or of two.
_ONE = (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh erf erfc fabs rint"
)
_TWO = "atan2 pow hypot fmod copysign"
_FUNCTIONS = frozenset({*_ONE.split(), *_TWO.split()})


def is_for_gpu(builder: Any) -> bool:
    """Whether what is built is code for a GPU."""
    return "nvptx" in builder.module.triple


def device_function(builder: Any, name: str, kind: Any) -> Any:
    """CUDA's function of that name for a float type; None if it has none, or if this is no code
    for a GPU.
    """
    if name not in _FUNCTIONS or not is_for_gpu(builder):
        return None
    symbol = f"__nv_{name}{'f' if kind == ir.FloatType() else ''}"
    count = 2 if name in _TWO.split() else 1
    shape = ir.FunctionType(kind, [kind] * count)
    return builder.module.globals.get(symbol) or ir.Function(builder.module, shape, symbol)
