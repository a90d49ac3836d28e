"""Run the table of loops: one process for each system, rounds in turn, never two at once."""

import argparse
import datetime
import time

from benchmarks import command, systems
from benchmarks.command import say
from benchmarks.loops import report
from benchmarks.loops.program import OURS, PARTS, PEERS, SYSTEMS, Program, find
from benchmarks.loops.programs import PROGRAMS
from benchmarks.process import Process, WorkerError
from benchmarks.report import Row, write
from benchmarks.systems import System
from benchmarks.turns import measure


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("benchmarks.loops", __doc__, SYSTEMS, rounds=15)
    command.add_patience(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--no-first-calls", action="store_true", help="leave out the times of compilation"
    )
    return parser.parse_args()


def time_calls(
    programs: list[Program], chosen: list[System], options: argparse.Namespace
) -> dict[str, list[Row]]:
    """The rows of each part."""
    parts: dict[str, list[Row]] = {part: [] for part in options.parts}
    with systems.empty_caches():
        processes = [Process(system, options.patience) for system in chosen]
        try:
            for program in programs:
                for part, rows in parts.items():
                    say(f"{program.name}, {part} ...")
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
    with systems.empty_caches():
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
        say(f"{program.name}, first call ...")
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
    programs = command.named(PROGRAMS, options.workloads)
    started = time.perf_counter()
    # Peers first: their results are what ours are held against.
    chosen = command.installed((*PEERS, *OURS), options.systems)
    parts = time_calls(programs, chosen, options)
    calls: dict[str, report.FirstCalls] = {}
    if not options.no_first_calls:
        calls = time_first_calls(programs, chosen, options.patience)
    date = datetime.date.today().isoformat()
    text = report.render(programs, parts, calls, chosen, date)
    print(text)
    if not options.no_file:
        say(f"written to {write(text, date, 'loops')}")
    say(f"took {time.perf_counter() - started:.0f} s")
    failed = any(row.failures for rows in parts.values() for row in rows)
    return 1 if failed or any(found.failures for found in calls.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
