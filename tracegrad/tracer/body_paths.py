"""All ways through a function given to a loop, a branch or `vmap`.

Where Python asks for a truth that another run would answer otherwise, the function is traced once
for each answer: along the outcomes of the last time but for the last of them that has another one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tracegrad.errors import GradError, TraceError
from tracegrad.ir.graph import Loc, Node
from tracegrad.runtime.random import default_generator
from tracegrad.tracer.bounds import Limits
from tracegrad.tracer.loop_paths import Exits, LoopRef, Path, Recorded, exits_of, joined
from tracegrad.tracer.loop_records import KnownLoops, SiteKey
from tracegrad.tracer.rolling import RollFailedError, Rolling
from tracegrad.tracer.scopes import ScopeInputs
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

    error   the exception that it ends with; `raised` the same as a limit that nothing is within.
    drawn   how many random numbers it draws.
    """

    scope: Scope
    returned: Returned | None = None
    error: Exception | None = None
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
    does, their exception comes out.

    Loops are rolled where they are outside. What is learned of a loop on one way holds for the
    others, so all begin anew then.
    """
    loops = _Loops(recorder)
    found: list[Way] = []
    script: list[Hashable] | None = []
    restarts = 0
    while script is not None:
        way = _traced(recorder, name, form, once, script, loops)
        if way is None or loops.learned():
            restarts += 1
            if restarts > MOST_WAYS:
                # What is learned on one way does not hold on another.
                loops.give_up()
            found, script = [], []
            continue
        found.append(way)
        script = _following(way.scope)
        if script is not None and len(found) >= MOST_WAYS:
            raise _too_many(way.scope, [way.scope for way in found], loops)
        if script is None and len(found) > 1 and joined([path_of(way) for way in found]) is None:
            if loops.outer is None or not loops.known.records:
                raise _unstable(found)
            loops.give_up()
            found, script = [], []
    errors = [way.error for way in found if way.error is not None]
    if len(errors) == len(found):
        raise _all_raise(form, errors)
    for way in found:
        if way.error is not None:
            way.raised = Limits.of_exception(way.error, form)
    return found


def _traced(
    recorder: Recorder,
    name: str,
    form: str,
    once: Callable[[Scope], Returned],
    script: list[Hashable],
    loops: _Loops,
) -> Way | None:
    """One way; None if it turned out that a loop on it is not to be rolled."""
    before = state.grad_enabled, state.weak_numbers
    generator = default_generator.get_state()
    with recorder.body(name, form, loops.inputs) as scope:
        scope.script = list(script)
        scope.rolling = rolling = loops.rolling()
        way = Way(scope)
        try:
            way.returned = once(scope)
            nodes = [value.node for value in way.returned.values]
            way.locs = [None if node is None else node.loc for node in nodes]
        except RollFailedError as failure:
            if rolling is None or failure.site not in rolling.sites.values():
                raise
            loops.leave(failure)
            return None
        except _TooManyError:
            raise _too_many(scope, [scope], loops) from None
        except (TraceError, GradError):
            # It is not the user's program that raises this, but its being traced.
            raise
        except Exception as error:
            if not scope.outcomes:
                raise
            way.error = error
        finally:
            if rolling is not None:
                rolling.close()
            way.drawn = default_generator.get_state()[1] - generator[1]
            default_generator.go_back(generator)
            state.set_grad(before[0])
            state.weak_numbers = before[1]
    return way


class _Loops:
    """What is known of a body from the ways that were traced, of its loops above all.

    outer  what rolls the loops around it; None if none are rolled.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.outer = recorder.scope.rolling
        self.known = KnownLoops()
        if self.outer is not None:
            self.known.unrolled = self.outer.known.unrolled
            self.known.notes = self.outer.known.notes
        self.disabled: dict[SiteKey, str] = {}
        self.inputs = ScopeInputs()
        self._seen: dict[Hashable, int] = {}
        self._recorder = recorder

    def rolling(self) -> Rolling | None:
        """What rolls the loops of one way."""
        if self.outer is None:
            return None
        return Rolling(self._recorder, self.outer.places, self.known, self.disabled)

    def learned(self) -> bool:
        """Whether more is known than last time."""
        before, self._seen = self._seen, {k: len(x.paths) for k, x in self.known.records.items()}
        return self._seen != before

    def leave(self, failure: RollFailedError) -> None:
        """A loop is not to be rolled."""
        self.disabled[failure.key] = failure.reason
        self.known.note(failure.place, failure.reason)
        if failure.for_good:
            self.known.unrolled[failure.key] = failure.reason

    def give_up(self) -> None:
        """No loop is to be rolled."""
        self.outer = None
        self.known.records.clear()
        self._seen = {}


