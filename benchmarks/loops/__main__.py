"""Run the table of loops: one process for each system, rounds in turn, never two at once."""

import argparse
import datetime
import os
import sys
import tempfile
import time

from benchmarks import systems
from benchmarks.loops import report
from benchmarks.loops.program import PARTS, PEERS, SYSTEMS, Program, find
from benchmarks.loops.programs import PROGRAMS
from benchmarks.process import Process, WorkerError
from benchmarks.report import Row, write
from benchmarks.systems import System
from benchmarks.turns import measure

# Longest that one command may take. A loop that is unrolled takes minutes to compile.
PATIENCE = 120.0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loops", description=__doc__)
    keys = [system.key for system in SYSTEMS]
    parser.add_argument("--systems", nargs="+", choices=keys, default=keys)
    parser.add_argument(
        "--workloads", nargs="+", metavar="TEXT", help="only programs with any of these in the name"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=15, help="turns of each system (15)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn (0.1)")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        help=f"seconds until a system counts as failed ({PATIENCE:.0f})",
    )
    parser.add_argument(
        "--no-first-calls", action="store_true", help="leave out the times of compilation"
    )
    parser.add_argument("--no-file", action="store_true", help="print only, write no result file")
    return parser.parse_args()


def installed(keys: list[str]) -> list[System]:
    """The systems with these keys that can be imported. Peers come first: ours are held against
    their results.
    """
    chosen = []
    for system in sorted(SYSTEMS, key=lambda system: system not in PEERS):
        if system.key not in keys:
            continue
        if system.installed:
            chosen.append(system)
        else:
            print(f"{system.title} is not installed, left out", file=sys.stderr)
    return chosen


def time_calls(
    programs: list[Program], chosen: list[System], options: argparse.Namespace
) -> dict[str, list[Row]]:
    """The rows of each part."""
    parts: dict[str, list[Row]] = {part: [] for part in options.parts}
    with tempfile.TemporaryDirectory(prefix="tracegrad-bench-") as cache:
        os.environ.update(systems.environment(cache))
        processes = [Process(system, options.patience) for system in chosen]
        try:
            for program in programs:
                for part, rows in parts.items():
                    print(f"{program.name}, {part} ...", file=sys.stderr, flush=True)
                    row = Row(program.name, program.about)
                    rows.append(row)
                    names = program.name, part, program.sizes[-1]
                    measure(row, processes, find, names, options.rounds, options.seconds)
        finally:
            for process in processes:
                process.stop()
    return parts


def first_call(
    program: Program, system: System, sizes: tuple[int, ...], patience: float
) -> list[float]:
    """Seconds of the first call of value and gradient at each size, in a process of its own.

    Raises:
        WorkerError: what the worker said.
    """
    with tempfile.TemporaryDirectory(prefix="tracegrad-bench-") as cache:
        os.environ.update(systems.environment(cache))
        process = Process(system, patience)
        try:
            return [
                process.ask("first_call", find, program.name, "gradient", size) for size in sizes
            ]
        finally:
            process.stop()


def time_first_calls(
    programs: list[Program], chosen: list[System], patience: float
) -> dict[str, report.FirstCalls]:
    """First calls of each program at two sizes, which show what depends on the size."""
    calls = {}
    for program in programs:
        print(f"{program.name}, first call ...", file=sys.stderr, flush=True)
        found = calls[program.name] = report.FirstCalls()
        for system in chosen:
            key = system.key
            try:
                found.few[key], found.after[key] = first_call(
                    program, system, program.sizes, patience
                )
                (found.full[key],) = first_call(program, system, program.sizes[-1:], patience)
            except WorkerError as failure:
                found.failures[key] = str(failure)
    return calls


def main() -> int:
    """Measure, print, write the file. 1 if a system failed or results disagree."""
    options = arguments()
    programs = [
        program
        for program in PROGRAMS
        if not options.workloads
        or any(text.lower() in program.name.lower() for text in options.workloads)
    ]
    if not programs:
        print(f"no such program; there are {[program.name for program in PROGRAMS]}")
        return 2
    started = time.perf_counter()
    chosen = installed(options.systems)
    parts = time_calls(programs, chosen, options)
    calls: dict[str, report.FirstCalls] = {}
    if not options.no_first_calls:
        calls = time_first_calls(programs, chosen, options.patience)
    date = datetime.date.today().isoformat()
    text = report.render(programs, parts, calls, chosen, date)
    print(text)
    if not options.no_file:
        print(f"written to {write(text, date, 'loops')}", file=sys.stderr)
    print(f"took {time.perf_counter() - started:.0f} s", file=sys.stderr)
    failed = any(row.failures for rows in parts.values() for row in rows)
    return 1 if failed or any(found.failures for found in calls.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
