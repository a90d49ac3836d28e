"""What every test runs under: deterministic hypothesis, and a cache that is not the user's."""

import gc
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# Set before tracegrad is first imported, because it reads its environment at import. The directory
# outlives the run on purpose: compiled kernels found on disk make the next run much shorter.
os.environ.setdefault("TRACEGRAD_CACHE_DIR", str(ROOT / ".cache" / "tracegrad"))
# CUDA kernels run under the simulator of numba-cuda, which reads this when it is imported.
if not os.environ.get("TRACEGRAD_TEST_GPU"):
    os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")

# The same examples on every run and no time limit for one: a compilation may be within it.
settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")

pytest_plugins = ["tests.interpreted"]

# What is compiled lives as long as the process. To look at all of it again and again for garbage
# would be a tenth of the time of a run.
gc.set_threshold(100_000, 20, 100)

# A plain `pytest` on a machine without PyTorch runs everything else.
collect_ignore = [] if importlib.util.find_spec("torch") else ["reference"]


@pytest.fixture(scope="session", autouse=True)
def known_calls_are_taken_natively_from_the_third_on():
    """Most tests call a function a few times only."""
    from tracegrad.tracer import compiled_function

    compiled_function.PATIENCE = 1
    yield


@pytest.fixture(scope="session", autouse=True)
def what_waits_to_be_computed_has_bad_values():
    """While a function is recorded, memory is read only after it has been computed."""
    from tracegrad.tracer import deferral

    plain = deferral.untouched

    def poisoned(memory):
        bad = np.frombuffer(bytes([0xA5] * memory.itemsize), memory.dtype)
        memory[...] = bad[0]
        return memory

    deferral.untouched = poisoned
    yield
    deferral.untouched = plain


@pytest.fixture(scope="session", autouse=True)
def every_compiled_graph_survives_printing_and_parsing():
    """Print and parse each graph that any test compiles, before and after it is made legal."""
    from tracegrad.ir.parser import parse
    from tracegrad.ir.printer import text
    from tracegrad.ir.structure import equal
    from tracegrad.runtime import executor

    legalize = executor.legalize

    def checked(graph):
        legal = legalize(graph)
        for each in (graph, legal):
            assert equal(parse(text(each)), each), text(each)
        return legal

    executor.legalize = checked
    yield
    executor.legalize = legalize


@pytest.fixture
def fresh_cache(tmp_path):
    """A cache directory without object code, for tests of what is compiled and how."""
    from tracegrad.config import config
    from tracegrad.runtime import kernels

    known = dict(kernels._kernels)
    kernels._kernels.clear()
    with config.override(cache_dir=tmp_path):
        yield tmp_path
    kernels._kernels.clear()
    kernels._kernels.update(known)
