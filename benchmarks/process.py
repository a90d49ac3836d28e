"""The driver's side of the processes that are timed: one for each system, never two at once."""

import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from benchmarks import systems, worker
from benchmarks.systems import System

# Longest that one command may take; torch.compile of the first workload is the slowest.
ANSWER_SECONDS = 180.0


class WorkerError(Exception):
    """A worker answered with an error, died, or did not answer in time."""


class LateError(WorkerError):
    """A worker did not answer in time."""

    def __init__(self, command: str, seconds: float) -> None:
        super().__init__(f"no answer to {command} in {seconds:.0f} s")
        self.seconds = seconds


class Process:
    """The driver's side of a worker. Starts on the first command, and again after a death."""

    def __init__(self, system: System, patience: float = ANSWER_SECONDS) -> None:
        self.system = system
        self.patience = patience
        self.import_seconds: float | None = None
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the worker and let it import its system."""
        # Spawned, not forked: a forked child would share imports and thread pools.
        context = multiprocessing.get_context("spawn")
        # The child reads them when it loads its libraries, which is before it could be told.
        os.environ.update(systems.threads(self.system))
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=worker.main, args=(theirs, self.system), daemon=True)
        self._process.start()
        theirs.close()
        seconds = self._ask("load")
        if self.import_seconds is None:
            self.import_seconds = seconds

    def ask(self, command: str, *arguments: Any) -> Any:
        """Send a command and wait for its result.

        Raises:
            WorkerError: with what the worker said, or that it said nothing.
        """
        if self._process is None:
            self.start()
        return self._ask(command, *arguments)

    def _ask(self, command: str, *arguments: Any) -> Any:
        assert self._connection is not None
        try:
            self._connection.send((command, arguments))
            if not self._connection.poll(self.patience):
                raise LateError(command, self.patience)
            fine, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self.stop()
            raise WorkerError(f"the process died during {command}") from error
        except WorkerError:
            self.stop()
            raise
        if not fine:
            raise WorkerError(answer)
        return answer

    def stop(self) -> None:
        """End the worker, by force if it does not end by itself."""
        if self._process is None or self._connection is None:
            return
        # Suppressed because a worker that has died cannot be told anything.
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(2.0)
        if self._process.is_alive():
            self._kill()
            self._process.join()
        self._connection.close()
        self._process = None
        self._connection = None

    def _kill(self) -> None:
        """End the worker and what it has started, if it leads a group of its own."""
        assert self._process is not None
        process = self._process.pid
        if process is not None and hasattr(os, "killpg"):
            # It may end by itself, or never have come so far as to make its group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        self._process.kill()
