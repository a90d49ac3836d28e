"""The families of ops: what all ops of a kind share, so that each op's own block holds only what is
its own.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tracegrad.errors import DtypeError, ShapeError
from tracegrad.ir.graph import Builder, Graph, Node, inline
from tracegrad.ir.op import OPS, Domain, Op, Rule, Sample, _NonDifferentiable, register
from tracegrad.ir.params import frozen_params
from tracegrad.ir.types import DTYPES, DType, TensorType, bool_, int64, type_of

Shape = tuple[int, ...]

# Sets of dtypes an op takes.
floating = tuple(t for t in DTYPES if t.kind == "f")
integral = tuple(t for t in DTYPES if t.kind in "iu")
numeric = (*integral, *floating)
bits = (bool_, *integral)
anything = DTYPES

DEFAULT_DOMAIN = Domain()


def broadcast_shapes(*shapes: Shape, op: str = "broadcast") -> Shape:
    """NumPy's broadcasting of shapes; ShapeError names the op and the first bad dimension."""
    if shapes and shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    ndim = max(map(len, shapes), default=0)
    result = [1] * ndim
    for shape in shapes:
        offset = ndim - len(shape)
        for i, size in enumerate(shape):
            have = result[offset + i]
            if have == 1:
                result[offset + i] = size
            elif size not in (1, have):
                listed = " and ".join(map(str, shapes))
                raise ShapeError(
                    f"{op}: shapes {listed} do not broadcast: "
                    f"sizes {have} and {size} differ at dimension {offset + i}"
                )
    return tuple(result)


def _check_dtype(op: str, allowed: Sequence[DType], dtype: DType) -> None:
    if dtype not in allowed:
        listed = ", ".join(t.name for t in allowed)
        raise DtypeError(f"{op}: takes {listed}, not {dtype.name}")


def _fields(scalar: str) -> int:
    names = {name for _, name, _, _ in string.Formatter().parse(scalar) if name}
    return len(names)


def default_grad_name(name: str) -> str:
    """PyTorch's class name of the tape node of most ops: `log_softmax` is `LogSoftmaxBackward0`."""
    return f"{name.title().replace('_', '')}Backward0"


def unbroadcast(g: Node, shape: Shape) -> Node:
    """Sum `g` down to `shape`, the adjoint of broadcasting `shape` to `g.shape`."""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, size in enumerate(shape) if size == 1 and g.shape[lead + i] != 1
    )
    if axes:
        g = OPS["sum"](g, axes=axes, keepdims=False)
    return OPS["reshape"](g, shape=shape) if g.shape != shape else g


def zeros_like(x: Node) -> Node:
    """Zeros of the type of `x`: the cotangent through an op that is flat almost everywhere."""
    return fill(0, x.type)


def fill(value: float, type: TensorType) -> Node:
    """A tensor of `type` with one value everywhere."""
    return broadcast(Builder.current().constant(value, type.dtype), type.shape)


def broadcast(x: Node, shape: Shape) -> Node:
    """`x` broadcast to `shape`."""
    return x if x.shape == shape else OPS["broadcast_to"](x, shape=shape)


def permuted(x: Node, axes: Shape) -> Node:
    """`x` with its axes in the order `axes`."""
    return x if axes == tuple(range(x.ndim)) else OPS["transpose"](x, axes=axes)


def iota(shape: Shape, axis: int, dtype: DType = int64) -> Node:
    """The index along `axis` at each element of `shape`: made for that axis and broadcast along the
    others.
    """
    thin = tuple(size if i == axis else 1 for i, size in enumerate(shape))
    return broadcast(OPS["iota"](shape=thin, axis=axis, dtype=dtype), shape)


