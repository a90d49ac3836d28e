"""Functional transforms in JAX's spelling: functions to functions that compute derivatives.

They are built on the tape, so they nest, differentiate through closures, and are traced like any
other code inside a compiled function.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, GradError
from tracegrad.ir.op import OPS
from tracegrad.tracer import promotion
from tracegrad.tracer.autograd import grad as tape_grad
from tracegrad.tracer.carries import tree_of
from tracegrad.tracer.creation import as_tensor, zeros_like
from tracegrad.tracer.device import beside
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.location import located
from tracegrad.tracer.rows import over_rows
from tracegrad.tracer.state import state
from tracegrad.tracer.structure import TENSOR, Description, flatten, unflatten
from tracegrad.tracer.tape import AccumulateGrad, Node
from tracegrad.tracer.tensor import Tensor

Function = Callable[..., Any]


class Variables:
    """The parts of a call's arguments that are differentiated, exchanged for tensors of our own.

    `values`  tensors that lead to the caller's tape where the caller's tensors do, so that the
              derivative can be differentiated, and that are leaves otherwise.
    """

    def __init__(self, args: Sequence[Any], argnums: Sequence[int]) -> None:
        self.values: list[Tensor] = []
        self.structures: list[Description] = []
        self.counts: list[int] = []
        self.linked = False
        new = list(args)
        for number in argnums:
            if not -len(args) <= number < len(args):
                raise ArgumentError(
                    f"argnums has {number}, but the function was called with {len(args)} arguments"
                )
            leaves: list[Any] = []
            structure = flatten(args[number], leaves)
            variables = [self._variable(leaf, number) for leaf in leaves]
            self.values += variables
            self.structures.append(structure)
            self.counts.append(len(leaves))
            new[number] = unflatten(structure, variables)
        self.args = tuple(new)

    def _variable(self, leaf: Any, number: int) -> Tensor:
        tensor = leaf if isinstance(leaf, Tensor) else as_tensor(leaf)
        if isinstance(leaf, int):
            tensor = promotion.cast(tensor, promotion.get_default_dtype())
        if tensor._weak:
            tensor = promotion.cast(tensor, promotion.get_default_dtype())
        if not tensor.dtype.is_floating_point:
            raise GradError(
                f"argument {number} is {tensor.dtype.name}: only floating-point arguments have "
                "gradients"
            )
        if state.grad_enabled and tensor.requires_grad:
            self.linked = True
            return apply(OPS["reshape"], [tensor], {"shape": tensor._array.shape})
        variable: Tensor = tensor.detach().requires_grad_()
        return variable

    def arrange(self, gradients: Sequence[Any]) -> list[Any]:
        """Gradients of the values in the structures of the arguments."""
        remaining = iter(gradients)
        return [
            unflatten(structure, list(itertools.islice(remaining, count)))
            for structure, count in zip(self.structures, self.counts, strict=True)
        ]

    def reach(self, *outputs: Tensor) -> bool:
        """Whether the tape of the outputs leads to anything of the caller's."""
        if self.linked:
            return True
        own = {id(value) for value in self.values}
        seen: set[Node] = set()
        work = [output.grad_fn for output in outputs]
        while work:
            node = work.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if isinstance(node, AccumulateGrad) and id(node.variable) not in own:
                return True
            work.extend(following for following, _ in node.edges)
        return False


def _numbers(argnums: int | Sequence[int]) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)


class _Tracked:
    """Gradients are tracked within, whatever the caller's mode; the mode comes back afterwards."""

    def __enter__(self) -> None:
        self._before = state.grad_enabled
        state.set_grad(True)

    def __exit__(self, *exc: object) -> None:
        state.set_grad(self._before)


