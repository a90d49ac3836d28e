"""A graph as text that is valid Python, which `tracegrad.ir.parser` reads back to an equal graph.

    # loss, forward, after simplify
    def forward(w: f32[784, 10], x: f32[64, 784]) -> (f32[()], f32[64, 10]):
        v0: f32[64, 10] = matmul(x, w)                    # train.py:12
        v1: f32[64, 10] = mul(v0, 0.5)                    # train.py:13
        v2: f32[()] = sum(v1, axes=(0, 1))                # train.py:13
        return v2, v1

A constant of no dimensions stands in the call that uses it: bare where its dtype is that of the
call's other operands, as `f64(0.5)` elsewhere. Arrays print as `array([[1.0, 2.0]], f32[1, 2])`, an
array of one value as `array(0.0, f32[64, 10])`, and a long one by its bytes. All of it is exact to
the bit.
"""

from __future__ import annotations

import base64
import keyword
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tracegrad.errors import GraphError
from tracegrad.ir.graph import Graph, Literal, Node, dtype_of
from tracegrad.ir.op import Array
from tracegrad.ir.types import DType, StackType, TensorType, TupleType, type_of

# Words with a meaning of their own in the text, which no input may be called.
RESERVED = frozenset({"inf", "nan", *keyword.kwlist})

# Arrays up to this many elements print element by element.
_LISTED = 64

# Comments stand in one column, unless some lines are longer than this.
_COMMENT_COLUMN = 76


def text(graph: Graph, *, elide: bool = False) -> str:
    """The graph as Python text. With `elide`, long constants print as `array(..., type)`: nice to
    read, but gone.

    GraphError for a node whose inputs do not come before it, or a parameter that has no text.
    """
    return "\n".join(_function(graph, printed_names(graph)[0], elide)) + "\n"


def _function(graph: Graph, name: str, elide: bool) -> list[str]:
    """The lines of a graph as a function; graphs among parameters are functions within."""
    _, inputs = printed_names(graph)
    names: dict[Node, str] = dict(zip(graph.inputs, inputs, strict=True))
    taken = set(inputs)
    rows: list[tuple[str, str]] = []
    number = 0
    for node in graph.nodes:
        if _is_inline(node):
            continue
        while f"v{number}" in taken:
            number += 1
        inner: dict[str, str] = {}
        for parameter, value in node.params.items():
            for key, sub in _graphs(parameter, value):
                inner[key] = f"{key}_{number}"
                lines = _function(sub, inner[key], elide)
                rows += [(f"    {line}", "") for line in lines]
        call = _call(node, names, elide, inner)
        names[node] = f"v{number}"
        number += 1
        rows.append(
            (f"    {names[node]}: {node.type} = {call}", "" if node.loc is None else str(node.loc))
        )
    width = min(max((len(line) for line, loc in rows if loc), default=0), _COMMENT_COLUMN)
    parameters = ", ".join(f"{names[x]}: {x.type}" for x in graph.inputs)
    outputs = [_operand(x, names, None) for x in graph.outputs]
    types = [str(x.type) for x in graph.outputs]
    result = types[0] if len(types) == 1 else f"({', '.join(types)})"
    lines = [f"# {line}".rstrip() for line in graph.origin.splitlines()]
    lines.append(f"def {name}({parameters}) -> {result}:")
    lines.extend(f"{line:<{width}}  # {loc}" if loc else line for line, loc in rows)
    lines.append(f"    return {', '.join(outputs) or '()'}")
    return lines


def _graphs(parameter: str, value: Any) -> list[tuple[str, Graph]]:
    """The graphs in one parameter, with the names of their functions."""
    if isinstance(value, Graph):
        return [(parameter, value)]
    if isinstance(value, tuple) and value and isinstance(value[0], Graph):
        return [(f"{parameter}_{i}", graph) for i, graph in enumerate(value)]
    return []


def printed_names(graph: Graph) -> tuple[str, tuple[str, ...]]:
    """The names of the graph and its inputs as the text has them: themselves where they are good
    Python names.
    """
    taken: set[str] = set()
    names = []
    for x in graph.inputs:
        base = identifier(x.params["name"])
        name, suffix = base, 1
        while name in taken:
            suffix += 1
            name = f"{base}_{suffix}"
        taken.add(name)
        names.append(name)
    return identifier(graph.name), tuple(names)


