"""Run the table of workloads: one process for each system, rounds in turn, never two at once."""

import argparse
import datetime
import os
import sys
import tempfile
import time

from benchmarks import report, systems
from benchmarks.process import Process, WorkerError
from benchmarks.systems import OURS, SYSTEMS
from benchmarks.turns import measure
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
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    return parser.parse_args()


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
    started = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory(prefix="tracegrad-bench-") as cache:
        os.environ.update(systems.environment(cache))
        processes = []
        for system in SYSTEMS:
            if system.key not in options.systems:
                continue
            if not system.installed:
                print(f"{system.title} is not installed, left out", file=sys.stderr)
                continue
            processes.append(Process(system))
        try:
            for process in list(processes):
                try:
                    process.start()
                except WorkerError as failure:
                    print(f"{process.system.title}: {failure}", file=sys.stderr)
                    processes.remove(process)
            # Peers first: their results are what ours are held against.
            processes.sort(key=lambda process: process.system is OURS)
            for workload in chosen:
                print(f"{workload.name} ...", file=sys.stderr, flush=True)
                row = report.Row(workload.name, workload.about)
                rows.append(row)
                name = (workload.name,)
                measure(row, processes, find, name, options.rounds, options.seconds)
        finally:
            for process in processes:
                process.stop()

    date = datetime.date.today().isoformat()
    imports = {process.system.key: process.import_seconds or 0.0 for process in processes}
    text = report.render(rows, imports, date)
    print(text)
    if not options.no_file:
        print(f"written to {report.write(text, date)}", file=sys.stderr)
    print(f"took {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 1 if any(row.failures for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
