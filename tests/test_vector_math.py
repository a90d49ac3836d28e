"""The mathematical functions of compiled code: within 2 units in the last place, over their whole
range, with NumPy's special values, and with the same bits wherever they stand.
"""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.exact_math import BINARY, HAS_LONG_DOUBLE, UNARY, errors, reference, samples
from benchmarks.vector_math import kernel_of, run, worst
from tests.test_native import map_kernel
from tracegrad.codegen import processor


@pytest.mark.parametrize("code", ["f32", "f64"])
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_within_two_units_in_the_last_place(name, code):
    if code == "f64" and not HAS_LONG_DOUBLE:
        pytest.skip("no wider format to compare with")
    assert worst(name, code, 3000) <= 2


def test_errors_are_found():
    exact = np.array([1.0, 0.0, np.inf, np.nan, 2.0], np.longdouble)
    found = np.array([1.0 + 3 * 2.0**-52, -0.0, 1e308, 0.0, 2.0])
    measured = errors(found, exact)
    assert measured[0] == 3
    assert np.isinf(measured[1:4]).all()
    assert measured[4] == 0


@pytest.mark.parametrize("name", ["exp", "tanh", "log", "sin", "erf"])
def test_the_same_bits_in_a_vector_and_alone(name):
    x = samples(np.float32, 30)
    kernel = kernel_of(name, "f32", 1)
    together = run(kernel, [x])
    alone = np.concatenate([run(kernel, [x[i : i + 1]]) for i in range(x.size)])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", ["exp", "sigmoid", "erfc"])
def test_without_the_instruction_that_scales(fresh_cache, monkeypatch, name):
    """Processors before AVX-512 have none that multiplies by a power of two."""
    x = samples(np.float32, 500)
    monkeypatch.setattr(processor, "has", lambda feature: False)
    kernel = map_kernel(f"{name}(x)", "f32")
    assert "vscalef" not in kernel.assembly()
    assert errors(run(kernel, [x]), reference(name, (x,))).max() <= 2


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_angle_of_subnormal_numbers(kind):
    """Both so small that a product of them has few digits left."""
    if kind is np.float64 and not HAS_LONG_DOUBLE:
        pytest.skip("no wider format to compare with")
    steps = np.arange(1, 61).astype(kind) * np.finfo(kind).smallest_subnormal
    operands = tuple(each.ravel().copy() for each in np.meshgrid(steps, steps))
    code = "f32" if kind is np.float32 else "f64"
    found = run(kernel_of("atan2", code, 2), list(operands))
    assert errors(found, reference("atan2", operands)).max() <= 2


# What older processors have: (name, features), in LLVM's words.
OLDER = {
    "AVX2": ("haswell", "+sse4.1,+sse4.2,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt"),
    "SSE2": ("x86-64", "+sse2"),
}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
@pytest.mark.parametrize("sets", OLDER)
def test_code_for_older_processors(tmp_path, sets):
    """The whole table once more in a process that generates code for another processor."""
    name, features = OLDER[sets]
    if not all(processor.has(x[1:]) for x in features.split(",")):
        pytest.skip("this processor is older still")
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "TRACEGRAD_CACHE_DIR": str(tmp_path),
    }
    chosen = "within_two_units or same_bits or subnormal"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        chosen,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
