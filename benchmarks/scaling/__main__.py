"""Run the curves of time against size: new processes for each size, rounds in turn."""

import argparse
import datetime
import os
import time
from collections.abc import Sequence

from benchmarks import command, memory, report, systems, workloads
from benchmarks.command import say
from benchmarks.process import Process, WorkerError
from benchmarks.scaling.family import FAMILIES, Family, find
from benchmarks.scaling.report import Curves, draw, render
from benchmarks.systems import OURS, PEERS, SYSTEMS, System
from benchmarks.turns import measure

SUBJECT = "scaling"

# What a process compiles before a first call is timed, so that no compiler is loaded in it.
BEFORE = "Rosenbrock"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("benchmarks.scaling", __doc__, SYSTEMS, rounds=7)
    command.add_patience(parser)
    parser.add_argument("--largest", type=int, help="leave out larger sizes than this")
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
    with systems.empty_caches() as cache:
        for size in family.sizes:
            if options.largest is not None and size > options.largest:
                curves.left_out = f"Larger sizes than {options.largest:,} were not asked for."
                break
            free = memory.available()
            if free is not None and size * family.bytes_of_size > free:
                curves.left_out = f"{size:,} {family.axis} do not fit in the machine's free memory."
                break
            say(f"{family.name}, {size:,} {family.axis} ...")
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
    families = command.named(FAMILIES, options.workloads)
    began = time.perf_counter()
    # Peers first: their results are what ours are held against.
    chosen = command.installed((*PEERS, OURS), options.systems)
    found = [measure_family(family, chosen, options) for family in families]
    date = datetime.date.today().isoformat()
    figure = report.path_of_results(date, SUBJECT).with_suffix(".svg")
    text = render(found, chosen, date, figure.name)
    print(text)
    if not options.no_file:
        draw(found, chosen, figure)
        say(f"written to {report.write(text, date, SUBJECT)} and {figure}")
    say(f"took {time.perf_counter() - began:.0f} s")
    rows = [row for curves in found for row in curves.rows]
    return 1 if any(row.failures.keys() - row.late.keys() for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
