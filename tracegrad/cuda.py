"""`tg.cuda`: the GPU by PyTorch's names."""

from __future__ import annotations

from tracegrad.runtime.cuda import availability
from tracegrad.runtime.cuda.machine import machine
from tracegrad.tracer.device import available

__all__ = [
    "current_device",
    "device_count",
    "empty_cache",
    "get_device_name",
    "is_available",
    "max_memory_allocated",
    "memory_allocated",
    "reset_peak_memory_stats",
    "synchronize",
]


def is_available() -> bool:
    """Whether tensors can be moved to a GPU."""
    return availability.problem() is None


def device_count() -> int:
    """How many GPUs tensors can be on: one at most."""
    return int(is_available())


def current_device() -> int:
    """The number of the GPU that "cuda" names. DeviceError without one."""
    index = available("cuda").index
    assert index is not None
    return index


def get_device_name(device: object = None) -> str:
    """What the GPU is called. DeviceError without one."""
    available("cuda")
    name: str = machine().name()
    return name


def synchronize(device: object = None) -> None:
    """Wait until all that was asked of the GPU has run. DeviceError without one."""
    available("cuda")
    machine().synchronize()


def memory_allocated(device: object = None) -> int:
    """The bytes that tensors hold on the GPU; 0 without one."""
    return int(machine().memory.used) if is_available() else 0


def max_memory_allocated(device: object = None) -> int:
    """The most bytes that they have held since `reset_peak_memory_stats`; 0 without a GPU."""
    return int(machine().memory.peak) if is_available() else 0


def reset_peak_memory_stats(device: object = None) -> None:
    """Count the most from what is held now."""
    if is_available():
        machine().memory.reset_peak()


def empty_cache() -> None:
    """Give memory that nothing holds back to the system."""
    if is_available():
        machine().empty_cache()
