"""Accuracy and speed of the mathematical functions of compiled code: the table in
docs/vector-math.md.

    python -m benchmarks.vector_math
"""

import ctypes
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.runtime.kernels import Kernel, compile_kernel

Array = np.ndarray[Any, Any]

_C_ENTRY = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 4)
_NAMES = {"f32": np.float32, "f64": np.float64}


def _by_element(function: Callable[[float], float]) -> Callable[[Array], Array]:
    return lambda x: np.array([function(float(value)) for value in x], np.float64)


def _sigmoid(x: Array) -> Array:
    """The logistic function without overflow and without cancellation."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


# In the widest format that there is. C's erf and erfc are known to float64 only.
UNARY: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sigmoid": _sigmoid,
    "erf": _by_element(math.erf),
    "erfc": _by_element(math.erfc),
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "pow": np.power,
    "atan2": np.arctan2,
    "hypot": np.hypot,
}
NARROW = frozenset({"erf", "erfc"})


def kernel_of(name: str, code: str, operands: int) -> Kernel:
    """The kernel that applies a function to arrays of "f32" or "f64"."""
    lines = [f"p{k} = pointer_{code}(pointers, {k})" for k in range(operands)]
    lines.append(f"o = output_{code}(pointers, {operands}, 0)")
    taken = ", ".join(f"load(p{k}, i)" for k in range(operands))
    lines += ["for i in range(start, stop):", f"    store(o, i, {name}({taken}))"]
    body = "".join(f"    {line}\n" for line in lines)
    head = "from tracegrad.codegen.primitives import *\n\n\n"
    return compile_kernel(f"{head}def kernel(pointers, table, start, stop):\n{body}")


def run(kernel: Kernel, inputs: list[Array]) -> Array:
    """What a kernel makes of arrays."""
    result = np.empty_like(inputs[0])
    pointers = np.array([x.ctypes.data for x in (*inputs, result)], np.int64)
    table = np.zeros(1, np.int64)
    _C_ENTRY(kernel.address)(pointers.ctypes.data, table.ctypes.data, 0, result.size)
    return result


def samples(code: str, count: int, seed: int = 0) -> Array:
    """Numbers over the whole range: random bits, ordinary numbers, and special values."""
    kind = _NAMES[code]
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2 ** (32 if code == "f32" else 64), count, np.uint64)
    whole = bits.astype(np.uint32 if code == "f32" else np.uint64).view(kind)
    facts = np.finfo(kind)
    special = [0.0, 1.0, 0.5, np.inf, np.nan, facts.max, facts.tiny, facts.smallest_subnormal]
    limits = [88.72284, 104.0, 709.78, 745.2, 1e5, 1e22]
    ordinary = [rng.uniform(-size, size, count) for size in (1, 20, 800)]
    with np.errstate(over="ignore"):
        parts = [np.asarray(x, kind) for x in (*ordinary, special, limits, np.negative(special))]
    return np.concatenate([whole, *parts])


def errors(found: Array, exact: Array) -> Array:
    """Distances from exact results in units of the last place of what was found; infinite where a
    special value or the sign of a zero is another one.
    """
    kind = found.dtype.type
    with np.errstate(all="ignore"):
        wanted = exact.astype(kind)
        size = np.where(np.isfinite(wanted), np.abs(wanted), np.finfo(kind).max)
        distance = np.abs(found.astype(exact.dtype) - exact) / np.spacing(size)
    same = (found == wanted) & (np.signbit(found) == np.signbit(wanted))
    same |= np.isnan(found) & np.isnan(wanted)
    ordinary = np.isfinite(found) & np.isfinite(wanted)
    ordinary &= (wanted != 0) | (found != 0)
    return np.where(same, np.where(ordinary, distance, 0), np.where(ordinary, distance, np.inf))


def worst(name: str, code: str, count: int) -> float:
    """The largest error of a function in a sample."""
    operands = 1 if name in UNARY else 2
    inputs = [samples(code, count, seed) for seed in range(operands)]
    if operands == 2:
        # Pairs that do not only overflow.
        rng = np.random.default_rng(5)
        inputs[1] = rng.permutation(inputs[1])
    wide = np.float64 if name in NARROW or code == "f32" else np.longdouble
    with np.errstate(all="ignore"):
        reference = (UNARY | BINARY)[name](*[x.astype(wide) for x in inputs])  # type: ignore[operator]
    return float(np.max(errors(run(kernel_of(name, code, operands), inputs), reference), initial=0))


def nanoseconds(name: str, code: str) -> float:
    """The least time for an element of 16,384 between 0.1 and 0.9, in one thread."""
    kind = _NAMES[code]
    operands = 1 if name in UNARY else 2
    rng = np.random.default_rng(1)
    inputs = [rng.uniform(0.1, 0.9, 1 << 14).astype(kind) for _ in range(operands)]
    if name == "acosh":
        inputs[0] += 1
    result = np.empty_like(inputs[0])
    pointers = np.array([x.ctypes.data for x in (*inputs, result)], np.int64)
    arguments = pointers.ctypes.data, pointers.ctypes.data, 0, result.size
    call = _C_ENTRY(kernel_of(name, code, operands).address)
    best = math.inf
    for _ in range(400):
        begin = time.perf_counter()
        call(*arguments)
        best = min(best, time.perf_counter() - begin)
    return best / inputs[0].size * 1e9


def main() -> None:
    """Print the table."""
    print("| function | float32, ulp | ns | float64, ulp | ns |")
    print("| -------- | -----------: | -: | -----------: | -: |")
    for name in (*UNARY, *BINARY):
        cells = []
        for code in ("f32", "f64"):
            cells += [f"{worst(name, code, 200_000):.2f}", f"{nanoseconds(name, code):.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
