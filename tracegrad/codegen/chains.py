"""Sums that one iteration of a loop hands to the next, and that are no fused multiply-add.

In `s = s + a * b` each iteration waits for the `s` of the one before. A product of its own is ready
by then, and an addition takes less time than a multiply-add, on many CPUs half of it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from tracegrad.ir.graph import Graph, Node, reachable

_PRODUCTS = frozenset({"mul", "square"})


def sums_apart(body: Graph, carries: int) -> Set[Node]:
    """The sums in the body of a loop whose products should be rounded by themselves: on the way
    from a carried number to the next one, with a product that is not.
    """
    old = _numbers(body.inputs[1 : 1 + carries])
    made = reachable(_numbers(body.outputs[1 : 1 + carries]))
    waits = set(old)
    found: set[Node] = set()
    for node in body.nodes:
        late = [x in waits for x in node.inputs]
        if not any(late):
            continue
        waits.add(node)
        if node.op.name in ("add", "sub") and _numbers([node]) and node in made and not all(late):
            (other,) = (x for x, is_late in zip(node.inputs, late, strict=True) if not is_late)
            if other.op.name in _PRODUCTS:
                found.add(node)
    return found


def _numbers(nodes: Sequence[Node]) -> list[Node]:
    return [x for x in nodes if not x.shape and x.dtype.name in ("float32", "float64")]
