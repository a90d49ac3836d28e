"""All ways through a function given to a loop, a branch or `vmap`.

Where Python asks for a truth that another run would answer otherwise, the function is traced once
for each answer: along the outcomes of the last time but for the last of them that has another one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tracegrad.errors import GradError, TraceError
from tracegrad.ir.graph import Loc
from tracegrad.runtime.random import default_generator
from tracegrad.tracer.bounds import Limits
from tracegrad.tracer.loop_paths import exits_of
from tracegrad.tracer.state import state

if TYPE_CHECKING:
    from tracegrad.tracer.carries import Tree
    from tracegrad.tracer.recorder import Recorder
    from tracegrad.tracer.recording import Value
    from tracegrad.tracer.scopes import Scope

# More ways through a body than this are not traced.
MOST_WAYS = 64


@dataclass
class Returned:
    """What a body returned: `values` are computed, `trees` say what of. Both end with the same
    leaves.
    """

    values: list[Value]
    trees: list[Tree]


@dataclass
class Way:
    """One way through a body.

    raised  the exception that it ends with, as a limit that nothing is within.
    drawn   how many random numbers it draws.
    """

    scope: Scope
    returned: Returned | None = None
    raised: Limits | None = None
    drawn: int = 0
    locs: list[Loc | None] = field(default_factory=list)

    @property
    def outcomes(self) -> list[Hashable]:
        return self.scope.outcomes


def explored(
    recorder: Recorder, name: str, form: str, once: Callable[[Scope], Returned]
) -> list[Way]:
    """`once` is called in a new scope for each way. At least one of the ways returns: where none
    does, the exception of the first comes out.
    """
    before = state.grad_enabled, state.weak_numbers
    generator = default_generator.get_state()
    script: list[Hashable] | None = []
    found: list[Way] = []
    errors: list[Exception] = []
    while script is not None:
        with recorder.body(name, form) as scope:
            scope.script = script
            way = Way(scope)
            try:
                way.returned = once(scope)
                nodes = [value.node for value in way.returned.values]
                way.locs = [None if node is None else node.loc for node in nodes]
            except (TraceError, GradError):
                # It is not the user's program that raises this, but its being traced.
                raise
            except Exception as error:
                if not scope.outcomes:
                    raise
                errors.append(error)
                way.raised = Limits.of_exception(error, form)
            finally:
                way.drawn = default_generator.get_state()[1] - generator[1]
                default_generator.set_state(generator)
                state.grad_enabled, state.weak_numbers = before
        found.append(way)
        script = _following(scope)
        if script is not None and len(found) >= MOST_WAYS:
            raise _too_many(scope, [way.scope for way in found])
    if all(way.raised is not None for way in found):
        raise errors[0]
    return found


def first_way(scope: Scope, kind: str) -> Hashable:
    """The outcome of a guard in a body that is tried first. TraceError after too many guards."""
    if len(scope.outcomes) >= MOST_WAYS:
        raise _too_many(scope, [scope])
    return True if kind == "bool" else 0


def _following(scope: Scope) -> list[Hashable] | None:
    """The outcomes of the way after that which `scope` took; None if it was the last."""
    outcomes = list(scope.outcomes)
    while outcomes:
        last = outcomes.pop()
        guard = scope.segments[len(outcomes)].guard
        assert guard is not None
        if guard.kind == "bool":
            if last:
                return [*outcomes, False]
        else:
            asked = scope.segments[guard.ref[0]].builder.nodes[guard.ref[1]]
            code: int = last  # type: ignore[assignment]
            if code < exits_of(asked.inputs[0].params["body"]):
                return [*outcomes, code + 1]
    return None


def _too_many(scope: Scope, scopes: Sequence[Scope]) -> TraceError:
    counts: dict[str, int] = {}
    for each in scopes:
        on_way: dict[str, int] = {}
        for segment in each.segments:
            if segment.guard is not None:
                place = str(segment.guard.loc)
                on_way[place] = on_way.get(place, 0) + 1
        for place, count in on_way.items():
            counts[place] = max(counts.get(place, 0), count)
    asked = [
        place if count == 1 else f"{place} ({count} times on one way)"
        for place, count in counts.items()
    ]
    error = TraceError(
        f"more than {MOST_WAYS} ways lead through a function given to {scope.form}: it asks for "
        f"the truth of its own values at {', '.join(asked)}. Use tg.while_loop, tg.fori_loop or "
        "tg.scan for a loop there, and tg.cond or tg.where for a choice"
    )
    error.located = True  # type: ignore[attr-defined]
    return error


def parting(a: Way, b: Way) -> tuple[Loc | None, bool]:
    """Where two ways part, and whether it is the first that goes on with a true condition."""
    for i, (x, y) in enumerate(zip(a.outcomes, b.outcomes, strict=False)):
        if x != y:
            guard = a.scope.segments[i].guard
            assert guard is not None
            return guard.loc, bool(x)
    raise AssertionError("two ways through a body are the same")