def in_single(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """`evaluate` that computes float16 in float32, as compiled code does. The caller rounds."""

    def run(*arrays: Any, **params: Any) -> Any:
        return evaluate(
            *(a.astype(np.float32) if a.dtype == np.float16 else a for a in arrays), **params
        )

    return run


def elementwise(
    name: str,
    *,
    types: Sequence[DType],
    evaluate: Callable[..., Any],
    vjp: Rule | tuple[Rule | None, ...] | _NonDifferentiable,
    scalar: str,
    sample: Domain | tuple[Domain, ...] = DEFAULT_DOMAIN,
    result: DType | None = None,
    condition: bool = False,
    grad_name: str = "",
) -> Op:
    """An op applied to each element, with NumPy broadcasting.

    All inputs have one dtype out of `types` (promotion has inserted casts before); the output has
    it too unless `result` names another. `condition=True`: the first input is a bool besides
    (`where`). `scalar` is the loop body: an expression of `{x}` for one input, `{x0}`, `{x1}` ...
    for more, in the vocabulary of codegen.
    The cotangents that the rules return are summed back to each input's shape by the family.
    """
    arity = _fields(scalar)
    plain = result is None and not condition
    rules = vjp if isinstance(vjp, (tuple, _NonDifferentiable)) else (vjp,)

    def infer(*inputs: TensorType) -> TensorType:
        if plain and inputs[0].dtype in types and inputs.count(inputs[0]) == len(inputs):
            return inputs[0]
        data = inputs[1:] if condition else inputs
        if condition and inputs[0].dtype is not bool_:
            raise DtypeError(f"{name}: the condition must be bool, not {inputs[0].dtype.name}")
        dtype = data[0].dtype
        _check_dtype(name, types, dtype)
        for other in data[1:]:
            if other.dtype is not dtype:
                raise DtypeError(f"{name}: dtypes {dtype.name} and {other.dtype.name} differ")
        return TensorType(result or dtype, broadcast_shapes(*(t.shape for t in inputs), op=name))

    def summed(i: int, rule: Rule) -> Rule:
        def apply(g: Node, y: Node, *xs: Node) -> Node | None:
            cotangent = rule(g, y, *xs)
            return None if cotangent is None else unbroadcast(cotangent, xs[i].shape)

        return apply

    if not isinstance(rules, _NonDifferentiable):
        rules = tuple(rule and summed(i, rule) for i, rule in enumerate(rules))
        assert len(rules) == arity, name
    domains = sample if isinstance(sample, tuple) else (sample,) * arity
    shapes: list[tuple[Shape, ...]] = [((3, 4),) * arity, ((),) * arity, ((0, 2),) * arity]
    if arity > 1:
        shapes.append(tuple((4,) if i % 2 else (3, 1) for i in range(arity)))
    samples = tuple(Sample(s, {}, domains) for s in shapes)
    return register(
        Op(
            name,
            "elementwise",
            infer,
            evaluate,
            rules,
            arity,
            scalar=scalar,
            samples=samples,
            grad_name=grad_name or default_grad_name(name),
            sample_dtypes=tuple(types),
        )
    )


def reduced_shape(shape: Shape, axes: Shape, keepdims: bool) -> Shape:
    """The shape after reducing `axes` (non-negative)."""
    if keepdims:
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


def restore_axes(node: Node, like: Shape, axes: Shape, keepdims: bool) -> Node:
    """A reduction's output (or its cotangent) with the reduced axes back as size 1, ready to
    broadcast to `like`.
    """
    shape = reduced_shape(like, axes, keepdims=True)
    return node if keepdims or node.shape == shape else OPS["reshape"](node, shape=shape)


def reduction(
    name: str,
    *,
    types: Sequence[DType],
    evaluate: Callable[..., Any],
    vjp: Callable[..., Node | None] | _NonDifferentiable,
    scalar: dict[str, str],
    sample: Domain = DEFAULT_DOMAIN,
    result: DType | Callable[[DType], DType] | None = None,
    empty: bool = True,
    grad_name: str = "",
) -> Op:
    """An op that folds `axes` (sorted, non-negative) away: `op(x, axes=(0, 2), keepdims=False)`.

    `vjp(g, y, x, axes)` gets `g` and `y` with the reduced axes kept as size 1. `scalar` has
    `identity` (a literal, or "-inf"/"+inf" for the type's extremes) and `combine` of {a} and {x}.
    `empty=False`: reducing zero elements is an error.
    """

    def infer(x: TensorType, *, axes: Shape, keepdims: bool = False) -> TensorType:
        _check_dtype(name, types, x.dtype)
        if (
            not empty
            and any(x.shape[i] == 0 for i in axes)
            and 0 not in reduced_shape(x.shape, axes, False)
        ):
            raise ShapeError(
                f"{name}: cannot reduce zero elements of shape {x.shape}: it has no identity"
            )
        dtype = result(x.dtype) if callable(result) else result or x.dtype
        return TensorType(dtype, reduced_shape(x.shape, axes, keepdims))

    def rule(g: Node, y: Node, x: Node, *, axes: Shape, keepdims: bool = False) -> Node | None:
        assert not isinstance(vjp, _NonDifferentiable)
        g = restore_axes(g, x.shape, axes, keepdims)
        y = restore_axes(y, x.shape, axes, keepdims)
        return vjp(g, y, x, axes)

    def fold(x: Any, *, axes: Shape, keepdims: bool = False) -> Any:
        return in_single(evaluate)(x, axis=axes, keepdims=keepdims)

    samples = tuple(
        Sample((shape,), {"axes": axes, "keepdims": keepdims}, (sample,))
        for shape, axes, keepdims in (
            ((3, 4), (1,), False),
            ((3, 4), (0,), True),
            ((3, 4), (0, 1), False),
            ((2, 3, 4), (1,), False),
            ((2, 3, 4), (0, 2), True),
            ((), (), False),
            *((((0, 3), (0,), False),) if empty else ()),
        )
    )
    return register(
        Op(
            name,
            "reduction",
            infer,
            fold,
            vjp if isinstance(vjp, _NonDifferentiable) else (rule,),
            1,
            scalar=scalar,
            samples=samples,
            grad_name=grad_name or f"{name.title()}Backward1",
            sample_dtypes=tuple(types),
        )
    )


def general(
    name: str,
    *,
    family: str,
    infer: Callable[..., TensorType],
    evaluate: Callable[..., Any],
    vjp: tuple[Rule | None, ...] | Rule | _NonDifferentiable,
    samples: Sequence[Sample],
    arity: int | None = 1,
    sample_dtypes: Sequence[DType] = floating,
    grad_name: str = "",
    scalar: Any = None,
    pure: bool = True,
) -> Op:
    """An op of a family whose members share no rule: movement, indexing, contraction, random,
    control.
    """
    rules = vjp if arity is None or isinstance(vjp, (tuple, _NonDifferentiable)) else (vjp,)
    return register(
        Op(
            name,
            family,
            infer,
            evaluate,
            rules,
            arity,
            scalar=scalar,
            samples=tuple(samples),
            grad_name=grad_name or default_grad_name(name),
            pure=pure,
            sample_dtypes=tuple(sample_dtypes),
        )
    )


def composite(
    name: str,
    *,
    expand: Callable[..., Node],
    arity: int | None,
    samples: Sequence[Sample],
    evaluate: Callable[..., Any] | None = None,
    vjp: tuple[Rule | None, ...] | Rule | None = None,
    sample_dtypes: Sequence[DType] = floating,
    grad_name: str = "",
) -> Op:
    """An op that is a name for a composition of others, so that the tape shows one node where
    PyTorch does.

    `expand(*nodes, **params)` says it in other ops; a pass of compilation replaces it so. Type,
    evaluation and gradient follow from the expansion unless a direct `evaluate` or `vjp` is given
    for speed or accuracy. `arity=None`: any number of inputs, as for an op.
    """
    cache: dict[Any, Graph] = {}

    def expansion(types: tuple[TensorType, ...], params: dict[str, Any]) -> Graph:
        key = (types, frozen_params(params))
        if key not in cache:
            if len(cache) > 512:
                cache.clear()
            with Builder(name) as builder:
                inputs = [builder.input(t) for t in types]
                cache[key] = builder.finish([expand(*inputs, **params)])
        return cache[key]

    def infer(*types: TensorType, **params: Any) -> TensorType:
        return expansion(types, params).outputs[0].type

    def expanded(*nodes: Node, **params: Any) -> Node:
        graph = expansion(tuple([x.type for x in nodes]), params)
        return inline(Builder.current(), graph, nodes)[0]

    def run(*arrays: Any, **params: Any) -> Any:
        from tracegrad.ir.interpret import interpret

        arrays = tuple(map(np.asarray, arrays))
        graph = expansion(tuple(type_of(a) for a in arrays), params)
        return interpret(graph, arrays)[0]

    def derived(i: int, g: Node, y: Node, *xs: Node, **params: Any) -> Node | None:
        from tracegrad.ir.differentiate import expansion_cotangent

        return expansion_cotangent(expansion(tuple(x.type for x in xs), params), i, g, xs)

    if vjp is None:
        vjp = derived if arity is None else tuple(partial(derived, i) for i in range(arity))
    elif arity == 1 and not isinstance(vjp, tuple):
        vjp = (vjp,)
    return register(
        Op(
            name,
            "composite",
            infer,
            evaluate or run,
            vjp,
            arity,
            samples=tuple(samples),
            expand=expanded,
            grad_name=grad_name or default_grad_name(name),
            sample_dtypes=tuple(sample_dtypes),
        )
    )