class _TooManyError(TraceError):
    """A way through a body goes on and on."""


def way_on(scope: Scope, asked: Value, kind: str) -> Hashable:
    """The outcome of a guard in a body: what follows from the outcomes before, what the script
    says, or what is tried first.
    """
    number = len(scope.outcomes)
    scope.fixed.discard(number)
    if scope.forced:
        outcome = scope.forced.pop(0)
        scope.fixed.add(number)
    elif number < len(scope.script):
        outcome = scope.script[number]
    elif number >= MOST_WAYS:
        raise _TooManyError
    else:
        outcome = True if kind == "bool" else _exits(asked.node).next(0)
    if kind == "exit" and outcome and not scope.forced:
        code: int = outcome  # type: ignore[assignment]
        # The iteration that the loop gave up goes the way that ended it.
        scope.forced = list(_exits(asked.node).trails[code - 1])
    return outcome


def _exits(code: Node | None) -> Exits:
    """The ends of the loop that ended with a code."""
    assert code is not None
    return exits_of(code.inputs[0].params["body"])


def _following(scope: Scope) -> list[Hashable] | None:
    """The outcomes of the way after that which `scope` took; None if it was the last."""
    outcomes = list(scope.outcomes)
    while outcomes:
        last = outcomes.pop()
        if len(outcomes) in scope.fixed:
            continue
        guard = scope.segments[len(outcomes)].guard
        assert guard is not None
        if guard.kind == "bool":
            if last:
                return [*outcomes, False]
        else:
            code: int = last  # type: ignore[assignment]
            asked = scope.segments[guard.ref[0]].builder.nodes[guard.ref[1]]
            following = _exits(asked).next(code + 1)
            if following is not None:
                return [*outcomes, following]
    return None


def parting(a: Way, b: Way) -> tuple[Loc | None, bool]:
    """Where two ways part, and whether it is the first that goes on with a true condition."""
    for i, (x, y) in enumerate(zip(a.outcomes, b.outcomes, strict=False)):
        if x != y:
            guard = a.scope.segments[i].guard
            assert guard is not None
            return guard.loc, bool(x)
    raise AssertionError("two ways through a body are the same")


def path_of(way: Way) -> Path:
    """A way, as a path through the body of a loop is described."""
    scope = way.scope
    inputs: dict[tuple[int, int], LoopRef] = {
        (-1, i): ("outer", item.key) for i, item in enumerate(scope.inputs)
    }
    recorded = Recorded(scope.segments, 0, 0, None, inputs)
    path = Path(None, recorded.pieces())
    for piece, outcome in zip(path.pieces, scope.outcomes, strict=False):
        piece.outcome = outcome
    if way.returned is not None:
        path.results = [recorded.ref(value) for value in way.returned.values]
    return path


# -------------------------------------------------------------------------------------- errors


def _too_many(scope: Scope, scopes: Sequence[Scope], loops: _Loops) -> TraceError:
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
    notes = [
        f"; the loop at {place} is {note}"
        for place, note in loops.known.notes.items()
        if place in counts and note != "rolled"
    ]
    error = _located(
        f"more than {MOST_WAYS} ways lead through a function given to {scope.form}: it asks for "
        f"the truth of its own values at {', '.join(asked)}{''.join(notes)}. Use tg.while_loop, "
        "tg.fori_loop or tg.scan for a loop there, and tg.cond or tg.where for a choice",
    )
    error.unrolled = True  # type: ignore[attr-defined]
    return error


def _all_raise(form: str, errors: Sequence[Exception]) -> Exception:
    """What comes out where no way through a body returns."""
    texts = dict.fromkeys(f"{type(error).__name__}: {error}" for error in errors)
    if len(texts) == 1:
        return errors[0]
    return _located(
        f"a function given to {form} raises an exception whichever way it goes, so that it is not "
        f"known what it returns: {'; '.join(texts)}",
    )


def _unstable(ways: Sequence[Way]) -> TraceError:
    places = dict.fromkeys(
        str(segment.guard.loc) for way in ways for segment in way.scope.segments if segment.guard
    )
    return _located(
        f"a function given to {ways[0].scope.form} is traced once for each way through it, by its "
        f"conditions at {', '.join(places)}, and did not compute the same when it came to the same "
        "point again: what it does may only depend on what it is given",
    )


def _located(message: str) -> TraceError:
    error = TraceError(message)
    error.located = True  # type: ignore[attr-defined]
    return error
