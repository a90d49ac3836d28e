"""What the compiled code of a specialisation costs: its kernels, what is saved for backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.ir.graph import Node
from tracegrad.ir.types import StackType, TensorType

if TYPE_CHECKING:
    from tracegrad.runtime.executor import Executable
    from tracegrad.tracer.program import Program
    from tracegrad.tracer.specialisation import Specialisation
    from tracegrad.tracer.tree import Occurrence, Run


@dataclass(frozen=True)
class Part:
    """A program that a call runs. `number`: of its segment; `seconds`: of its kernels, measured."""

    number: int
    direction: str
    executable: Executable
    seconds: Sequence[float] | None = None


def parts_of(item: Specialisation) -> list[Part]:
    """The programs of a specialisation that have been needed so far."""
    return [
        Part(number, direction, executable)
        for number, program in _programs(item.tree.walk())
        for direction, executables in (
            ("forward", [program.forward]),
            ("backward", program.backwards),
        )
        for executable in executables
    ]


def measured(item: Specialisation, run: Run) -> list[Part]:
    """The programs of one call, with the time of each kernel on the arrays of that call.

    Nothing is changed: programs only read what they are given, and no result is used. Backward gets
    ones as the cotangents of all results.
    """
    numbers = {occurrence: i for i, occurrence in enumerate(item.tree.walk())}
    forwards: list[Part] = []
    backwards: list[Part] = []
    for (occurrence, program), values, outputs in zip(
        run.steps, run.arguments, run.values[1:], strict=True
    ):
        if program is None:
            continue
        number = numbers[occurrence]
        seconds = program.forward.profile(values)
        forwards.append(Part(number, "forward", program.forward, seconds))
        if program.backward_graph is None:
            continue
        backward = program.backward(program.all_given)
        saved = [(outputs if x.kind == "output" else values)[x.index] for x in program.saved]
        cotangents = [_ones(x) for x in backward.graph.inputs[len(saved) :]]
        seconds = backward.profile([*saved, *cotangents])
        backwards.insert(0, Part(number, "backward", backward, seconds))
    return [*forwards, *backwards]


def _ones(x: Node) -> Any:
    return np.ones(x.shape, x.dtype.numpy)


def _programs(occurrences: Sequence[Occurrence]) -> Iterator[tuple[int, Program]]:
    for number, occurrence in enumerate(occurrences):
        if occurrence.program is not None:
            yield number, occurrence.program


def kernel_lines(parts: Sequence[Part]) -> list[str]:
    """The kernels in the order in which they run: what each fuses, what it reads and writes, and
    its share of the time, where that was measured.
    """
    total = sum(sum(part.seconds or ()) for part in parts)
    lines = []
    for part in parts:
        kernels = part.executable.kernels
        spent = f" in {sum(part.seconds) * 1e6:.1f} us" if part.seconds is not None else ""
        lines.append(f"  segment {part.number}, {part.direction}: {len(kernels)} kernels{spent}")
        for i, info in enumerate(kernels):
            line = f"    {info}"
            if part.seconds is not None:
                share = part.seconds[i] / total if total else 0.0
                line += f", {part.seconds[i] * 1e6:.1f} us, {share:.0%}"
            lines.append(line)
    return lines


def saved_lines(item: Specialisation) -> list[str]:
    """Each value that backward reads from forward: what it is, its bytes and its line."""
    lines = []
    for number, program in _programs(item.tree.walk()):
        if program.backward_graph is None:
            continue
        total = saved_bytes(program)
        lines.append(f"  segment {number} saves {len(program.saved)} values, {total:,} bytes")
        for place in program.saved:
            graph = program.forward_graph
            node = (graph.inputs if place.kind == "input" else graph.outputs)[place.index]
            at = "" if node.loc is None else f" at {node.loc}"
            name = _origin(node)
            if node.op.name == "input":
                name = f"input {node.params['name']}"
            elif place.index < len(program.graph.outputs):
                name = f"result {name}"
            lines.append(f"    {name}: {_type_of(node)}, {node.type.nbytes:,} bytes{at}")
    return lines


def _origin(node: Node) -> str:
    """The op that made a value; of one result of control flow, what that is."""
    return _origin(node.inputs[0]) if node.op.name == "item" else node.op.name


def _type_of(node: Node) -> str:
    type: TensorType | StackType = node.type
    return "what each iteration saves" if isinstance(type, StackType) else str(type)


def saved_bytes(program: Program) -> int:
    """Bytes of all that backward reads from forward."""
    if program.backward_graph is None:
        return 0
    return sum(x.type.nbytes for x in program.backward_graph.inputs[: len(program.saved)])
