"""The inputs of a trace: arguments and captured tensors, paths to them, memory that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.errors import TraceError
from tracegrad.ir.types import type_of
from tracegrad.tracer import access
from tracegrad.tracer.access import Path
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.recording import TraceInput, Value
from tracegrad.tracer.scopes import Scope
from tracegrad.tracer.tensor import wrap
from tracegrad.tracer.undo import UndoLog
from tracegrad.tracer.views import memory_root

if TYPE_CHECKING:
    from tracegrad.tracer.moving_views import MovingView
    from tracegrad.tracer.storage import Storage
    from tracegrad.tracer.tensor import Tensor


class StartAnew(BaseException):
    """The function has to be traced once more for this call.

    Not an Exception, so that the user's `except Exception` does not stop it.
    """


class AliasesMatter(StartAnew):
    """A write reached memory that several inputs share: record again with their bases as inputs."""


class Memory:
    """Memory during a trace: the value of its root tensor now, and how often it changed."""

    __slots__ = ("created", "inputs", "root", "shows", "storage", "value", "version", "views")

    def __init__(self, storage: Storage, root: Tensor | None, value: Value | None) -> None:
        self.storage = storage
        self.root = root
        self.value = value
        self.version = 0
        self.created = value is not None
        # Numbers of the trace's inputs that live here.
        self.inputs: list[int] = []
        # Reads of this memory at moving indices, and the one that it holds the result of.
        self.views: list[MovingView] = []
        self.shows: MovingView | None = None


class Binding:
    """What a tensor's value is, as long as its memory has this version."""

    __slots__ = ("recorder", "value", "version")

    def __init__(self, recorder: InputTable, value: Value, version: int) -> None:
        self.recorder = recorder
        self.value = value
        self.version = version


