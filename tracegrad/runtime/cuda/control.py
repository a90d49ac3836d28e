"""Loops and branches on a device: the host runs the pieces between them, and decides.

A graph is cut at its loops and branches. What lies between two of them is one program of the
device; a loop runs its body's pieces round by round, and looks at the device where a condition is
not known without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from tracegrad.ir.graph import Builder, Graph, Node
from tracegrad.ir.op import CONSTANT
from tracegrad.ir.ops.control import checkpoint, cond, depth, item, unset, while_loop
from tracegrad.ir.passes import expand_composites
from tracegrad.ir.types import StackType, TensorType
from tracegrad.runtime.cuda.arrays import DeviceArray
from tracegrad.runtime.cuda.executor import DeviceExecutable, Layout, layout_of
from tracegrad.runtime.cuda.machine import machine

_ON_HOST = frozenset((while_loop, cond, checkpoint, item, unset, depth))


class ControlProgram:
    """A graph with loops or branches, as a list of pieces and of decisions."""

    def __init__(self, graph: Graph, layouts: Sequence[Layout]) -> None:
        self.graph = expand_composites(graph)
        self._layouts = dict(zip(self.graph.inputs, layouts, strict=True))
        self._steps: list[Callable[[dict[Node, Any]], None]] = []
        self._pieces: list[DeviceExecutable] = []
        self._cut()

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        found: dict[Node, Any] = dict(zip(self.graph.inputs, values, strict=True))
        for step in self._steps:
            step(found)
        return [_owned(found[x], x, values) for x in self.graph.outputs]

    @property
    def source(self) -> str:
        """The Numba source of the pieces that have run."""
        return "\n\n".join(piece.source for piece in self._pieces)

    # ------------------------------------------------------------------ cutting

    def _cut(self) -> None:
        last: dict[Node, int] = {}
        for i, node in enumerate(self.graph.nodes):
            for x in node.inputs:
                last[x] = i
        wanted = set(self.graph.outputs)
        piece: list[Node] = []
        for i, node in enumerate(self.graph.nodes):
            if node.op in _ON_HOST:
                self._piece(piece, i, last, wanted)
                piece = []
                self._steps.append(_decision(node))
            else:
                piece.append(node)
        self._piece(piece, len(self.graph.nodes), last, wanted)

    def _piece(self, nodes: list[Node], end: int, last: dict[Node, int], wanted: set[Node]) -> None:
        """One program for nodes that come after each other; `end` is the place behind them."""
        if not nodes:
            return
        inside = set(nodes)
        inputs = list(dict.fromkeys(x for node in nodes for x in node.inputs if x not in inside))
        outputs = [x for x in nodes if x in wanted or last.get(x, -1) >= end]
        if not outputs:
            return
        with Builder(self.graph.name) as builder:
            new = {x: builder.input(x.type) for x in inputs}
            for node in nodes:
                new[node] = builder.adopt(node, [new[x] for x in node.inputs])
            graph = builder.finish([new[x] for x in outputs])
        executable = DeviceExecutable(graph, [self._layouts.get(x) for x in inputs])
        self._pieces.append(executable)

        def run(found: dict[Node, Any]) -> None:
            made = executable([found[x] for x in inputs])
            found.update(zip(outputs, made, strict=True))

        self._steps.append(run)


def _decision(node: Node) -> Callable[[dict[Node, Any]], None]:
    """What the host does for a node."""
    run: Callable[..., Any]
    if node.op is while_loop:
        run = _Loop(node)
    elif node.op is cond:
        run = _Branch(node.params["branches"])
    elif node.op is checkpoint:
        run = partial(_Branch([node.params["body"]]), 0)
    elif node.op is item:
        run = itemgetter(node.params["index"])
    elif node.op is depth:
        run = len
    else:
        run = partial(_unset, node.params["type"])

    def step(found: dict[Node, Any]) -> None:
        found[node] = run(*(found[x] for x in node.inputs))

    return step


class _Branch:
    """A choice between graphs."""

    def __init__(self, branches: Sequence[Graph]) -> None:
        self._branches = [DeviceExecutable(graph) for graph in branches]

    def __call__(self, index: Any, *operands: Any) -> tuple[Any, ...]:
        chosen = min(max(int(index), 0), len(self._branches) - 1)
        return tuple(self._branches[chosen](_whole(operands)))


class _Loop:
    """A loop; see `ir.ops.control` for what its operands and results are."""

    def __init__(self, node: Node) -> None:
        params = node.params
        self._body: Graph = params["body"]
        self._run = DeviceExecutable(self._body)
        self._carries: int = params["carries"]
        self._slices: int = params["slices"]
        self._frames: int = params["frames"]
        self._stacked: int = params["stacked"]
        self._length: int = params["length"] or 0
        self._saves: tuple[int, ...] = params["saves"]
        self._reverse: bool = params["reverse"]
        # Whether it goes on is not looked up where it always does.
        flag = self._body.outputs[0]
        self._goes_on = flag.op is CONSTANT and bool(flag.params["value"].array)

    def __call__(self, limit: Any, go: Any, *operands: Any) -> tuple[Any, ...]:
        end = len(operands)
        carry = _whole(operands[: self._carries])
        consts = _whole(operands[self._carries : end - self._slices - self._frames])
        xs = _whole(operands[end - self._slices - self._frames : end - self._frames])
        stacks = operands[end - self._frames :]
        count = max(int(limit), 0)
        rows = [
            _zeros(TensorType(x.dtype, (self._length, *x.shape)))
            for x in self._body.outputs[1 + self._carries :][: self._stacked]
        ]
        pushed: list[list[list[Any]]] = [[] for _ in self._saves]
        done = 0
        running = bool(go)
        while running and done < count:
            position = count - 1 - done if self._reverse else done
            frame = [value for stack in stacks for value in stack[position]]
            taken = [x[position] for x in xs]
            made = self._run([np.asarray(position), *carry, *consts, *taken, *frame])
            running = self._goes_on or bool(made[0])
            carry = made[1 : 1 + self._carries]
            at = 1 + self._carries
            for row in rows:
                row[position] = made[at]
                at += 1
            for group, size in zip(pushed, self._saves, strict=True):
                group.append(made[at : at + size])
                at += size
            done += 1
        if self._reverse:
            # A frame is found by its position, not by when it was made.
            pushed = [[[]] * (count - done) + group[::-1] for group in pushed]
        return (np.asarray(done), *carry, *rows, *pushed)


def _whole(values: Sequence[Any]) -> list[Any]:
    """Values as a body expects them, which is planned for contiguous ones."""
    return [x.copy() if _is_strided(x) else x for x in values]


def _is_strided(value: Any) -> bool:
    return isinstance(value, DeviceArray) and layout_of(value) is not None


def _owned(value: Any, node: Node, inputs: Sequence[Any]) -> Any:
    """A result as an array of the device that is none of the inputs."""
    if isinstance(node.type, StackType):
        return value
    if not isinstance(value, DeviceArray):
        return machine().copied(np.asarray(value, node.dtype.numpy))
    return value.copy() if any(value is x for x in inputs) else value


def _zeros(type: TensorType) -> DeviceArray:
    made: DeviceArray = machine().copied(np.zeros(type.shape, type.dtype.numpy))
    return made


def _unset(type: Any) -> Any:
    return [] if isinstance(type, StackType) else _zeros(type)
