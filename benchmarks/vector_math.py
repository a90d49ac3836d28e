"""Accuracy and speed of the mathematical functions of compiled code: the table in
docs/vector-math.md.

    python -m benchmarks.vector_math
"""

import ctypes
import math
import time

import numpy as np

from benchmarks.exact_math import (
    BINARY,
    HAS_LONG_DOUBLE,
    UNARY,
    Array,
    errors,
    pairs,
    reference,
    samples,
)
from tracegrad.runtime.kernels import Kernel, compile_kernel

_C_ENTRY = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 4)
_NAMES = {"f32": np.float32, "f64": np.float64}


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


def worst(name: str, code: str, count: int) -> float:
    """The largest error of a function in 5 to 7 * count samples."""
    kind = _NAMES[code]
    operands = (samples(kind, count),) if name in UNARY else pairs(kind, count)
    found = run(kernel_of(name, code, len(operands)), list(operands))
    return float(np.max(errors(found, reference(name, operands))))


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
            known = code == "f32" or HAS_LONG_DOUBLE
            error = f"{worst(name, code, 100_000):.2f}" if known else "unknown"
            cells += [error, f"{nanoseconds(name, code):.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
