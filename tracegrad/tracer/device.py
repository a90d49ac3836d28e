"""Devices by PyTorch's names. Only the CPU is there today."""

from __future__ import annotations

from dataclasses import dataclass

from tracegrad.errors import DeviceError
from tracegrad.tracer.location import locate


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
    """The device to put a tensor on; DeviceError if this installation has none of that kind."""
    found = cpu if spec is None else device(spec)
    if found.type != "cpu":
        raise locate(
            DeviceError(
                f"device {str(found)!r} is not available: this version runs tensors on the CPU "
                "only, and CUDA will need an NVIDIA GPU and the extra tracegrad[cuda]"
            )
        )
    return cpu
