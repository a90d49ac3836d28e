"""A path of a vectorised loop that few elements take.

LLVM's vectoriser turns branches into choices, and so would compute for every element what one in a
million needs. What it does not look into is a function: so the rare path is one, of which there are
forms for whole vectors (the attribute "vector-function-abi-variant", as for libmvec), and these
return at once unless an element is concerned. That costs a call and a comparison for each vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from tracegrad.codegen import processor
from tracegrad.codegen.primitives.expressions import SINGLE, Format, Value, align_stack
from tracegrad.codegen.primitives.vectormath import add_attributes, keep_unused

_PURE = ("nounwind", "willreturn", "memory(none)")
_INDEX = ir.IntType(32)


def unless_large(
    value: Value, x: Value, limit: float, name: str, remedy: Callable[[Value], Value]
) -> Value:
    """`value`, but `remedy(x)` where |x| is more than `limit`.

    `name` is that of the remedy. Where it is taken, `value` may be anything.
    """
    form = x.format
    module = x.builder.module
    align_stack(x.builder)
    scalar = _scalar_form(module, f"tracegrad_{name}_{form.code}", form, limit, remedy)
    mappings = []
    for lanes in _lanes(form):
        vector = _vector_form(module, scalar, form, limit, lanes)
        mappings.append(f"_ZGV_LLVM_N{lanes}vv_{scalar.name}({vector.name})")
    call = x.builder.call(scalar, [value.ref, x.ref])
    variants = f'"vector-function-abi-variant"="{",".join(mappings)}"'
    add_attributes(call, (*_PURE, variants))
    return Value(x.builder, call)


def _lanes(form: Format) -> list[int]:
    """The sizes of vectors that a loop may be made of: a register, and half of one for float32 that
    is computed beside float64.
    """
    size = 64 if processor.has("avx512f") else 32 if processor.has("avx") else 16
    return [size // 4, size // 8] if form is SINGLE else [size // 8]


def _define(module: Any, name: str, kind: Any, *attributes: str) -> Any:
    """A new function of two operands and a result of one type, merged with others of its name."""
    function = ir.Function(module, ir.FunctionType(kind, [kind, kind]), name)
    function.linkage = "linkonce_odr"
    add_attributes(function, (*_PURE, "noinline", *attributes))
    return function


def _scalar_form(
    module: Any, name: str, form: Format, limit: float, remedy: Callable[[Value], Value]
) -> Any:
    """The function for one element."""
    if name in module.globals:
        return module.globals[name]
    function = _define(module, name, form.real)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    value, x = (Value(builder, argument) for argument in function.args)
    with builder.if_then((abs(x) > limit).ref, likely=False):
        builder.ret(remedy(x).ref)
    builder.ret(value.ref)
    return function


def _vector_form(module: Any, scalar: Any, form: Format, limit: float, lanes: int) -> Any:
    """The function for a vector: back at once if no element is large."""
    name = f"{scalar.name}_{lanes}"
    if name in module.globals:
        return module.globals[name]
    kind = ir.VectorType(form.real, lanes)
    function = _define(module, name, kind)
    keep_unused(module, function)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    value, x = function.args
    # llvmlite cannot name the intrinsic of a vector: the sign bit is cleared by hand.
    integers = ir.VectorType(form.integer, lanes)
    mask = ir.Constant(integers, [(1 << form.integer.width - 1) - 1] * lanes)
    magnitude = builder.bitcast(builder.and_(builder.bitcast(x, integers), mask), kind)
    large = builder.fcmp_ordered(">", magnitude, ir.Constant(kind, [limit] * lanes))
    flags = ir.IntType(lanes)
    some = builder.icmp_unsigned("!=", builder.bitcast(large, flags), ir.Constant(flags, 0))
    with builder.if_then(some, likely=False):
        # In a function of its own, so that this one saves no registers.
        slow = _element_by_element(module, scalar, form, lanes)
        builder.ret(builder.call(slow, [value, x], tail=True))
    builder.ret(value)
    return function


def _element_by_element(module: Any, scalar: Any, form: Format, lanes: int) -> Any:
    """The function for a vector by that for one element."""
    kind = ir.VectorType(form.real, lanes)
    function = _define(module, f"{scalar.name}_each_{lanes}", kind, "cold", "optsize", "minsize")
    entry = function.append_basic_block("entry")
    body = function.append_basic_block("body")
    done = function.append_basic_block("done")
    builder = ir.IRBuilder(entry)
    places = [builder.alloca(kind), builder.alloca(kind)]
    for place, argument in zip(places, function.args, strict=True):
        builder.store(argument, place)
    builder.branch(body)
    builder.position_at_end(body)
    lane = builder.phi(_INDEX)
    lane.add_incoming(ir.Constant(_INDEX, 0), entry)
    first = [builder.bitcast(place, form.real.as_pointer()) for place in places]
    elements = [builder.gep(pointer, [lane]) for pointer in first]
    result = builder.call(scalar, [builder.load(element) for element in elements])
    builder.store(result, elements[0])
    following = builder.add(lane, ir.Constant(_INDEX, 1))
    lane.add_incoming(following, body)
    more = builder.icmp_unsigned("<", following, ir.Constant(_INDEX, lanes))
    builder.cbranch(more, body, done)
    builder.position_at_end(done)
    builder.ret(builder.load(places[0]))
    return function
