"""What the environment says about how tracegrad runs, read once at import.

=====================  ===================================================================
``TRACEGRAD_LOG``      comma list of topics to report on stderr: trace, passes, kernels,
                       source, cache; or ``all``
``TRACEGRAD_DUMP``     directory that gets one numbered file for each stage of a compilation
``TRACEGRAD_CHECK``    1: verify the graph after every pass, and inputs and outputs of calls
``TRACEGRAD_ROLL``     0: loops are not rolled, each number of iterations is traced by itself
``TRACEGRAD_DISABLE``  1: ``@tg.compile`` does nothing and everything runs eagerly
``TRACEGRAD_CACHE_DIR``  directory of compiled kernels
``TRACEGRAD_CACHE_SIZE``  its limit in MiB (512); the kernels used longest ago are removed
``TRACEGRAD_NUM_THREADS``  threads of compiled code and of matrix products, at least 1; unset: one
                       for each processor that the process may use
``TRACEGRAD_COMPILE_PROCESSES``  the most processes that compile beside this one; 0: none; unset:
                       one less than the processors, at most 8
=====================  ===================================================================
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

Default = TypeVar("Default", int, None)

Topic = Literal["trace", "passes", "kernels", "source", "cache"]

TOPICS: frozenset[str] = frozenset(get_args(Topic))

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of this process. Read the fields; change them only through `override`."""

    log: frozenset[str]
    dump: Path | None
    check: bool
    disable: bool
    cache_dir: Path
    cache_limit: int = 512 << 20
    roll: bool = True
    unroll_limit: int = 8
    num_threads: int | None = None
    compile_processes: int | None = None

    @contextmanager
    def override(self, **changes: Any) -> Iterator["Config"]:
        """Set fields for the length of a ``with`` block, in every thread of the process.

        The one instance is changed in place, so that modules may hold it by name
        (``from tracegrad.config import config``) and still see the change.

        Raises:
            TypeError: a keyword is not the name of a setting.
        """
        known = {field.name for field in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise TypeError(f"no setting named {', '.join(unknown)}; settings: {sorted(known)}")
        before = {name: getattr(self, name) for name in changes}
        try:
            for name, value in changes.items():
                object.__setattr__(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                object.__setattr__(self, name, value)


def read(environment: Mapping[str, str]) -> Config:
    """The configuration that a set of environment variables describes.

    Raises:
        ValueError: a variable has a value that means nothing. A setting that somebody took the
            trouble to write is never ignored.
    """
    dump = environment.get("TRACEGRAD_DUMP", "")
    cache_dir = environment.get("TRACEGRAD_CACHE_DIR", "")
    return Config(
        log=_topics(environment.get("TRACEGRAD_LOG", "")),
        dump=Path(dump).expanduser() if dump else None,
        check=_flag(environment, "TRACEGRAD_CHECK"),
        disable=_flag(environment, "TRACEGRAD_DISABLE"),
        roll="TRACEGRAD_ROLL" not in environment or _flag(environment, "TRACEGRAD_ROLL"),
        cache_dir=Path(cache_dir).expanduser() if cache_dir else _default_cache_dir(environment),
        cache_limit=_whole_number(environment, "TRACEGRAD_CACHE_SIZE", 512) << 20,
        num_threads=_whole_number(environment, "TRACEGRAD_NUM_THREADS", None, least=1),
        compile_processes=_whole_number(environment, "TRACEGRAD_COMPILE_PROCESSES", None),
    )


def _topics(text: str) -> frozenset[str]:
    named = {word.strip().lower() for word in text.split(",")} - {""}
    if "all" in named:
        return TOPICS
    unknown = sorted(named - TOPICS)
    if unknown:
        raise ValueError(
            f"TRACEGRAD_LOG: unknown topic {', '.join(unknown)}; "
            f"topics are {', '.join(get_args(Topic))}, or all"
        )
    return frozenset(named)


def _flag(environment: Mapping[str, str], name: str) -> bool:
    text = environment.get(name, "").strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{name}: expected 1 or 0, got {text!r}")


def _whole_number(
    environment: Mapping[str, str], name: str, default: Default, least: int = 0
) -> int | Default:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        wanted = f"a whole number of at least {least}" if least else "a whole number"
        raise ValueError(f"{name}: expected {wanted}, got {text!r}")
    return int(text)


def _default_cache_dir(environment: Mapping[str, str]) -> Path:
    """The user's cache directory by the custom of the platform."""
    if sys.platform == "win32":
        base = environment.get("LOCALAPPDATA", "")
    else:
        base = environment.get("XDG_CACHE_HOME", "")
    # expanduser of a string, not Path.home(): a container's user may have no home, and an import
    # must not fail for that.
    return Path(base or os.path.expanduser("~/.cache")) / "tracegrad"


config = read(os.environ)
