"""A `while_loop` node by its parts, to take it apart and to put another one together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tracegrad.ir.graph import Builder, Graph, Node, scalar_value
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import INDEX, row_of
from tracegrad.ir.types import TensorType, Type

T = TypeVar("T")


def split(values: Sequence[T], sizes: Sequence[int]) -> list[tuple[T, ...]]:
    """`values` cut into pieces of `sizes`, and what is left behind them."""
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(tuple(values[at : at + size]))
        at += size
    return [*pieces, tuple(values[at:])]


def elements(x: Node) -> tuple[Type, ...]:
    """The types of the values in a tuple, or in each frame of a stack."""
    type: Type = x.type
    assert not isinstance(type, TensorType)
    return type.elements


@dataclass(frozen=True, slots=True)
class Loop:
    """The operands and parameters of a `while_loop`, see `tracegrad.ir.ops.control`."""

    limit: Node
    go: Node
    carry: tuple[Node, ...]
    consts: tuple[Node, ...]
    xs: tuple[Node, ...]
    stacks: tuple[Node, ...]
    body: Graph
    stacked: int = 0
    length: int | None = None
    saves: tuple[int, ...] = ()
    reverse: bool = False
    remat: bool = False

    @classmethod
    def of(cls, node: Node) -> Loop:
        """The parts of a `while_loop` node."""
        params = node.params
        sliced, frames, carried = params["slices"], params["frames"], params["carries"]
        consts = len(node.inputs) - 2 - carried - sliced - frames
        (limit, go), carry, constant, xs, stacks = split(node.inputs, (2, carried, consts, sliced))
        return cls(
            limit,
            go,
            carry,
            constant,
            xs,
            stacks,
            params["body"],
            params["stacked"],
            params["length"],
            params["saves"],
            params["reverse"],
            params.get("remat", False),
        )

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the node."""
        return {
            "body": self.body,
            "carries": len(self.carry),
            "slices": len(self.xs),
            "frames": len(self.stacks),
            "stacked": self.stacked,
            "length": self.length if self.stacked or self.xs else None,
            "saves": self.saves,
            "reverse": self.reverse,
            **({"remat": True} if self.remat else {}),
        }

    @property
    def operands(self) -> tuple[Node, ...]:
        """Everything but `limit` and `go`, in the order of the node's inputs."""
        return (*self.carry, *self.consts, *self.xs, *self.stacks)

    def append(self) -> Node:
        """The node, appended to the current builder."""
        inputs = (self.limit, self.go, *self.operands)
        return Builder.current().append(OPS["while_loop"], inputs, self.params)

    # The body's inputs.

    @property
    def frame_sizes(self) -> tuple[int, ...]:
        """How many values the frames of each of `stacks` have."""
        return tuple(len(elements(x)) for x in self.stacks)

    @property
    def inner(self) -> Inner:
        """The body's inputs by what they stand for."""
        sizes = (1, len(self.carry), len(self.consts), len(self.xs))
        position, carry, consts, slices, rest = split(self.body.inputs, sizes)
        return Inner(position[0], carry, consts, slices, tuple(split(rest, self.frame_sizes)[:-1]))

    # The body's outputs.

    @property
    def made(self) -> Made:
        """The body's outputs by what they are."""
        go, carry, rows, rest = split(self.body.outputs, (1, len(self.carry), self.stacked))
        return Made(go[0], carry, rows, tuple(split(rest, self.saves)[:-1]))

    # Where the results are in the node's tuple.

    @property
    def first_row(self) -> int:
        """The index of the first stacked row among the results."""
        return 1 + len(self.carry)

    @property
    def first_stack(self) -> int:
        """The index of the first stack among the results."""
        return 1 + len(self.carry) + self.stacked

    @property
    def goes_on(self) -> bool:
        """Whether nothing but `limit` stops the loop."""
        return scalar_value(self.go) is True and scalar_value(self.body.outputs[0]) is True

    @property
    def trips(self) -> int | None:
        """How many iterations are done, none of them left out; None if that is not known."""
        limit = scalar_value(self.limit) if self.goes_on else None
        if limit is None or limit <= 0 or self.length not in (None, limit):
            return None
        return int(limit)


@dataclass(frozen=True, slots=True)
class Inner:
    """The inputs of a loop's body."""

    position: Node
    carry: tuple[Node, ...]
    consts: tuple[Node, ...]
    slices: tuple[Node, ...]
    frames: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Made:
    """The outputs of a loop's body."""

    go: Node
    carry: tuple[Node, ...] = ()
    rows: tuple[Node, ...] = ()
    saved: tuple[tuple[Node, ...], ...] = ()

    @property
    def all(self) -> tuple[Node, ...]:
        """All of them, in the order of the body's outputs."""
        return (self.go, *self.carry, *self.rows, *(x for group in self.saved for x in group))

    def replaced(self, new: Mapping[Node, Node]) -> Made:
        """With other nodes in the places of these."""
        return Made(
            new[self.go],
            tuple(new[x] for x in self.carry),
            tuple(new[x] for x in self.rows),
            tuple(tuple(new[x] for x in group) for group in self.saved),
        )


class LoopBuilder:
    """A loop in the making: each operand that is added says what it is inside of the body.

    Used as a context manager, ops called on nodes append to the body. Operands that are added twice
    are there once, but for carries.
    """

    def __init__(self, name: str) -> None:
        self.body = Builder(name)
        self.position = self.body.input(INDEX, "position")
        self._carry: list[tuple[Node, Node]] = []
        self._consts: dict[Node, Node] = {}
        self._xs: dict[Node, Node] = {}
        self._stacks: dict[Node, tuple[Node, ...]] = {}

    def __enter__(self) -> LoopBuilder:
        self.body.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.body.__exit__(*exc)

    def carry(self, first: Node, name: str) -> Node:
        """A carry that starts as `first`; the body's value of it."""
        inside = self.body.input(first.type, name)
        self._carry.append((first, inside))
        return inside

    def const(self, x: Node, name: str) -> Node:
        """A value from outside, inside."""
        if x not in self._consts:
            self._consts[x] = self.body.input(x.type, name)
        return self._consts[x]

    def slice(self, x: Node, name: str) -> Node:
        """The slice of `x` at the position."""
        if x not in self._xs:
            self._xs[x] = self.body.input(row_of(x.type), name)
        return self._xs[x]

    def frame(self, stack: Node, name: str) -> tuple[Node, ...]:
        """The frame of `stack` at the position."""
        if stack not in self._stacks:
            inputs = tuple(self.body.input(x, name) for x in elements(stack))
            self._stacks[stack] = inputs
        return self._stacks[stack]

    def finish(
        self,
        limit: Node,
        go: Node,
        made: Made,
        *,
        length: int | None = None,
        reverse: bool = False,
        remat: bool = False,
        origin: str = "",
    ) -> Loop:
        """The loop whose body makes `made`."""
        self.body.inputs = [
            self.position,
            *(inside for _, inside in self._carry),
            *self._consts.values(),
            *self._xs.values(),
            *(x for frame in self._stacks.values() for x in frame),
        ]
        return Loop(
            limit,
            go,
            tuple(first for first, _ in self._carry),
            tuple(self._consts),
            tuple(self._xs),
            tuple(self._stacks),
            self.body.finish(made.all, origin),
            stacked=len(made.rows),
            length=length,
            saves=tuple(map(len, made.saved)),
            reverse=reverse,
            remat=remat,
        )
