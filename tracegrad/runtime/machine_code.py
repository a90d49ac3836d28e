"""A generated function to object code: Numba types and lowers it, LLVM optimises and emits it.

Numba's own pipeline is for functions that people write: it lifts loops, inlines closures, rewrites
array expressions, prunes reference counts, and adds an entry for Python and one for C. Generated
kernels need none of that, and their compilation is most of the time of a first call. So they go
through the passes that they need, and one small C entry is put around them. What comes out is one
object file, which `object_files` keeps and `linking` loads.

This is the only module that imports Numba to compile, and it is imported when a kernel is not in
the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

from llvmlite import binding
from numba.core import codegen, compiler, cpu, sigutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target
from numba.core.typed_passes import (
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode

from tracegrad.codegen.primitives.interleaving import mark_loops
from tracegrad.errors import CompilationError
from tracegrad.runtime.linking import target_machine
from tracegrad.runtime.object_files import ObjectCode

# Numba's internals carry no usable types.
_numba: Any = cpu_target
_compiler: Any = compiler
_cpu: Any = cpu
_pass_manager: Any = PassManager

_PASSES = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    ReconstructSSA,
    NopythonTypeInference,
    PreLowerStripPhis,
    NativeLowering,
    NoPythonBackend,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is compiled: a function, and the symbol and C signature of its entry."""

    function: FunctionType
    symbol: str
    signature: str

    @property
    def needs_all_passes(self) -> bool:
        """Whether it has NumPy's arrays and functions, which Numba rewrites."""
        return "np" in self.function.__code__.co_names


class _Pipeline(compiler.CompilerBase):
    """Only the passes that a generated kernel needs."""

    def define_pipelines(self) -> list[Any]:
        manager = _pass_manager("kernel")
        for each in _PASSES:
            manager.add_pass(each, each.__name__)
        manager.finalize()
        return [manager]


class _WholePipeline(compiler.CompilerBase):
    """All of Numba's passes."""

    def define_pipelines(self) -> list[Any]:
        return [_compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)]


class _Library(codegen.JITCodeLibrary):
    """Collects modules without optimising each: that is done once, when all are together."""

    def add_ir_module(self, ir_module: Any) -> None:
        mark_loops(ir_module)
        super().add_ir_module(ir_module)  # type: ignore[no-untyped-call]

    def add_llvm_module(self, ll_module: Any) -> None:
        self._final_module.link_in(ll_module)

    def merged(self) -> Any:
        """One module with all that the function calls."""
        module = self._final_module
        for library in dict.fromkeys(self._linking_libraries):
            module.link_in(library._get_module_for_linking(), preserve=True)
        return module


def compile_source(symbol: str, source: str, entry: str, signature: str) -> ObjectCode:
    """The object code of the function `entry` of a source, under a symbol.

    Raises:
        CompilationError: Numba refuses the function; its message is in the error.
    """
    module = _optimised_module(_entry(symbol, source, entry, signature))
    # What another process has to know before it loads this code; the linker aborts the process for
    # a symbol that it does not find.
    symbols = sorted(x.name for x in module.functions if x.is_declaration and not _is_llvm(x))
    return ObjectCode(symbol, tuple(symbols), target_machine().emit_object(module))


def assembly(symbol: str, source: str, entry: str, signature: str) -> str:
    """The machine code of a function in text, compiled once more."""
    module = _optimised_module(_entry(symbol, source, entry, signature))
    return str(target_machine().emit_assembly(module))


def prepare() -> None:
    """Load what the first compilation would."""
    _context()


def _entry(symbol: str, source: str, entry: str, signature: str) -> Entry:
    """The function of a source, with the symbol that it gets."""
    namespace: dict[str, Any] = {"__name__": f"tracegrad.{symbol}"}
    exec(compile(source, f"<{symbol}>", "exec"), namespace)
    return Entry(namespace[entry], symbol, signature)


@global_compiler_lock
def _optimised_module(entry: Entry) -> Any:
    """The LLVM module of a function and its C entry."""
    arguments, result = sigutils.normalize_signature(entry.signature)  # type: ignore[no-untyped-call]
    library = _Library(_context().codegen(), entry.symbol)  # type: ignore[no-untyped-call]
    try:
        compiled = _compiler.compile_extra(
            _numba.typing_context,
            _context(),
            entry.function,
            arguments,
            result,
            _flags(entry),
            {},
            library=library,
            pipeline_class=_WholePipeline if entry.needs_all_passes else _Pipeline,
        )
    except NumbaError as error:
        raise CompilationError(" ".join(str(error).strip().splitlines()[:3])) from None
    module = library.merged()
    module.link_in(_entry_module(entry.symbol, compiled.fndesc.mangled_name, arguments, result))
    for number, value in enumerate((*module.functions, *module.global_variables)):
        if not (value.is_declaration or value.name == entry.symbol or _is_llvm(value)):
            # Nobody else calls it: once inlined it is dropped, and names cannot clash. Numba's name
            # counts what this process has compiled before, and equal source has equal code.
            value.linkage = "internal"
            value.name = f"{entry.symbol}.{number}"
    machine = target_machine()
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    options = binding.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    options.slp_vectorization = True
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return module


def _is_llvm(value: Any) -> bool:
    """Whether a function or variable is LLVM's own."""
    return str(value.name).startswith("llvm.")


def _entry_module(symbol: str, mangled: str, arguments: Any, result: Any) -> Any:
    """The C entry around a function of Numba's calling convention.

    That convention returns a status, which a kernel has no use for, and takes where to put the
    result and an exception. All arguments are 64-bit integers.
    """
    places = ", ".join(f"i64 %a{i}" for i in range(len(arguments)))
    kinds = ", ".join(["ptr", "ptr", *["i64"] * len(arguments)])
    kind, end = ("void", "ret void") if result == types.none else ("i64", "ret i64 %value")
    return binding.parse_assembly(f"""
        declare i32 @"{mangled}"({kinds})
        define {kind} @{symbol}({places}) {{
            %result = alloca i64
            %exception = alloca ptr
            %status = call i32 @"{mangled}"(ptr %result, ptr %exception, {places})
            %value = load i64, ptr %result
            {end}
        }}
    """)


@cache
def _context() -> Any:
    """Numba's compiler for the CPU, with every registered primitive."""
    context = _numba.target_context
    _numba.typing_context.refresh()
    context.refresh()
    return context


def _flags(entry: Entry) -> Any:
    """How Numba compiles: to native code for a caller in C, dividing as NumPy does."""
    flags = _compiler.Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    flags.nrt = entry.needs_all_passes
    # Contraction to fused multiply-add is the one licence given to all arithmetic.
    flags.fastmath = _cpu.FastMathOptions({"contract"})
    return flags
