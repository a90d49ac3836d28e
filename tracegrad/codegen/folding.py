"""How a reduction is written: what it starts from, and the step that takes an element in."""

from __future__ import annotations

from tracegrad.codegen.formula import REGISTER, expression
from tracegrad.codegen.instructions import Fold
from tracegrad.codegen.steps import SEARCHES
from tracegrad.ir.types import DType, bool_, float64


def is_search(fold: Fold) -> bool:
    """Whether it looks for the position of a value."""
    return fold.node.op.name in SEARCHES


def operand(fold: Fold) -> DType:
    """The dtype of its elements."""
    return fold.node.inputs[0].dtype


def is_widened(fold: Fold) -> bool:
    """Whether runs are added up in float64: sums and products of floats."""
    return operand(fold).kind == "f" and fold.node.op.name in ("sum", "prod")


def total_of(fold: Fold, value: str) -> str:
    """A value in the type of the total of all runs."""
    return f"f64({value})" if is_widened(fold) else value


def combination(fold: Fold, exact: bool = False, total: bool = False) -> str:
    """The folding step; `exact` keeps the order of additions, `total` works in the total's own
    type.
    """
    dtype = float64 if total and is_widened(fold) else operand(fold)
    combine = fold.node.op.scalar["combine"]
    text = expression(combine, 2, dtype, dtype, fold=True)
    if exact:
        text = text.replace("_reassoc", "")
        text = text.replace("add({0}, {1})", "({0} + {1})").replace("mul({0}, {1})", "({0} * {1})")
    return text


def better(fold: Fold) -> str:
    """Whether an element takes the place of the best so far."""
    return expression(fold.node.op.scalar["better"], 2, operand(fold), bool_, fold=True)


def identity(fold: Fold) -> str:
    """The value that a fold starts from, in the operand's register."""
    dtype = operand(fold)
    register = REGISTER[dtype.name]
    if is_search(fold):
        token = "-inf" if fold.node.op.name == "argmax" else "+inf"
    else:
        token = fold.node.op.scalar["identity"]
    if token not in ("-inf", "+inf"):
        return f"{register}({token})"
    if dtype.kind == "f":
        return f"{register}({'-' if token == '-inf' else ''}f64(1.0) / f64(0.0))"
    if dtype.kind == "b":
        return f"{register}({token == '+inf'})"
    bits = dtype.itemsize * 8
    low, high = (0, 2**bits - 1) if dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return f"{register}({low if token == '-inf' else high})"
