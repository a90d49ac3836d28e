"""Run the table of workloads: one process for each system, rounds in turn, never two at once."""

import argparse
import datetime
import os
import sys
import tempfile
import time

from benchmarks import chain, report, starts, systems
from benchmarks.process import Process, WorkerError
from benchmarks.systems import OURS, SYSTEMS, System
from benchmarks.turns import measure
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS, find


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    keys = [system.key for system in SYSTEMS]
    parser.add_argument("--systems", nargs="+", choices=keys, default=keys)
    parser.add_argument(
        "--workloads", nargs="+", metavar="TEXT", help="only names with any of these"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of each system (15)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn (0.1)")
    parser.add_argument(
        "--no-first-calls", action="store_true", help="leave out starts, cold and warm, and memory"
    )
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    return parser.parse_args()


def started(keys: list[str]) -> list[Process]:
    """A process for each of these systems that could be started."""
    processes = []
    # Peers first: their results are what ours are held against.
    for system in sorted(SYSTEMS, key=lambda system: system is OURS):
        if system.key not in keys:
            continue
        if not system.installed:
            print(f"{system.title} is not installed, left out", file=sys.stderr)
            continue
        process = Process(system)
        try:
            process.start()
        except WorkerError as failure:
            print(f"{system.title}: {failure}", file=sys.stderr)
            continue
        processes.append(process)
    return processes


def time_calls(
    chosen: list[Workload], options: argparse.Namespace
) -> tuple[list[report.Row], chain.Limits | None, list[System]]:
    """The rows, the limits of the multiply-add chain if it is one of them, and the systems."""
    rows = []
    limits = None
    with tempfile.TemporaryDirectory(prefix="tracegrad-bench-") as cache:
        os.environ.update(systems.environment(cache))
        processes = started(options.systems)
        try:
            for workload in chosen:
                print(f"{workload.name} ...", file=sys.stderr, flush=True)
                row = report.Row(workload.name, workload.about)
                rows.append(row)
                name = (workload.name,)
                measure(row, processes, find, name, options.rounds, options.seconds)
                if workload.name == chain.NAME:
                    limits = chain.Limits()
                    for process in processes:
                        if process.system is OURS:
                            chain.measure_bandwidth(
                                limits, process, options.rounds, options.seconds
                            )
        finally:
            for process in processes:
                process.stop()
        if limits is not None and not options.no_first_calls:
            print(f"{chain.NAME}, memory ...", file=sys.stderr, flush=True)
            chain.measure_memory(limits, [process.system for process in processes])
    return rows, limits, [process.system for process in processes]


def time_starts(chosen: list[Workload], used: list[System]) -> list[starts.Starts]:
    """Starts of each workload, after those of an import alone."""
    numpy_seconds = starts.seconds_of_numpy()
    found = []
    for name in (None, *(workload.name for workload in chosen)):
        print(f"{name or starts.IMPORT_ONLY}, start ...", file=sys.stderr, flush=True)
        found.append(starts.measure(name, used, numpy_seconds))
    return found


def main() -> int:
    """Measure, print, write the file. 1 if a system failed or results disagree."""
    options = arguments()
    chosen = [
        workload
        for workload in WORKLOADS
        if not options.workloads
        or any(text.lower() in workload.name.lower() for text in options.workloads)
    ]
    if not chosen:
        print(f"no such workload; there are {[workload.name for workload in WORKLOADS]}")
        return 2
    began = time.perf_counter()
    rows, limits, used = time_calls(chosen, options)
    found = [] if options.no_first_calls else time_starts(chosen, used)
    date = datetime.date.today().isoformat()
    text = report.render(rows, limits, found, used, date)
    print(text)
    if not options.no_file:
        print(f"written to {report.write(text, date)}", file=sys.stderr)
    print(f"took {time.perf_counter() - began:.0f} s", file=sys.stderr)
    failed = any(each.failures for each in (*rows, *found))
    return 1 if failed or (limits is not None and limits.failures) else 0


if __name__ == "__main__":
    raise SystemExit(main())
