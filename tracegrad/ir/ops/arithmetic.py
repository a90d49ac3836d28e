"""Elementwise arithmetic, and the cast from one dtype to another."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir.families import (
    anything,
    elementwise,
    floating,
    general,
    numeric,
    zeros_like,
)
from tracegrad.ir.graph import Node, scalar_value
from tracegrad.ir.op import NONDIFFERENTIABLE, OPS, Array, Domain, Op, Sample
from tracegrad.ir.types import DType, TensorType, bool_, float32, float64, int32

nonzero = Domain(avoid=(0.0,), margin=0.3)

add = elementwise(
    "add",
    types=anything,
    evaluate=np.add,
    vjp=(lambda g, y, a, b: g, lambda g, y, a, b: g),
    scalar="{x0} + {x1}",
)

sub = elementwise(
    "sub",
    types=numeric,
    evaluate=np.subtract,
    vjp=(lambda g, y, a, b: g, lambda g, y, a, b: -g),
    scalar="{x0} - {x1}",
)

mul = elementwise(
    "mul",
    types=anything,
    evaluate=np.multiply,
    vjp=(lambda g, y, a, b: g * b, lambda g, y, a, b: g * a),
    scalar="{x0} * {x1}",
)

div = elementwise(
    "div",
    types=floating,
    evaluate=np.true_divide,
    vjp=(lambda g, y, a, b: g / b, lambda g, y, a, b: -(g * y) / b),
    scalar="{x0} / {x1}",
    sample=(Domain(), nonzero),
)

# Python's division: rounds down, and 0 for an integer divided by zero.
floor_divide = elementwise(
    "floor_divide",
    types=numeric,
    evaluate=np.floor_divide,
    vjp=(lambda g, y, a, b: zeros_like(a), lambda g, y, a, b: zeros_like(b)),
    scalar="floor_div({x0}, {x1})",
    sample=(Domain(0.2, 0.8), Domain(1.0, 2.0)),
)

# The remainder of floor division: it has the divisor's sign.
remainder = elementwise(
    "remainder",
    types=numeric,
    evaluate=np.remainder,
    vjp=(lambda g, y, a, b: g, lambda g, y, a, b: -g * floor_divide(a, b)),
    scalar="remainder({x0}, {x1})",
    sample=(Domain(2.2, 2.8), Domain(1.0, 1.05)),
)

# The remainder of truncating division: it has the dividend's sign.
fmod = elementwise(
    "fmod",
    types=numeric,
    evaluate=np.fmod,
    vjp=(lambda g, y, a, b: g, lambda g, y, a, b: -g * OPS["trunc"](a / b)),
    scalar="fmod({x0}, {x1})",
    sample=(Domain(-2.8, -2.2), Domain(1.0, 1.05)),
)


def _evaluate_pow(a: Array, b: Array) -> Any:
    if b.ndim == 0 and b == 2:
        return np.square(a)
    if b.ndim == 0 and b == 0.5:
        return np.sqrt(a)
    if a.dtype.kind == "f":
        return np.power(a, b)
    # NumPy refuses negative integer exponents; the exact result truncated is 0 but for 1 and -1.
    exponent = np.maximum(b, 0)
    sign = np.where(b % 2 == 0, 1, -1)
    inverse = np.where(a == 1, 1, np.where(a == -1, sign, 0))
    return np.where(b < 0, inverse, np.power(a, exponent))


def _pow_base(g: Node, y: Node, a: Node, b: Node) -> Node:
    exponent = scalar_value(b)
    if exponent == 2:
        return g * (2 * a)
    if exponent == 1:
        return g
    local = b * pow_(a, b - 1)
    if exponent is not None and exponent > 1:
        return g * local
    # The constant a**0 has no slope, where 0 * 0**-1 would be NaN.
    flat = eq(b, 0) & ~(abs_(a) > 0)
    return g * OPS["where"](flat, 0, local)


def _pow_exponent(g: Node, y: Node, a: Node, b: Node) -> Node:
    # 0**b is the constant 0 for b >= 0, where 0 * log(0) would be NaN.
    flat = eq(a, 0) & (b >= 0)
    return g * (y * OPS["log"](OPS["where"](flat, 1, a)))


# For integers: truncated to an integer where the exponent is negative.
pow_ = elementwise(
    "pow",
    types=numeric,
    evaluate=_evaluate_pow,
    vjp=(_pow_base, _pow_exponent),
    scalar="pow({x0}, {x1})",
    sample=(Domain(0.3, 2.0), Domain(-2.0, 3.0, avoid=(0.0, 1.0, 2.0))),
    grad_name="PowBackward1",
)

neg = elementwise("neg", types=numeric, evaluate=np.negative, vjp=lambda g, y, x: -g, scalar="-{x}")

abs_ = elementwise(
    "abs",
    types=numeric,
    evaluate=np.absolute,
    vjp=lambda g, y, x: g * sign(x),
    scalar="fabs({x})",
    sample=nonzero,
)

# NaN for NaN, as in NumPy.
sign: Op = elementwise(
    "sign",
    types=numeric,
    evaluate=np.sign,
    vjp=lambda g, y, x: zeros_like(x),
    scalar="1 if {x} > 0 else (-1 if {x} < 0 else {x})",
    sample=nonzero,
)

square = elementwise(
    "square",
    types=numeric,
    evaluate=np.square,
    vjp=lambda g, y, x: g * (2 * x),
    scalar="{x} * {x}",
    grad_name="PowBackward0",
)

reciprocal = elementwise(
    "reciprocal",
    types=floating,
    evaluate=np.reciprocal,
    vjp=lambda g, y, x: -g * (y * y),
    scalar="1.0 / {x}",
    sample=nonzero,
)

# The value without its gradient: for shifts that a formula is known not to depend on.
detach = elementwise(
    "detach", types=anything, evaluate=lambda x: x, vjp=NONDIFFERENTIABLE, scalar="{x}"
)

eq = elementwise(
    "eq",
    types=anything,
    evaluate=np.equal,
    vjp=NONDIFFERENTIABLE,
    scalar="{x0} == {x1}",
    result=bool_,
)


def _infer_cast(x: TensorType, *, dtype: DType) -> TensorType:
    return TensorType(dtype, x.shape)


# The value in the memory of another device. A graph knows of one only, where it is the same.
transfer: Op = general(
    "transfer",
    family="elementwise",
    infer=lambda x, source, target: x,
    evaluate=lambda x, source, target: x,
    vjp=lambda g, y, x, source, target: transfer(g, source=target, target=source),
    samples=[Sample(((3, 4),), {"source": "cpu", "target": "cuda:0"})],
    sample_dtypes=anything,
    grad_name="ToCopyBackward0",
    scalar="{x}",
)


def _evaluate_cast(x: Array, dtype: DType) -> Any:
    if 0 not in x.strides:
        return x.astype(dtype.numpy)
    # NumPy's own copy would put what is repeated innermost, where no function puts it.
    walk = np.nditer([x, None], ["zerosize_ok"], op_dtypes=[x.dtype, dtype.numpy])
    result = walk.operands[1]
    np.copyto(result, x, casting="unsafe")
    return result


cast: Op = general(
    "cast",
    family="elementwise",
    infer=_infer_cast,
    evaluate=_evaluate_cast,
    vjp=lambda g, y, x, dtype: cast(g, dtype=x.dtype),
    samples=[
        Sample(((3, 4),), {"dtype": float64}),
        Sample(((),), {"dtype": int32}),
        Sample(((0, 2),), {"dtype": bool_}),
        Sample(((5,),), {"dtype": float32}),
    ],
    sample_dtypes=anything,
    grad_name="ToCopyBackward0",
)
