"""What a graph must keep to, checked: run after every pass in check mode, and on graphs from
outside.
"""

from __future__ import annotations

from typing import Any, NoReturn

from tracegrad.errors import GraphError
from tracegrad.ir.graph import Graph, Literal, Loc, Node
from tracegrad.ir.op import OPS
from tracegrad.ir.types import DType, StackType, TensorType, TupleType

# Exactly these: a subclass such as np.float64 prints and hashes in its own way.
_PARAMETER_TYPES = (
    type(None),
    bool,
    int,
    float,
    str,
    DType,
    Literal,
    TensorType,
    StackType,
    TupleType,
)


def verify(graph: Graph) -> None:
    """Check `graph`; GraphError names the first node that breaks a rule.

    - inputs are `input` nodes without operands, each there once, with different names;
    - every other node is a registered op, there once, and comes after all its operands;
    - each has as many operands as its op takes, and every parameter that it takes, in plain
    hashable values,
      axes sorted and not negative;
    - each has the type that its op infers;
    - graphs among the parameters keep to the same rules;
    - outputs are inputs or nodes of the graph.
    """
    known: set[Node] = set()
    names: set[str] = set()
    for i, x in enumerate(graph.inputs):
        _verify_input(graph, i, x, known, names)
        known.add(x)
    for i, node in enumerate(graph.nodes):
        _verify_node(graph, i, node, known)
        known.add(node)
    for i, x in enumerate(graph.outputs):
        if x not in known:
            _fail(graph, f"output {i}", x, "is neither an input nor a node of the graph")


def _fail(graph: Graph, where: str, node: Node, message: str) -> NoReturn:
    line = "" if node.loc is None else f", from {node.loc}"
    raise GraphError(f"{graph.name}: {where}, {node.op.name}: {node.type}{line}: {message}")


def _verify_input(graph: Graph, i: int, x: Node, known: set[Node], names: set[str]) -> None:
    where = f"input {i}"
    if x.op is not OPS["input"]:
        _fail(graph, where, x, "is not an input node")
    if x.inputs or set(x.params) != {"name"} or not isinstance(x.params["name"], str):
        _fail(graph, where, x, "has operands, or no name")
    if x in known:
        _fail(graph, where, x, "is there twice")
    if x.params["name"] in names:
        _fail(graph, where, x, f"has the name of another input, {x.params['name']!r}")
    _verify_type(graph, where, x)
    names.add(x.params["name"])


def _verify_node(graph: Graph, i: int, node: Node, known: set[Node]) -> None:
    where = f"node {i}"
    op = node.op
    if OPS.get(op.name) is not op:
        _fail(graph, where, node, "is not a registered op")
    if op is OPS["input"]:
        _fail(graph, where, node, "is an input that is not among the graph's inputs")
    if node in known:
        _fail(graph, where, node, "is there twice")
    if op.arity is not None and op.arity != len(node.inputs):
        _fail(graph, where, node, f"has {len(node.inputs)} operands, not {op.arity}")
    for j, x in enumerate(node.inputs):
        if x not in known:
            _fail(graph, where, node, f"operand {j} ({x!r}) does not come before it")
    if not isinstance(node.loc, Loc | None):
        _fail(graph, where, node, "has a line that is not a Loc")
    for name, value in node.params.items():
        if not _is_plain(value):
            _fail(graph, where, node, f"parameter {name}={value!r} is not a plain value")
    _verify_axes(graph, where, node)
    _verify_type(graph, where, node)
    try:
        type = op.infer(*(x.type for x in node.inputs), **node.params)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        _fail(graph, where, node, f"its operands or parameters do not fit: {error}")
    if type != node.type:
        _fail(graph, where, node, f"its op gives {type}")


def _verify_type(graph: Graph, where: str, node: Node) -> None:
    if not _is_type(node.type):
        _fail(graph, where, node, "has no proper type")


def _is_type(type: Any) -> bool:
    if isinstance(type, StackType | TupleType):
        return all(map(_is_type, type.elements))
    return isinstance(type, TensorType) and all(map(_is_size, type.shape))


def _is_size(n: Any) -> bool:
    return n.__class__ is int and n >= 0


def _is_plain(value: Any) -> bool:
    if value.__class__ is tuple:
        return all(map(_is_plain, value))
    if value.__class__ is Graph:
        verify(value)
        return True
    return value.__class__ in _PARAMETER_TYPES


def _verify_axes(graph: Graph, where: str, node: Node) -> None:
    axes = node.params.get("axes")
    if not isinstance(axes, tuple) or not node.inputs:
        return
    ndim = node.inputs[0].ndim
    if not all(_is_size(axis) and axis < ndim for axis in axes) or len(set(axes)) < len(axes):
        _fail(graph, where, node, f"axes={axes} are not different axes from 0 to {ndim - 1}")
    if node.op.family == "reduction" and list(axes) != sorted(axes):
        _fail(graph, where, node, f"axes={axes} are not sorted")
    if node.op.name == "transpose" and len(axes) != ndim:
        _fail(graph, where, node, f"axes={axes} are not a permutation of {ndim} axes")
