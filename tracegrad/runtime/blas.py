"""Where BLAS is in this process: the addresses of SciPy's routines, and how many threads it uses.

Compiled products call SciPy's BLAS, eager ones NumPy's, which may be another copy of the library.
SciPy itself is not imported where its library has the names of SciPy's own wheels: that would be a
third of the time in which a process comes to a result that was compiled before.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import sys
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from tracegrad.config import config

# By what an extension module that is linked with a BLAS is found, for each copy of the library.
_NUMPY = "numpy._core._multiarray_umath"
_SCIPY = "scipy.linalg.cython_blas"

# What libraries call the functions that set and get the number, with the suffixes of builds.
_FUNCTIONS = (
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("openblas_set_num_threads_64", "openblas_get_num_threads_64"),
    ("MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
)

# What was asked for; None leaves each library what its own environment variables say.
_wanted = config.num_threads


@cache
def gemm_addresses(code: str) -> tuple[int, int]:
    """The addresses of the Fortran routines `?gemm` and `?gemv` for "f32" or "f64"."""
    letter = {"f32": "s", "f64": "d"}[code]
    return _address(f"{letter}gemm"), _address(f"{letter}gemv")


def _address(name: str) -> int:
    """The address of a routine that takes 32-bit integers."""
    # Names without this prefix may be of routines with 64-bit integers.
    symbol = f"scipy_{name}_"
    found = next((x for x in _libraries(_SCIPY) if hasattr(x, symbol)), None)
    if _wanted is not None:
        _tell(_SCIPY, _wanted)
    if found is not None:
        return ctypes.cast(getattr(found, symbol), ctypes.c_void_p).value or 0
    capsule = importlib.import_module(_SCIPY).__pyx_capi__[name]
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
        ("PyCapsule_GetName", ctypes.pythonapi)
    )
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return int(get_pointer(capsule, get_name(capsule)))


def set_num_threads(count: int) -> None:
    """Let BLAS use `count` threads, where it is a library that can be told: OpenBLAS or MKL."""
    global _wanted
    _wanted = count
    for module in (_NUMPY, _SCIPY):
        if module in sys.modules or module in _opened:
            _tell(module, count)


def thread_functions() -> tuple[int, int]:
    """The addresses of C functions that set and get the number of threads of SciPy's BLAS; zeros
    where there are none.
    """
    found = _functions(_SCIPY)
    if found is None:
        return 0, 0
    setter, getter = (ctypes.cast(each, ctypes.c_void_p).value or 0 for each in found)
    return setter, getter


def _tell(module: str, count: int) -> None:
    found = _functions(module)
    if found is not None:
        found[0](count)


@cache
def _functions(module: str) -> tuple[Any, Any] | None:
    """The library's functions to set and get the number; None where there are none."""
    for library in _libraries(module):
        for names in _FUNCTIONS:
            if all(hasattr(library, name) for name in names):
                setter, getter = (getattr(library, name) for name in names)
                setter.argtypes = (ctypes.c_int,)
                setter.restype = None
                return setter, getter
    return None


# The modules whose libraries are in this process, whether or not Python has imported them.
_opened: set[str] = set()


@cache
def _libraries(module: str) -> tuple[ctypes.CDLL, ...]:
    """An extension module and the libraries beside its package, to look for symbols in."""
    _opened.add(module)
    file = _file(module)
    package = file.parents[module.count(".") - 1]
    # On Linux and macOS a symbol is looked for in what a library was linked with too. On Windows it
    # is not, and the library lies in a directory beside the package.
    beside = sorted(package.with_name(f"{package.name}.libs").glob("*openblas*"))
    found = []
    for path in (file, *beside):
        with contextlib.suppress(OSError):
            found.append(ctypes.CDLL(str(path)))
    return tuple(found)


def _file(module: str) -> Path:
    """The file of an extension module, which is imported only if it is not to be found."""
    package, *inner, name = module.split(".")
    spec = importlib.util.find_spec(package)
    if module not in sys.modules and spec is not None and spec.origin is not None:
        directory = Path(spec.origin).parent.joinpath(*inner)
        extension = PathFinder.find_spec(name, [str(directory)])
        if extension is not None and extension.origin is not None:
            return Path(extension.origin)
    return Path(str(importlib.import_module(module).__file__))


if _wanted is not None:
    set_num_threads(_wanted)
