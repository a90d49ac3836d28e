"""`backward` and `grad`: from tensors to the engine, with PyTorch's checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ArgumentError, GradError
from tracegrad.tracer import engine
from tracegrad.tracer.device import beside
from tracegrad.tracer.dispatch import constant
from tracegrad.tracer.location import located
from tracegrad.tracer.state import state
from tracegrad.tracer.tape import Edge, edge_of
from tracegrad.tracer.tensor import Tensor, wrap

Tensors = Tensor | Sequence[Tensor]
Cotangents = Tensor | Sequence[Tensor | None] | None


@located
def backward(
    tensors: Tensors,
    grad_tensors: Cotangents = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    inputs: Tensors | None = None,
) -> None:
    """Add the gradient of `tensors` to the `.grad` of the leaves, or of `inputs` only.

    `grad_tensors` has the cotangent of each tensor; it may be left out for tensors of one element.
    Raises GradError when there is nothing to differentiate, or when the graph was freed.
    """
    roots = _roots(_listed(tensors), grad_tensors)
    targets = None
    if inputs is not None:
        wanted = _listed(inputs)
        if not wanted:
            raise GradError("`inputs` argument to `backward` cannot be empty.")
        targets = [_target(x) for x in wanted]
    keep = create_graph if retain_graph is None else retain_graph
    found = engine.run(roots, keep=keep, create_graph=create_graph, targets=targets)
    if inputs is not None:
        for tensor, cotangent in zip(_listed(inputs), found, strict=True):
            # Leaves had theirs added by the engine.
            if tensor.grad_fn is not None and cotangent is not None and not tensor._retains_grad:
                engine.accumulate_grad(tensor, cotangent)


@located
def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Cotangents = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of `outputs` with respect to `inputs`; `.grad` is left alone.

    Raises GradError for an input that no output depends on, unless `allow_unused` (its gradient is
    None) or `materialize_grads` (zeros).
    """
    if materialize_grads and allow_unused is False:
        raise ArgumentError(
            "Expected allow_unused to be True or not passed when materialize_grads=True, "
            "but got: allow_unused=False."
        )
    wanted = _listed(inputs)
    roots = _roots(_listed(outputs), grad_outputs)
    targets = [_target(x) for x in wanted]
    keep = create_graph if retain_graph is None else retain_graph
    found = engine.run(
        roots, keep=keep, create_graph=create_graph, targets=targets, accumulate=False
    )
    if materialize_grads:
        found = [
            constant(np.zeros(x.shape, x._array.dtype)) if g is None else g
            for x, g in zip(wanted, found, strict=True)
        ]
    elif not allow_unused and any(g is None for g in found):
        raise GradError(
            "One of the differentiated Tensors appears to not have been used in the graph. "
            "Set allow_unused=True if this is the desired behavior."
        )
    return tuple(found)


def _listed(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _target(tensor: Tensor) -> Edge:
    if not tensor.requires_grad:
        raise GradError("One of the differentiated Tensors does not require grad")
    return edge_of(tensor)


def _roots(tensors: Sequence[Tensor], given: Cotangents) -> list[tuple[Edge, Tensor]]:
    """The edges to start from, each with its cotangent."""
    cotangents: Sequence[Tensor | None]
    if given is None:
        cotangents = [None] * len(tensors)
    else:
        cotangents = [given] if isinstance(given, Tensor) else list(given)
    if len(cotangents) != len(tensors):
        raise GradError(f"got {len(tensors)} tensors and {len(cotangents)} gradients")
    roots = []
    for i, (tensor, cotangent) in enumerate(zip(tensors, cotangents, strict=True)):
        if cotangent is None:
            cotangent = _one(tensor)
        else:
            _check(i, tensor, cotangent)
        if not tensor.requires_grad:
            raise GradError(
                f"element {i} of tensors does not require grad and does not have a grad_fn"
            )
        roots.append((edge_of(tensor), cotangent))
    return roots


def _one(tensor: Tensor) -> Tensor:
    if not tensor.requires_grad:
        raise GradError("element 0 of tensors does not require grad and does not have a grad_fn")
    if tensor._array.size != 1:
        raise GradError("grad can be implicitly created only for scalar outputs")
    seed = np.empty(tensor._array.shape, tensor._array.dtype)
    seed.fill(1)
    if state.recorder is not None:
        return constant(seed)
    return wrap(beside(seed, tensor._array))


def _check(i: int, tensor: Tensor, cotangent: Tensor) -> None:
    if cotangent.shape != tensor.shape:
        raise GradError(
            f"Mismatch in shape: grad_output[{i}] has a shape of {cotangent.shape} and "
            f"output[{i}] has a shape of {tensor.shape}."
        )
    if cotangent._array.dtype.kind != tensor._array.dtype.kind:
        raise GradError(
            f"grad_output[{i}] has dtype {cotangent.dtype.name} and output[{i}] has dtype "
            f"{tensor.dtype.name}: gradients need a floating dtype"
        )


@located
def tensor_backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensors | None = None,
) -> None:
    """Add the gradient of this tensor to the `.grad` of the leaves it depends on.

    `gradient` is its cotangent, of its shape; it may be left out for a tensor of one element.
    """
    if gradient is not None or inputs is not None:
        backward(self, gradient, retain_graph, create_graph, inputs=inputs)
        return
    keep = create_graph if retain_graph is None else retain_graph
    if not create_graph and engine.run_on_ends(self, keep):
        return
    cotangent = _one(self)
    engine.run([(edge_of(self), cotangent)], keep=keep, create_graph=create_graph)


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor."""
    return isinstance(value, Tensor)
