"""The measurements of loops as Markdown tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.loops.program import JAX, NUMBA, OURS, SYSTEMS, Program
from benchmarks.report import (
    Row,
    circumstances,
    disturbances,
    geometric_mean,
    table,
    time_cell,
)
from benchmarks.systems import System


@dataclass
class FirstCalls:
    """Seconds of the first call of value and gradient, by system key; and what went wrong.

    `few`    at the small size, in a new process with empty caches
    `full`   at the full size, likewise
    `after`  at the full size, after that at the small one
    """

    few: dict[str, float] = field(default_factory=dict)
    full: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def render(
    programs: Sequence[Program],
    parts: Mapping[str, list[Row]],
    first_calls: Mapping[str, FirstCalls],
    used: Sequence[System],
    date: str,
) -> str:
    """The whole report. `parts` has the rows of each part, `first_calls` goes by program."""
    used = [system for system in SYSTEMS if system in used]
    lines = [
        f"# Benchmarks of loops, {date}",
        "",
        circumstances(),
        "",
        *sorted({f"- {system.module}: {system.version}" for system in used}),
        "",
        "Each system computes the same scalar in double precision where not said otherwise. Plain "
        "loop and explicit form are tracegrad's. Median of interleaved rounds, in microseconds; ± "
        "is half the distance between the quartiles of the rounds. A ratio below 1: we are faster. "
        "What is written by hand runs on one thread.",
    ]
    for part, rows in parts.items():
        lines += ["", f"## {part.capitalize()}", "", *_times(rows, used)]
        lines += ["", *_summary(rows), *disturbances(rows, used)]
    if first_calls:
        lines += [
            "",
            "## First call",
            "",
            "Seconds of the first call of value and gradient, with tracing and compilation and the "
            "run itself: at the small size / at the full size, each in a new process with empty "
            "caches / at the full size after the small one in the same process. The compiler is "
            "loaded in the first two.",
            "",
            *_first_calls(programs, first_calls, used),
        ]
    lines += ["", "## Programs", ""]
    lines += [f"- {program.name}: {program.about}" for program in programs]
    failures = _failures(parts, first_calls, used)
    if failures:
        lines += ["", "## Failures", "", *failures]
    return "\n".join(lines) + "\n"


def _ratio(row: Row, ours: System, peer: System) -> float | None:
    if ours.key not in row.medians or peer.key not in row.medians:
        return None
    return row.medians[ours.key] / row.medians[peer.key]


def _pairs(used: Sequence[System]) -> list[tuple[System, System]]:
    return [(ours, peer) for ours in OURS for peer in (JAX, NUMBA) if {ours, peer} <= set(used)]


def _times(rows: Sequence[Row], used: Sequence[System]) -> list[str]:
    pairs = _pairs(used)
    header = [
        "program",
        *(system.title for system in used),
        *(f"{ours.title} / {peer.title}" for ours, peer in pairs),
    ]
    body = []
    for row in rows:
        ratios = [_ratio(row, *pair) for pair in pairs]
        cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        body.append([row.name, *(time_cell(row, system) for system in used), *cells])
    return table(header, body)


def _summary(rows: Sequence[Row]) -> list[str]:
    """The mean and the worst ratio of each form of ours against each peer."""
    body = []
    for ours, peer in _pairs(SYSTEMS):
        ratios = {row.name: ratio for row in rows if (ratio := _ratio(row, ours, peer)) is not None}
        if ratios:
            worst = max(ratios, key=lambda name: ratios[name])
            body.append(
                [
                    f"{ours.title} / {peer.title}",
                    f"{geometric_mean(list(ratios.values())):.3f}",
                    f"{ratios[worst]:.2f} ({worst})",
                    f"{len(ratios)} of {len(rows)}",
                ]
            )
    return table(["ratio", "geometric mean", "worst", "programs"], body)


def _first_calls(
    programs: Sequence[Program], calls: Mapping[str, FirstCalls], used: Sequence[System]
) -> list[str]:
    def cell(found: FirstCalls, key: str) -> str:
        seconds = [times.get(key) for times in (found.few, found.full, found.after)]
        return " / ".join("–" if second is None else f"{second:.2f}" for second in seconds)

    body = [
        [
            program.name,
            "{:,} / {:,}".format(*program.sizes),
            *(cell(calls[program.name], system.key) for system in used),
        ]
        for program in programs
        if program.name in calls
    ]
    return table(["program", "sizes", *(system.title for system in used)], body)


def _failures(
    parts: Mapping[str, list[Row]], calls: Mapping[str, FirstCalls], used: Sequence[System]
) -> list[str]:
    found = [(f"{row.name}, {part}", row.failures) for part, rows in parts.items() for row in rows]
    found += [(f"{name}, first call", call.failures) for name, call in calls.items()]
    return [
        f"- {where}, {system.title}: {failures[system.key]}"
        for where, failures in found
        for system in used
        if system.key in failures
    ]
