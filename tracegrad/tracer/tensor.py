"""`Tensor`: an array with a place on the tape. Methods that are ops are attached by
`methods.py`.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tracegrad.errors import GradError
from tracegrad.ir.op import Array, Op
from tracegrad.ir.types import BY_NUMPY, DType, TensorType
from tracegrad.tracer.device import Device, device_of
from tracegrad.tracer.hooks import Hooks, Registration
from tracegrad.tracer.location import PACKAGE, locate
from tracegrad.tracer.state import state
from tracegrad.tracer.storage import Storage

if TYPE_CHECKING:
    from tracegrad.tracer.tape import AccumulateGrad, Node

Step = tuple[Op, dict[str, Any]]

NON_LEAF_GRAD = (
    "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad "
    "attribute won't be populated during autograd.backward(). If you indeed want the .grad field "
    "to be populated for a non-leaf Tensor, use .retain_grad() on the non-leaf Tensor. If you "
    "access the non-leaf Tensor by mistake, make sure you access the leaf Tensor instead."
)


class Size(tuple[int, ...]):
    """The shape of a tensor: a tuple that prints as PyTorch's does."""

    __slots__ = ()

    def numel(self) -> int:
        """The number of elements."""
        return int(np.prod(self, dtype=np.int64))

    def __repr__(self) -> str:
        return f"tracegrad.Size([{', '.join(map(str, self))}])"


