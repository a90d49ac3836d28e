"""What LLVM is told about loops; above all how many iterations to compute side by side.

A processor looks ahead for work that waits for nothing, but not past a few hundred instructions. A
chain of functions such as `tanh(exp(tanh(x)))` is longer than that, so it computes one vector of
elements after the other, and most of its units wait. LLVM's vectoriser does not see this: it
counts instructions, and leaves a long loop as it is.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import types

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic

__all__ = ["interleave"]


@intrinsic(prefer_literal=True)
def interleave(typing: Any, count: Any) -> Any:
    """The last statement of an innermost loop, of which `count` vectors are to be computed at once.

    `count` is a literal.
    """
    if not isinstance(count, types.IntegerLiteral):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        # The jump back to the head of the loop, which is to be marked, is not there yet.
        builder.block.interleaved = count.literal_value
        return context.get_dummy_value()

    return types.void(count), generate


def mark_loops(module: ir.Module) -> None:
    """Tell LLVM of a whole module what `interleave` has asked for."""
    for function in module.functions:
        for block in function.blocks:
            count = getattr(block, "interleaved", None)
            if count is not None:
                number = ir.Constant(ir.IntType(32), count)
                _mark_loop(block.terminator, ["llvm.loop.interleave.count", number])


def keep_loop(jump: Any) -> None:
    """Tell LLVM that a loop is good as it is; `jump` is the jump back to its head.

    Several copies of its body take long to compile, and here gain nothing.
    """
    never = ir.Constant(ir.IntType(1), 0)
    _mark_loop(jump, ["llvm.loop.unroll.disable"], ["llvm.loop.vectorize.enable", never])


def _mark_loop(jump: Any, *wishes: Any) -> None:
    module = jump.module
    jump.set_metadata("llvm.loop", _Loop(module, [module.add_metadata(x) for x in wishes]))


class _Loop(ir.values.MDValue):  # type: ignore[misc]
    """What LLVM knows a loop by: metadata that is like no other, and begins with itself."""

    def __init__(self, module: ir.Module, wishes: list[Any]) -> None:
        super().__init__(module, wishes, str(len(module.metadata)))

    def descr(self, buf: list[str]) -> None:
        names = ", ".join(x.get_reference() for x in (self, *self.operands))
        buf += [f"distinct !{{ {names} }}", "\n"]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)
