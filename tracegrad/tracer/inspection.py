"""Looking into a compiled function: its graphs, its source, its history."""

from __future__ import annotations

import linecache
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from tracegrad.ir.printer import text
from tracegrad.tracer import outcomes
from tracegrad.tracer.costs import (
    Part,
    kernel_lines,
    measured,
    parts_of,
    saved_bytes,
    saved_lines,
)

if TYPE_CHECKING:
    from tracegrad.ir.graph import Loc
    from tracegrad.tracer.history import Event
    from tracegrad.tracer.program import Program
    from tracegrad.tracer.specialisation import Specialisation
    from tracegrad.tracer.statistics import Statistics
    from tracegrad.tracer.tree import Occurrence, Run


class Inspection:
    """The part of a compiled function that shows what it is."""

    __wrapped__: Any
    name: str
    max_traces: int
    statistics: Statistics
    events: list[Event]
    specialisations: list[Specialisation]

    def _chosen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Specialisation]:
        """All specialisations, or the one for these arguments, which is traced if it is new."""
        raise AssertionError("a compiled function has this")

    def _computed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Specialisation, Run]:
        """What the compiled code computes for these arguments, without the end of the call."""
        raise AssertionError("a compiled function has this")

    def ir(self, *args: Any, **kwargs: Any) -> str:
        """The graphs of every specialisation; with arguments, of the one for them.

        Nothing that the function would change is changed.
        """
        chosen = self._chosen(args, kwargs)
        parts = []
        for number, item in enumerate(chosen, 1):
            for place, occurrence in enumerate(item.tree.walk()):
                program = _program(item, occurrence)
                head = f"# {self.name}, specialisation {number} of {len(chosen)}"
                if program is None:
                    parts.append(f"{head}, segment {place}: computes nothing{_exits(occurrence)}\n")
                    continue
                parts.append(
                    f"{head}, segment {place}, forward{_exits(occurrence)}\n"
                    + text(program.forward_graph, elide=True)
                )
                if program.backward_graph is not None:
                    mask = (True,) * sum(program.given)
                    parts.append(
                        f"{head}, segment {place}, backward\n"
                        + text(program.masked_backward(mask), elide=True)
                    )
        return "\n".join(parts) or f"# {self.name} has not been called yet\n"

    def source(self, *args: Any, **kwargs: Any) -> str:
        """The source that runs for every specialisation; with arguments, for the one for them."""
        found: dict[str, None] = {}
        for item in self._chosen(args, kwargs):
            for occurrence in item.tree.walk():
                program = _program(item, occurrence)
                if program is not None:
                    mask = (True,) * sum(program.given)
                    found[program.forward.source] = None
                    if program.backward_graph is not None:
                        found[program.backward(mask).source] = None
        return "\n".join(found) or f"# {self.name} has not been called yet\n"

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """Specialisations, their conditions, how often each was used, why each trace was made; the
        kernels of each in order, with what they fuse and the bytes that they read and write; what
        is saved for backward, its bytes and the line that it comes from.

        With arguments, of the specialisation for them, and with the time of each kernel: those of a
        call with these arguments, and of its backward, are run one by one on what they are given.
        Nothing that the function would change is changed, and it is not counted as a call.
        """
        timed: dict[Specialisation, list[Part]] = {}
        chosen = self.specialisations
        if args or kwargs:
            found, run = self._computed(args, kwargs)
            timed[found] = measured(found, run)
            chosen = [found]
        s = self.statistics
        lines = [
            f"{self.name}: {s.calls} calls, {s.hits} hits, {s.traces} traces, "
            f"{s.retraces} retraces, {s.compilations} compilations",
            f"  tracing {s.trace_seconds * 1e3:.1f} ms, compiling {s.compile_seconds * 1e3:.1f} ms",
        ]
        for item in chosen:
            number = self.specialisations.index(item) + 1
            lines.append(f"specialisation {number} of {len(self.specialisations)}")
            lines.extend(f"  {name}: {value}" for name, value in item.fields.items())
            for entry in item.tree.inputs:
                if entry.path.position is None:
                    lines.append(f"  captures {entry.path}: {entry.type}")
            for guard in item.guards:
                lines.append(f"  guarded {guard.path} = {_short(guard.expected)}")
            lines.extend(item.loops.listing())
            kernels, moved, saved = _costs(item)
            lines.append(
                f"  {len(item.tree.paths)} paths, {kernels} kernels, {moved} bytes moved, "
                f"{saved} bytes saved for backward"
            )
            if item.tree.root is not None:
                lines.extend(_tree_lines(item.tree.root))
            lines.extend(kernel_lines(timed.get(item) or parts_of(item)))
            lines.extend(saved_lines(item))
        lines.append("traces")
        for event in self.events:
            lines.append(f"  {event.number}: {event.reason} ({event.seconds * 1e3:.1f} ms)")
        return "\n".join(lines) + "\n"

    def limit_report(self) -> str:
        """What the warning past the limit of traces says: what differed, and the cure."""
        rows = [
            f"{self.name} was traced {self.statistics.traces} times, which is more than "
            f"max_traces={self.max_traces}. It goes on working: the traces used longest ago are "
            "dropped, and traced again when they are needed.",
            "   hits  condition, and the hits of each of its outcomes",
        ]
        kinds: set[str] = set()
        for (kind, loc), occurrences in self._conditions().items():
            kinds.add(kind)
            hits: dict[str, int] = {}
            for occurrence in occurrences:
                for key, following in occurrence.edges.items():
                    label = outcomes.describe(kind, key)
                    hits[label] = hits.get(label, 0) + following.hits
            total = sum(occurrence.hits for occurrence in occurrences)
            rows.append(f"  {total:5d}  {kind}() at {_with_source(loc)}")
            most = sorted(hits.items(), key=lambda item: -item[1])
            listed = ", ".join(f"{label}: {count}" for label, count in most[:_MOST_OUTCOMES])
            more = len(most) - _MOST_OUTCOMES
            rows.append(f"           {listed}" + (f", and {more} more" if more > 0 else ""))
        rows.append(" traces  reason: old value -> new value")
        counts: dict[str, int] = {}
        for event in self.events:
            counts[event.reason] = counts.get(event.reason, 0) + 1
        latest = list(counts.items())[-_MOST_REASONS:]
        rows.extend(f"  {count:5d}  {reason}" for reason, count in latest)
        rows.append("What to do:")
        rows.extend(f"  {text}" for asked, text in _CURES if not asked or asked & kinds)
        return "\n".join(rows)

    def _conditions(self) -> dict[tuple[str, Loc | None], list[Occurrence]]:
        """The places in the tree where a condition is asked, by its kind and line."""
        found: dict[tuple[str, Loc | None], list[Occurrence]] = {}
        for item in self.specialisations:
            for occurrence in item.tree.walk():
                guard = occurrence.segment.guard
                if guard is not None:
                    found.setdefault((guard.kind, guard.loc), []).append(occurrence)
        return found

    def __repr__(self) -> str:
        s = self.statistics
        return (
            f"<compiled function {self.name}: {len(self.specialisations)} specialisations, "
            f"{s.traces} traces, {s.calls} calls>"
        )