class InputTable:
    """Gives each tensor that a trace reads from outside a number, a path and a value.

    With `aliases` every input that is a view is represented by its base.
    """

    def __init__(
        self,
        arguments: Sequence[tuple[Path, str, Tensor]],
        survey: Survey,
        known: Sequence[TraceInput],
        aliases: bool,
    ) -> None:
        self.outermost = Scope("forward")
        self.inputs: list[TraceInput] = []
        self.undo = UndoLog()
        self.aliases = aliases
        self.memories: dict[int, Memory] = {}
        self._survey = survey
        self._number_of: dict[int, int] = {}
        self._by_path: dict[Path, int] = {}
        self._paths: dict[int, Path] = dict(survey.tensors)
        # Identities are keys here, so what has one stays alive.
        self._kept: list[Any] = []
        self._kinds: dict[int, str] = {}
        self._arguments = [tensor for _, _, tensor in arguments]
        for path, kind, tensor in arguments:
            self.undo.keep(tensor)
            # An argument's own name wins over another way to it.
            self._paths[id(tensor)] = path
            self._kinds[id(tensor)] = kind
            self._kept.append(tensor)
        if known:
            # Inputs of the traces that are known keep their numbers.
            for item in known:
                self._add_known(item)
        elif not aliases:
            for path, kind, tensor in arguments:
                if id(tensor) not in self._number_of:
                    self._add_input(tensor, path, kind)

    def is_input(self, tensor: Tensor) -> bool:
        """Whether `tensor` itself is an input of the trace."""
        return id(tensor) in self._number_of

    def is_outside(self, tensor: Tensor) -> bool:
        """Whether `tensor` was there before the function ran."""
        return id(tensor) in self._number_of or id(tensor) in self._paths

    def number_of(self, tensor: Tensor) -> int:
        """The number of an input."""
        return self._number_of[id(tensor)]

    def _array_path(self, array: np.ndarray[Any, Any]) -> Path | None:
        """The way to an array that the function can reach, or to a view of one; None for others."""
        known = self._survey.arrays
        found = known.get(id(array))
        base = array.base
        if found is None and isinstance(base, np.ndarray) and base.flags.c_contiguous:
            whole = known.get(id(base))
            if whole is not None:
                found = known[id(array)] = access.of_part(whole, base, array)
                self._kept.append(array)
        return found

    def _input_number(self, tensor: Tensor) -> int:
        """The number of the input that `tensor`, or its base, is; a new one if it is not known."""
        found = self._number_of.get(id(tensor))
        if found is not None:
            return found
        source: Tensor | None = tensor
        path: Path | None = None
        candidate = tensor
        while source is not None and path is None:
            number = self._number_of.get(id(source))
            if number is not None:
                return number
            candidate = source
            path = self._paths.get(id(source)) or self._survey.arrays.get(id(source._array))
            source = parent_of(source)[0]
        if path is None:
            candidate = tensor
            path = access.of_object(tensor, "<a tensor>")
        kind = self._kinds.get(id(candidate), "tensor")
        if id(candidate) not in self._paths and id(candidate._array) in self._survey.arrays:
            kind = "array"
        if self.aliases and kind == "tensor":
            root, _ = memory_root(candidate)
            alone = is_whole(candidate, root) and not self.is_outside(root)
            if root is not candidate and not alone:
                if candidate._requires_grad and candidate.is_leaf:
                    raise TraceError(
                        f"{path} is a leaf that shares memory with {root_path(path)}, and the "
                        "compiled function writes where inputs share memory: its gradient would be "
                        "lost. Pass a leaf with memory of its own: detach().clone()"
                    )
                path, candidate = root_path(path), root
                number = self._by_path.get(path)
                if number is not None or id(root) in self._number_of:
                    return self._number_of[id(root)]
        return self._add_input(candidate, path, kind)

    def _add_known(self, item: TraceInput) -> None:
        if item.kind in ("seed", "offset"):
            self.inputs.append(item)
            self._by_path[item.path] = len(self.inputs) - 1
            return
        tensor = item.path.get(self._arguments)
        if isinstance(tensor, np.ndarray):
            tensor = wrap(tensor)
        if not hasattr(tensor, "_array"):
            # It is not there this time; its number stays taken.
            self.inputs.append(item)
            return
        self._add_input(tensor, item.path, item.kind)

    def _add_input(self, tensor: Tensor, path: Path, kind: str) -> int:
        number = len(self.inputs)
        self.undo.keep(tensor)
        self._kept.append(tensor)
        differentiable = kind == "tensor" and tensor.requires_grad
        type = type_of(tensor._array)
        self.inputs.append(TraceInput(path, kind, tensor, type, name_of(path), differentiable))
        self._number_of[id(tensor)] = number
        self._by_path[path] = number
        value = Value(-1, number, None, type, differentiable, self.outermost)
        memory = self.memories.get(id(storage_of(tensor)))
        if memory is None:
            storage = storage_of(tensor)
            memory = Memory(storage, tensor, None)
            memory.value = value
            self.memories[id(storage)] = memory
        elif memory.version:
            raise AliasesMatter
        memory.inputs.append(number)
        tensor._trace = Binding(self, value, 0)
        return number


def is_whole(tensor: Tensor | None, root: Tensor) -> bool:
    """Whether `tensor` is `root` or, as after `detach()`, another tensor on all of its memory."""
    if tensor is None or tensor is root:
        return tensor is root
    return memory_root(tensor)[0] is root and not memory_root(tensor)[1]


def storage_of(tensor: Tensor) -> Storage:
    """What stands for a piece of memory: `.data` has marks of its own, but not memory."""
    return memory_root(tensor)[0]._storage


def parent_of(tensor: Tensor) -> tuple[Tensor | None, Any]:
    """The tensor that `tensor` directly shares its memory with, and the steps from there."""
    if tensor._base is not None:
        return tensor._base, tensor._steps
    if tensor._alias is not None:
        return tensor._alias
    return None, ()


def root_path(path: Path) -> Path:
    """The way on from a view to the tensor whose memory it shows."""
    read = path.read
    return Path(
        ("root", path),
        f"the base of {path}",
        lambda arguments: memory_root(read(arguments))[0],
    )


def name_of(path: Path) -> str:
    """A name for an input in the IR."""
    text = "".join(c if c.isalnum() else "_" for c in str(path)).strip("_")
    return text if text.isidentifier() else f"x_{text}"
