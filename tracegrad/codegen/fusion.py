"""Which roots one kernel may compute together."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tracegrad.codegen.affine import Index, Shape, squeeze
from tracegrad.codegen.steps import SEARCHES, Kernel, Read, is_column
from tracegrad.ir.graph import Node

# A row kernel of fewer rows than this runs its passes on one thread, which large rows should not.
MIN_ROWS = 8
LARGE = 1 << 16


def fits(
    kernel: Kernel,
    domain: Shape,
    axes: tuple[int, ...] | None,
    reads: list[Read],
    reduction: str,
    step_of: Mapping[Node, int],
) -> bool:
    """Whether a root over `domain` may be computed in `kernel`, given what it reads."""
    inner = kernel.domain == domain
    if axes is not None:
        if not inner or kernel.axes not in (None, axes):
            return False
        if is_column(domain, axes) and reduction in SEARCHES:
            return False
    outer = not inner and axes is None and kernel.axes is not None and kernel.rows == domain
    if not (inner or outer):
        return False
    related = False
    for x, index in reads:
        if step_of[x] != kernel.position:
            continue
        related = True
        made = next((root for root in kernel.roots if root.node is x), None)
        if made is None or index is None or (made.value is not made.node and not made.fold):
            # Written in pieces, or read at an index that is not the element's own.
            return False
        row_level = made.fold or (
            kernel.axes is not None and squeeze(made.value.shape) != kernel.domain
        )
        if row_level:
            if inner and not _passes_pay(kernel, axes):
                return False
            loops = kernel.kept if inner else tuple(range(len(domain)))
        else:
            if outer:
                return False
            loops = tuple(range(len(domain)))
        if not _reads_own(x.shape, index, loops):
            return False
    return related or inner


def _passes_pay(kernel: Kernel, axes: tuple[int, ...] | None) -> bool:
    """Whether a further pass over each row may go into the same kernel."""
    chosen = kernel.axes or axes or ()
    if is_column(kernel.domain, chosen):
        return False
    rows = math.prod(kernel.rows)
    return rows >= MIN_ROWS or math.prod(kernel.domain) <= LARGE


def _reads_own(shape: Shape, index: Index, loops: Shape) -> bool:
    """Whether `index` is exactly the given loops in order: the element (or row) that is being
    computed.
    """
    wanted = iter(loops)
    for size, entry in zip(shape, index, strict=True):
        if size == 1:
            continue
        loop = next(wanted, None)
        if loop is None or entry.const != 0:
            return False
        if any(coef != int(k == loop) for k, coef in enumerate(entry.coefs)):
            return False
    return next(wanted, None) is None
