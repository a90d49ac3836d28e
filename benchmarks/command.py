"""What the commands of the benchmarks have in common: their options, and what these choose."""

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol, TypeVar

from benchmarks.systems import System


class Named(Protocol):
    """Something that is measured."""

    @property
    def name(self) -> str:
        """What it is called in the table."""


Measured = TypeVar("Measured", bound=Named)


def parser(
    name: str, about: str | None, all_systems: Sequence[System], rounds: int
) -> argparse.ArgumentParser:
    """The command line of `python -m name`, as far as all commands have it."""
    made = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    keys = [system.key for system in all_systems]
    made.add_argument("--systems", nargs="+", choices=keys, default=keys)
    made.add_argument("--workloads", nargs="+", metavar="TEXT", help="only names with any of these")
    made.add_argument(
        "--rounds", type=int, default=rounds, help="turns of each system (%(default)s)"
    )
    made.add_argument("--seconds", type=float, default=0.1, help="length of a turn (%(default)s)")
    made.add_argument("--no-file", action="store_true", help="print only, write no result file")
    return made


def add_patience(made: argparse.ArgumentParser) -> None:
    """The option of commands with programs that take some systems minutes to compile."""
    made.add_argument(
        "--patience",
        type=float,
        default=120.0,
        help="seconds until a system counts as failed (%(default)s)",
    )


def named(everything: Sequence[Measured], texts: Sequence[str] | None) -> list[Measured]:
    """What has any of these texts in its name; everything for None.

    Raises SystemExit with status 2, as for any wrong option, if nothing has.
    """
    chosen = [
        each
        for each in everything
        if texts is None or any(text.lower() in each.name.lower() for text in texts)
    ]
    if not chosen:
        print(f"no such name; there are {[each.name for each in everything]}", file=sys.stderr)
        raise SystemExit(2)
    return chosen


def installed(all_systems: Sequence[System], keys: Sequence[str]) -> list[System]:
    """The systems with these keys, in the order given, that can be imported; others are told."""
    chosen = [system for system in all_systems if system.key in keys]
    for system in chosen:
        if not system.installed:
            print(f"{system.title} is not installed, left out", file=sys.stderr)
    return [system for system in chosen if system.installed]


def say(text: str) -> None:
    """How far the measurement is, beside the results."""
    print(text, file=sys.stderr, flush=True)
