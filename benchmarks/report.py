"""The measurements as Markdown tables."""

import math
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.systems import OURS, PEERS, SYSTEMS, THREADS, System

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Row:
    """One workload, by system key: seconds of a call and of the first call, and what went wrong.

    `disturbed` is the share of turns in which another program used the machine.
    """

    name: str
    about: str
    medians: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, float] = field(default_factory=dict)
    first_calls: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    disturbed: dict[str, float] = field(default_factory=dict)

    def ratio(self, peers: tuple[System, ...] = PEERS) -> float | None:
        """Our time over that of the fastest of `peers`; below 1 we are faster."""
        others = [self.medians[peer.key] for peer in peers if peer.key in self.medians]
        if OURS.key not in self.medians or not others:
            return None
        return self.medians[OURS.key] / min(others)


def geometric_mean(values: list[float]) -> float:
    """The mean that is the same whichever way round the ratios are."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def circumstances() -> str:
    """Machine, threads, Python and commit in a sentence."""
    return (
        f"{processor()}, {THREADS} threads for every system, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, tracegrad commit {commit()}."
    )


def render(rows: list[Row], import_seconds: dict[str, float], date: str) -> str:
    """The whole report."""
    used = [system for system in SYSTEMS if system.key in import_seconds]
    lines = [
        f"# Benchmarks, {date}",
        "",
        circumstances(),
        "",
        *(f"- {system.title}: {system.version}" for system in used),
        "",
        "Forward and gradients of one call, median of interleaved rounds, in microseconds; ± is "
        "half the distance between the quartiles of the rounds.",
        "",
        *_times(rows, used),
        "",
        *_geometric_means(rows),
        *disturbances(rows, used),
        "",
        "## Cold start",
        "",
        "Seconds of the first call, with tracing and compilation, on empty disk caches. The import "
        "comes after that of NumPy; the first compilation of a process may load its compiler.",
        "",
        *_cold_starts(rows, used, import_seconds),
        "",
        "## Workloads",
        "",
        *(f"- {row.name}: {row.about}" for row in rows),
    ]
    failures = [
        f"- {row.name}, {system.title}: {row.failures[system.key]}"
        for row in rows
        for system in used
        if system.key in row.failures
    ]
    if failures:
        lines += ["", "## Failures", "", *failures]
    return "\n".join(lines) + "\n"


def table(header: list[str], body: list[list[str]]) -> list[str]:
    """The lines of a Markdown table, the first column to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *body, strict=True)]

    def line(cells: list[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(rule), *(line(cells) for cells in body)]


def time_cell(row: Row, system: System) -> str:
    """Median and spread in microseconds, to three digits."""
    if system.key not in row.medians:
        return "failed" if system.key in row.failures else ""
    median = row.medians[system.key] * 1e6
    spread = row.spreads[system.key] * 1e6
    digits = max(0, 2 - int(math.log10(median))) if median >= 1 else 2
    return f"{median:,.{digits}f} ±{spread:,.{digits}f}"


def _times(rows: list[Row], used: list[System]) -> list[str]:
    def ratio(row: Row) -> str:
        value = row.ratio()
        return "" if value is None else f"{value:.2f}"

    header = ["workload", *(system.title for system in used), "ours / best peer"]
    body = [[row.name, *(time_cell(row, system) for system in used), ratio(row)] for row in rows]
    return table(header, body)


def _geometric_means(rows: list[Row]) -> list[str]:
    def mean(peers: tuple[System, ...]) -> str | None:
        ratios = [ratio for row in rows if (ratio := row.ratio(peers)) is not None]
        return f"{geometric_mean(ratios):.2f} ({len(ratios)} workloads)" if ratios else None

    lines = []
    if overall := mean(PEERS):
        lines.append(f"Geometric mean of ours / best peer: **{overall}**; below 1 we are faster.")
    singles = [f"{peer.title} {value}" for peer in PEERS if (value := mean((peer,)))]
    if singles:
        lines += ["", f"Geometric mean against each: {', '.join(singles)}."]
    return lines or ["No workload has both our time and a peer's."]


def disturbances(rows: list[Row], used: Sequence[System]) -> list[str]:
    """What to say of the systems that were timed while another program used the machine."""
    busy = {
        row.name: [system.title for system in used if row.disturbed.get(system.key, 0.0) >= 0.5]
        for row in rows
    }
    cells = [f"{name}: {', '.join(titles)}" for name, titles in busy.items() if titles]
    if not cells:
        return []
    return [
        "",
        "**The machine was busy.** In at least half of the turns, another program used it while "
        "these were timed; do not trust them:",
        "",
        *(f"- {cell}" for cell in cells),
    ]


def _cold_starts(rows: list[Row], used: list[System], imports: dict[str, float]) -> list[str]:
    def cell(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds:.2f}"

    body = [["import", *(cell(imports[system.key]) for system in used)]]
    body += [
        [row.name, *(cell(row.first_calls.get(system.key)) for system in used)] for row in rows
    ]
    return table(["first call", *(system.title for system in used)], body)


def processor() -> str:
    """The processor's name as the operating system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The commit that is measured, marked if the files differ from it."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def write(text: str, date: str, subject: str = "") -> Path:
    """Write a report to `<date>-<subject>-<cpu>.md` of the results, in lower case with dashes."""
    name = re.sub(r"\(.*?\)", "", f"{subject} {processor()}".lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{date}-{slug}.md"
    path.write_text(text, encoding="utf-8")
    return path
