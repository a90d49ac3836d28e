"""The functions of libm for generated kernels, vectorised by glibc's libmvec where it is present.

Each function is a call to the scalar C function, marked with the vector variants that may replace
it (the attribute "vector-function-abi-variant", of the x86 vector-function ABI). LLVM's loop
vectoriser then calls, say, `_ZGVeN16v_expf` for 16 float32 values at once. No fast-math flag is
involved: the vector functions treat NaN, infinities and signed zeros as the scalar ones do, and are
within 4 units in the last place. Without libmvec (another system, an old glibc) the scalar call
remains.

The rounding functions are single LLVM instructions on every target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from llvmlite.ir.instructions import CallInstrAttributes
from numba import extending
from numba.core import types

from tracegrad.codegen.vector_library import vector_variants

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic

_UNARY = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "cbrt", "cos"),
    *("cosh", "erf", "erfc", "exp", "exp2", "expm1", "lgamma", "log"),
    *("log10", "log1p", "log2", "sin", "sinh", "tan", "tanh", "tgamma"),
)
_BINARY = ("atan2", "fmod", "hypot", "nextafter", "pow")

# Name -> (LLVM intrinsic, number of operands).
_INSTRUCTIONS = {
    "ceil": ("ceil", 1),
    "copysign": ("copysign", 2),
    "fabs": ("fabs", 1),
    "floor": ("floor", 1),
    "fma": ("fma", 3),
    "rint": ("rint", 1),
    "sqrt": ("sqrt", 1),
    "trunc": ("trunc", 1),
}

__all__ = sorted([*_UNARY, *_BINARY, *_INSTRUCTIONS])

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The functions are made in a loop, at the end."""


class _OpenAttributes(CallInstrAttributes):  # type: ignore[misc]
    """Call attributes without llvmlite's list of known names, which lacks those needed here."""

    def add(self, name: str) -> None:
        """Accept any attribute."""
        set.add(self, name)


def _keep_declared(module: Any, function: Any) -> None:
    """List a function in `llvm.compiler.used`, so that linking does not drop its declaration.

    The vectoriser only uses a variant that the module declares, and nothing calls it before.
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
            _keep_declared(module, variant)
        mappings.append(f"_ZGV_LLVM_N{lanes}{'v' * count}_{symbol}({name})")
    if mappings:
        attributes.append(f'"vector-function-abi-variant"="{",".join(mappings)}"')
    call.attributes = _OpenAttributes(attributes)
    return call


def _result(kinds: tuple[Any, ...]) -> Any:
    """float32 if every operand is, else float64."""
    return types.float32 if all(kind == types.float32 for kind in kinds) else types.float64


def _library_function(name: str, kinds: tuple[Any, ...]) -> Any:
    """The signature and code of a call to libm."""
    kind = _result(kinds)
    symbol = name + "f" if kind == types.float32 else name

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _emit_call(builder, symbol, arguments)

    return kind(*[kind] * len(kinds)), generate


def _instruction(name: str, kinds: tuple[Any, ...]) -> Any:
    """The signature and code of an LLVM floating-point intrinsic."""
    kind = _result(kinds)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        operand = arguments[0].type
        shape = ir.FunctionType(operand, [operand] * len(arguments))
        function = builder.module.declare_intrinsic(f"llvm.{name}", [operand], shape)
        return builder.call(function, arguments)

    return kind(*[kind] * len(kinds)), generate


def _make(name: str, define: Any, operands: int) -> Any:
    """Make the Numba function of a name with one, two or three operands."""

    def one(typing: Any, x: Any) -> Any:
        return define(name, (x,))

    def two(typing: Any, x: Any, y: Any) -> Any:
        return define(name, (x, y))

    def three(typing: Any, x: Any, y: Any, z: Any) -> Any:
        return define(name, (x, y, z))

    chosen = (one, two, three)[operands - 1]
    chosen.__name__ = name
    return intrinsic(chosen)


for _name in _UNARY:
    globals()[_name] = _make(_name, _library_function, 1)
for _name in _BINARY:
    globals()[_name] = _make(_name, _library_function, 2)
for _name, (_llvm, _operands) in _INSTRUCTIONS.items():
    globals()[_name] = _make(_llvm, _instruction, _operands)