def identifier(name: str) -> str:
    """`name` itself where it can be a name in the text, else the nearest name that can."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII)
    if word != name:
        word = word.strip("_")
    if not word or word[0].isdigit():
        word = f"_{word}"
    return f"{word}_" if word in RESERVED else word


def _is_inline(node: Node) -> bool:
    return node.op.name == "constant" and node.ndim == 0


def _call(node: Node, names: Mapping[Node, str], elide: bool, inner: Mapping[str, str]) -> str:
    lifted = lifted_dtype([x for x in node.inputs if not _is_inline(x)])
    arguments = [_operand(x, names, lifted) for x in node.inputs]
    if node.op.name == "constant":
        return f"constant({array_text(node.params['value'].array, elide=elide)})"
    for name, value in node.params.items():
        functions = [inner[key] for key, _ in _graphs(name, value)]
        if isinstance(value, Graph):
            arguments.append(f"{name}={functions[0]}")
        elif functions:
            arguments.append(f"{name}=({', '.join(functions)},)")
        else:
            arguments.append(f"{name}={_parameter(value, elide)}")
    return f"{node.op.name}({', '.join(arguments)})"


def lifted_dtype(operands: list[Node]) -> DType | None:
    """The dtype of a bare number beside `operands`: that of the first one that is not bool."""
    return next(
        (x.dtype for x in operands if x.dtype.kind != "b"), operands[0].dtype if operands else None
    )


def _operand(node: Node, names: Mapping[Node, str], lifted: DType | None) -> str:
    if _is_inline(node):
        return scalar_text(node.params["value"].array, lifted)
    if node not in names:
        raise GraphError(f"{node!r} is used but is not an input or an earlier node of the graph")
    return names[node]


def scalar_text(array: Array, lifted: DType | None = None) -> str:
    """A 0-d array as a bare number where `lifted` is its dtype, else with its dtype: `f16(0.1)`."""
    dtype = dtype_of(array)
    number = _number(array.reshape(1)[0], dtype)
    if number is None:
        # A NaN with a sign or a payload: no literal says it.
        return f"{dtype.short}(bits({array.tobytes().hex()!r}))"
    return number if dtype is lifted else f"{dtype.short}({number})"


def _number(value: np.generic, dtype: DType) -> str | None:
    """The shortest literal that reads back to the same bits; None where there is none."""
    if dtype.kind != "f":
        return str(value.item())
    exact = float(value.item())
    if math.isnan(exact):
        return "nan" if value.tobytes() == dtype.numpy.type(math.nan).tobytes() else None
    short = str(value)
    same = math.isinf(exact) or dtype.numpy.type(float(short)).tobytes() == value.tobytes()
    return short if same else repr(exact)


def array_text(array: Array, *, elide: bool = False) -> str:
    """An array as `array(elements, type)`: nested lists, or one value for all, or its compressed
    bytes.
    """
    type = type_of(array)
    flat = array.reshape(-1)
    if flat.size and flat.tobytes() == flat[:1].tobytes() * flat.size:
        content = scalar_text(flat[:1].reshape(()), type.dtype)
    elif flat.size <= _LISTED and None not in (numbers := [_number(x, type.dtype) for x in flat]):
        content = _nested([str(x) for x in numbers], type.shape)
    elif elide:
        content = "..."
    else:
        content = repr(base64.b85encode(zlib.compress(array.tobytes())).decode())
    return f"array({content}, {type})"


def _nested(numbers: list[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return numbers[0]
    step = len(numbers) // max(shape[0], 1)
    parts = (_nested(numbers[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0]))
    return f"[{', '.join(parts)}]"


def _parameter(value: Any, elide: bool) -> str:
    if isinstance(value, DType):
        return value.short
    if isinstance(value, TensorType | StackType | TupleType):
        return str(value)
    if isinstance(value, Literal):
        return array_text(value.array, elide=elide)
    if isinstance(value, tuple):
        inside = ", ".join(_parameter(x, elide) for x in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, float):
        return f"bits({np.float64(value).tobytes().hex()!r})" if _odd_nan(value) else repr(value)
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    raise GraphError(f"a parameter of type {type(value).__name__} has no text: {value!r}")


def _odd_nan(value: float) -> bool:
    return math.isnan(value) and np.float64(value).tobytes() != np.float64(math.nan).tobytes()
