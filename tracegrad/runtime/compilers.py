"""Processes that compile kernels beside this one.

Numba holds the GIL and LLVM a lock of its own, so threads do not compile any faster; processes do.
Whoever knows which kernels a program needs shares them out before asking for the first: this
process compiles them from the front, the others from the back, and who asks for one that another
has begun waits for it. If a process does not start or dies, its kernels are compiled here.

A process runs the same interpreter on `serve`, imports nothing of the user's, reads jobs from its
input and writes object code to its output, and ends when its input does.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracegrad.config import config
from tracegrad.errors import CompilationError
from tracegrad.log import log
from tracegrad.runtime.object_files import ObjectCode

# Seconds that a character of source takes to compile, and a kernel besides.
_SECONDS_PER_CHARACTER = 5e-5
_SECONDS_PER_KERNEL = 0.03
# A process that compiles for less than this, in seconds, would not have been worth its start: half
# a second to import Numba.
_WORTH = 0.6
# More processes than this are not started however many processors there are: each takes 150 MB.
_MOST = 8
# A process that had nothing to do for so many seconds ends.
_PATIENCE = 30.0

# What takes long to import and is not needed is passed over: the package's own `__init__`, and
# SciPy, which Numba would look for.
_PROGRAM = """
import sys, types
sys.path[:] = sys.argv[2:]
package = types.ModuleType("tracegrad")
package.__path__ = [sys.argv[1]]
sys.modules["tracegrad"] = package
sys.modules["scipy"] = None
from tracegrad.runtime.compilers import serve
serve()
"""


@dataclass(slots=True, eq=False)
class Job:
    """A kernel to compile: its name, and the source, entry and C signature of its function.

    `code` is what another process has made of it when `done` is set; None if it has not.
    """

    name: str
    source: str
    entry: str
    signature: str
    begun: bool = False
    code: ObjectCode | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """About how long it takes to compile."""
        return _SECONDS_PER_KERNEL + _SECONDS_PER_CHARACTER * len(self.source)


# What has been shared out and nobody has asked for yet; and those in order that may not have begun.
_jobs: dict[str, Job] = {}
_waiting: deque[Job] = deque()
_processes: list[subprocess.Popen[bytes]] = []
_changed = threading.Condition()


def share(jobs: Sequence[Job], besides: float = 0.0) -> None:
    """Let other processes compile kernels that will be asked for in this order.

    besides   how many seconds of compilation are sure to follow these.
    """
    with _changed:
        fresh = [job for job in jobs if job.name not in _jobs]
        wanted = _count(sum(job.seconds for job in fresh) + besides)
        if not wanted and not _processes:
            return
        _jobs.update((job.name, job) for job in fresh)
        _waiting.extend(fresh)
        for _ in range(wanted - len(_processes)):
            _start()
        _changed.notify_all()


def take(name: str) -> ObjectCode | None:
    """The object code of a kernel from another process; None if the caller has to compile it."""
    with _changed:
        job = _jobs.pop(name, None)
        if job is None:
            return None
        if not job.begun:
            job.begun = True
            return None
    job.done.wait()
    return job.code


def _count(seconds: float) -> int:
    """How many processes are worth their start for so much to compile."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    most = min((available or 1) - 1, _MOST)
    if config.compile_processes is not None:
        most = config.compile_processes
    return min(int(seconds / _WORTH), most) if _is_python() else 0


def _is_python() -> bool:
    """Whether there is an interpreter to start, not an application that contains one."""
    name = Path(sys.executable or "").name.lower()
    return name.startswith("python") and not getattr(sys, "frozen", False)


# ---------------------------------------------------------------------------------- in this process


def _start() -> None:
    """Start a process, and a thread that gives it jobs."""
    package = str(Path(__file__).parents[1])
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, package, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Nothing may be left in a buffer that a fork of this process would write once more.
            bufsize=0,
            # An interrupt from the keyboard is not for it.
            start_new_session=True,
        )
    except (OSError, RuntimeError) as error:
        reason = str(error)
        log("cache", lambda: f"no process to compile in: {reason}")
        return
    if not _processes:
        _register()
    _processes.append(process)
    name = f"tracegrad compiler {process.pid}"
    threading.Thread(target=_attend, args=(process,), name=name, daemon=True).start()


def _attend(process: subprocess.Popen[bytes]) -> None:
    """Give a process one job after the other, until there have been none for a while."""
    assert process.stdin is not None
    pipe: Any = process.stdout
    # One read of the pipe may bring a part of an answer only.
    answers = io.BufferedReader(pipe)
    while (job := _next(process)) is not None:
        try:
            message = pickle.dumps((job.name, job.source, job.entry, job.signature))
            while message:
                message = message[process.stdin.write(message) :]
            job.code = pickle.load(answers)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            log("cache", lambda: f"process {process.pid}, which compiled, has ended")
            break
        finally:
            job.done.set()
    with _changed:
        if process in _processes:
            _processes.remove(process)
    _end(process)


def _next(process: subprocess.Popen[bytes]) -> Job | None:
    """The job that will be asked for last, among those that nobody has begun; None if the process
    shall end.
    """
    with _changed:
        while True:
            while _waiting and process in _processes:
                job = _waiting.pop()
                if not job.begun:
                    job.begun = True
                    return job
            if process not in _processes or not (_changed.wait(_PATIENCE) or _waiting):
                return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, whatever it does: it keeps nothing."""
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def end_all() -> None:
    """End all processes; what they have not done is compiled here."""
    with _changed:
        ending = tuple(_processes)
        _processes.clear()
        _changed.notify_all()
    for process in ending:
        process.kill()
        process.wait()


def _register() -> None:
    """Once in a process: what happens at its end, and in the child of a fork."""
    global _registered
    if _registered:
        return
    _registered = True
    atexit.register(end_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


_registered = False


def _forget() -> None:
    """In the child of a fork: the processes are its parent's, and so are their answers."""
    global _changed
    _changed = threading.Condition()
    _jobs.clear()
    _waiting.clear()
    for process in _processes:
        # It is not waited for: it is no child of this process.
        process.returncode = 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    _processes.clear()


# --------------------------------------------------------------------------------- in the other one


def serve() -> None:
    """Compile what comes by the input, until it ends."""
    from tracegrad.runtime import machine_code

    results = os.fdopen(os.dup(1), "wb")
    # What a compiler may print is no result.
    os.dup2(2, 1)
    machine_code.prepare()
    while True:
        try:
            name, source, entry, signature = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            code = machine_code.compile_source(name, source, entry, signature)
        except CompilationError:
            # Who asked for it finds the same error, and tells the user.
            code = None
        pickle.dump(code, results)
        results.flush()
