"""Resident memory of this process and free memory of the machine, in bytes, as Linux tells them.

Every function gives None, or does nothing, where nobody tells; `can_reset` says where not.
"""

from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_MACHINE = Path("/proc/meminfo")

MEGABYTE = 2**20


def resident() -> int | None:
    """What this process has now."""
    return _field(_STATUS, "VmRSS")


def peak() -> int | None:
    """The most that it had, since it began or since `reset_peak`.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    return _field(_STATUS, "VmHWM")


def can_reset() -> bool:
    """Whether `reset_peak` works here."""
    return _CLEAR.exists()


def reset_peak() -> None:
    """Let the high-water mark begin again at what the process has now."""
    if can_reset():
        # This number resets the mark and nothing else: it is the kernel's, see proc(5).
        _CLEAR.write_text("5")


def available() -> int | None:
    """What new programs may take without swapping."""
    return _field(_MACHINE, "MemAvailable")


def _field(path: Path, name: str) -> int | None:
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        found, _, value = line.partition(":")
        if found == name:
            return int(value.split()[0]) * 1024
    return None
