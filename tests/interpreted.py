"""Programs that are interpreted: for tests of what is compiled, not of how."""

import numpy as np

from tracegrad.ir.interpret import interpret


class Interpreted:
    """Stands for compiled code: the interpreter is as right, and does not have to compile."""

    kernels = ()
    source = ""
    compile_seconds = 0.0
    # Not for native calls.
    is_serial = False

    def __init__(self, graph, layouts):
        self.graph = graph

    def __call__(self, values):
        arrays = [
            value if isinstance(value, list) else np.asarray(value, node.dtype.numpy)
            for value, node in zip(values, self.graph.inputs, strict=True)
        ]
        with np.errstate(all="ignore"):
            found = interpret(self.graph, arrays)
        return [x if isinstance(x, list) else np.array(x) for x in found]
