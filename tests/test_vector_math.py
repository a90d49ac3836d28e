"""The mathematical functions of compiled code: within 2 units in the last place, over their whole
range, with NumPy's special values, and with the same bits wherever they stand.
"""

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
