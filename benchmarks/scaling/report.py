"""Time against size as Markdown tables and as one figure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Row, circumstances, disturbances, table, time_cell
from benchmarks.scaling.family import Family
from benchmarks.systems import SYSTEMS, System


@dataclass
class Curves:
    """The measurements of a family: a row for each size that was tried, and why not for more."""

    family: Family
    sizes: list[int]
    rows: list[Row]
    left_out: str = ""


@dataclass(frozen=True)
class Panel:
    """One axes of the figure: by system key the sizes and seconds that were measured, and the size
    and seconds at which a system was given up.
    """

    title: str
    axis: str
    points: dict[str, list[tuple[int, float]]]
    given_up: dict[str, tuple[int, float]]


def render(found: Sequence[Curves], used: Sequence[System], date: str, figure: str) -> str:
    """The whole report. `figure` is the name of the picture's file."""
    used = [system for system in SYSTEMS if system in used]
    lines = [
        f"# Time against size, {date}",
        "",
        circumstances(),
        "",
        *(f"- {system.title}: {system.version}" for system in used),
        "",
        "Value and gradients of one call, median of interleaved rounds, in microseconds; ± is half "
        "the distance between the quartiles of the rounds. A new process for each size. A system "
        "that took longer than it was given (>) or failed is not tried at larger sizes (–).",
        "",
        f"![Time against size]({figure})",
    ]
    for curves in found:
        lines += ["", f"## {curves.family.name}", "", f"On each size: {curves.family.about}.", ""]
        lines += _steady(curves, used)
        lines += disturbances(curves.rows, used)
        if curves.family.first_calls:
            lines += [
                "",
                "Seconds of the first call, with tracing and compilation, in a process that has "
                "compiled something else before, with empty disk caches:",
                "",
                *_first_calls(curves, used),
            ]
        if curves.left_out:
            lines += ["", curves.left_out]
    failures = [
        f"- {curves.family.name}, {row.name} {curves.family.axis}, {system.title}: "
        f"{row.failures[system.key]}"
        for curves in found
        for row in curves.rows
        for system in used
        if system.key in row.failures
    ]
    if failures:
        lines += ["", "## Failures", "", *failures]
    return "\n".join(lines) + "\n"


def _steady(curves: Curves, used: Sequence[System]) -> list[str]:
    def ratio(row: Row) -> str:
        value = row.ratio()
        return "" if value is None else f"{value:.2f}"

    header = [curves.family.axis, *(system.title for system in used), "ours / best peer"]
    body = [
        [row.name, *(time_cell(row, system) or "–" for system in used), ratio(row)]
        for row in curves.rows
    ]
    return table(header, body)


def _first_calls(curves: Curves, used: Sequence[System]) -> list[str]:
    def cell(row: Row, system: System) -> str:
        if system.key in row.first_calls:
            return f"{row.first_calls[system.key]:.2f}"
        return time_cell(row, system) or "–"

    header = [curves.family.axis, *(system.title for system in used)]
    return table(
        header, [[row.name, *(cell(row, system) for system in used)] for row in curves.rows]
    )


def panels(found: Sequence[Curves]) -> Iterator[Panel]:
    """What to draw: a call of each family, then the first calls."""
    for curves in found:
        yield _panel(curves, "medians", curves.family.name)
    for curves in found:
        if curves.family.first_calls:
            yield _panel(curves, "first_calls", f"{curves.family.name}, first call")


def _panel(curves: Curves, measured: str, title: str) -> Panel:
    points: dict[str, list[tuple[int, float]]] = {}
    given_up = {}
    for size, row in zip(curves.sizes, curves.rows, strict=True):
        for key, seconds in getattr(row, measured).items():
            points.setdefault(key, []).append((size, seconds))
        # A limit of time is one of the first call.
        if measured == "first_calls":
            given_up.update({key: (size, seconds) for key, seconds in row.late.items()})
    return Panel(title, curves.family.axis, points, given_up)


def draw(found: Sequence[Curves], used: Sequence[System], path: Path) -> None:
    """Write the figure: logarithmic axes, one for each panel."""
    import matplotlib
    from matplotlib.figure import Figure

    # Without them, the same measurements would not give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "tracegrad"
    drawn = list(panels(found))
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for panel in drawn:
        _draw_panel(next(axes), panel, used)
    for unused in axes:
        unused.axis("off")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _draw_panel(axes: Any, panel: Panel, used: Sequence[System]) -> None:
    for number, system in enumerate(SYSTEMS):
        if system not in used:
            continue
        style = {"color": f"C{number}", "label": system.title}
        sizes, seconds = zip(*panel.points.get(system.key, [(float("nan"),) * 2]), strict=True)
        axes.loglog(sizes, seconds, marker="o", markersize=3, **style)
        if system.key in panel.given_up:
            axes.loglog(*panel.given_up[system.key], marker="x", color=style["color"])
    axes.set(title=panel.title, xlabel=panel.axis, ylabel="seconds")
    axes.grid(alpha=0.3)
