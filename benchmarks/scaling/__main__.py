"""Run the curves of time against size: new processes for each size, rounds in turn."""

import argparse
import datetime
import os
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import memory, report, systems, workloads
from benchmarks.process import Process, WorkerError
from benchmarks.scaling.family import FAMILIES, Family, find
from benchmarks.scaling.report import Curves, draw, render
from benchmarks.systems import OURS, SYSTEMS, System
from benchmarks.turns import measure

# Longest that one command may take. A long chain of operations takes some systems minutes.
PATIENCE = 120.0

SUBJECT = "scaling"

# What a process compiles before a first call is timed, so that no compiler is loaded in it.
BEFORE = "Rosenbrock"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    keys = [system.key for system in SYSTEMS]
    parser.add_argument("--systems", nargs="+", choices=keys, default=keys)
    parser.add_argument(
        "--workloads", nargs="+", metavar="TEXT", help="only families with any of these in the name"
    )
    parser.add_argument("--largest", type=int, help="leave out larger sizes than this")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each system (7)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn (0.1)")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        help=f"seconds until a system is given up ({PATIENCE:.0f})",
    )
    parser.add_argument("--no-file", action="store_true", help="print only, write no result files")
    return parser.parse_args()


def measure_size(
    family: Family, size: int, chosen: Sequence[System], options: argparse.Namespace
) -> report.Row:
    """One size in new processes of these systems."""
    row = report.Row(f"{size:,}", family.about)
    processes = []
    try:
        for system in chosen:
            process = Process(system)
            processes.append(process)
            try:
                if family.first_calls:
                    process.ask("first_call", workloads.find, BEFORE)
                else:
                    process.start()
            except WorkerError as failure:
                row.failures[system.key] = str(failure)
            # Only now: to load a compiler takes some systems longer than a chain may.
            process.patience = options.patience
        ready = [process for process in processes if process.system.key not in row.failures]
        names = family.name, size
        measure(row, ready, find, names, options.rounds, options.seconds)
    finally:
        for process in processes:
            process.stop()
    return row


def measure_family(family: Family, chosen: Sequence[System], options: argparse.Namespace) -> Curves:
    """All sizes, as far as memory goes, of the systems that have not failed at a smaller one."""
    curves = Curves(family, [], [])
    left = list(chosen)
    with tempfile.TemporaryDirectory(prefix="tracegrad-bench-") as cache:
        for size in family.sizes:
            if options.largest is not None and size > options.largest:
                curves.left_out = f"Larger sizes than {options.largest:,} were not asked for."
                break
            free = memory.available()
            if free is not None and size * family.bytes_of_size > free:
                curves.left_out = f"{size:,} {family.axis} do not fit in the machine's free memory."
                break
            print(f"{family.name}, {size:,} {family.axis} ...", file=sys.stderr, flush=True)
            # First calls are timed on caches that hold nothing of a smaller size.
            own = os.path.join(cache, str(size)) if family.first_calls else cache
            os.environ.update(systems.environment(own))
            row = measure_size(family, size, left, options)
            curves.sizes.append(size)
            curves.rows.append(row)
            left = [system for system in left if system.key not in row.failures]
    return curves


def main() -> int:
    """Measure, print, write the files. 1 if a system failed otherwise than by taking too long."""
    options = arguments()
    families = [
        family
        for family in FAMILIES
        if not options.workloads
        or any(text.lower() in family.name.lower() for text in options.workloads)
    ]
    if not families:
        print(f"no such family; there are {[family.name for family in FAMILIES]}")
        return 2
    began = time.perf_counter()
    # Peers first: their results are what ours are held against.
    chosen = [
        system
        for system in sorted(SYSTEMS, key=lambda system: system is OURS)
        if system.key in options.systems and system.installed
    ]
    found = [measure_family(family, chosen, options) for family in families]
    date = datetime.date.today().isoformat()
    figure = report.path_of_results(date, SUBJECT).with_suffix(".svg")
    text = render(found, chosen, date, figure.name)
    print(text)
    if not options.no_file:
        draw(found, chosen, figure)
        print(f"written to {report.write(text, date, SUBJECT)} and {figure}", file=sys.stderr)
    print(f"took {time.perf_counter() - began:.0f} s", file=sys.stderr)
    rows = [row for curves in found for row in curves.rows]
    return 1 if any(row.failures.keys() - row.late.keys() for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
