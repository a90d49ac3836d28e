"""Programs that are interpreted: for tests of what is compiled, not of how."""

from collections import OrderedDict

import numpy as np
import pytest

from tracegrad.ir.interpret import interpret
from tracegrad.tracer import call_backward, compiled_function, program


class Interpreted:
    """Stands for compiled code: the interpreter is as right, and does not have to compile."""

    kernels = ()
    source = ""
    compile_seconds = 0.0

    def __init__(self, graph, layouts, device=None):
        self.graph = graph

    def __call__(self, values):
        arrays = [
            value if isinstance(value, list) else np.asarray(value, node.dtype.numpy)
            for value, node in zip(values, self.graph.inputs, strict=True)
        ]
        with np.errstate(all="ignore"):
            found = interpret(self.graph, arrays)
        return [x if isinstance(x, list) else np.array(x) for x in found]


@pytest.fixture
def interpreted(monkeypatch):
    """Nothing is compiled by Numba: the graph is what a test is about, and its machine code, which
    other tests are about, would take seconds to make.
    """
    monkeypatch.setattr(program, "executable_for", Interpreted)
    monkeypatch.setattr(program, "_programs", OrderedDict())
    # Nor is a known call made native, which would run the machine code.
    monkeypatch.setattr(compiled_function, "PATIENCE", -1)
    monkeypatch.setattr(call_backward, "PATIENCE", -1)
