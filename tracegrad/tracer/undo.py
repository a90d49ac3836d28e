"""An undo log: everything that a trace changes in tensors which existed before."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.tracer.tensor import Tensor, attributes_of, become


class UndoLog:
    """Copies of what tensors were before a trace touched them."""

    def __init__(self) -> None:
        self._attributes: dict[int, tuple[Tensor, dict[str, Any]]] = {}
        self._memory: dict[int, tuple[Tensor, np.ndarray[Any, Any], tuple[Any, ...]]] = {}

    def keep(self, tensor: Tensor) -> None:
        """Remember the attributes of `tensor`: its tape node, `.grad`, `requires_grad`."""
        if id(tensor) not in self._attributes:
            self._attributes[id(tensor)] = tensor, attributes_of(tensor)
            if tensor._base is not None:
                self.keep(tensor._base)

    def keep_memory(self, root: Tensor) -> None:
        """Remember the values of `root`, which has the whole of its memory."""
        storage = root._storage
        if id(storage) not in self._memory:
            marks = storage.version, storage.written_by, storage.written_at
            self._memory[id(storage)] = root, root._values.copy(), marks
            self.keep(root)

    def before(self, tensor: Tensor) -> dict[str, Any]:
        """The attributes that `tensor` had; those it has now if it was never touched."""
        kept = self._attributes.get(id(tensor))
        return kept[1] if kept is not None else attributes_of(tensor)

    def revert(self) -> None:
        """Put everything back."""
        for root, values, marks in self._memory.values():
            np.copyto(root._array, values)
            storage = root._storage
            storage.version, storage.written_by, storage.written_at = marks
        for tensor, attributes in self._attributes.values():
            become(tensor, attributes)
