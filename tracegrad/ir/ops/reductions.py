"""Reductions over any axes."""

from __future__ import annotations

import numpy as np

from tracegrad.ir.families import Shape, numeric, reduction
from tracegrad.ir.op import OPS

sum_ = reduction(
    "sum",
    types=numeric,
    evaluate=np.sum,
    vjp=lambda g, y, x, axes: OPS["broadcast_to"](g, shape=x.shape),
    scalar={"identity": "0", "combine": "{a} + {x}"},
)
