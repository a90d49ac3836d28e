"""Generated kernels run by the Python interpreter: their text checked apart from Numba and LLVM.

A table word that names a buffer is the buffer's array itself; the primitives have
their plain meaning.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.codegen.legalize import legalize
from tracegrad.codegen.schedule import schedule
from tracegrad.codegen.steps import Buffer
from tracegrad.codegen.text import Launch
from tracegrad.ir.graph import Graph
from tracegrad.runtime.executor import launch_of

Array = np.ndarray[Any, Any]

REGISTERS = {
    "f32": np.float32,
    "f64": np.float64,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "b1": np.bool_,
}
MATH: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "sqrt": np.sqrt,
    "fabs": np.abs,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "maximum_reassoc": np.maximum,
    "minimum_reassoc": np.minimum,
    "add_reassoc": np.add,
    "mul_reassoc": np.multiply,
    "where": lambda c, a, b: a if c else b,
    "pow": np.power,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def run(graph: Graph, arrays: Sequence[Array]) -> list[Array] | None:
    """The outputs by interpreting each kernel's text; None when the graph holds a library call."""
    planned = schedule(legalize(graph), [None] * len(graph.inputs))
    memory: dict[Buffer, Array] = {}
    for buffer in planned.buffers:
        memory[buffer] = np.full(max(buffer.size, 1), -77, buffer.dtype.numpy)
        if buffer.literal is not None:
            memory[buffer] = np.asarray(buffer.literal).reshape(-1)
    for buffer, array in zip(planned.inputs, arrays, strict=True):
        memory[buffer] = np.ascontiguousarray(array).reshape(-1)
    for step in planned.steps:
        launch = launch_of(step, planned)
        if "gemm" in launch.source or "argsort" in launch.source:
            return None
        execute(launch, memory)
    return [
        memory[buffer][: buffer.size].reshape(node.shape)
        for buffer, node in zip(planned.outputs, graph.outputs, strict=True)
    ]


def execute(launch: Launch, memory: dict[Buffer, Array]) -> None:
    """Run one launch over its whole extent."""
    words = [
        memory[x] if kind == "buffer" else memory[x.buffer][x.offset :] if kind == "view" else x
        for kind, x in launch.words
    ]
    names: dict[str, Any] = {**REGISTERS, **MATH}
    names["word"] = lambda table, k: words[k]
    names["real"] = lambda table, k: struct.unpack("<d", struct.pack("<q", words[k]))[0]
    names["load"] = names["load_output"] = _load
    names["store"] = _store
    names["interleave"] = lambda count: None
    for code in (*REGISTERS, "f16"):
        names[f"pointer_{code}"] = lambda pointers, buffer: buffer
        names[f"output_{code}"] = lambda pointers, buffer, k: buffer
    text = launch.source.replace("from tracegrad.codegen.primitives import *", "")
    with np.errstate(all="ignore"):
        exec(compile(text, "<kernel>", "exec"), names)
        names["kernel"](None, None, 0, launch.extent)


def _load(buffer: Array, index: int) -> Any:
    # Unlike the machine, the test sees an index that leaves the buffer.
    assert 0 <= index < len(buffer), f"load of element {index} of {len(buffer)}"
    value = buffer[index]
    return np.float32(value) if buffer.dtype == np.float16 else value


def _store(buffer: Array, index: int, value: Any) -> None:
    assert 0 <= index < len(buffer), f"store to element {index} of {len(buffer)}"
    assert not (isinstance(value, float) and math.isnan(value) and buffer.dtype.kind in "iub")
    buffer[index] = value
