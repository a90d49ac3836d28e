"""Hooks that a traced function leaves behind, for a backward pass that comes after the call."""

from __future__ import annotations

from collections.abc import Sequence

from tracegrad.errors import TraceError
from tracegrad.tracer.recording import TraceInput
from tracegrad.tracer.tape import Node
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.undo import UndoLog

_WHY = (
    "but backward runs after the call, where the values within compiled code have no tape nodes. "
    "Run backward inside of the compiled function, or "
)


def refuse(
    results: Sequence[Tensor], inputs: Sequence[TraceInput], undo: UndoLog, since: int
) -> None:
    """TraceError for what would silently not happen: hooks, and gradients to be retained, on nodes
    that `results` lead to and that were made after the mark `since`; hooks on inputs.
    """
    for item in inputs:
        if item.kind == "tensor":
            before = undo.before(item.tensor)
            for name in ("_hooks", "_post_hooks"):
                now = getattr(item.tensor, name)
                if now is not before.get(name) and now:
                    raise TraceError(
                        f"a compiled function registered a hook on its input {item.name}, which "
                        "each call would do once more. Do that outside of it"
                    )
    returned = {id(value) for value in results}
    work = [x.grad_fn for x in results]
    seen: set[Node] = set()
    while work:
        node = work.pop()
        if node is None or node in seen or node.sequence < since:
            continue
        seen.add(node)
        hooked = any((node.tensor_hooks or {}).values()) or node.hooks or node.prehooks
        if hooked:
            raise TraceError(
                f"a compiled function registered a hook at {node.name()}, {_WHY}"
                "register the hook on a result or an argument outside of it"
            )
        if any(id(kept()) in returned for kept in (node.retained or {}).values()):
            raise TraceError(
                f"a compiled function called retain_grad() on a result, of {node.name()}, {_WHY}"
                "call retain_grad() on the result outside of it"
            )
        work.extend(following for following, _ in node.edges)
