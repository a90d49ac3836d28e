"""`apply`: one op on tensors. Evaluates, keeps views, writes the tape and tells the recorder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.errors import DeviceError, TracegradError
from tracegrad.ir.graph import Graph, Literal, Node
from tracegrad.ir.op import CONSTANT, Array, Op, _NonDifferentiable
from tracegrad.ir.types import TensorType
from tracegrad.runtime.cuda import availability
from tracegrad.runtime.cuda.arrays import DeviceArray
from tracegrad.tracer.deferral import may_wait
from tracegrad.tracer.device import cuda, device_among, moved, transfer
from tracegrad.tracer.location import locate, user_place
from tracegrad.tracer.pullback import Pullback, X, Y, of_call
from tracegrad.tracer.state import Recorder, state
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.tape import Edge, OpNode, Saved, accumulator, node_class
from tracegrad.tracer.tensor import Tensor, wrap
from tracegrad.tracer.views import VIEWS

__all__ = ["Recorder", "apply", "apply_graph", "constant", "run_arrays", "state"]

_new = object.__new__
_NO_EDGE: Edge = (None, 0)


class Call:
    """What is known of an op on inputs of certain types, worked out once."""

    __slots__ = (
        "differentiable",
        "dtype",
        "evaluate",
        "grad_name",
        "is_elementwise",
        "is_product",
        "is_view",
        "kind",
        "may_wait",
        "pullbacks",
        "type",
        "types",
    )

    def __init__(
        self,
        op: Op,
        inputs: Sequence[Tensor],
        params: dict[str, Any],
        type: TensorType | None = None,
    ) -> None:
        self.types = [x._type for x in inputs]
        if type is None:
            type = op.infer(*self.types, **params)
        self.type = type
        self.dtype = type.dtype.numpy
        self.evaluate, self.kind = _evaluation(op, inputs)
        self.is_view = op.name in VIEWS
        self.is_product = op.family == "contraction"
        self.may_wait = self.kind is np.ndarray and may_wait(op, type)
        self.grad_name = op.grad_name
        self.differentiable = type.dtype.is_floating_point and not isinstance(
            op.vjp, _NonDifferentiable
        )
        self.is_elementwise = op.family == "elementwise"
        self.pullbacks: dict[Any, Pullback] = {}


def _evaluation(op: Op, inputs: Sequence[Tensor]) -> tuple[Callable[..., Any], type[Array]]:
    """What computes an op on inputs that are where these are, and the class of its result."""
    if op.name == "transfer":
        return transfer, np.ndarray
    if device_among(x._array for x in inputs) is not cuda:
        return op.evaluate, np.ndarray
    from tracegrad.runtime.cuda.operations import evaluate

    return lambda *arrays, **params: evaluate(op, arrays, params), DeviceArray


def _together(op: Op, inputs: Sequence[Tensor], arrays: list[Array]) -> list[Array]:
    """The arrays on one device. Numbers of the host go with those of any; so do constants."""
    if DeviceArray not in map(type, arrays):
        return arrays
    found = []
    for x, array in zip(inputs, arrays, strict=True):
        if type(array) is not DeviceArray and array.ndim:
            if not x._constant:
                raise DeviceError(
                    f"{op.name}: expected all tensors to be on the same device, but found cpu and "
                    "cuda:0; move one with .to()"
                )
            array = moved(array, cuda)
        found.append(array)
    return found


_calls: dict[Any, Call] = {}
_LIMIT = 16384


def _call(
    key: Any,
    op: Op,
    inputs: Sequence[Tensor],
    params: dict[str, Any],
    type: TensorType | None = None,
) -> Call:
    call = Call(op, inputs, params, type)
    if len(_calls) >= _LIMIT:
        _calls.clear()
    _calls[key] = call
    return call


def apply(
    op: Op,
    inputs: Sequence[Tensor],
    params: dict[str, Any] | None = None,
    *,
    grad_name: str | None = None,
    known: TensorType | None = None,
) -> Tensor:
    """`op` on tensors whose dtypes fit it already; `grad_name` names the tape node, and `known` is
    the type of the result where it has been inferred before.

    Raises what `op.infer` raises, with the user's line.
    """
    params = params or {}
    arrays = [x._array for x in inputs]
    key: list[Any] = [op, *params.items()] if params else [op]
    for array in arrays:
        key.append(array.dtype)
        key.append(array.shape)
    try:
        if availability.used and op.name != "transfer":
            arrays = _together(op, inputs, arrays)
            key.extend(map(type, arrays))
        frozen = tuple(key)
        call = _calls.get(frozen) or _call(frozen, op, inputs, params, known)
        if state.deferrals is None:
            result = state.quietly(call.evaluate, *arrays, **params)
        else:
            result = state.deferrals.run(call, arrays, params)
    except TracegradError as error:
        locate(error)
        raise
    if type(result) is not call.kind or result.dtype is not call.dtype:
        result = np.asanyarray(result, call.dtype)
    output: Tensor = _new(Tensor)
    output._base = output._alias = output._grad_fn = None
    output._requires_grad = False
    output._output_nr = 0
    if call.is_view and _shares(result, arrays[0]):
        _become_view(output, inputs[0], op, params)
        if not result.flags.writeable and arrays[0].flags.writeable:
            # NumPy gives broadcast views read-only. Here a write is refused where elements really
            # repeat.
            result.flags.writeable = True
    else:
        if result.base is not None or not result.flags.owndata or any(result is a for a in arrays):
            result = _own(result, arrays)
        output._storage = Storage()
    output._array = result
    if availability.used and all(x._constant for x in inputs):
        output._constant = True
    if state.recorder is not None:
        state.recorder.record(op, inputs, params, output, call.type)
    elif state.weak_numbers:
        keep_weak(inputs, output)
    if state.grad_enabled and call.differentiable:
        for x in inputs:
            if x._requires_grad or (x._base is not None and x.requires_grad):
                _tape(call, op, inputs, params, output, grad_name or call.grad_name)
                break
    return output


# What Python's bool, int and float are as arrays.
_NUMBERS = frozenset(map(np.dtype, ("bool", "int64", "float64")))


def keep_weak(inputs: Sequence[Tensor], output: Tensor) -> None:
    """Mark what comes of Python numbers alone: it is a Python number still."""
    if output._array.dtype in _NUMBERS and any(x._weak for x in inputs):
        output._weak = all(x._weak or x._literal is not None for x in inputs)


def _tape(
    call: Call,
    op: Op,
    inputs: Sequence[Tensor],
    params: dict[str, Any],
    output: Tensor,
    name: str,
) -> None:
    """Give `output` its tape node."""
    # Written for speed: this runs for every differentiable call.
    edges: list[Edge] = []
    needs: list[bool] = []
    carry: list[bool] = []
    for x in inputs:
        if x._base is None:
            need, node = x._requires_grad, x._grad_fn
        else:
            need, node = x.requires_grad, x.grad_fn
        if not need:
            edges.append(_NO_EDGE)
        elif node is None:
            edges.append((accumulator(x), 0))
        else:
            edges.append((node, x._output_nr))
        needs.append(need)
        # Only an elementwise op can be followed by a mask: `where` starts one, the others pass it
        # on.
        carry.append(call.is_elementwise and isinstance(node, OpNode) and node.takes_mask)
    variant = (*needs, *carry)
    pullback = call.pullbacks.get(variant)
    if pullback is None:
        pullback = call.pullbacks[variant] = of_call(op, call.types, params, needs, carry)
    node = node_class(name)(
        pullback, tuple(edges), user_place(), (op, call.types, params, needs, carry)
    )
    if pullback.saves:
        node.saved = tuple(
            [Saved(_without_tape(output) if i == Y else inputs[i - X]) for i in pullback.saves]
        )
    output._grad_fn = node
    output._requires_grad = True


def _without_tape(output: Tensor) -> Tensor:
    """`output` as its own tape node saves it: a link back to `output` would be a cycle."""
    twin = output._twin()
    twin._alias = None
    return twin


def _owner(array: Array) -> Any:
    """The object that holds the memory of `array`."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array if array.base is None else array.base


