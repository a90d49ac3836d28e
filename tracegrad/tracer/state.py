"""What a thread is doing: whether gradients are tracked, and who records."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from tracegrad.ir.graph import Graph, Node
    from tracegrad.ir.op import Op
    from tracegrad.ir.types import TensorType
    from tracegrad.tracer.bounds import Limits
    from tracegrad.tracer.deferral import Deferrals
    from tracegrad.tracer.hooks import Registration
    from tracegrad.tracer.tape import Saved
    from tracegrad.tracer.tensor import Tensor


class Recorder(Protocol):
    """Who is told of everything that happens to tensors while a function is traced."""

    @property
    def in_body(self) -> bool:
        """Whether what happens now is in the body of a loop or branch, which may never run."""

    def record(
        self,
        op: Op,
        inputs: Sequence[Tensor],
        params: dict[str, Any],
        output: Tensor,
        type: TensorType | None = None,
    ) -> None:
        """`output` was computed by `op` from `inputs`; its type, if it is known."""

    def record_graph(
        self, graph: Graph, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        """`outputs`, which are new, are those of `graph` on `inputs`."""

    def node_of(self, tensor: Tensor) -> Node:
        """The node of `tensor` where recording is."""

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether `tensor` depends on nothing that another call could change."""

    def mutate(self, target: Tensor, value: Tensor) -> None:
        """`value`, recorded before and of the same shape and dtype, was written into `target`."""

    def saved(self, item: Saved) -> None:
        """A value is kept for backward."""

    def copied(self, source: Tensor, copy: Tensor) -> None:
        """`copy`, which is new, has memory of its own with the value of `source`."""

    def before_write(self, target: Tensor) -> None:
        """The memory of `target` is about to change."""

    def demand(self, tensor: Tensor, kind: str, value: Any) -> Any:
        """Python asked for a concrete value; `kind` is bool, int, float, item, index or array.

        Returns the value that it gets.
        """

    def spell(self, tensor: Tensor) -> None:
        """A number became text."""

    def require(self, tensor: Tensor, limits: Limits) -> None:
        """Each element of `tensor` has to lie within limits, and does so now."""

    def read_grad(self, tensor: Tensor) -> None:
        """`tensor.grad` was read."""

    def write_grad(self, tensor: Tensor, old: Tensor | None, new: Tensor | None) -> None:
        """`tensor.grad` was replaced."""

    def later(self, message: Any) -> None:
        """A message is to be printed at every call."""

    def run_again(self) -> None:
        """Python has to run at each call that goes this way."""

    def note(self, tensor: Tensor) -> str | None:
        """What a printed tensor says of its being traced; None if it is not. Nothing is guarded."""

    def fresh(self, tensor: Tensor) -> None:
        """`tensor` was made from constants or by a random draw, not by an op."""

    def registered(self, registration: Registration) -> None:
        """A hook was set, or a gradient is to be retained."""


RECORDING = 2


class State(threading.local):
    """The modes of one thread.

    `weak_numbers`: tensors that stand for Python numbers are about, also in eager code.
    `quietly(function, *args)` calls with NumPy's floating-point warnings off. Entering
    `np.errstate` costs more than a small op; running in a context that has it entered costs nearly
    nothing.
    """

    # Set by `set_grad` and `record_by`, so that `mode` says both: 0 and 1 without and with
    # gradients, `RECORDING` while somebody records.
    grad_enabled: bool = True
    recorder: Recorder | None = None
    mode: int = 1
    inference: bool = False
    weak_numbers: bool = False
    # The operations of a function that is being recorded that nobody has asked for.
    deferrals: Deferrals | None = None
    # Identities of the storages that a function being checkpointed was given, and may not write to.
    protected: frozenset[int] = frozenset()
    # Bytes that the gradient of a loop may save, as the function that is compiled says.
    memory_budget: int | None = None

    def __init__(self) -> None:
        context = contextvars.Context()
        context.run(np.seterr, all="ignore")
        self.quietly: Callable[..., Any] = context.run

    def set_grad(self, enabled: bool) -> None:
        """Track gradients, or not."""
        self.grad_enabled = enabled
        if self.recorder is None:
            self.mode = enabled

    def record_by(self, recorder: Recorder | None) -> None:
        """Let `recorder` be told of everything from now on."""
        self.recorder = recorder
        self.mode = self.grad_enabled if recorder is None else RECORDING


state = State()
