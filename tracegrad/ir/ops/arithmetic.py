"""Elementwise arithmetic, comparison, selection and casts."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.ir import types as T
from tracegrad.ir.families import anything, bits, elementwise, floating, general, numeric
from tracegrad.ir.op import NONDIFFERENTIABLE, OPS, Domain, Sample
from tracegrad.ir.types import DType, TensorType

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
    sample=(Domain(), Domain(avoid=(0.0,), margin=0.3)),
)

neg = elementwise(
    "neg", types=numeric, evaluate=np.negative, vjp=lambda g, y, x: -g, scalar="-{x}"
)

exp = elementwise(
    "exp", types=floating, evaluate=np.exp, vjp=lambda g, y, x: g * y, scalar="exp({x})"
)

tanh = elementwise(
    "tanh", types=floating, evaluate=np.tanh, vjp=lambda g, y, x: g * (1 - y * y), scalar="tanh({x})"
)

lt = elementwise(
    "lt", types=anything, evaluate=np.less, vjp=NONDIFFERENTIABLE, scalar="{x0} < {x1}", result=T.bool_
)

where = elementwise(
    "where",
    types=anything,
    evaluate=np.where,
    vjp=(None, lambda g, y, c, a, b: where(c, g, 0), lambda g, y, c, a, b: where(c, 0, g)),
    scalar="{x1} if {x0} else {x2}",
    condition=True,
)


def _infer_cast(x: TensorType, *, dtype: DType) -> TensorType:
    return TensorType(dtype, x.shape)


cast = general(
    "cast",
    family="elementwise",
    infer=_infer_cast,
    evaluate=lambda x, dtype: x.astype(dtype.numpy),
    vjp=lambda g, y, x, dtype: cast(g, dtype=x.dtype),
    samples=[Sample(((3, 4),), {"dtype": T.float64}), Sample(((),), {"dtype": T.int32})],
    sample_dtypes=anything,
    grad_name="ToCopyBackward0",
)
