"""Reports to stderr by topic, and numbered files of each stage of a compilation.

Both are off unless ``TRACEGRAD_LOG`` or ``TRACEGRAD_DUMP`` turns them on, see `tracegrad.config`.
"""

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tracegrad.config import Topic, config

_NUMBERED = re.compile(r"(\d{4,})-")

# Threads may compile at the same time; a number must be given once.
_dump_lock = threading.Lock()


def enabled(topic: Topic) -> bool:
    """Whether reports on `topic` are wanted. Costs one look-up in a set."""
    return topic in config.log


def log(topic: Topic, message: str | Callable[[], str]) -> None:
    """Report `message` on stderr if `topic` is on.

    Give a function where the text costs something to make: it is called only if the topic is on.
    """
    if topic not in config.log:
        return
    text = message() if callable(message) else message
    prefix = f"tracegrad[{topic}] "
    lines = "".join(f"{prefix}{line}\n" for line in text.splitlines())
    # One write, so that the lines of two processes do not mix.
    sys.stderr.write(lines)


def dump(stage: str, name: str, text: str) -> Path | None:
    """Write one stage of a compilation to ``TRACEGRAD_DUMP`` as ``0001-<name>-<stage>.py``.

    Numbers follow the order of writing and go on from what the directory already holds, so two
    runs into one directory never overwrite each other. Returns the path, or None if dumping is off.
    """
    directory = config.dump
    if directory is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    with _dump_lock:
        number = _last_number(directory) + 1
        while True:
            path = directory / f"{number:04d}-{_in_file_name(name)}-{_in_file_name(stage)}.py"
            try:
                # Exclusive creation: another process may have taken the number since we looked.
                with path.open("x", encoding="utf-8") as file:
                    file.write(text if text.endswith("\n") else text + "\n")
                return path
            except FileExistsError:
                number += 1


def _last_number(directory: Path) -> int:
    matches = (_NUMBERED.match(path.name) for path in directory.iterdir())
    return max((int(match[1]) for match in matches if match), default=0)


def _in_file_name(text: str) -> str:
    """`text` without what a file system may refuse, such as the brackets of ``<lambda>``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_.") or "unnamed"
