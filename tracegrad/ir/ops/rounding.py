"""Rounding to whole numbers. Flat between the steps, so the gradient is zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.ir.families import elementwise, floating, zeros_like
from tracegrad.ir.op import Domain, Op


def _rounding(name: str, evaluate: Callable[..., Any], function: str) -> Op:
    return elementwise(
        name,
        types=floating,
        evaluate=evaluate,
        vjp=lambda g, y, x: zeros_like(x),
        scalar=f"{function}({{x}})",
        sample=Domain(-3.0, 3.0, avoid=(-2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5)),
    )


floor = _rounding("floor", np.floor, "floor")
ceil = _rounding("ceil", np.ceil, "ceil")
trunc = _rounding("trunc", np.trunc, "trunc")
# Halves go to the even neighbour.
round_ = _rounding("round", np.rint, "rint")
