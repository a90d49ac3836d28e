"""Where a recorder puts what it records: the function itself, or the body of a loop or a branch.

A body is recorded like the function, but into a graph of its own. What it reads from around it
becomes an operand of it, through every body between.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracegrad.errors import TraceError
from tracegrad.ir.graph import Builder
from tracegrad.ir.op import Op
from tracegrad.ir.types import TensorType
from tracegrad.tracer.location import user_location, user_place
from tracegrad.tracer.numbering import Numbering
from tracegrad.tracer.recording import Ref, Segment, Value

if TYPE_CHECKING:
    from tracegrad.tracer.rolling import Rolling
    from tracegrad.tracer.tensor import Tensor


# The value of random numbers: of an op on a seed and an offset, with its parameters and its output.
Draw = Callable[["Op", Sequence["Tensor"], dict[str, Any], "Tensor"], Value]


@dataclass(frozen=True)
class ScopeInput:
    """What a body is given, or reads from around it.

    key     the same whichever way the body goes.
    tensor  the tensor from around; None for what the body is given.
    """

    key: Hashable
    type: TensorType
    name: str | None
    tensor: Tensor | None = None

    def shows(self, value: Value) -> bool:
        """Whether this is a value from around."""
        return self.key == _key_of(value)


def _key_of(value: Value) -> Hashable:
    return "around", id(value.scope), value.ref


class ScopeInputs:
    """The inputs of a body, numbered in the same way in all traces of it."""

    def __init__(self) -> None:
        self.items: list[ScopeInput] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, item: ScopeInput) -> int:
        """The number of an input, which may be known."""
        number = self._numbers.setdefault(item.key, len(self.items))
        self.items[number : number + 1] = [item]
        return number


class Scope:
    """The function, whose `outer` is None, or a body.

    form      how the user's program calls it, such as "tg.scan".
    known     the body's own values of values from around, by identity.
    outcomes  of the guards so far. `script`: those that the first have to have.
    forced    outcomes of the next guards, which follow from the way by which a loop was left;
              `fixed` are the numbers of those that were so.
    rolling   rolls loops, where that is on.
    holders   the tensor that last had a value, by the value's place.
    closed    the body is complete: its values mean nothing any more.
    draw      the value of random numbers; None where none may be drawn.
    counters  the seed and the offset of the next draw.
    shared    the tensor outside for a value that depends on nothing of the body's own; None for
              other values.
    """

    def __init__(
        self,
        name: str,
        outer: Scope | None = None,
        form: str = "",
        inputs: ScopeInputs | None = None,
    ) -> None:
        self.outer = outer
        self.form = form
        self.segments: list[Segment] = [Segment(Builder(name))]
        self._inputs = ScopeInputs() if inputs is None else inputs
        self._given = 0
        self.known: dict[int, Value] = {}
        self.outcomes: list[Hashable] = []
        self.script: list[Hashable] = []
        self.forced: list[Hashable] = []
        self.fixed: set[int] = set()
        self.rolling: Rolling | None = None
        self.holders: dict[Ref, Tensor] = {}
        self.closed = False
        self.numbers = Numbering()
        self.answered: dict[Hashable, Hashable] = {}
        self.required: set[Hashable] = set()
        # Identities are keys here, so what has one stays alive.
        self.kept: list[Value] = []
        self.draw: Draw | None = None
        self.counters: Callable[[], tuple[Tensor, Tensor]] | None = None
        self.shared: Callable[[Value], Tensor | None] | None = None

    @property
    def inputs(self) -> list[ScopeInput]:
        """The inputs, those of other traces of the body too."""
        return self._inputs.items

    @property
    def builder(self) -> Builder:
        """The builder of the segment that is being recorded."""
        return self.segments[-1].builder

    def input(self, type: TensorType, name: str | None, differentiable: bool) -> Value:
        """A new input of the body."""
        self._given += 1
        key = "given", name, tuple(self.outcomes), self._given
        return self._add(ScopeInput(key, type, name), differentiable)

    def operand(self, tensor: Tensor, value: Value, name: str | None) -> Value:
        """The body's own value of a tensor from around it."""
        return self._add(ScopeInput(_key_of(value), value.type, name, tensor), value.differentiable)

    def _add(self, item: ScopeInput, differentiable: bool) -> Value:
        return Value(-1, self._inputs.number(item), None, item.type, differentiable, self)


def _at_line(message: str) -> TraceError:
    place = user_place()
    error = TraceError(message if place is None else f"{message}, at {place}")
    error.located = True  # type: ignore[attr-defined]
    return error


def demanded_inside(scope: Scope, kind: str) -> TraceError:
    """Python asked for a value that only the running loop will know."""
    asked = {"array": "the array", "index": "a range or an index"}.get(kind, f"{kind}()")
    cure = "use tg.fori_loop" if kind == "index" else "keep it a tensor"
    place = str(user_location())
    if kind == "index" and scope.rolling is not None and place in scope.rolling.known.notes:
        cure += f"; the loop at {place} is {scope.rolling.known.notes[place]}"
    error = _at_line(
        f"{asked} of a value that is computed in a function given to {scope.form}: it has another "
        f"value in each run, and Python sees one; {cure}"
    )
    error.unrolled = kind == "index"  # type: ignore[attr-defined]
    return error


def printed_inside(scope: Scope) -> TraceError:
    """A body prints."""
    return _at_line(
        f"tg.debug_print in a function given to {scope.form}: it runs as a whole, and has no "
        "values to print before it is done; return the value as well, and print it afterwards"
    )


def written_outside(scope: Scope) -> TraceError:
    """A body writes into a tensor that was there before it."""
    return _at_line(
        f"a function given to {scope.form} changes a tensor in place that it did not make: carry "
        "the tensor, or return the new value"
    )


def gradient_inside(scope: Scope) -> TraceError:
    """A body sets the `.grad` of a tensor that was there before it."""
    return _at_line(
        f"a function given to {scope.form} sets the .grad of a tensor that it did not make: use "
        "tg.grad inside, and carry or return the gradient"
    )


def drawn_inside(scope: Scope) -> TraceError:
    """A body draws random numbers."""
    return _at_line(
        f"a function given to {scope.form} draws random numbers, and how many that will be is not "
        "known before: draw them outside and pass them as an operand, or use tg.scan or a "
        "tg.fori_loop between plain ints"
    )


def escaped(scope: Scope) -> TraceError:
    """A tensor that was made in a body is used outside of it."""
    return _at_line(
        f"a tensor that was made in a function given to {scope.form} is used outside of it: "
        "return it from there"
    )
