"""An op's scalar formula as the expression that a kernel holds, with every literal in the dtype at
work.

A Python literal in Numba is a 64-bit number: `1.0 - x` would compute a float32 kernel in float64.
So literals are wrapped, branches become selects, and integer results are narrowed back.
"""

from __future__ import annotations

import ast
import re
from functools import cache

from tracegrad.ir.types import DType

REGISTER = {
    "bool": "b1",
    "uint8": "u8",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "float16": "f32",
    "float32": "f32",
    "float64": "f64",
}
"""The type in which a kernel holds a value of each dtype: float16 computes in float32."""

_REASSOCIATED = {ast.Add: "add_reassoc", ast.Mult: "mul_reassoc"}
_INTEGRAL = {"fabs": "integer_abs", "fmod": "integer_fmod", "pow": "integer_pow"}
"""The functions that libm has for floats only."""
_VECTOR_FOLDS = {"maximum": "maximum_reassoc", "minimum": "minimum_reassoc"}


class _Typed(ast.NodeTransformer):
    """Literals in the register type, selects for branches, non-short-circuit logic."""

    def __init__(self, register: str, fold: bool) -> None:
        self.register = register
        self.fold = fold

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, bool):
            return node
        return _call(self.register, node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return _call("where", *(self.visit(x) for x in (node.test, node.body, node.orelse)))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        result = self.visit(node.values[0])
        for value in node.values[1:]:
            result = ast.BinOp(result, operator, self.visit(value))
        return result  # type: ignore[no-any-return]

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        name = _REASSOCIATED.get(type(node.op)) if self.fold else None
        return _call(name, left, right) if name else ast.BinOp(left, node.op, right)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        name = node.func.id
        if self.fold:
            name = _VECTOR_FOLDS.get(name, name)
        if self.register[0] in "iu":
            name = _INTEGRAL.get(name, name)
        return _call(name, *(self.visit(x) for x in node.args))


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name), list(arguments), [])


@cache
def expression(scalar: str, arguments: int, dtype: DType, result: DType, fold: bool = False) -> str:
    """A format string of `{0}`, `{1}`, ... for the formula on operands of `dtype`."""
    names = ["x"] if "{x}" in scalar and arguments == 1 else [f"x{i}" for i in range(arguments)]
    if fold:
        names = ["a", "x"]
    tree = ast.parse(scalar.format(**{name: f"_{name}" for name in names}), mode="eval").body
    text = ast.unparse(ast.fix_missing_locations(_Typed(REGISTER[dtype.name], fold).visit(tree)))
    for position, name in enumerate(names):
        text = _replace_name(text, f"_{name}", f"{{{position}}}")
    if result.kind in "iu" or (result.kind == "b" and dtype.kind == "b" and not fold):
        text = f"{REGISTER[result.name]}({text})"
    return text


def _replace_name(text: str, name: str, by: str) -> str:
    return re.sub(rf"\b{name}\b", by, text)