def _gradients(
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor] | None,
    inputs: Sequence[Tensor],
    create_graph: bool,
    retain: bool = False,
) -> list[Tensor]:
    """Gradients by the tape, zeros where there is no dependence."""
    tracked = [i for i, y in enumerate(outputs) if y.requires_grad]
    if not tracked or not inputs:
        return [zeros_like(x) for x in inputs]
    found = tape_grad(
        [outputs[i] for i in tracked],
        list(inputs),
        None if cotangents is None else [cotangents[i] for i in tracked],
        retain_graph=retain or create_graph,
        create_graph=create_graph,
        allow_unused=True,
    )
    return [zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _off_tape(value: Any) -> Any:
    """`value` with all tensors in it detached."""
    leaves: list[Any] = []
    structure = flatten(value, leaves)
    return unflatten(structure, [x.detach() if isinstance(x, Tensor) else x for x in leaves])


def value_and_grad(
    f: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Function:
    """A function that returns `(f(...), gradient)`.

    `argnums`: which arguments to differentiate, by position; a tuple of them gives a tuple of
    gradients. Arguments may be containers of tensors, and gradients have their structure. `f`
    returns a scalar, or `(scalar, anything)` with `has_aux`; then the value is that pair.
    """
    numbers = _numbers(argnums)

    @functools.wraps(f, assigned=("__name__", "__qualname__", "__doc__", "__module__"))
    @located
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        variables = Variables(args, numbers)
        outer = state.grad_enabled
        with _Tracked():
            returned = f(*variables.args, **kwargs)
            value, aux = _split(returned, has_aux)
            _check_scalar(value)
            create_graph = outer and variables.reach(value)
            gradients = _gradients([value], None, variables.values, create_graph)
        arranged = variables.arrange(gradients)
        gradient = arranged[0] if isinstance(argnums, int) else tuple(arranged)
        if not create_graph:
            value, aux = value.detach(), _off_tape(aux)
        return ((value, aux) if has_aux else value), gradient

    return wrapper


def grad(f: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Function:
    """A function that returns the gradient of `f`; with `has_aux`, `(gradient, aux)`.

    See `value_and_grad`.
    """
    both = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f, assigned=("__name__", "__qualname__", "__doc__", "__module__"))
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapper


def _split(returned: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        return returned, None
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ArgumentError("with has_aux=True the function has to return (value, aux)")
    return returned


def _check_scalar(value: Any) -> None:
    if not isinstance(value, Tensor):
        raise GradError(f"the function returned {type(value).__name__}, not a scalar tensor")
    if value._array.size != 1:
        raise GradError(
            "grad needs a function with a scalar result, but it returned shape "
            f"{tuple(value.shape)}. Use vjp or jacrev"
        )
    if not value.dtype.is_floating_point:
        raise GradError(f"a result of {value.dtype.name} has no gradient")


def vjp(f: Function, *primals: Any, has_aux: bool = False) -> Any:
    """`(f(*primals), pullback)`: the pullback takes cotangents, in the structure of the result, to
    a tuple of gradients, one for each primal. With `has_aux`: `(value, pullback, aux)`.

    The pullback may be called again.
    """
    variables = Variables(primals, range(len(primals)))
    outer = state.grad_enabled
    with _Tracked():
        returned = f(*variables.args)
    value, aux = _split(returned, has_aux)
    outputs, structure = _outputs(value)
    linked = outer and variables.reach(*outputs)

    @located
    def pullback(cotangent: Any) -> tuple[Any, ...]:
        given: list[Any] = []
        found = flatten(cotangent, given)
        if found != structure and len(given) != len(outputs):
            raise ArgumentError(f"the result is {structure!r}, but the cotangent {found!r}")
        cotangents = [as_tensor(g) for g in given]
        create_graph = state.grad_enabled and (linked or any(g.requires_grad for g in cotangents))
        with _Tracked():
            gradients = _gradients(outputs, cotangents, variables.values, create_graph, retain=True)
        return tuple(variables.arrange(gradients))

    result = value if linked else _off_tape(value)
    return (result, pullback, aux) if has_aux else (result, pullback)


def _outputs(value: Any) -> tuple[list[Tensor], Description]:
    leaves: list[Any] = []
    structure = flatten(value, leaves)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise GradError(f"the function returned {type(leaf).__name__}, not a tensor")
    return leaves, structure


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """`(f(*primals), tangent)`: the derivative of `f` along `tangents`, in forward mode.

    Two reverse passes: the pullback is linear in its cotangent, and its own pullback is the
    derivative along a direction.
    """
    if len(primals) != len(tangents):
        raise ArgumentError(f"{len(primals)} primals, but {len(tangents)} tangents")
    variables = Variables(primals, range(len(primals)))
    given: list[Any] = []
    for tangent in tangents:
        flatten(tangent, given)
    directions = [as_tensor(t) for t in given]
    for x, t in zip(variables.values, directions, strict=True):
        if x._array.shape != t._array.shape:
            raise ArgumentError(
                f"a primal of shape {tuple(x.shape)} has a tangent of shape {tuple(t.shape)}"
            )
    outer = state.grad_enabled
    with _Tracked():
        value = f(*variables.args)
        outputs, structure = _outputs(value)
        linked = outer and (variables.reach(*outputs) or any(t.requires_grad for t in directions))
        dummies = [zeros_like(y, requires_grad=y.dtype.is_floating_point) for y in outputs]
        pulled = _gradients(outputs, dummies, variables.values, create_graph=True)
        cast = [promotion.cast(t, x.dtype) for t, x in zip(directions, pulled, strict=True)]
        pushed = _gradients(pulled, cast, dummies, create_graph=linked)
    tangent = unflatten(structure, pushed)
    return (value if linked else _off_tape(value)), tangent


def jacrev(f: Function, argnums: int | Sequence[int] = 0) -> Function:
    """The Jacobian of `f`, row by row in reverse mode.

    For a result of shape (...) and an argument of shape (---) its shape is (..., ---); containers
    give containers of these.
    """
    numbers = _numbers(argnums)

    @functools.wraps(f, assigned=("__name__", "__qualname__", "__doc__", "__module__"))
    @located
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        variables = Variables(args, numbers)
        outer = state.grad_enabled
        with _Tracked():
            outputs, structure = _outputs(f(*variables.args, **kwargs))
            linked = outer and variables.reach(*outputs)
            blocks = [_jacobian(y, variables, linked) for y in outputs]
        arranged = []
        for block in blocks:
            rows = variables.arrange(block)
            arranged.append(rows[0] if isinstance(argnums, int) else tuple(rows))
        return arranged[0] if structure is TENSOR else unflatten(structure, arranged)

    return wrapper


def _jacobian(y: Tensor, variables: Variables, linked: bool) -> list[Tensor]:
    """The derivatives of all elements of `y` for each variable."""

    def of_one(cotangent: list[Tensor]) -> list[Tensor]:
        return _gradients([y], cotangent, variables.values, linked, retain=True)

    found = _along_basis(of_one, y)
    return [
        apply(OPS["reshape"], [rows], {"shape": (*y._array.shape, *x._array.shape)})
        for rows, x in zip(found, variables.values, strict=True)
    ]


def _along_basis(
    function: Callable[[list[Tensor]], Sequence[Tensor]], like: Tensor
) -> list[Tensor]:
    """The results of a linear function for each direction in which a tensor like `like` can go,
    along a new first axis.
    """
    size = like._array.size
    rows = np.eye(size, dtype=like._array.dtype).reshape(size, *like._array.shape)
    basis = beside(rows, like._array)
    found, batched = over_rows(
        lambda rows: tree_of(list(function(rows))), [as_tensor(basis)], size, "same"
    )
    return [
        x if flag else apply(OPS["broadcast_to"], [x], {"shape": (size, *x._array.shape)})
        for x, flag in zip(found.leaves, batched, strict=True)
    ]


def jacfwd(f: Function, argnums: int = 0) -> Function:
    """The Jacobian of `f` for one argument that is a tensor, column by column in forward mode."""

    @functools.wraps(f, assigned=("__name__", "__qualname__", "__doc__", "__module__"))
    @located
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        variables = Variables([as_tensor(args[argnums])], [0])
        x = variables.values[0]
        new = list(args)
        new[argnums] = x
        outer = state.grad_enabled
        with _Tracked():
            y = f(*new, **kwargs)
            if not isinstance(y, Tensor):
                raise GradError("jacfwd needs a function that returns one tensor")
            linked = outer and variables.reach(y)
            dummy = zeros_like(y, requires_grad=y.dtype.is_floating_point)
            (pulled,) = _gradients([y], [dummy], [x], create_graph=True)

            def of_one(tangent: list[Tensor]) -> list[Tensor]:
                return _gradients([pulled], tangent, [dummy], create_graph=linked, retain=True)

            (columns,) = _along_basis(of_one, x)
            last = apply(OPS["transpose"], [columns], {"axes": (*range(1, columns.ndim), 0)})
            shape = (*y._array.shape, *x._array.shape)
            return apply(OPS["reshape"], [last], {"shape": shape})

    return wrapper


def hessian(f: Function, argnums: int | Sequence[int] = 0) -> Function:
    """The second derivatives of `f`: the Jacobian of its Jacobian."""
    return jacrev(jacrev(f, argnums), argnums)
