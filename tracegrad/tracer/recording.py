"""What a trace is made of: inputs, segments between guards, results and effects. Plain data."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tracegrad.ir.graph import Builder, Graph, Loc, Node
from tracegrad.ir.op import Op
from tracegrad.ir.types import TensorType
from tracegrad.tracer.access import Path
from tracegrad.tracer.bounds import Requirement
from tracegrad.tracer.structure import Description

if TYPE_CHECKING:
    from tracegrad.tracer.debugging import Message
    from tracegrad.tracer.scopes import Scope
    from tracegrad.tracer.stores import Store

Ref = tuple[int, int]
"""A value of a trace: number of the segment, position of its node there. Segment -1: the inputs."""

Steps = tuple[tuple[Op, tuple[tuple[str, Any], ...]], ...]


@dataclass(frozen=True, eq=False)
class TraceInput:
    """One input of a trace: an argument, or something captured.

    path           how it is found at each call.
    kind           "tensor", "array", "float", "int", "seed" or "offset" of the random numbers, or
                   "grad": the `.grad` of another input.
    tensor         what stood there while tracing, until the trace is in its tree.
    differentiable whether gradients flow into it.
    """

    path: Path
    kind: str
    tensor: Any
    type: TensorType
    name: str
    differentiable: bool


@dataclass(eq=False)
class Value:
    """A recorded value. `differentiable`: a gradient may flow through it to an input.

    `scope`: the function or the body where it is known.
    """

    segment: int
    position: int
    node: Node | None
    type: TensorType
    differentiable: bool
    scope: Scope
    constant: bool = False

    @property
    def ref(self) -> Ref:
        return self.segment, self.position


@dataclass(frozen=True, eq=False)
class Guard:
    """A concrete value that Python asked for. The outcome picks the way on."""

    ref: Ref
    kind: str
    loc: Loc | None

    def key(self) -> Hashable:
        """What two recordings of one guard have in common."""
        return self.ref, self.kind


@dataclass(eq=False)
class Segment:
    """The operations between two guards, as a builder and where each of its inputs comes from."""

    builder: Builder
    sources: list[Value] = field(default_factory=list)
    guard: Guard | None = None
    imports: dict[Ref, Node] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)
    requirements: list[Requirement] = field(default_factory=list)

    def key(self) -> tuple[Hashable, ...]:
        """Equal for two recordings of one segment."""
        number: dict[Node, int] = {}
        for i, node in enumerate(self.builder.inputs):
            number[node] = -1 - i
        steps: list[Hashable] = []
        for i, node in enumerate(self.builder.nodes):
            operands = tuple(number[x] for x in node.inputs)
            steps.append((node.op.name, operands, node.frozen_params, node.type))
            number[node] = i
        return tuple(source.ref for source in self.sources), tuple(steps)

    def graph(self, positions: Sequence[int]) -> Graph:
        """The segment as a graph whose outputs are the nodes at `positions`."""
        return self.builder.finish([self.builder.nodes[i] for i in positions])


@dataclass(frozen=True)
class Result:
    """One leaf of what the function returned.

    kind     "value": computed, at `ref`. "input": the argument or captured object itself. "view": a
             view of an input, remade by `steps`, cut from the tape if `detached`. "constant": the
             object `constant`, which does not depend on the call. "reached": what stands at the
             path `constant` before anything is stored.
    weak     a Python number comes out.
    twin     the number of an earlier result that is this very tensor; -1 - number if it is another
             tensor on the same memory.
    copied   another result has the same value, but memory of its own.
    freed    its tape was freed inside the function, so backward of it is an error.
    leaf     the function asked for its gradient: it is a leaf of the caller's tape.
    """

    kind: str
    ref: Ref
    differentiable: bool = False
    weak: bool = False
    freed: bool = False
    steps: Steps = ()
    detached: bool = False
    constant: Any = None
    twin: int | None = None
    copied: bool = False
    leaf: bool = False


@dataclass(frozen=True)
class Write:
    """An input whose memory the function changed: `ref` is its new value."""

    input: int
    ref: Ref
    differentiable: bool


@dataclass(frozen=True)
class GradWrite:
    """An input whose `.grad` the function replaced, by the value at `ref` or by None.

    `same_as`: the number of the input that the new gradient is, where it is one itself. `copied`: a
    result or another gradient has the same value, but memory of its own.
    """

    input: int
    ref: Ref | None
    same_as: int | None = None
    copied: bool = False


@dataclass(frozen=True)
class Flag:
    """An input whose `requires_grad` the function set."""

    input: int
    value: bool


@dataclass(frozen=True)
class Drawn:
    """How a path leaves the default generator: first at the state that it chose itself, if it did;
    then `count` numbers further, and as many as the value at `ref` says.
    """

    count: int = 0
    ref: Ref | None = None
    chosen: tuple[int, int] | None = None


@dataclass(eq=False)
class End:
    """How a path ends: what is returned and what is written.

    `results` has the leaves of what is returned, then gradients of results, then those of what each
    of `stores` puts somewhere. `gradients`: (result, the result that is its `.grad`).
    `runs_again`: Python runs at each such call too.
    """

    structure: Description
    results: tuple[Result, ...]
    writes: tuple[Write, ...]
    grad_writes: tuple[GradWrite, ...]
    flags: tuple[Flag, ...]
    stores: tuple[Store | Message, ...] = ()
    gradients: tuple[tuple[int, int], ...] = ()
    drawn: Drawn = Drawn()
    runs_again: bool = False

    @property
    def differentiable(self) -> bool:
        """Whether any result carries a gradient."""
        return any(r.differentiable for r in self.results) or any(
            w.differentiable for w in self.writes
        )

    def refs(self) -> list[tuple[Ref, bool]]:
        """The values that the end reads, and whether a cotangent may arrive at each."""
        found = [(r.ref, r.differentiable) for r in self.results if r.kind == "value"]
        found += [(w.ref, w.differentiable) for w in self.writes]
        found += [(g.ref, False) for g in self.grad_writes if g.ref is not None]
        if self.drawn.ref is not None:
            found.append((self.drawn.ref, False))
        return found


@dataclass(eq=False)
class Trace:
    """One path through a function: its segments, the outcome of each guard, and its end."""

    inputs: list[TraceInput]
    segments: list[Segment]
    outcomes: list[Hashable]
    end: End
    writes_inputs: bool
