"""What it costs backward to read values of forward.

In a program that runs once, what backward reads is saved once, and nobody asks for its price: it is
None for all. In the body of a loop a value may be the same in every iteration, or be there for each
as a slice or frame: it can be read again then. It is not quite free if it changes around the loop,
in the body of another one: it must be saved there, each time that the loop is met, and every
iteration bears its part of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracegrad.ir.graph import Node

# Bytes for each value that can be read again.
PricesOfReading = Mapping[Node, float] | None

_VIEWS = frozenset({"constant", "reshape", "transpose", "broadcast_to", "slice", "gather"})


def prices_of_reading(
    nodes: Sequence[Node], inputs: Sequence[Node], prices: Sequence[float | None]
) -> dict[Node, float]:
    """The prices of those of `inputs` that have one, and of what is but another look at them."""
    known = {x: price for x, price in zip(inputs, prices, strict=True) if price is not None}
    for node in nodes:
        if node.op.name in _VIEWS and all(x in known for x in node.inputs):
            known[node] = max((known[x] for x in node.inputs), default=0.0)
    return known


def price_of(x: Node, known: PricesOfReading) -> float:
    """The bytes that it takes to have `x` in backward: a push and a pop where it must be saved."""
    return 0.0 if known is None else known.get(x, 2.0 * x.type.nbytes)
