"""Programs: sequences of kernel launches as data, run by one native interpreter.

A `Program` is an int64 table of buffers and steps, so a new one, made of kernels that exist, costs
no compilation, and running a whole forward or backward is one native call. The interpreter itself
is in `interpreter.py`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tracegrad.config import config
from tracegrad.errors import CompilationError
from tracegrad.runtime import blas, workers
from tracegrad.runtime.kernels import Kernel, announce, compile_kernel, machine_source

_HEADER = 12
_METH_FASTCALL = 0x0080
_MESSAGE = ctypes.create_string_buffer(
    b"a program takes one int or numpy.ndarray for each of its bases"
)
_NAME = ctypes.create_string_buffer(b"run")


class Buffer(NamedTuple):
    """Memory that kernels name by slot: a base among the call's arguments, and a byte offset."""

    base: int
    offset: int = 0


class Step(NamedTuple):
    """One launch: a kernel, its table of words, the extent of its outermost loop.

    A part of the extent smaller than `grain` is not worth a thread; the default keeps the step in
    one piece. `blas`: the kernel calls BLAS.
    """

    kernel: Kernel
    table: Sequence[int]
    extent: int
    grain: int = sys.maxsize
    blas: bool = False


def parted(extent: int, grain: int) -> bool:
    """Whether a step of some extent may run in several threads."""
    return extent // max(grain, 1) > 1


class Program:
    """A list of steps over a list of buffers.

    `program.run(*bases)` runs it. Each base is an address as `int`, or a `numpy.ndarray` whose
    data address is taken; the caller keeps the memory alive. Slot `i` of the kernels is
    `buffers[i]`. Wrong arguments raise TypeError and run nothing. `threads`: a kernel runs others
    in threads.
    """

    __slots__ = ("bases", "buffers", "run", "steps", "threads", "words")

    run: Callable[..., None]

    def __init__(
        self,
        buffers: Sequence[Buffer],
        steps: Sequence[Step],
        bases: int,
        threads: bool = False,
    ) -> None:
        for buffer in buffers:
            if not 0 <= buffer.base < bases:
                raise ValueError(f"{buffer} refers to none of the {bases} bases")
        self.buffers = tuple(buffers)
        self.steps = tuple(steps)
        self.bases = bases
        self.threads = threads
        self.words = _assemble(self.buffers, self.steps, bases)
        self.run = native_function(machine_source("interpreter"), "call", self.words)
        if threads or any(parted(step.extent, step.grain) for step in self.steps):
            _want_threads()

    def only(self, steps: Sequence[Step]) -> Program:
        """A program of these of its steps alone."""
        return Program(self.buffers, steps, self.bases, self.threads)


def _assemble(buffers: Sequence[Buffer], steps: Sequence[Step], bases: int) -> Any:
    """The program as an array of words; see `interpreter` for the layout."""
    pointers_at = _HEADER
    buffers_at = pointers_at + len(buffers) + bases
    steps_at = buffers_at + 2 * len(buffers)
    table_at = steps_at + 4 * len(steps)
    words = [
        _control.ctypes.data,
        bases,
        len(buffers),
        len(steps),
        buffers_at,
        steps_at,
        pointers_at,
        id(int),
        id(np.ndarray),
        id(None),
        id(TypeError),
        ctypes.addressof(_MESSAGE),
    ]
    words += [0] * (len(buffers) + bases)
    for buffer in buffers:
        words += (buffer.base, buffer.offset)
    tables: list[int] = []
    for step in steps:
        grain = -step.grain if step.blas else step.grain
        words += (step.kernel.address, table_at + len(tables), step.extent, grain)
        tables += step.table
    return np.array(words + tables, np.int64)


# ------------------------------------------------------------------------------ the native function

_METHOD_SIGNATURE = "intp(intp, intp, intp)"
# A program that nobody has seen before takes at least so many seconds to compile, where there is
# not even an interpreter for it.
_FIRST_PROGRAM = 0.6


