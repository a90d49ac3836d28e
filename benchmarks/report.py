"""The measurements as Markdown tables."""

import math
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import chain
from benchmarks.memory import MEGABYTE
from benchmarks.starts import Starts
from benchmarks.systems import OURS, PEERS, SYSTEMS, THREADS, System
from benchmarks.workloads.multiply_add import BYTES_OF_AN_ELEMENT

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Row:
    """One workload, by system key: seconds of a call and of the first call, and what went wrong.

    `disturbed` is the share of turns in which another program used the machine, `late` how many
    seconds a system was given that it did not finish in.
    """

    name: str
    about: str
    medians: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, float] = field(default_factory=dict)
    first_calls: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    late: dict[str, float] = field(default_factory=dict)
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


def render(
    rows: list[Row],
    limits: chain.Limits | None,
    starts: Sequence[Starts],
    used: Sequence[System],
    date: str,
) -> str:
    """The whole report: what was not measured is left out."""
    used = [system for system in SYSTEMS if system in used]
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
    ]
    if limits is not None:
        lines += _limits(rows, limits, used)
    if starts:
        lines += _starts(starts, used)
    lines += ["", "## Workloads", "", *(f"- {row.name}: {row.about}" for row in rows)]
    failures = [
        f"- {where}, {system.title}: {failures[system.key]}"
        for where, failures in _failures(rows, limits, starts)
        for system in used
        if system.key in failures
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
        if system.key in row.late:
            return f"> {row.late[system.key]:.0f} s"
        return "failed" if system.key in row.failures else ""
    median = row.medians[system.key] * 1e6
    spread = row.spreads[system.key] * 1e6
    digits = max(0, 2 - int(math.log10(median))) if median >= 1 else 2
    return f"{median:,.{digits}f} ±{spread:,.{digits}f}"


def _times(rows: list[Row], used: Sequence[System]) -> list[str]:
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


def _limits(rows: Sequence[Row], limits: chain.Limits, used: Sequence[System]) -> list[str]:
    """Bandwidth and memory of the multiply-add chain, beside what the machine allows."""
    moved = chain.ELEMENTS * BYTES_OF_AN_ELEMENT
    row = next(row for row in rows if row.name == chain.NAME)
    seconds = row.medians | ({OURS.key: limits.chain} if limits.chain else {})

    def rate(key: str) -> str:
        return f"{moved / seconds[key] / 1e9:.1f}" if key in seconds else ""

    def of_copy(key: str) -> str:
        return f"{limits.copy / seconds[key]:.0%}" if limits.copy and key in seconds else ""

    def megabytes(key: str) -> str:
        return f"{limits.peaks[key] / MEGABYTE:.0f}" if key in limits.peaks else ""

    def of_arrays(key: str) -> str:
        return f"{limits.peaks[key] / moved:.2f}" if key in limits.peaks else ""

    copied = f"{moved / limits.copy / 1e9:.1f}" if limits.copy else ""
    keys = [system.key for system in used]
    body = [
        ["GB/s", *map(rate, keys), copied],
        ["of the copy", *map(of_copy, keys), ""],
        ["peak memory of a call (MB)", *map(megabytes, keys), ""],
        ["of input and gradient", *map(of_arrays, keys), ""],
    ]
    return [
        "",
        f"## {chain.NAME}, against what the machine allows",
        "",
        f"Input and gradient, {moved / MEGABYTE:.0f} MB, over the time of a call. {OURS.title} and "
        "the copy, a parallel loop in Numba between two kept arrays of that size together, are "
        "timed turn about in one process; the others are those of the table above. Memory is the "
        "high-water mark of steady calls in a new process, beyond what the process has anyway.",
        "",
        *table(["", *(system.title for system in used), "Numba copy"], body),
    ]


def _starts(starts: Sequence[Starts], used: Sequence[System]) -> list[str]:
    """Cold and warm starts, and memory."""

    def times(start: Starts, key: str) -> str:
        if key in start.failures:
            return "failed"
        return f"{start.cold[key]:.2f} / {start.warm[key]:.2f}" if key in start.cold else ""

    def megabytes(start: Starts, key: str) -> str:
        return f"{start.peak[key] / MEGABYTE:,.0f}" if key in start.peak else ""

    header = ["workload", *(system.title for system in used)]
    return [
        "",
        "## Cold and warm start",
        "",
        "Seconds of a new process from the start of its imports, NumPy's included, to the end of "
        "the first call: with empty disk caches / with the caches that an earlier process filled.",
        "",
        *table(header, [[each.name, *(times(each, s.key) for s in used)] for each in starts]),
        "",
        "## Memory",
        "",
        "Peak of resident memory of a process that starts warm and makes a few calls, in MB.",
        "",
        *table(header, [[each.name, *(megabytes(each, s.key) for s in used)] for each in starts]),
    ]


def _failures(
    rows: Sequence[Row], limits: chain.Limits | None, starts: Sequence[Starts]
) -> list[tuple[str, dict[str, str]]]:
    """Where things failed and, by system key, how."""
    found = [(row.name, row.failures) for row in rows]
    if limits is not None:
        found.append((f"{chain.NAME}, limits", limits.failures))
    return found + [(f"{each.name}, start", each.failures) for each in starts]


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


def path_of_results(date: str, subject: str = "") -> Path:
    """`<date>-<subject>-<cpu>.md` of the results, in lower case with dashes."""
    name = re.sub(r"\(.*?\)", "", f"{subject} {processor()}".lower())
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    return RESULTS / f"{date}-{slug}.md"


def write(text: str, date: str, subject: str = "") -> Path:
    """Write a report to `path_of_results`."""
    path = path_of_results(date, subject)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