@lru_cache(maxsize=4096)
def tensor_type(dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorType:
    """The IR type of arrays of this dtype and shape."""
    return TensorType(BY_NUMPY[dtype], shape)


_NUMBERS: dict[str, type] = {"b": bool, "i": int, "f": float}


class Tensor:
    """An n-dimensional array that remembers how it was computed.

    What every call looks at has a slot, at a fixed place for native code (`known_calls`). All else
    is a class attribute first, so that making a tensor sets only what differs.

    _array          the memory, shared with NumPy and with views.
    _storage        what all tensors on that memory have in common.
    _base, _steps   of a differentiable view: the tensor it is a view of, and the ops that lead
    there.
    _alias          of a tensor that shares memory without being differentiable (`detach`, `.data`,
    a
                    view made under `no_grad`): the tensor that it shares it with, and the ops from
                    there.
    _view_version   the storage's version when `_grad_fn` of a view was made.
    _literal        the Python number that a constant stands for.
    _constant       made by a formula and not by the user: it goes to whatever device it is used on.
    _weak           a Python scalar argument of a compiled function: promotes like one.
    _mask           of a cotangent on its way: where it is not zero, see `ir.masking`.
    _fresh          of a cotangent: nothing else holds its memory, so it may become a `.grad`.
    _key            the array and what of it is part of a compiled function's signature.
    _trace          the recorder's own handle of this tensor's value; copied where a tensor is
    copied.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_alias",
        "_array",
        "_base",
        "_grad_fn",
        "_output_nr",
        "_requires_grad",
        "_storage",
    )

    _array: Array
    _storage: Storage
    _base: Tensor | None
    _alias: tuple[Tensor, tuple[Step, ...]] | None
    _requires_grad: bool
    _grad_fn: Node | None
    _output_nr: int
    _steps: tuple[Step, ...] = ()
    _no_grad_view: bool = False
    _view_version: int = 0
    _grad: Tensor | None = None
    _literal: Any = None
    _constant: bool = False
    _weak: bool = False
    _trace: Any = None
    _mask: Tensor | None = None
    _fresh: bool = False
    _key: tuple[Array, Any] | None = None
    _hooks: Hooks | None = None
    _post_hooks: Hooks | None = None
    _retains_grad: bool = False
    _accumulator: weakref.ref[AccumulateGrad] | None = None

    def _apparent_class(self) -> type:
        if self._weak and not sys._getframe(1).f_code.co_filename.startswith(PACKAGE):
            return _NUMBERS[self._array.dtype.kind]
        return type(self)

    # A number given to a compiled function is a tensor there. For `isinstance` and `match` in the
    # user's own code it is still the int or the float that it stands for.
    __class__ = property(_apparent_class)

    # NumPy's operators give way to ours.
    __array_priority__ = 1000

    # Attached by the engine: adds a cotangent to `.grad`.
    _accumulate: ClassVar[Callable[..., None]]

    if TYPE_CHECKING:
        # Attached by `methods.py` from the table of functions.
        def __getattr__(self, name: str) -> Any: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Tensor:
        """`Tensor(data)` and `Tensor(2, 3)`: the old constructor, always of the default dtype."""
        from tracegrad.tracer.creation import legacy_tensor

        return legacy_tensor(*args, **kwargs)

    @property
    def _values(self) -> Array:
        """The memory with its values in it: while a function is recorded, they may not be yet."""
        if state.deferrals is not None:
            state.deferrals.compute(self._array)
        return self._array

    @property
    def _type(self) -> TensorType:
        array = self._array
        return tensor_type(array.dtype, array.shape)

    @property
    def shape(self) -> Size:
        return Size(self._array.shape)

    @property
    def dtype(self) -> DType:
        return BY_NUMPY[self._array.dtype]

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def device(self) -> Device:
        return device_of(self._array)

    @property
    def requires_grad(self) -> bool:
        """Whether backward reaches this tensor."""
        if self._requires_grad:
            return True
        base = self._base
        return (
            base is not None
            and self._view_version != self._storage.version
            and base.requires_grad
            and self._array.dtype.kind == "f"
        )

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Say whether gradients of this leaf are wanted.

        Raises GradError for a dtype without gradients and for switching off a non-leaf.
        """
        if requires_grad and self._array.dtype.kind != "f":
            raise locate(
                GradError("only Tensors of floating point and complex dtype can require gradients")
            )
        if self.grad_fn is not None:
            if not requires_grad:
                raise locate(
                    GradError(
                        "you can only change requires_grad flags of leaf variables. If you want "
                        "to use a computed variable in a subgraph that doesn't require "
                        "differentiation use var_no_grad = var.detach()."
                    )
                )
            return self
        self._requires_grad = bool(requires_grad)
        return self

    @property
    def grad_fn(self) -> Node | None:
        """The tape node that made this tensor; None for a leaf."""
        if self._base is not None and self._view_version != self._storage.version:
            from tracegrad.tracer.views import renew

            renew(self)
        return self._grad_fn

    @property
    def is_leaf(self) -> bool:
        return self.grad_fn is None

    @property
    def output_nr(self) -> int:
        return self._output_nr

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient, or None."""
        if (
            self._grad is None
            and self._requires_grad
            and not self._retains_grad
            and self.grad_fn is not None
        ):
            warnings.warn(NON_LEAF_GRAD, UserWarning, stacklevel=2)
        if state.recorder is not None:
            state.recorder.read_grad(self)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            self._check_grad(value)
        self._set_grad(value)

    @grad.deleter
    def grad(self) -> None:
        self._set_grad(None)

    def _set_grad(self, value: Tensor | None) -> None:
        if state.recorder is not None:
            state.recorder.write_grad(self, self._grad, value)
        self._grad = value

    def _check_grad(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"assigned grad expected to be a Tensor or None but got grad of type "
                f"{type(value).__name__}"
            )
        if value is self:
            raise locate(GradError("can't assign Variable as its own grad"))
        if value._array.dtype != self._array.dtype:
            raise locate(
                GradError(
                    f"assigned grad has data of a different type: {value.dtype.name} "
                    f"for a tensor of {self.dtype.name}"
                )
            )
        if value._array.shape != self._array.shape:
            raise locate(
                GradError(
                    f"assigned grad has data of a different size: {list(value._array.shape)} "
                    f"for a tensor of {list(self._array.shape)}"
                )
            )

    @property
    def retains_grad(self) -> bool:
        return self._retains_grad

    def retain_grad(self) -> None:
        """Keep the gradient of this non-leaf in `.grad`."""
        node = self.grad_fn
        if not self.requires_grad:
            raise locate(GradError("can't retain_grad on Tensor that has requires_grad=False"))
        if node is None or self._retains_grad:
            return
        self._retains_grad = True
        node.retained = node.retained or {}
        node.retained[self._output_nr] = weakref.ref(self)
        if state.recorder is not None:
            state.recorder.registered(Registration(self))

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call `hook(grad)` when the gradient of this tensor is known; it may return another.

        Returns a handle whose `remove()` takes the hook away.
        """
        if not self.requires_grad:
            raise locate(
                GradError("cannot register a hook on a tensor that doesn't require gradient")
            )
        node = self.grad_fn
        if node is None:
            self._hooks = self._hooks or Hooks()
            return self._hooks.add(hook, self)
        node.tensor_hooks = node.tensor_hooks or {}
        return node.tensor_hooks.setdefault(self._output_nr, Hooks()).add(hook, node)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Any:
        """Call `hook(tensor)` after the gradient of this leaf was added to `.grad`."""
        if not self.requires_grad:
            raise locate(
                GradError("cannot register a hook on a tensor that doesn't require gradient")
            )
        if self.grad_fn is not None:
            raise locate(
                GradError("post accumulate grad hooks cannot be registered on non-leaf tensors")
            )
        self._post_hooks = self._post_hooks or Hooks()
        return self._post_hooks.add(hook, self)

    def _twin(self) -> Tensor:
        """Another tensor on the same memory, off the tape, with the same recorded value."""
        twin = wrap(self._array, self._storage)
        twin._trace = self._trace
        twin._alias = (self, ())
        return twin


_new = object.__new__


def wrap(array: Array, storage: Storage | None = None) -> Tensor:
    """A new leaf on `array`, whose memory it shares; `storage` is that of the memory, if known."""
    tensor: Tensor = _new(Tensor)
    tensor._array = array
    tensor._base = tensor._alias = tensor._grad_fn = None
    tensor._requires_grad = False
    tensor._output_nr = 0
    tensor._storage = Storage() if storage is None else storage
    return tensor


def attributes_of(tensor: Tensor) -> dict[str, Any]:
    """All that a tensor is, by name."""
    found = dict(tensor.__dict__)
    found.update((name, getattr(tensor, name)) for name in SLOTS)
    return found


def become(tensor: Tensor, attributes: dict[str, Any]) -> None:
    """Make a tensor what `attributes_of` found."""
    own = tensor.__dict__
    own.clear()
    for name, value in attributes.items():
        if name in SLOTS:
            setattr(tensor, name, value)
        else:
            own[name] = value


SLOTS = frozenset(name for name in Tensor.__slots__ if not name.startswith("__"))