def requirements(threads: bool) -> list[tuple[str, str, str]]:
    """What a program takes to run, besides its kernels, for `kernels.announce`."""
    sources = workers.requirements() if threads and _control[0] > 1 else []
    return [*sources, (machine_source("interpreter"), "call", _METHOD_SIGNATURE)]


@cache
def expect_first() -> None:
    """Before the first program of this process is planned: get ready to compile, if it seems that
    no process has compiled anything yet.
    """
    announce(requirements(threads=False), besides=_FIRST_PROGRAM)


class _MethodDefinition(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("documentation", ctypes.c_char_p),
    )


@dataclass(frozen=True, slots=True)
class Method:
    """A compiled function as a method of Python; ctypes would take longer to call it than it takes.

    Its C signature is that of METH_FASTCALL: owner, address of the arguments, their count.
    """

    address: int
    definition: _MethodDefinition


_methods: dict[tuple[str, str], Method] = {}
_methods_lock = threading.Lock()


def method_definition(source: str, entry: str) -> Method:
    """The function `entry` of a generated or written source, compiled.

    Python functions refer to it by its address, so there is one for good.
    """
    with _methods_lock:
        found = _methods.get((source, entry))
        if found is None:
            found = _methods[source, entry] = _method(source, entry)
        return found


def _method(source: str, entry: str) -> Method:
    if object.__basicsize__ != 16:
        raise CompilationError(
            "tracegrad needs a Python with the global interpreter lock; on a free-threaded build "
            "set TRACEGRAD_DISABLE=1 to run eagerly"
        )
    address = compile_kernel(source, entry, _METHOD_SIGNATURE).address
    name = ctypes.cast(_NAME, ctypes.c_char_p)
    return Method(address, _MethodDefinition(name, address, _METH_FASTCALL, None))


def native_function(source: str, entry: str, owner: Any) -> Callable[..., Any]:
    """A Python function that calls `entry` with `owner`, which it keeps alive."""
    method = method_definition(source, entry)
    made: Callable[..., Any] = _function_type()(ctypes.byref(method.definition), owner, None)
    return made


@cache
def _function_type() -> Any:
    """CPython's constructor of built-in functions: (definition, self, module) -> function."""
    prototype = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.POINTER(_MethodDefinition), ctypes.py_object, ctypes.c_void_p
    )
    return prototype(("PyCFunction_NewEx", ctypes.pythonapi))


# ------------------------------------------------------------------------------------------ threads


def _default_threads() -> int:
    """What the environment says, or Numba's own limit, known without importing Numba."""
    if config.num_threads is not None:
        return config.num_threads
    named = os.environ.get("NUMBA_NUM_THREADS", "")
    if named.isdigit():
        return max(int(named), 1)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# The control words of the interpreter, see `primitives.launch_step`.
_control = np.array([_default_threads(), 0, 0, 0, 0], np.int64)
_threads_wanted = False


def control_address() -> int:
    """Where the control words are."""
    return int(_control.ctypes.data)


def get_num_threads() -> int:
    """The number of threads that a large step is split over."""
    return int(_control[0])


def set_num_threads(count: int) -> None:
    """Split large steps into `count` parts, at least 1, each for a thread; also those of programs
    that exist. With 1 everything runs in the calling thread. BLAS is told the same.
    """
    _control[0] = count
    blas.set_num_threads(count)
    if _threads_wanted:
        _want_threads()


def know_blas() -> None:
    """Let programs tell BLAS how many threads to use."""
    if not _control[2]:
        _control[2:4] = blas.thread_functions()


def _want_threads() -> None:
    """Start the threads, unless only one may run."""
    global _threads_wanted
    if not _threads_wanted and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_threads)
    _threads_wanted = True
    if _control[0] > 1:
        _control[1], _control[4] = workers.start(int(_control[0]))


def _forget_threads() -> None:
    """Threads do not survive a fork: the child starts its own with its next program."""
    workers.forget()
    _control[1] = _control[4] = 0
