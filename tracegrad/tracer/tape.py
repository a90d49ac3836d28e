"""The tape: one node for each differentiable call, linked to the nodes that made its inputs."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.errors import GradError
from tracegrad.ir.types import TensorType
from tracegrad.tracer.location import Place
from tracegrad.tracer.pullback import MASK, G, Pullback, X, Y, of_call
from tracegrad.tracer.state import state
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.tensor import attributes_of, become

if TYPE_CHECKING:
    from tracegrad.tracer.hooks import Hooks
    from tracegrad.tracer.tensor import Tensor

Edge = tuple["Node | None", int]

_sequence = itertools.count()


def mark() -> int:
    """A point in time: nodes made from now on have a greater `sequence`."""
    return next(_sequence)


FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after "
    "they have already been freed). Saved intermediate values of the graph are freed when you "
    "call .backward() or autograd.grad(). Specify retain_graph=True if you need to backward "
    "through the graph a second time or if you need to access saved tensors after calling "
    "backward."
)


class Node:
    """One call on the tape. `edges[i]` is the node and output number that made input i.

    `sequence` grows with time, so a node's sequence exceeds that of every node it leads to.
    `output_types` has the type of each output, which its cotangents must have.
    """

    __slots__ = (
        "__weakref__",
        "edges",
        "hooks",
        "metadata",
        "output_types",
        "prehooks",
        "retained",
        "sequence",
        "tensor_hooks",
    )

    def __init__(self, edges: tuple[Edge, ...], output_types: tuple[TensorType, ...]) -> None:
        self.edges = edges
        self.output_types = output_types
        self.sequence = next(_sequence)
        self.hooks: Hooks | None = None
        self.prehooks: Hooks | None = None
        # Hooks of the tensors this node made, and those of them whose gradient is kept, by output
        # number.
        self.tensor_hooks: dict[int, Hooks] | None = None
        self.retained: dict[int, weakref.ref[Tensor]] | None = None

    def name(self) -> str:
        """PyTorch's class name of this node."""
        return type(self).__name__

    @property
    def ends(self) -> Sequence[Tensor] | None:
        """The leaves that this node leads to, where that is all and needs no nodes of theirs."""
        return None

    def run_alone(self, number: int, cotangent: Tensor) -> Sequence[Tensor | None]:
        """`run` without a tape, whatever the mode, for one output; of a node that has `ends`."""
        raise GradError(f"{self.name()} has no backward")

    @property
    def next_functions(self) -> tuple[Edge, ...]:
        return self.edges

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The cotangents of the inputs, from those of the outputs; None is zero."""
        raise GradError(f"{self.name()} has no backward")

    def release(self) -> None:
        """Drop the saved values: backward came through for the last time."""

    def register_hook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(grad_inputs, grad_outputs)` after this node ran; it may return new
        grad_inputs.
        """
        from tracegrad.tracer.hooks import Hooks

        self.hooks = self.hooks or Hooks()
        return self.hooks.add(hook, self)

    def register_prehook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(grad_outputs)` before this node runs; it may return new grad_outputs."""
        from tracegrad.tracer.hooks import Hooks

        self.prehooks = self.prehooks or Hooks()
        return self.prehooks.add(hook, self)

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


class Saved:
    """A value kept for backward, and the version that its memory had."""

    __slots__ = ("__weakref__", "tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.version = tensor._storage.version
        if state.recorder is not None:
            state.recorder.saved(self)
        elif tensor._base is not None and not tensor._array.ndim:
            # Loops that work element by element overwrite what they have read; one element is
            # copied sooner than looked after.
            self.keep()

    def keep(self) -> None:
        """Take a copy: the memory is about to be written."""
        tensor = self.tensor
        kept = tensor._twin()
        kept._alias = None
        kept._array = tensor._values.copy()
        kept._storage = Storage()
        kept._requires_grad = tensor.requires_grad
        kept._grad_fn = tensor.grad_fn
        kept._output_nr = tensor._output_nr
        if state.recorder is not None:
            state.recorder.copied(tensor, kept)
        self.tensor = kept
        self.version = 0


def with_mask(cotangent: Tensor, mask: Tensor) -> Tensor:
    """The cotangent with a mask beside it, as a tensor object of its own: `where` hands the very
    same value to both of its branches, each under another mask.
    """
    masked: Tensor = object.__new__(type(cotangent))
    become(masked, attributes_of(cotangent))
    masked._mask = mask
    return masked


class OpNode(Node):
    """The tape node of one op: its pullback and the values which that reads.

    `call` is (op, input types, params, needs, carry), from which the pullback for a cotangent with
    a mask is made; None for a node that is no op call, which gets none. `takes_mask`: a mask may
    travel on with the cotangent, as it does through elementwise ops.
    """

    __slots__ = ("call", "place", "pullback", "saved", "takes_mask")

    def __init__(
        self, pullback: Pullback, edges: tuple[Edge, ...], place: Place | None, call: Any = None
    ) -> None:
        # Written out instead of super().__init__: this runs for every differentiable call.
        self.edges = edges
        self.output_types = (pullback.type,)
        self.sequence = next(_sequence)
        self.hooks = self.prehooks = self.tensor_hooks = self.retained = None
        self.pullback = pullback
        self.place = place
        self.call = call
        self.takes_mask = call is not None and call[0].family == "elementwise"
        self.saved: tuple[Saved, ...] | None = ()

    @property
    def passes_mask(self) -> bool:
        """Whether nobody looks at the cotangent before this node takes it with its mask."""
        return (
            self.takes_mask
            and self.tensor_hooks is None
            and self.retained is None
            and self.prehooks is None
            and self.hooks is None
        )

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        from tracegrad.tracer import dispatch

        g = grads[0]
        if g is None:
            return [None] * len(self.edges)
        pullback = self.pullback
        if g._mask is not None:
            op, types, params, needs, carry = self.call
            pullback = of_call(op, types, params, needs, carry, masked=True)
        values = self.unpack(pullback, g)
        if state.recorder is None and not state.grad_enabled:
            outputs = dispatch.run_arrays(pullback, values)
        else:
            outputs = dispatch.apply_graph(pullback.graph, values)
        cotangents = [None if i < 0 else outputs[i] for i in pullback.results]
        return [
            with_mask(cotangent, outputs[i]) if i >= 0 and cotangent is not None else cotangent
            for cotangent, i in zip(cotangents, pullback.masks, strict=True)
        ]

    def unpack(self, pullback: Pullback, g: Tensor) -> list[Tensor]:
        """What the pullback reads; GradError when saved values were freed or changed in place."""
        if self.saved is None:
            raise GradError(FREED)
        values = []
        saved = dict(zip(self.pullback.saves, self.saved, strict=True))
        for code in pullback.reads:
            if code == G:
                values.append(g)
            elif code == MASK:
                assert g._mask is not None
                values.append(g._mask)
            else:
                values.append(self._restore(code, saved[code]))
        return values

    def _restore(self, code: int, item: Saved) -> Tensor:
        tensor = item.tensor
        if tensor._storage.version != item.version:
            raise self.changed(tensor._storage, tensor, code, item.version)
        if code == Y:
            # The output was saved without its way back to this node, which would be a cycle.
            tensor = tensor._twin()
            tensor._grad_fn = self
            tensor._requires_grad = True
        return tensor

    def changed(self, storage: Storage, tensor: Tensor, code: int, version: int) -> GradError:
        """The error of a saved value that was written to."""
        role = "output" if code == Y else f"input {code - X}"
        kind = tensor.dtype.name
        saved_at = f" at {self.place}" if self.place is not None else ""
        return GradError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: [{kind} {list(tensor.shape)}], {role} of {self.name()}, "
            f"saved{saved_at}, is at "
            f"version {storage.version}; expected version {version} instead. "
            f"It was changed by {storage.last_write()}. Use the out-of-place form there, "
            "or save a clone() before changing it"
        )

    def release(self) -> None:
        if self.saved:
            self.saved = None


@cache
def node_class(name: str) -> type[OpNode]:
    """The class of tape nodes that PyTorch calls `name`."""
    return type(name, (OpNode,), {"__slots__": (), "__module__": "tracegrad.autograd"})


class AccumulateGrad(Node):
    """Where a gradient ends: it is added to the `.grad` of `variable`, a leaf."""

    __slots__ = ("variable",)

    def __init__(self, variable: Tensor) -> None:
        super().__init__((), (variable._type,))
        self.variable = variable

    def run(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        new = grads[0]
        if new is not None:
            self.variable._accumulate(new)
        return ()


def accumulator(leaf: Tensor) -> AccumulateGrad:
    """The one `AccumulateGrad` of a leaf. The leaf does not own it: the graph does."""
    found = leaf._accumulator() if leaf._accumulator is not None else None
    if found is None:
        found = AccumulateGrad(leaf)
        leaf._accumulator = weakref.ref(found)
    return found


def edge_of(tensor: Tensor) -> Edge:
    """The node and output number that gave `tensor` its value; (None, 0) if no gradient is
    wanted.
    """
    node = tensor.grad_fn
    if node is not None:
        return node, tensor._output_nr
    if tensor._requires_grad:
        return accumulator(tensor), 0
    return None, 0


def zeros_for(type: TensorType) -> np.ndarray[Any, Any]:
    """A zero cotangent, without memory of its own."""
    return np.broadcast_to(np.zeros((), type.dtype.numpy), type.shape)
