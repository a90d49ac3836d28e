"""Steps with a template of their own: scans, sorts, and the positions of true elements.

Each works on contiguous operands seen as (outer, n, inner) around the axis it walks; the extent is
the outer size.
"""

from __future__ import annotations

import math

from tracegrad.codegen.steps import Call
from tracegrad.codegen.text import HEADER, Launch, Slot

_LINES = """\
    source = pointer_{source}(pointers, word(table, 0))
    target = output_{target}(pointers, word(table, 1), 0)
    length = word(table, 2)
    inner = word(table, 3)
    descending = word(table, 4)
    for outer in range(start, stop):
        for lane in range(inner):
            base = outer * length * inner + lane
"""

_SCAN = """\
            total = {register}({identity})
            for i in range(length):
                total = {register}(total {operator} {register}(load(source, base + i * inner)))
                store(target, base + i * inner, total)
"""

_SORT = """\
            line = np.empty(length, np.{dtype})
            for i in range(length):
                at = length - 1 - i if descending else i
                line[i] = load(source, base + at * inner)
            # NaN counts as the largest, as in NumPy. The reverse of the sorted reverse is stable.
            order = np.argsort(line, kind="mergesort")
            for i in range(length):
                at = order[length - 1 - i] if descending else order[i]
                from_start = length - 1 - at if descending else at
                store(target, base + i * inner, {result})
"""

_NONZERO = """\
    source = pointer_b1(pointers, word(table, 0))
    target = output_i64(pointers, word(table, 1), 0)
    size = word(table, 2)
    count = word(table, 3)
    ndim = word(table, 4)
    found = 0
    for i in range(size):
        if load(source, i) and found < count:
            rest = i
            for axis in range(ndim - 1, -1, -1):
                n = word(table, 5 + axis)
                store(target, found * ndim + axis, rest % n)
                rest = rest // n
            found += 1
    for i in range(found * ndim, count * ndim):
        store(target, i, 0)
"""


def emit_call(call: Call) -> Launch:
    """The source and words of a call other than a matrix product."""
    node = call.node
    name = node.op.name
    source, target = call.operands[0], call.target
    words: list[Slot] = [("view", source), ("view", target)]
    shape = node.inputs[0].shape
    if name == "nonzero":
        words += [("int", n) for n in (math.prod(shape), node.shape[0], len(shape), *shape)]
        return Launch(HEADER + _NONZERO, words, 1, math.prod(shape))
    axis = node.params["axis"]
    length = shape[axis] if shape else 1
    inner = math.prod(shape[axis + 1 :])
    outer = math.prod(shape[:axis])
    descending = int(bool(node.params.get("descending", False)))
    words += [("int", n) for n in (length, inner, descending)]
    dtype = node.inputs[0].dtype
    text = _LINES.format(source=dtype.short, target=node.dtype.short)
    if name in ("cumsum", "cumprod"):
        register = "f32" if node.dtype.short == "f16" else node.dtype.short
        operator, identity = ("+", "0") if name == "cumsum" else ("*", "1")
        text += _SCAN.format(register=register, operator=operator, identity=identity)
        return Launch(HEADER + text, words, outer, length * inner)
    held = "float32" if dtype.name == "float16" else dtype.numpy.name
    result = "from_start" if name == "argsort" else "line[at]"
    text += _SORT.format(dtype=held if held != "bool" else "bool_", result=result)
    return Launch("import numpy as np\n\n" + HEADER + text, words, outer, length * inner)
