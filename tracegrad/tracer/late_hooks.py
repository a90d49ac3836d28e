"""Hooks that a traced function leaves behind, for a backward pass that comes after the call."""

from __future__ import annotations

from collections.abc import Sequence

from tracegrad.errors import TraceError
from tracegrad.tracer.hooks import Registration
from tracegrad.tracer.recorder import Recorder
from tracegrad.tracer.tape import Node, accumulator
from tracegrad.tracer.tensor import Tensor

_WHY = (
    "but backward runs after the call, where the values within compiled code have no tape nodes. "
    "Run backward inside of the compiled function, or "
)


def refuse(results: Sequence[Tensor], recorder: Recorder, since: int) -> None:
    """TraceError for what would silently not happen: hooks, and gradients to be retained, on what
    was there before the mark `since`, or on what `results` lead to.
    """
    standing = [item for item in recorder.registrations if item.stands]
    if not standing:
        return
    nodes = leading_to(results, since)
    returned = {id(value) for value in results}
    for item in standing:
        message = _objection(item, recorder, nodes, returned, since)
        if message:
            raise TraceError(f"{message}, at {item.place}" if item.place else message)


def _objection(
    item: Registration, recorder: Recorder, nodes: set[Node], returned: set[int], since: int
) -> str:
    """What is wrong with a hook; nothing if no backward after the call would meet it."""
    owner = item.owner
    what = "called retain_grad() on" if item.hooks is None else "registered a hook on"
    if is_outside(item, recorder, since):
        name = "an input" if isinstance(owner, Tensor) else f"{owner.name()}, which led to an input"
        return (
            f"a compiled function {what} {name}, which each call would do once more. Do that "
            "outside of it"
        )
    if item.hooks is None:
        if id(owner) in returned:
            return (
                f"a compiled function called retain_grad() on a result, {_WHY}"
                "call retain_grad() on the result outside of it"
            )
        return ""
    node = accumulator(owner) if isinstance(owner, Tensor) else owner
    if node not in nodes and id(owner) not in returned:
        return ""
    return (
        f"a compiled function registered a hook at {node.name()}, {_WHY}"
        "register the hook on a result or an argument outside of it"
    )


def take_back(recorder: Recorder, since: int) -> None:
    """Leave no hook on what was there before the mark `since`."""
    for item in reversed(recorder.registrations):
        if is_outside(item, recorder, since):
            item.undo()


def is_outside(item: Registration, recorder: Recorder, since: int) -> bool:
    """Whether a hook is on something that was there before the function ran."""
    owner = item.owner
    return recorder.is_outside(owner) if isinstance(owner, Tensor) else owner.sequence < since


def leading_to(results: Sequence[Tensor], since: int = 0) -> set[Node]:
    """The tape nodes made since the mark `since` that a backward pass from `results` comes to."""
    work = [x.grad_fn for x in results]
    seen: set[Node] = set()
    while work:
        node = work.pop()
        if node is not None and node not in seen and node.sequence >= since:
            seen.add(node)
            work.extend(following for following, _ in node.edges)
    return seen
