"""A kernel's source to machine code of a GPU: Numba types and lowers it, NVVM makes PTX, and
nvJitLink machine code. None of them needs a GPU or its driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cuda.bindings import nvjitlink
from numba import cuda
from numba.core import types
from numba.core.errors import NumbaError
from numba.cuda import dispatcher

from tracegrad.errors import CompilationError

# Numba carries no usable types.
_types: Any = types
_cuda: Any = cuda
_dispatcher: Any = dispatcher
_POINTEES = {
    "b1": _types.uint8,
    "u8": _types.uint8,
    "i8": _types.int8,
    "i16": _types.int16,
    "i32": _types.int32,
    "i64": _types.int64,
    # The words of the vocabulary know what the bits are.
    "f16": _types.int16,
    "f32": _types.float32,
    "f64": _types.float64,
}
_NUMBERS = {"i64": _types.int64, "f64": _types.float64}

Capability = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Stated:
    """A device of which only the compute capability is known."""

    compute_capability: Capability


@contextmanager
def _as_current(capability: Capability) -> Iterator[None]:
    """Numba asks the current device for its capability where a kernel calls a function."""
    kept = _dispatcher.get_current_device
    _dispatcher.get_current_device = lambda: _Stated(capability)
    try:
        yield
    finally:
        _dispatcher.get_current_device = kept


def ptx(source: str, signature: Sequence[str], capability: Capability) -> str:
    """The PTX of a kernel, whose arguments `codegen.cuda.DeviceLaunch` describes.

    Raises:
        CompilationError: the source is no valid kernel; that is a bug of codegen.
    """
    namespace: dict[str, Any] = {}
    exec(compile(source, "<kernel>", "exec"), namespace)
    arguments = [
        _types.CPointer(_POINTEES[x[1:]]) if x.startswith("*") else _NUMBERS[x] for x in signature
    ]
    try:
        with _as_current(capability):
            code, _ = _cuda.compile(
                namespace["kernel"],
                _types.void(*arguments),
                device=False,
                abi="numba",
                cc=capability,
                output="ptx",
            )
    except NumbaError as error:
        raise CompilationError(" ".join(str(error).strip().splitlines()[:3])) from None
    return code.decode() if isinstance(code, bytes) else str(code)


@dataclass(frozen=True, slots=True)
class MachineCode:
    """A kernel for GPUs of one compute capability; `report` is what the assembler says of it."""

    code: bytes
    report: str


def machine_code(text: str, capability: Capability) -> MachineCode:
    """The machine code of a kernel's PTX."""
    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose"]
    linker = nvjitlink.create(len(options), options)
    try:
        data = text.encode()
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, data, len(data), "kernel.ptx")
        nvjitlink.complete(linker)
        code = bytearray(nvjitlink.get_linked_cubin_size(linker))
        nvjitlink.get_linked_cubin(linker, code)
        report = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, report)
    finally:
        nvjitlink.destroy(linker)
    return MachineCode(bytes(code), report.decode(errors="replace").rstrip("\0"))
