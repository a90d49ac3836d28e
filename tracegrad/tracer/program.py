"""The compiled code of one segment: a forward program and, made when first needed, its backward."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.config import config
from tracegrad.ir.differentiate import joint_graph
from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.partition import Saved, cut
from tracegrad.ir.passes import eliminate, expand_everywhere, optimize, rewrite_everywhere
from tracegrad.ir.printer import text
from tracegrad.ir.recomputation import without_checkpoints
from tracegrad.ir.structure import structural_key
from tracegrad.log import dump, log
from tracegrad.tracer.device import Device, cpu
from tracegrad.tracer.zeros import without_cotangents

if TYPE_CHECKING:
    from tracegrad.runtime.executor import Executable, Layout

Array = np.ndarray[Any, Any]

_KEPT = 2048
_lock = threading.RLock()


@dataclass(slots=True)
class Counters:
    """How much was compiled in this process."""

    compilations: int = 0
    seconds: float = 0.0


counters = Counters()

_executables: OrderedDict[Hashable, Any] = OrderedDict()
_programs: OrderedDict[Hashable, Program] = OrderedDict()


def executable_for(graph: Graph, layouts: tuple[Layout, ...], device: Device = cpu) -> Any:
    """The machine code of an optimised graph; graphs of equal structure share it."""
    key = (structural_key(graph), layouts, device)
    with _lock:
        found = _executables.get(key)
        if found is not None:
            _executables.move_to_end(key)
            return found
        found = _compile_on(device, graph, layouts)
        counters.compilations += 1
        counters.seconds += found.compile_seconds
        log("source", lambda: found.source)
        if config.dump is not None:
            dump("source", graph.name, found.source)
        _executables[key] = found
        if len(_executables) > _KEPT:
            _executables.popitem(last=False)
        return found


def _compile_on(device: Device, graph: Graph, layouts: tuple[Layout, ...]) -> Any:
    """The compiled form of a graph whose arrays are on a device."""
    if device is cpu:
        # Here and not above: the compiler is imported when something first compiles.
        from tracegrad.runtime.executor import compile_graph

        return compile_graph(graph, layouts)
    from tracegrad.runtime.cuda.executor import DeviceExecutable

    return DeviceExecutable(graph, layouts)


def without_detach(graph: Graph) -> Graph:
    """The graph after differentiation, when cuts of the gradient have done their work: also those
    within composite ops, so that forward and backward have what they compute in common.
    """
    return rewrite_everywhere(expand_everywhere(graph), _undetached)


def _undetached(node: Node) -> Node | None:
    return node.inputs[0] if node.op.name == "detach" else None


class Program:
    """A graph with the code that computes it, and the code of its gradient.

    wrt      flags the inputs whose cotangents are wanted; `given` the outputs that may get some.
    saved    where backward finds what it reads: inputs and outputs of `forward`.
    present  for each input flagged in `wrt`, whether it has a gradient.
    """

    def __init__(
        self,
        graph: Graph,
        wrt: tuple[bool, ...],
        given: tuple[bool, ...],
        layouts: tuple[Layout, ...],
        memory_budget: int | None = None,
        device: Device = cpu,
    ) -> None:
        self.graph = graph
        self.device = device
        self.wrt = wrt
        self.given = given
        self.layouts = layouts
        self.saved: tuple[Saved, ...] = ()
        self.present: tuple[bool, ...] = ()
        self.backward_graph: Graph | None = None
        self._backwards: dict[tuple[bool, ...], Executable] = {}
        self.all_given = (True,) * sum(given)
        if any(wrt) and any(given):
            joint, present = joint_graph(graph, wrt, given, memory_budget=memory_budget)
            joint = optimize(without_detach(joint))
            parts = cut(
                joint,
                len(graph.inputs),
                len(graph.outputs),
                present,
                memory_budget=memory_budget,
            )
            self.saved = parts.saved
            self.present = parts.present
            self.backward_graph = without_checkpoints(parts.backward)
            forward = without_checkpoints(parts.forward)
            simple = forward is parts.forward
            self.forward_graph = eliminate(forward) if simple else optimize(forward)
        else:
            self.forward_graph = optimize(without_checkpoints(without_detach(graph)))
        self.forward = executable_for(self.forward_graph, layouts, device)

    def backward(self, mask: tuple[bool, ...]) -> Executable:
        """The backward program when cotangents came for the outputs flagged in `mask` only.

        `mask` has one flag for each output that is flagged in `given`.
        """
        found = self._backwards.get(mask)
        if found is None:
            graph = self.masked_backward(mask)
            layouts = tuple(
                self.layouts[x.index] if x.kind == "input" else None for x in self.saved
            ) + (None,) * sum(mask)
            found = self._backwards[mask] = executable_for(graph, layouts, self.device)
        return found

    def masked_backward(self, mask: tuple[bool, ...]) -> Graph:
        """The graph of `backward(mask)`."""
        assert self.backward_graph is not None
        graph = self.backward_graph
        if not all(mask):
            graph = without_cotangents(graph, len(self.saved), mask)
        return optimize(graph)

    @property
    def backwards(self) -> Sequence[Executable]:
        """The backward programs that exist."""
        return list(self._backwards.values())


def program_for(
    graph: Graph,
    wrt: tuple[bool, ...],
    given: tuple[bool, ...],
    layouts: tuple[Layout, ...],
    memory_budget: int | None = None,
    device: Device = cpu,
) -> Program:
    """The program of a segment; segments of equal structure share it.

    `memory_budget`: bytes that the gradient of a loop may save, and that of what is no loop.
    """
    key = (structural_key(graph), wrt, given, layouts, memory_budget, device)
    with _lock:
        found = _programs.get(key)
        if found is None:
            log("cache", lambda: f"{graph.name}: new structure, {len(graph.nodes)} nodes")
            log("trace", lambda: text(graph))
            if config.dump is not None:
                dump("trace", graph.name, text(graph, elide=True))
            found = Program(graph, wrt, given, layouts, memory_budget, device)
            _programs[key] = found
            if len(_programs) > _KEPT:
                _programs.popitem(last=False)
        else:
            log("cache", lambda: f"{graph.name}: shares a program of equal structure")
            _programs.move_to_end(key)
        return found
