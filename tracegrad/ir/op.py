"""What an op is: one record from which eager code, compiled code, gradients, printing and tests
come.

The records live in `tracegrad/ir/ops/`, one block each. The constructors there (`elementwise`,
`reduction`, ...) are the families of `tracegrad/ir/families.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tracegrad.errors import GraphError
from tracegrad.ir.graph import Builder, Node
from tracegrad.ir.types import DType, TensorType, opaque

Array = np.ndarray[Any, Any]


class _NonDifferentiable:
    def __repr__(self) -> str:
        return "NONDIFFERENTIABLE"


NONDIFFERENTIABLE: Final = _NonDifferentiable()
"""Said by an op whose output carries no gradient."""

Rule = Callable[..., Node | None]
"""`rule(g, y, *xs, **params)`: the cotangent of one input, from the output's cotangent `g`, the
output `y`, the inputs `xs`; None where it is zero. Built from ops, so that it differentiates again.
"""


@dataclass(frozen=True)
class Domain:
    """Where tests sample an op: real inputs uniform in [low, high], kept `margin` away from each of
    `avoid`.
    """

    low: float = -2.0
    high: float = 2.0
    avoid: tuple[float, ...] = ()
    margin: float = 0.1


@dataclass(frozen=True)
class Sample:
    """One call for the op-table tests: input shapes, params and, where they matter, domains or
    dtypes per input.

    `make`, when given, builds the inputs itself: `make(rng, dtype) -> list of arrays` (index
    arrays, say).
    """

    shapes: tuple[tuple[int, ...], ...]
    params: dict[str, Any]
    domains: tuple[Domain, ...] | None = None
    make: Callable[[np.random.Generator, DType], list[Array]] | None = None


@dataclass(frozen=True, eq=False)
class Op:
    """One operation of the IR.

    infer      `infer(*types, **params) -> TensorType`; raises the user's ShapeError / DimError /
               DtypeError.
    evaluate   `evaluate(*arrays, **params)`: the meaning, in NumPy. Never writes to its inputs; may
               return a view.
    vjp        a Rule per input, or one Rule for every input of a variadic op (called `rule(i, g, y,
               *xs, **params)`),
               or NONDIFFERENTIABLE.
    arity      number of inputs; None for variadic.
    scalar     elementwise: the loop body as an expression of {x} or {x0} {x1} ..., see codegen.
    samples    calls that the op-table tests make.
    expand     composites: `expand(*nodes, **params) -> Node`, the same thing said in other ops.
    grad_name  PyTorch's class name of the tape node, e.g. "MulBackward0".
    """

    name: str
    family: str
    infer: Callable[..., TensorType]
    evaluate: Callable[..., Any]
    vjp: tuple[Rule | None, ...] | Rule | _NonDifferentiable
    arity: int | None
    scalar: Any = None
    samples: tuple[Sample, ...] = ()
    expand: Callable[..., Node] | None = None
    grad_name: str = ""
    pure: bool = True
    sample_dtypes: tuple[DType, ...] | None = None

    def __call__(self, *inputs: Any, **params: Any) -> Node:
        """Append this op to the current builder. Python scalars become constants of the tensors'
        dtype.
        """
        return Builder.current().append(self, lift(inputs), params)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def lift(inputs: Sequence[Any]) -> list[Node]:
    """Make constants of Python scalars among `inputs`, in the dtype of the first non-bool node
    there.
    """
    nodes = [x for x in inputs if isinstance(x, Node)]
    if len(nodes) == len(inputs):
        return nodes
    if not nodes:
        raise GraphError("an op needs at least one node among its inputs")
    dtype = next((x.dtype for x in nodes if x.dtype.kind != "b"), nodes[0].dtype)
    builder = Builder.current()
    return [x if isinstance(x, Node) else builder.constant(x, dtype) for x in inputs]


OPS: dict[str, Op] = {}
"""Every op by name."""


def register(op: Op) -> Op:
    """Add `op` to the table; GraphError if the name is taken or the gradient was left out."""
    if op.name in OPS:
        raise GraphError(f"op {op.name!r} is defined twice")
    if op.vjp is None:
        raise GraphError(
            f"op {op.name!r} does not say its gradient: give vjp= or NONDIFFERENTIABLE"
        )
    OPS[op.name] = op
    return op


def evaluate(op: Op, arrays: Sequence[Array], params: dict[str, Any], dtype: DType) -> Array:
    """The op on NumPy arrays, as an ndarray of exactly `dtype`, quiet about division by zero and
    the like.
    """
    with np.errstate(all="ignore"):
        result = op.evaluate(*arrays, **params)
    if dtype is opaque:
        return result  # type: ignore[no-any-return]
    return np.asarray(result, dtype.numpy)


def _infer_input() -> TensorType:
    raise GraphError("inputs are made by Builder.input")


INPUT: Final = register(
    Op("input", "source", _infer_input, _infer_input, NONDIFFERENTIABLE, arity=0)
)


def _infer_constant(value: Any) -> TensorType:
    from tracegrad.ir.types import type_of

    return type_of(value.array)


CONSTANT: Final = register(
    Op("constant", "source", _infer_constant, lambda value: value.array, NONDIFFERENTIABLE, arity=0)
)
