"""Generated source to machine code: one compilation for each kernel, ever.

`compile_kernel(source)` writes the source to a file named by its hash, imports that file as a
module, and has Numba compile the function `kernel` in it as a C function. Equal source gives the
same `Kernel` object in a process; another process loads the object code from Numba's disk cache,
which works because the source is an ordinary file. The hash covers everything that the machine
code depends on beyond the source: versions, CPU, vector library and tracegrad's own primitives.

Importing this module does not import Numba; the first compilation does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tracegrad.config import config
from tracegrad.errors import CompilationError
from tracegrad.log import log

_PACKAGE = "tracegrad_generated"

KERNEL_SIGNATURE = "void(intp, intp, intp, intp)"


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Machine code with the C signature that it was compiled for, at an address, kept alive."""

    name: str
    source: str
    path: Path
    address: int
    owner: Any

    def assembly(self) -> str:
        """The machine code in text; only for a kernel compiled by this process."""
        return str(self.owner._library.get_asm_str())


@dataclass(slots=True)
class Statistics:
    """What this process has done for the kernels that it was asked for."""

    compiled: int = 0
    loaded: int = 0
    reused: int = 0
    seconds: float = 0.0


statistics = Statistics()

_kernels: dict[str, Kernel] = {}
_lock = threading.RLock()


def compile_kernel(
    source: str,
    entry: str = "kernel",
    signature: str = KERNEL_SIGNATURE,
    parallel: bool = False,
) -> Kernel:
    """The kernel that a generated source describes.

    `source` defines `kernel(pointers, table, start, stop)`, four integers; it should import what
    it uses from `tracegrad.codegen.primitives`. The other arguments are for the program
    interpreter, which is compiled the same way: another function of the source, its C signature,
    and whether Numba may run its `prange` loops in threads.

    Raises:
        CompilationError: the source is no valid kernel; that is a bug of codegen.
    """
    key = source if entry == "kernel" else f"{entry}\n{source}"
    kernel = _kernels.get(key)
    if kernel is not None:
        statistics.reused += 1
        return kernel
    with _lock:
        kernel = _kernels.get(key)
        if kernel is None:
            kernel = _kernels[key] = _compile(source, entry, signature, parallel)
        else:
            statistics.reused += 1
        return kernel


def _compile(source: str, entry: str, signature: str, parallel: bool) -> Kernel:
    """Compile a source, or load it from disk, and count which."""
    begin = time.perf_counter()
    toolchain = _toolchain()
    digest = hashlib.sha256(f"{toolchain}\n{source}".encode()).hexdigest()[:32]
    name = f"k{digest}"
    try:
        path = _write(kernel_directory(), name, source)
        owner = _build(name, path, entry, signature, parallel)
    except OSError as error:
        # Numba writes too, so the directory may fail only now: full disk, quota, lost mount.
        path = _write(_temporary_directory(str(error)), name, source)
        owner = _build(name, path, entry, signature, parallel)
    loaded = bool(owner.cache_hits)
    if loaded:
        statistics.loaded += 1
    else:
        statistics.compiled += 1
    seconds = time.perf_counter() - begin
    statistics.seconds += seconds
    log("cache", lambda: f"{name} {'loaded' if loaded else 'compiled'} in {seconds * 1e3:.0f} ms")
    return Kernel(name, source, path, owner.address, owner)


@cache
def _toolchain() -> str:
    """All that machine code depends on besides the source."""
    import llvmlite
    import numba
    from llvmlite import binding

    from tracegrad.codegen import primitives
    from tracegrad.codegen.primitives import vectormath

    settings: Any = numba.config
    if settings.DISABLE_JIT:
        raise RuntimeError("compiled kernels need Numba's JIT, but NUMBA_DISABLE_JIT is set")
    # The vector library has to be in the process before cached code that refers to it is linked.
    widths = vectormath.vector_widths()
    # Everything generated code is built from: a change there makes other kernels.
    vocabulary = sorted(Path(primitives.__file__).parent.glob("*.py"))
    parts = [
        sys.version,
        numba.__version__,
        llvmlite.__version__,
        f"CPU {settings.CPU_NAME} {settings.CPU_FEATURES}",
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
        f"opt {settings.OPT}",
        f"libmvec {widths}",
        *[path.read_text(encoding="utf-8") for path in vocabulary],
    ]
    return "\n".join(parts)


# -------------------------------------------------------------------------------------- directories

_fallback: Path | None = None


def kernel_directory() -> Path:
    """Where generated source and object code of this process go."""
    if _fallback is not None:
        return _fallback
    directory = config.cache_dir / "kernels"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _temporary_directory(str(error))
    if not os.access(directory, os.W_OK | os.X_OK):
        return _temporary_directory(f"{directory} is not writable")
    return directory


def _temporary_directory(reason: str) -> Path:
    """A directory for this process alone, after the cache directory has failed; warns once."""
    global _fallback
    if _fallback is None:
        _fallback = Path(tempfile.mkdtemp(prefix="tracegrad-"))
        warnings.warn(
            f"kernels cannot be cached ({reason}); this process keeps them in {_fallback}. "
            "Set TRACEGRAD_CACHE_DIR to a writable directory.",
            RuntimeWarning,
            stacklevel=2,
        )
    return _fallback


def _write(directory: Path, name: str, source: str) -> Path:
    """Write a generated module once.

    An existing file is never touched, because Numba's index of object code goes by the source
    file's time and size. Two processes may race to write it: the first one to link it wins.
    """
    path = directory / f"{name}.py"
    if path.exists():
        return path
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(source)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:
            # A file system without hard links. Replacing costs at worst one recompilation.
            os.replace(temporary, path)
            return path
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


# -------------------------------------------------------------------------------------- compilation


def _import(name: str, path: Path) -> ModuleType:
    """Import a generated file under a real module name, as Numba's cache requires."""
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE, "Kernels generated by tracegrad.")
        package.__path__ = []
        sys.modules[_PACKAGE] = package
    full_name = f"{_PACKAGE}.{name}"
    if full_name in sys.modules and sys.modules[full_name].__file__ == str(path):
        return sys.modules[full_name]
    specification = importlib.util.spec_from_file_location(full_name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[full_name] = module
    specification.loader.exec_module(module)
    return module


def _build(name: str, path: Path, entry: str, signature: str, parallel: bool) -> Any:
    """The Numba C function of a generated module."""
    from numba import cfunc
    from numba.core.errors import NumbaError

    module = _import(name, path)
    options: dict[str, Any] = {}
    if parallel:
        _start_threads()
        options["parallel"] = True
    else:
        # Contraction to fused multiply-add is the one licence given to all arithmetic.
        options["fastmath"] = {"contract"}
    compiler = cfunc(signature, cache=True, error_model="numpy", **options)
    try:
        return compiler(getattr(module, entry))
    except NumbaError as error:
        reason = str(error).strip().splitlines()
        raise CompilationError(
            f"a generated kernel does not compile, which is a bug of tracegrad; its source is in "
            f"{path}. Set TRACEGRAD_DISABLE=1 to run eagerly. Numba said: {' '.join(reason[:3])}"
        ) from None


def _start_threads() -> None:
    """Start Numba's thread pool, which cached parallel code expects to exist."""
    from numba.np.ufunc import parallel

    launch: Any = parallel._launch_threads
    launch()
