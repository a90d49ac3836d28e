"""Run the table of workloads: one process for each system, rounds in turn, never two at once."""

import argparse
import datetime
import time
from collections.abc import Sequence

from benchmarks import chain, command, report, starts, systems
from benchmarks.command import say
from benchmarks.process import Process, WorkerError
from benchmarks.systems import OURS, PEERS, SYSTEMS, System
from benchmarks.turns import measure
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS, find


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("benchmarks", __doc__, SYSTEMS, rounds=15)
    parser.add_argument(
        "--no-first-calls", action="store_true", help="leave out starts, cold and warm, and memory"
    )
    return parser.parse_args()


def started(chosen: Sequence[System]) -> list[Process]:
    """A process for each of these systems that could be started."""
    processes = []
    for system in chosen:
        process = Process(system)
        try:
            process.start()
        except WorkerError as failure:
            say(f"{system.title}: {failure}")
            continue
        processes.append(process)
    return processes


def time_calls(
    chosen: list[Workload], options: argparse.Namespace
) -> tuple[list[report.Row], chain.Limits | None, list[System]]:
    """The rows, the limits of the multiply-add chain if it is one of them, and the systems."""
    rows = []
    limits = None
    with systems.empty_caches():
        # Peers first: their results are what ours are held against.
        processes = started(command.installed((*PEERS, OURS), options.systems))
        try:
            for workload in chosen:
                say(f"{workload.name} ...")
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
            say(f"{chain.NAME}, memory ...")
            chain.measure_memory(limits, [process.system for process in processes])
    return rows, limits, [process.system for process in processes]


def time_starts(chosen: list[Workload], used: list[System]) -> list[starts.Starts]:
    """Starts of each workload, after those of an import alone."""
    numpy_seconds = starts.seconds_of_numpy()
    found = []
    for name in (None, *(workload.name for workload in chosen)):
        say(f"{name or starts.IMPORT_ONLY}, start ...")
        found.append(starts.measure(name, used, numpy_seconds))
    return found


def main() -> int:
    """Measure, print, write the file. 1 if a system failed or results disagree."""
    options = arguments()
    chosen = command.named(WORKLOADS, options.workloads)
    began = time.perf_counter()
    rows, limits, used = time_calls(chosen, options)
    found = [] if options.no_first_calls else time_starts(chosen, used)
    date = datetime.date.today().isoformat()
    text = report.render(rows, limits, found, used, date)
    print(text)
    if not options.no_file:
        say(f"written to {report.write(text, date)}")
    say(f"took {time.perf_counter() - began:.0f} s")
    failed = any(each.failures for each in (*rows, *found))
    return 1 if failed or (limits is not None and limits.failures) else 0


if __name__ == "__main__":
    raise SystemExit(main())
