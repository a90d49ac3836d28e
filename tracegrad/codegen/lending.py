"""Costly values that several passes over a row need: kept in memory that is written later.

A value that only its own kernel reads has no memory, and a pass computes it anew. Where it holds an
exponential or the like, and a later pass will store a result of the same type at each of its
elements, it is put there in the meantime: the exponentials of a softmax wait for their sum where
the softmax will be. The row is in cache, so this costs next to nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tracegrad.codegen.affine import View, squeeze
from tracegrad.codegen.instructions import Lowered
from tracegrad.codegen.placement import COSTLY
from tracegrad.codegen.steps import Buffer, Root
from tracegrad.ir.graph import Node


@dataclass(frozen=True)
class Repeat:
    """A root whose value is computed once more in a pass, for the root at position `by`."""

    root: Root
    in_pass: int
    by: int


def lenders(
    lowered: Lowered, repeats: Sequence[Repeat], pass_of: Mapping[Node, int]
) -> dict[Node, View]:
    """Where the values that are worth it can be kept, by the node of their root.

    `pass_of` tells in which pass the value of a root's node is computed.
    """
    if lowered.column or not repeats:
        return {}
    roots = lowered.kernel.roots
    own = {root.node for root in roots}
    wanted: dict[Node, tuple[Root, int, int]] = {}
    for x in repeats:
        if x.root.node in wanted or is_costly(x.root.value, own):
            _, last, by = wanted.get(x.root.node, (x.root, -1, -1))
            wanted[x.root.node] = (x.root, *max((last, by), (x.in_pass, x.by)))
    uses = _uses(lowered)
    free = {
        position: root
        for position, root in enumerate(roots)
        if not root.private
        and not (root.fold or root.indices or root.accumulate)
        and squeeze(root.value.shape) == lowered.kernel.domain
        and uses[root.target.buffer] == 1
    }
    lent: dict[Node, View] = {}
    for node, (root, last, by) in wanted.items():
        for position, lender in free.items():
            # What is there is overwritten when the lender is stored.
            in_time = (pass_of[lender.node], position) >= (last, by)
            if in_time and lender.value.dtype is root.value.dtype and not _is_narrow(root):
                lent[node] = lender.target
                del free[position]
                break
    return lent


def is_costly(value: Node, own: set[Node]) -> bool:
    """Whether a value takes a function of the mathematical library, apart from other roots."""
    work = [value]
    seen: set[Node] = set()
    while work:
        node = work.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op.name in COSTLY:
            return True
        work += [x for x in node.inputs if x not in own]
    return False


def _is_narrow(root: Root) -> bool:
    """Whether memory would round the value."""
    return root.value.dtype.name == "float16"


def _uses(lowered: Lowered) -> Counter[Buffer]:
    """How often a buffer is loaded or stored."""
    found: Counter[Buffer] = Counter()
    for block in (*lowered.passes, *lowered.rows):
        found.update(x.address.buffer for x in block.code if x.address is not None)
    return found
