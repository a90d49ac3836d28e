"""Compiled kernels on disk, shared by all processes of a user.

One file a kernel, named by the hash of all that its machine code depends on, so that nothing is
ever out of date: another version of Numba, another processor, another source have other names. A
file appears whole or not at all, whatever happens to the process that writes it, and carries a
checksum; what has been damaged is compiled again. Above a limit of size the files that have not
been used for longest are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from tracegrad.config import config
from tracegrad.log import log

_SUFFIX = ".kernel"
_TEMPORARY = ".tmp"

# The size of the directory is looked at once in so many writes of a process, the first among them:
# that takes a walk through all files.
_INTERVAL = 64
# After a clean-up so much of the limit is in use.
_KEPT = 0.75
# A temporary file this old, in seconds, belongs to a process that died while it wrote.
_ABANDONED = 3600.0

_writes = 0
_warned = False


@dataclass(frozen=True, slots=True)
class ObjectCode:
    """An object file in memory: the symbol of its function, those it refers to, and its bytes."""

    symbol: str
    requires: tuple[str, ...]
    code: bytes


def directory() -> Path:
    """Where the files are; it may not exist."""
    return config.cache_dir / "kernels"


def has(name: str) -> bool:
    """Whether there is a file for a kernel; it may be damaged."""
    return (directory() / f"{name}{_SUFFIX}").exists()


def read(name: str) -> ObjectCode | None:
    """The object code of a kernel, or None if it is not there or damaged."""
    path = directory() / f"{name}{_SUFFIX}"
    try:
        data = path.read_bytes()
    except OSError:
        return None
    found = _decode(data)
    if found is None:
        log("cache", lambda: f"{path} is damaged and will be replaced")
        return None
    # When it was used last, for the clean-up; a directory that is only readable keeps no record.
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def write(name: str, source: str, code: ObjectCode) -> None:
    """Keep a kernel. A failure costs one warning, and later processes a compilation."""
    global _writes
    try:
        directory().mkdir(parents=True, exist_ok=True)
        _write_whole(directory() / f"{name}{_SUFFIX}", _encode(source, code))
    except OSError as error:
        _warn(str(error))
        return
    if _writes % _INTERVAL == 0:
        shrink(config.cache_limit)
    _writes += 1


def clear() -> int:
    """Remove every file; the number of bytes that were removed.

    What this process has loaded goes on working.
    """
    return shrink(0)


def shrink(limit: int) -> int:
    """If the files take more than `limit` bytes, remove those unused for longest, until so much
    less is in use that the next time is not soon; the number of bytes that were removed.
    """
    files = sorted(_files())
    total = sum(size for _, size, _ in files)
    if total <= limit:
        return 0
    removed = 0
    for _, size, path in files:
        if total - removed <= limit * _KEPT:
            break
        # Another process may be doing the same.
        with contextlib.suppress(OSError):
            path.unlink()
            removed += size
    log("cache", lambda: f"{removed:,} bytes of compiled kernels removed")
    return removed


def _files() -> list[tuple[float, int, Path]]:
    """When each file was used last, its size and its path."""
    found: list[tuple[float, int, Path]] = []
    now = time.time()
    with contextlib.suppress(OSError), os.scandir(directory()) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                facts = entry.stat()
                used = facts.st_mtime
                if entry.name.endswith(_TEMPORARY):
                    if now - used < _ABANDONED:
                        continue
                    used = 0.0
                found.append((used, facts.st_size, Path(entry.path)))
    return found


# ------------------------------------------------------------------------------------------ a file


def _encode(source: str, code: ObjectCode) -> bytes:
    """A line that describes the rest, the source for whoever looks, and the object code."""
    text = source.encode()
    header = {
        "symbol": code.symbol,
        "requires": code.requires,
        "source": len(text),
        "checksum": hashlib.sha256(code.code).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + text + code.code


def _decode(data: bytes) -> ObjectCode | None:
    """What `_encode` has written, or None if it is not that."""
    line, _, rest = data.partition(b"\n")
    try:
        header = json.loads(line)
        code = rest[header["source"] :]
        if hashlib.sha256(code).hexdigest() != header["checksum"]:
            return None
        return ObjectCode(header["symbol"], tuple(header["requires"]), code)
    except (ValueError, KeyError, TypeError):
        return None


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file so that readers, and a crash, see all of it or none.

    Two processes that write one kernel write the same code; the later one wins.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _warn(reason: str) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"compiled kernels cannot be kept in {directory()} ({reason}); every process will compile "
        "them again. Set TRACEGRAD_CACHE_DIR to a directory that can be written.",
        RuntimeWarning,
        stacklevel=2,
    )
