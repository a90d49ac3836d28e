"""Devices by PyTorch's names: where a tensor's memory is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracegrad.errors import DeviceError
from tracegrad.runtime.cuda import availability
from tracegrad.runtime.cuda.arrays import DeviceArray
from tracegrad.tracer.location import locate

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Device:
    """Where a tensor's memory is. `index` is None for the current device of that type."""

    type: str
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        inside = f"type={self.type!r}"
        if self.index is not None:
            inside += f", index={self.index}"
        return f"device({inside})"


cpu = Device("cpu")
cuda = Device("cuda", 0)


def device(spec: str | Device, index: int | None = None) -> Device:
    """The device that `spec` names: "cpu", "cuda", "cuda:1".

    Raises DeviceError for a name that is no device.
    """
    if isinstance(spec, Device):
        return spec
    kind, _, number = spec.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise locate(DeviceError(f"Invalid device string: {spec!r}; devices are 'cpu' and 'cuda'"))
    return Device(kind, int(number) if number else index)


def available(spec: str | Device | None) -> Device:
    """The device to put a tensor on, with its number; DeviceError if it is not there, which says
    what is missing.
    """
    found = cpu if spec is None else device(spec)
    if found.type == "cpu":
        return cpu
    problem = availability.problem()
    if problem is None and found.index not in (None, 0):
        problem = f"there is no device number {found.index}: tensors live on the first GPU"
    if problem is not None:
        raise locate(DeviceError(f"device {str(found)!r} is not available: {problem}"))
    return cuda


def device_of(array: Array) -> Device:
    """Where the memory of an array is."""
    return cuda if type(array) is DeviceArray else cpu


def device_among(values: Iterable[Any]) -> Device:
    """Where arrays, which may have numbers of the host among them, are computed with."""
    return cuda if any(isinstance(value, DeviceArray) for value in values) else cpu


def moved(array: Array, target: Device) -> Array:
    """An array's elements in the memory of a device: a copy, unless they are there."""
    if device_of(array) is target:
        return array
    if isinstance(array, DeviceArray):
        return array.host()
    # Here and not above: it imports CUDA.
    from tracegrad.runtime.cuda.operations import to_device

    availability.used = True
    return to_device(array)


def transfer(array: Array, source: str, target: str) -> Array:
    """The evaluation of the op of that name."""
    return moved(array, available(target))


def beside(array: Array, like: Array) -> Array:
    """An array of the host where another array is."""
    return moved(array, device_of(like))


def owned(value: Any) -> Array:
    """A copy of an array or a number, where it is."""
    return value.copy() if isinstance(value, np.ndarray) else np.array(value)


def contiguous(array: Array) -> Array:
    """An array in row-major memory: itself if it is so already."""
    return array if array.flags.c_contiguous else array.copy()
