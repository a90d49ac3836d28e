"""Text to graph: Python's own parser, and a table of what each form of `tracegrad.ir.printer`
means.
"""

from __future__ import annotations

import ast
import base64
import math
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import GraphError
from tracegrad.ir.graph import Builder, Graph, Literal, Loc, Node
from tracegrad.ir.op import OPS, Array
from tracegrad.ir.printer import lifted_dtype
from tracegrad.ir.types import BY_SHORT, DType, StackType, TensorType, TupleType

_LOC = re.compile(r"\s*# (.+):(\d+)$")


def parse(text: str) -> Graph:
    """The graph that `text` describes. GraphError with the line where the text is not that of a
    graph.

    The comments before the function become the graph's origin, those after a statement (`#
    train.py:12`) its line.
    """
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise GraphError(f"line {error.lineno}: not Python: {error.msg}") from error
    if len(statements) != 1 or not isinstance(statements[0], ast.FunctionDef):
        raise GraphError("a graph is one function definition")
    return _Reader(text.splitlines(), statements[0]).graph()


class _Reader:
    """One function being read into a builder."""

    def __init__(self, lines: list[str], function: ast.FunctionDef) -> None:
        self.lines = lines
        self.function = function
        self.builder = Builder(function.name)
        self.names: dict[str, Node] = {}
        self.graphs: dict[str, Graph] = {}

    def graph(self) -> Graph:
        for argument in self.function.args.args:
            type = self.type(argument.annotation, argument)
            self.names[argument.arg] = self.builder.input(type, argument.arg)
        *statements, last = self.function.body
        for statement in statements:
            self.statement(statement)
        if not isinstance(last, ast.Return):
            raise self.error(last, "the last statement is not `return`")
        outputs = [self.operand(x, None) for x in _several(last.value)]
        types = [self.type(x, last) for x in _several(self.function.returns)]
        if [x.type for x in outputs] != types:
            raise self.error(last, "the results do not have the types that the function says")
        origin = "\n".join(self.header())
        # Not `finish`: the text's own nodes, also those that nothing uses.
        return Graph(
            self.builder.name,
            tuple(self.builder.inputs),
            tuple(self.builder.nodes),
            tuple(outputs),
            origin,
        )

    def header(self) -> list[str]:
        """The comments right before the function."""
        found = []
        for line in reversed(self.lines[: self.function.lineno - 1]):
            if not line.lstrip().startswith("#"):
                break
            found.append(line.lstrip()[2:])
        return found[::-1]

    def statement(self, statement: ast.stmt) -> None:
        """`v0: f32[3] = add(x, y)`, or a graph that a later statement has as a parameter."""
        if isinstance(statement, ast.FunctionDef):
            self.graphs[statement.name] = _Reader(self.lines, statement).graph()
            return
        match statement:
            case ast.AnnAssign(
                target=ast.Name(id=name), annotation=annotation, value=ast.Call() as call
            ):
                pass
            case _:
                raise self.error(statement, "expected `name: type = op(...)`")
        if name in self.names:
            raise self.error(statement, f"{name} is defined twice")
        node = self.call(call, self.loc(statement))
        if node.type != self.type(annotation, statement):
            raise self.error(statement, f"the result is {node.type}, not {ast.unparse(annotation)}")
        self.names[name] = node

    def call(self, call: ast.Call, loc: Loc | None) -> Node:
        if not isinstance(call.func, ast.Name) or call.func.id not in OPS:
            raise self.error(call, f"{ast.unparse(call.func)} is not an op")
        if call.func.id == "constant":
            if len(call.args) != 1 or call.keywords:
                raise self.error(call, "constant takes one array")
            return self.builder.constant(self.array(call.args[0]), loc=loc)
        known = [
            self.names[x.id] for x in call.args if isinstance(x, ast.Name) and x.id in self.names
        ]
        lifted = lifted_dtype(known)
        inputs = [self.operand(x, lifted) for x in call.args]
        params = {str(keyword.arg): self.parameter(keyword.value) for keyword in call.keywords}
        op = OPS[call.func.id]
        if op.arity is not None and op.arity != len(inputs):
            raise self.error(call, f"{op.name} takes {op.arity} inputs, not {len(inputs)}")
        try:
            return self.builder.append(op, inputs, params, loc)
        except (TypeError, ValueError, RuntimeError, LookupError) as error:
            raise self.error(call, str(error)) from error

    def operand(self, expression: ast.expr, lifted: DType | None) -> Node:
        if isinstance(expression, ast.Name) and expression.id in self.names:
            return self.names[expression.id]
        if isinstance(expression, ast.Call):
            return self.builder.constant(self.scalar(expression))
        if isinstance(expression, ast.Name) and expression.id not in ("inf", "nan"):
            raise self.error(expression, f"{expression.id} is not defined")
        if lifted is None:
            raise self.error(expression, f"{ast.unparse(expression)} needs a dtype, as f32(0.5)")
        return self.builder.constant(self.element(expression, lifted))

    def scalar(self, call: ast.Call) -> Array:
        """`f16(0.1)`."""
        match call:
            case ast.Call(func=ast.Name(id=short), args=[value], keywords=[]) if short in BY_SHORT:
                return self.element(value, BY_SHORT[short])
        raise self.error(call, f"{ast.unparse(call)} is not a constant")

    def element(self, expression: ast.expr, dtype: DType) -> Array:
        """A 0-d array from a number or `bits('...')`."""
        match expression:
            case ast.Call(func=ast.Name(id="bits"), args=[ast.Constant(value=str(digits))]):
                return np.frombuffer(bytes.fromhex(digits), dtype.numpy).reshape(())
        return np.asarray(self.parameter(expression), dtype.numpy)

    def array(self, expression: ast.expr) -> Array:
        """`array(elements, f32[2, 2])`."""
        match expression:
            case ast.Call(func=ast.Name(id="array"), args=[elements, annotation], keywords=[]):
                type = self.type(annotation, expression)
            case _:
                raise self.error(expression, f"{ast.unparse(expression)} is not an array")
        match elements:
            case ast.Constant(value=str(encoded)):
                content = zlib.decompress(base64.b85decode(encoded))
                return np.frombuffer(content, type.dtype.numpy).reshape(type.shape)
            case ast.List():
                return np.asarray(self.parameter(elements), type.dtype.numpy).reshape(type.shape)
            case ast.Constant(value=value) if value is Ellipsis:
                raise self.error(
                    expression, "the elements of this constant were left out of the text"
                )
        return np.full(type.shape, self.element(elements, type.dtype))

    def parameter(self, expression: ast.expr) -> Any:
        """The value of a literal, in the few forms that the printer writes."""
        match expression:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.Name(id=name) if name in self.graphs:
                return self.graphs[name]
            case ast.Subscript():
                return self.type(expression, expression)
            case ast.Name(id="inf"):
                return math.inf
            case ast.Name(id="nan"):
                return math.nan
            case ast.Name(id=short) if short in BY_SHORT:
                return BY_SHORT[short]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.parameter(operand)
            case ast.Tuple(elts=elements):
                return tuple(map(self.parameter, elements))
            case ast.List(elts=elements):
                return [self.parameter(x) for x in elements]
            case ast.Call(func=ast.Name(id="array")):
                return Literal(self.array(expression))
            case ast.Call(func=ast.Name(id="bits"), args=[ast.Constant(value=str(digits))]):
                return struct.unpack("=d", bytes.fromhex(digits))[0]
        raise self.error(expression, f"{ast.unparse(expression)} is not a literal")

    def type(self, annotation: ast.expr | None, where: ast.AST) -> Any:
        """`f32[784, 10]`, `f32[()]`, `stack[f32[3]]`, `(i64[()], f32[3])`."""
        match annotation:
            case ast.Tuple(elts=elements):
                return TupleType(tuple(self.type(x, where) for x in elements))
            case ast.Subscript(value=ast.Name(id="stack"), slice=elements):
                inside = () if _is_empty(elements) else _several(elements)
                return StackType(tuple(self.type(x, where) for x in inside))
            case ast.Subscript(value=ast.Name(id=short), slice=sizes) if short in BY_SHORT:
                shape = tuple(self.parameter(x) for x in _several(sizes))
                return TensorType(BY_SHORT[short], shape)
        raise self.error(where, "a type is written f32[784, 10]")

    def loc(self, statement: ast.stmt) -> Loc | None:
        line = self.lines[(statement.end_lineno or statement.lineno) - 1]
        comment = line.encode()[statement.end_col_offset or 0 :].decode()
        match = _LOC.match(comment)
        return Loc(match[1], int(match[2])) if match else None

    def error(self, where: ast.AST, message: str) -> GraphError:
        return GraphError(f"line {getattr(where, 'lineno', '?')}: {message}")


def _is_empty(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Tuple) and not expression.elts


def _several(expression: ast.expr | None) -> Sequence[ast.expr]:
    if expression is None:
        return ()
    return expression.elts if isinstance(expression, ast.Tuple) else (expression,)
