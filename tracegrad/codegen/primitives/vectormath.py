"""Functions that kernels have from elsewhere: from libm, and as single LLVM instructions.

A function of libm is a call to the scalar C function, marked with the vector variants that may
replace it (the attribute "vector-function-abi-variant", of the x86 vector-function ABI). LLVM's
loop vectoriser then calls, say, `_ZGVeN16vv_hypotf` for 16 float32 values at once, where glibc's
libmvec is present; without it (another system, an old glibc) the scalar call remains. No fast-math
flag is involved: the vector functions treat NaN, infinities and signed zeros as the scalar ones do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import ir

from tracegrad.codegen.primitives.expressions import SINGLE, Body, Value, align_stack, function
from tracegrad.codegen.vector_library import vector_variants

__all__ = ["ceil", "copysign", "fabs", "floor", "fma", "fmod", "hypot", "rint", "sqrt", "trunc"]


def add_attributes(target: Any, names: Iterable[str]) -> None:
    """Give a function or a call attributes of any name: llvmlite's own list lacks some."""
    set.update(target.attributes, names)


def keep_unused(module: Any, function: Any) -> None:
    """List a function in `llvm.compiler.used`, so that it is not dropped before it is called.

    The vectoriser only uses a variant that the module has, and nothing calls it before.
    """
    name = "llvm.compiler.used"
    kept = module.globals.get(name)
    if kept is None:
        kept = ir.GlobalVariable(module, ir.ArrayType(function.type, 0), name)
        kept.linkage = "appending"
        kept.section = "llvm.metadata"
        kept.functions = []
    pointer = ir.IntType(8).as_pointer()
    kept.functions.append(function.bitcast(pointer))
    kept.value_type = ir.ArrayType(pointer, len(kept.functions))
    kept.type = kept.value_type.as_pointer()
    kept.initializer = ir.Constant(kept.value_type, kept.functions)


def _declare(module: Any, name: str, result: Any, operands: list[Any]) -> tuple[Any, bool]:
    """The function of that name in a module, and whether this call has made it."""
    if name in module.globals:
        return module.globals[name], False
    return ir.Function(module, ir.FunctionType(result, operands), name), True


def _emit_call(builder: Any, symbol: str, arguments: Any) -> Any:
    """Call a libm function, with its vector variants attached."""
    align_stack(builder)
    module = builder.module
    kind = arguments[0].type
    count = len(arguments)
    function, _ = _declare(module, symbol, kind, [kind] * count)
    call = builder.call(function, arguments)
    # libm may write errno, which nobody reads here; only a pure call can be vectorised.
    attributes = ["nounwind", "willreturn", "memory(none)"]
    mappings = []
    for name, lanes in vector_variants(symbol, count, 4 if kind == ir.FloatType() else 8):
        vector = ir.VectorType(kind, lanes)
        variant, fresh = _declare(module, name, vector, [vector] * count)
        if fresh:
            keep_unused(module, variant)
        mappings.append(f"_ZGV_LLVM_N{lanes}{'v' * count}_{symbol}({name})")
    if mappings:
        attributes.append(f'"vector-function-abi-variant"="{",".join(mappings)}"')
    add_attributes(call, attributes)
    return call


def library(name: str) -> Body:
    """A function of libm, for operands of either type."""

    def call(*operands: Value) -> Value:
        builder = operands[0].builder
        symbol = name + "f" if operands[0].format is SINGLE else name
        return Value(builder, _emit_call(builder, symbol, [x.ref for x in operands]))

    return call


def _instruction(name: str, operands: int) -> Any:
    """An LLVM intrinsic that is an instruction of the processor."""

    def body(x: Value, *others: Value) -> Value:
        return x.call(name, *others)

    return function(name, body, body, operands)


fmod = function("fmod", library("fmod"), library("fmod"), operands=2)
hypot = function("hypot", library("hypot"), library("hypot"), operands=2)

ceil = _instruction("ceil", 1)
copysign = _instruction("copysign", 2)
fabs = _instruction("fabs", 1)
floor = _instruction("floor", 1)
fma = _instruction("fma", 3)
rint = _instruction("rint", 1)
sqrt = _instruction("sqrt", 1)
trunc = _instruction("trunc", 1)