def _shares(result: Array, source: Array) -> bool:
    return result is source or (result.base is not None and _owner(result) is _owner(source))


def _own(result: Array, arrays: Sequence[Array]) -> Array:
    """`result`, copied if its memory is that of an input or is repeated by broadcasting."""
    if any(_shares(result, array) for array in arrays) or not result.flags.writeable:
        return result.copy()
    return result


def _become_view(output: Tensor, source: Tensor, op: Op, params: dict[str, Any]) -> None:
    output._storage = source._storage
    step = (op, params)
    if state.inference or source._no_grad_view or (not state.grad_enabled and source.requires_grad):
        output._alias = (source, (step,))
        output._no_grad_view = not state.inference
        return
    if source._base is not None:
        output._base = source._base
        output._steps = (*source._steps, step)
    else:
        output._base = source
        output._steps = (step,)
    output._view_version = source._storage.version


def constant(value: Any, dtype: np.dtype[Any] | None = None) -> Tensor:
    """A tensor that never changes: a number or an array known while the program is written."""
    # A number out of range of its dtype wraps around, as in PyTorch.
    array = np.array(value) if dtype is None else np.array(value).astype(dtype)
    tensor = wrap(array)
    tensor._constant = True
    if array.ndim == 0:
        tensor._literal = array.item()
    if state.recorder is not None:
        state.recorder.record(CONSTANT, (), {"value": Literal(array)}, tensor)
    return tensor


_numbers: dict[Any, Tensor] = {}


def number(value: bool | int | float, dtype: np.dtype[Any]) -> Tensor:
    """`constant` of a Python number. The same number gives the same tensor, because making one is
    slow.
    """
    # 0.0 and -0.0 are equal, so a zero is no key.
    if state.recorder is not None or not value:
        return constant(value, dtype)
    key = (value, dtype)
    found = _numbers.get(key)
    if found is None:
        if len(_numbers) >= _LIMIT:
            _numbers.clear()
        found = _numbers[key] = constant(value, dtype)
    return found


def run_arrays(pullback: Pullback, values: Sequence[Tensor]) -> list[Tensor]:
    """The pullback on the arrays of `values`: nothing is recorded, nothing is differentiable."""
    arrays = state.quietly(pullback.run, [value._values for value in values])
    return [wrap(array) for array in arrays]


def apply_graph(graph: Graph, values: Sequence[Tensor]) -> list[Tensor]:
    """`graph` on tensors, op by op, so that it is on the tape and in the recording."""
    found: dict[Node, Tensor] = dict(zip(graph.inputs, values, strict=True))
    # A hook may have put another type of gradient in place of what the graph is for.
    typed = all(value._type == x.type for x, value in found.items())
    for node in graph.nodes:
        if node.op is CONSTANT:
            found[node] = constant(node.params["value"].array)
        else:
            inputs = [found[x] for x in node.inputs]
            known = node.type if typed else None
            found[node] = apply(node.op, inputs, dict(node.params), known=known)
    return [found[node] for node in graph.outputs]
