"""Algebra as data: each rule is a pattern and what replaces it, in the IR's own text.

In a pattern a name stands for any value, the same name twice for the same value; a number stands
for a constant of exactly that value (0.0 is not -0.0): `1.0` for a floating one, `1` for an
integer, `True` for a bool. Constants stand to the right of commutative operators, where
canonicalization puts them. Ops with parameters take no part.

`exact` rules keep every bit of every result, for infinities, signed zeros and NaN too (but for the
payload and the sign of a NaN). The others change values, and need `fastmath`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracegrad.ir.graph import Builder, Node, scalar_value
from tracegrad.ir.op import OPS, Op

Bindings = dict[str, Node]


@dataclass(frozen=True, slots=True)
class Rule:
    """Replace `pattern` by `replacement`; a number as the replacement is a tensor full of it."""

    pattern: str
    replacement: str
    exact: bool = True

    def __str__(self) -> str:
        return f"{self.pattern} -> {self.replacement}"


def _rules(exact: bool, *lines: str) -> tuple[Rule, ...]:
    pairs = (line.split(" -> ") for line in lines)
    return tuple(Rule(pattern, replacement, exact) for pattern, replacement in pairs)


EXACT = _rules(
    True,
    # Identities. x + 0.0 is not among them, since -0.0 + 0.0 is 0.0; x + -0.0 is.
    "add(x, -0.0) -> x",
    "add(x, 0) -> x",
    "sub(x, 0.0) -> x",
    "sub(x, 0) -> x",
    "mul(x, 1.0) -> x",
    "mul(x, 1) -> x",
    "mul(x, True) -> x",
    "div(x, 1.0) -> x",
    "pow(x, 1.0) -> x",
    # An integer has neither infinity nor signed zero.
    "mul(x, 0) -> 0",
    # Signs.
    "neg(neg(x)) -> x",
    "mul(x, -1.0) -> neg(x)",
    "mul(x, -1) -> neg(x)",
    "div(x, -1.0) -> neg(x)",
    "sub(-0.0, x) -> neg(x)",
    "sub(0, x) -> neg(x)",
    "add(x, neg(y)) -> sub(x, y)",
    "add(neg(x), y) -> sub(y, x)",
    "sub(x, neg(y)) -> add(x, y)",
    "mul(neg(x), neg(y)) -> mul(x, y)",
    "div(neg(x), neg(y)) -> div(x, y)",
    "abs(neg(x)) -> abs(x)",
    "abs(abs(x)) -> abs(x)",
    # Powers: a product of two and a quotient are correctly rounded, a power of three factors
    # is not.
    "pow(x, 0.0) -> 1.0",
    "pow(x, 2.0) -> mul(x, x)",
    "pow(x, 2) -> mul(x, x)",
    "pow(x, -1.0) -> div(1.0, x)",
    # As NumPy and PyTorch evaluate that power: it is NaN at -inf, where C's power is inf.
    "pow(x, 0.5) -> sqrt(x)",
    "square(neg(x)) -> square(x)",
    "square(abs(x)) -> square(x)",
    # Choices.
    "where(True, x, y) -> x",
    "where(False, x, y) -> y",
    "where(c, x, x) -> x",
    "where(c, where(c, x, y), z) -> where(c, x, z)",
    "where(c, x, where(c, y, z)) -> where(c, x, z)",
    "where(logical_not(c), x, y) -> where(c, y, x)",
    "where(c, True, False) -> c",
    "where(c, False, True) -> logical_not(c)",
    "maximum(x, x) -> x",
    "minimum(x, x) -> x",
    # Logic and bits.
    "logical_not(logical_not(x)) -> x",
    "bitwise_not(bitwise_not(x)) -> x",
    "bitwise_and(x, True) -> x",
    "bitwise_and(x, False) -> False",
    "bitwise_and(x, x) -> x",
    "bitwise_or(x, False) -> x",
    "bitwise_or(x, True) -> True",
    "bitwise_or(x, x) -> x",
    "bitwise_xor(x, False) -> x",
)

INEXACT = _rules(
    False,
    # Signed zeros.
    "add(x, 0.0) -> x",
    "sub(x, -0.0) -> x",
    "sub(0.0, x) -> neg(x)",
    "neg(sub(x, y)) -> sub(y, x)",
    # Infinities and NaN.
    "mul(x, 0.0) -> 0.0",
    "sub(x, x) -> 0.0",
    "div(x, x) -> 1.0",
    "pow(x, -0.5) -> rsqrt(x)",
    # Rounding.
    "pow(x, 3.0) -> mul(mul(x, x), x)",
    "exp(log(x)) -> x",
    "log(exp(x)) -> x",
    "mul(div(x, y), y) -> x",
    "div(mul(x, y), y) -> x",
)


Matcher = Callable[[Node, Bindings], bool]
Maker = Callable[[Node, Bindings], Node]


@dataclass(frozen=True, slots=True)
class _Compiled:
    matches: Matcher
    make: Maker

    def build(self, node: Node, bindings: Bindings) -> Node | None:
        """The replacement in the type of `node`; None where its dtype differs, and the rule does
        not apply.
        """
        made = self.make(node, bindings)
        if made.dtype is not node.dtype:
            return None
        # A rule drops operands that may have been broadcast against those it keeps.
        return made if made.shape == node.shape else OPS["broadcast_to"](made, shape=node.shape)


def _compile(rule: Rule) -> _Compiled:
    pattern = ast.parse(rule.pattern, mode="eval").body
    replacement = ast.parse(rule.replacement, mode="eval").body
    return _Compiled(_matcher(pattern), _maker(replacement))


def _matcher(expression: ast.expr) -> Matcher:
    match expression:
        case ast.Name(id=name):

            def bind(node: Node, bindings: Bindings) -> bool:
                return bindings.setdefault(name, node) is node

            return bind
        case ast.Call(func=ast.Name(id=op_name), args=arguments):
            op = OPS[op_name]
            operands = tuple(map(_matcher, arguments))

            def call(node: Node, bindings: Bindings) -> bool:
                return (
                    node.op is op
                    and not node.params
                    and len(node.inputs) == len(operands)
                    and all(m(x, bindings) for m, x in zip(operands, node.inputs, strict=True))
                )

            return call
    value = ast.literal_eval(expression)

    def constant(node: Node, bindings: Bindings) -> bool:
        found = scalar_value(node)
        # repr tells 1 from 1.0 and True, and 0.0 from -0.0.
        return found is not None and repr(found) == repr(value)

    return constant


def _maker(expression: ast.expr) -> Maker:
    match expression:
        case ast.Name(id=name):
            return lambda node, bindings: bindings[name]
        case ast.Call(func=ast.Name(id=op_name), args=arguments):
            op: Op = OPS[op_name]
            operands = tuple(map(_maker, arguments))
            return lambda node, bindings: op(*(m(node, bindings) for m in operands))
    value = ast.literal_eval(expression)
    return lambda node, bindings: Builder.current().constant(value, node.dtype)


class RuleTable:
    """Rules by the op that a pattern starts with, each compiled when a graph first has that op."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._compiled: dict[str, tuple[_Compiled, ...]] = {}
        self._rules = tuple(rules)

    def apply(self, node: Node) -> Node | None:
        """What the first rule that fits makes of `node`, appended to the current builder; None if
        none fits.
        """
        name = node.op.name
        compiled = self._compiled.get(name)
        if compiled is None:
            mine = (rule for rule in self._rules if rule.pattern.startswith(f"{name}("))
            compiled = self._compiled[name] = tuple(map(_compile, mine))
        for rule in compiled:
            bindings: Bindings = {}
            if rule.matches(node, bindings):
                replacement = rule.build(node, bindings)
                if replacement is not None:
                    return replacement
        return None