_MOST_OUTCOMES = 8
_MOST_REASONS = 12
_CURES: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset({"int", "index"}),
        "A number used in range(), int() or as an index is traced for each value: loop with "
        "tg.fori_loop, or index with a tensor.",
    ),
    (
        frozenset({"bool"}),
        "A condition is traced for each combination of outcomes: choose between values with "
        "tg.where or tg.cond, loop with tg.while_loop.",
    ),
    (
        frozenset({"float", "item", "array"}),
        "A value taken out by float(), item(), tolist() or numpy() is traced for each value: "
        "compute with the tensor itself.",
    ),
    (
        frozenset(),
        "Give arguments few different shapes, pass numbers as float or int arguments or as "
        "tensors instead of in attributes and globals, or raise max_traces.",
    ),
)


def _with_source(loc: Loc | None) -> str:
    """`fit.py:12: while error > 1e-3:`."""
    if loc is None:
        return "an unknown line"
    source = linecache.getline(loc.file, loc.line).strip()
    return f"{loc}: {source}" if source else str(loc)


def _program(item: Specialisation, occurrence: Occurrence) -> Program | None:
    if not occurrence.exports:
        return None
    return occurrence.program or item.tree.program_of(occurrence)


def _exits(occurrence: Occurrence) -> str:
    guard = occurrence.segment.guard
    if guard is None:
        return ""
    known = [outcomes.describe(guard.kind, key) for key in occurrence.edges]
    return f", then {guard.kind}() at {guard.loc}: {', '.join(known)}"


def _tree_lines(root: Occurrence) -> list[str]:
    """The tree, indented by depth where it branches. Without recursion: paths may be long."""
    lines: list[str] = []
    work: list[tuple[Occurrence, int, str]] = [(root, 1, "")]
    while work:
        occurrence, depth, label = work.pop()
        indent = "  " * min(depth, 20)
        guard = occurrence.segment.guard
        count = len(occurrence.segment.builder.nodes)
        what = f"{guard.kind}() at {guard.loc}" if guard is not None else "return"
        lines.append(f"{indent}{label}{count} nodes, {occurrence.hits} hits, {what}")
        kind = guard.kind if guard is not None else ""
        branches = sorted(occurrence.edges.items(), key=lambda edge: repr(edge[0]), reverse=True)
        for key, following in branches:
            deeper = depth + (len(branches) > 1)
            work.append((following, deeper, f"{_label(kind, key)}: "))
    return lines


def _label(kind: str, key: Hashable) -> str:
    return outcomes.describe(kind, key)


def _costs(item: Specialisation) -> tuple[int, int, int]:
    kernels = moved = saved = 0
    for occurrence in item.tree.walk():
        program = occurrence.program
        if program is None:
            continue
        for executable in (program.forward, *program.backwards):
            kernels += len(executable.kernels)
            moved += sum(kernel.bytes for kernel in executable.kernels)
        saved += saved_bytes(program)
    return kernels, moved, saved


def _short(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    written = name if name is not None else repr(value)
    return written if len(written) <= 60 else written[:57] + "..."
