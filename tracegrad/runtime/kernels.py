"""Generated source to machine code: one compilation for each kernel, ever.

Equal source gives the same `Kernel` object in a process; another process loads its object code from
the disk, without importing Numba. `machine_code` compiles, and `compilers` lets other processes do
so; `object_files` keeps, `linking` loads; nothing of Numba or LLVM is imported before the first
kernel.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tracegrad import codegen
from tracegrad.errors import CompilationError
from tracegrad.log import log
from tracegrad.runtime import compilers, object_files

KERNEL_SIGNATURE = "void(intp, intp, intp, intp)"


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Machine code at an address, and what it was made of."""

    name: str
    source: str
    address: int
    entry: str = "kernel"
    signature: str = KERNEL_SIGNATURE

    def assembly(self) -> str:
        """The machine code in text."""
        from tracegrad.runtime import machine_code

        return machine_code.assembly(self.name, self.source, self.entry, self.signature)


@dataclass(slots=True)
class Statistics:
    """What this process has done for the kernels that it was asked for.

    elsewhere   how many of those that were compiled another process has compiled for it.
    """

    compiled: int = 0
    elsewhere: int = 0
    loaded: int = 0
    reused: int = 0
    seconds: float = 0.0


statistics = Statistics()

_kernels: dict[tuple[str, str], Kernel] = {}
_lock = threading.RLock()


def compile_kernel(source: str, entry: str = "kernel", signature: str = KERNEL_SIGNATURE) -> Kernel:
    """The kernel that a generated source describes.

    `source` defines `kernel(pointers, table, start, stop)`, four integers; it should import what
    it uses from `tracegrad.codegen.primitives`. The other arguments are for the interpreters of
    programs, which are compiled the same way: another function of the source and its C signature.

    Raises:
        CompilationError: the source is no valid kernel; that is a bug of codegen.
    """
    key = source, entry
    kernel = _kernels.get(key)
    if kernel is not None:
        statistics.reused += 1
        return kernel
    with _lock:
        kernel = _kernels.get(key)
        if kernel is None:
            kernel = _kernels[key] = _make(source, entry, signature)
        else:
            statistics.reused += 1
        return kernel


def announce(wanted: Iterable[tuple[str, str, str]], besides: float = 0.0) -> None:
    """Say what `compile_kernel` will soon be asked for, in order: sources, entries, signatures.

    What is in no cache may be compiled by other processes meanwhile. `besides`: how many seconds of
    compilation follow if one of these is missing.
    """
    missing = {}
    for source, entry, signature in wanted:
        key = source, entry
        if key not in _kernels and key not in missing:
            name = _name(source, entry)
            if not object_files.has(name):
                missing[key] = compilers.Job(name, source, entry, signature)
    if missing:
        compilers.share(list(missing.values()), besides)


def _name(source: str, entry: str) -> str:
    """What a kernel is known by in all processes."""
    return "k" + hashlib.sha256(f"{_toolchain()}\n{entry}\n{source}".encode()).hexdigest()[:32]


def _make(source: str, entry: str, signature: str) -> Kernel:
    """Load a kernel from disk, or compile it, and count which."""
    from tracegrad.runtime import linking

    begin = time.perf_counter()
    name = _name(source, entry)
    code = object_files.read(name)
    address = linking.load(code) if code is not None else 0
    if address:
        statistics.loaded += 1
        done = "loaded"
    else:
        with _without_collection():
            address = _compile(name, source, entry, signature)
        statistics.compiled += 1
        done = "compiled"
    seconds = time.perf_counter() - begin
    statistics.seconds += seconds
    log("cache", lambda: f"{name} {done} in {seconds * 1e3:.0f} ms")
    return Kernel(name, source, address, entry, signature)


@contextmanager
def _without_collection() -> Iterator[None]:
    """While this lasts, Python looks for no cycles of garbage.

    A compiler makes so many objects, when it is imported too, that it would look through the whole
    heap several times, which is a tenth of the time of a first call.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _compile(name: str, source: str, entry: str, signature: str) -> int:
    """Compile a kernel, keep it for other processes, and load it; its address."""
    from tracegrad.runtime import linking

    code = compilers.take(name)
    if code is not None:
        statistics.elsewhere += 1
    else:
        from tracegrad.runtime import machine_code

        try:
            code = machine_code.compile_source(name, source, entry, signature)
        except CompilationError as error:
            handle, path = tempfile.mkstemp(prefix="tracegrad-", suffix=".py")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(source)
            raise CompilationError(
                f"a generated kernel does not compile, which is a bug of tracegrad; its source is "
                f"in {path}. Set TRACEGRAD_DISABLE=1 to run eagerly. Numba said: {error}"
            ) from None
    object_files.write(name, source, code)
    address = linking.load(code)
    if not address:
        raise CompilationError(
            f"a generated kernel calls what this process does not have ({', '.join(code.requires)})"
            ", which is a bug of tracegrad. Set TRACEGRAD_DISABLE=1 to run eagerly."
        )
    return address


@cache
def vocabulary(*packages: str) -> str:
    """The text of packages of `codegen`: of the words that generated code is written in."""
    # A change there makes other kernels.
    root = Path(codegen.__file__).parent
    files = [path for package in packages for path in sorted((root / package).glob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@cache
def machine_source(name: str) -> str:
    """The text of a module of this package, such as those that are compiled and never imported."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")


@cache
def _toolchain() -> str:
    """A digest of all that machine code depends on besides the source."""
    from tracegrad.codegen import processor
    from tracegrad.codegen.vector_library import vector_widths

    parts = [
        sys.version,
        importlib.metadata.version("numba"),
        importlib.metadata.version("llvmlite"),
        processor.cpu_name(),
        processor.cpu_features(),
        f"libmvec {vector_widths()}",
        vocabulary("primitives"),
        machine_source("machine_code"),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
