"""Where BLAS is in this process: the addresses of SciPy's routines."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def gemm_addresses(code: str) -> tuple[int, int]:
    """The addresses of the Fortran routines `?gemm` and `?gemv` for "f32" or "f64"."""
    letter = {"f32": "s", "f64": "d"}[code]
    return _address(f"{letter}gemm"), _address(f"{letter}gemv")


def _address(name: str) -> int:
    """The address in the capsule by which Cython modules export a C function."""
    # Imported late, because SciPy takes a tenth of a second and many programs hold no product.
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__[name]
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
        ("PyCapsule_GetName", ctypes.pythonapi)
    )
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return int(get_pointer(capsule, get_name(capsule)))
