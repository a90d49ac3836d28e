"""Object code into this process: LLVM's loader, without Numba where the code does not need it.

A process whose kernels are all in the cache never imports Numba, which would be a good part of
the time of its first call.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import binding

from tracegrad.codegen import processor
from tracegrad.codegen.vector_library import vector_widths
from tracegrad.runtime.object_files import ObjectCode


def load(code: ObjectCode) -> int:
    """The address of the function; 0 where something that it refers to is not in this process.

    The caller keeps two threads from loading at once. Code is never unloaded.
    """
    # The vector library has to be in the process before code that refers to it is linked.
    vector_widths()
    if not _has(code.requires):
        _provide_numba_functions()
        if not _has(code.requires):
            return 0
    engine = _engine()
    engine.add_object_file(binding.ObjectFileRef.from_data(code.code))
    engine.finalize_object()
    return int(engine.get_function_address(code.symbol))


def _has(symbols: tuple[str, ...]) -> bool:
    return all(binding.address_of_symbol(name) for name in symbols)


@cache
def _provide_numba_functions() -> None:
    """Enter what Numba's generated code calls, such as its allocator."""
    from numba.core.registry import cpu_target

    _ = cpu_target.target_context


@cache
def target_machine() -> Any:
    """This processor, as LLVM's code generator sees it."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple = binding.get_process_triple()
    target = binding.Target.from_triple(triple)
    return target.create_target_machine(
        cpu=processor.cpu_name(),
        features=processor.cpu_features(),
        opt=3,
        # What LLVM's loader can relocate on x86; other processors have a default that it can.
        reloc="static" if triple.startswith(("x86", "i386", "i686")) else "default",
        codemodel="jitdefault",
        jit=True,
    )


@cache
def _engine() -> Any:
    """LLVM's loader."""
    return binding.create_mcjit_compiler(binding.parse_assembly(""), target_machine())
