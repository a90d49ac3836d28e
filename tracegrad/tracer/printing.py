"""The printed form of a tensor, character for character that of PyTorch.

Printing is no demand for a value: nothing that the program computes depends on it. Formatting one
number is, because it gives the bare number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.ir import types
from tracegrad.ir.op import Array
from tracegrad.tracer.conversion import item
from tracegrad.tracer.device import cpu, moved
from tracegrad.tracer.promotion import get_default_dtype
from tracegrad.tracer.state import state

if TYPE_CHECKING:
    from tracegrad.tracer.tensor import Tensor


@dataclass
class PrintOptions:
    """How numbers are printed: digits, the size above which the middle is left out, how many at
    each
    edge stay, the width of a line, and whether to use exponents (None: where it is needed)."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


options = PrintOptions()

_PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Change how tensors are printed; `profile` is "default", "short" or "full"."""
    if profile is not None:
        vars(options).update(vars(_PROFILES[profile]))
    given = {
        "precision": precision,
        "threshold": threshold,
        "edgeitems": edgeitems,
        "linewidth": linewidth,
    }
    vars(options).update({name: value for name, value in given.items() if value is not None})
    options.sci_mode = sci_mode


@dataclass
class Style:
    """How every number of one tensor is written: the function, and the width of the widest."""

    write: Callable[[Any], str]
    width: int

    def __call__(self, value: Any) -> str:
        return self.write(value).rjust(self.width)


def _style(array: Array) -> Style:
    """The style that fits all numbers of `array`."""
    if array.dtype.kind != "f":
        return Style(str, max((len(str(value)) for value in array.ravel().tolist()), default=0))
    values = array.ravel().astype(np.float64)
    values = values[np.isfinite(values) & (values != 0)]
    if values.size == 0:
        return Style(_whole, 1)
    large, small = float(np.abs(values).max()), float(np.abs(values).min())
    whole = bool((values == np.ceil(values)).all())
    # The ratio can overflow; it is then past every bound, as it should be.
    with np.errstate(over="ignore"):
        spread = float(np.float64(large) / np.float64(small))
    scientific = spread > 1000 or large > 1e8 or (not whole and small < 1e-4)
    if options.sci_mode is not None:
        scientific = options.sci_mode
    if scientific:
        write = _scientific
    elif whole:
        write = _whole
    else:
        write = _fixed
    return Style(write, max(len(write(value)) for value in values.tolist()))


def _scientific(value: float) -> str:
    return f"{value:.{options.precision}e}"


def _fixed(value: float) -> str:
    return f"{value:.{options.precision}f}"


def _whole(value: float) -> str:
    return f"{value:.0f}." if math.isfinite(value) else f"{value:.0f}"


def _edges(array: Array) -> Array:
    """What of `array` is printed when the middle of long axes is left out."""
    keep = options.edgeitems
    for axis, size in enumerate(array.shape):
        if size > 2 * keep:
            picked = (*range(keep), *range(size - keep, size))
            array = np.take(array, picked, axis)
    return array


def _block(array: Array, indent: int, style: Style, shortened: bool) -> str:
    """The nested brackets of `array`, whose first stands at column `indent`."""
    if array.ndim == 0:
        return style(array.item())
    keep = options.edgeitems
    cut = shortened and array.shape[0] > 2 * keep
    if array.ndim == 1:
        return _row(array, indent, style, cut)
    rows = [array[i] for i in range(array.shape[0])] if not cut else [*array[:keep], *array[-keep:]]
    blocks = [_block(row, indent + 1, style, shortened) for row in rows]
    if cut:
        blocks.insert(keep, "...")
    between = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return f"[{between.join(blocks)}]"


def _row(array: Array, indent: int, style: Style, cut: bool) -> str:
    keep = options.edgeitems
    words = [style(value) for value in (_edges(array) if cut else array).tolist()]
    if cut:
        words.insert(keep, " ...")
    each = max(1, (options.linewidth - indent) // (style.width + 2))
    lines = [", ".join(words[i : i + each]) for i in range(0, len(words), each)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _notes(tensor: Tensor) -> list[str]:
    """What stands behind the numbers: the size of an empty tensor, an unusual dtype, the
    gradient.
    """
    notes = []
    usual = {get_default_dtype(), types.int64, types.bool_}
    if tensor._array.size == 0:
        if tensor.ndim != 1:
            notes.append(f"size={tuple(tensor.shape)}")
        usual = {get_default_dtype()}
    if tensor.device is not cpu:
        notes.append(f"device='{tensor.device}'")
    if tensor.dtype not in usual:
        notes.append(f"dtype={tensor.dtype!r}")
    node = tensor.grad_fn
    if node is not None:
        notes.append(f"grad_fn=<{node.name()}>")
    elif tensor.requires_grad:
        notes.append("requires_grad=True")
    traced = state.recorder.note(tensor) if state.recorder is not None else None
    if traced is not None:
        notes.append(traced)
    return notes


def tensor_repr(self: Tensor) -> str:
    """`tensor([1., 2.], requires_grad=True)`."""
    prefix = "tensor("
    array = moved(self._values, cpu)
    shortened = array.size > options.threshold
    if array.size == 0:
        text = "[]"
    else:
        style = _style(_edges(array) if shortened else array)
        text = _block(array, len(prefix), style, shortened)
    text = prefix + text
    column = len(text) - text.rfind("\n") + 1
    for note in _notes(self):
        if column + len(note) + 2 > options.linewidth:
            text += ",\n" + " " * len(prefix) + note
            column = len(prefix) + len(note)
        else:
            text += ", " + note
            column += len(note) + 2
    return text + ")"


def tensor_format(self: Tensor, spec: str) -> str:
    """A tensor of dimension 0 formats as its number, any other as its printed form."""
    return format(item(self) if self.ndim == 0 else repr(self), spec)
