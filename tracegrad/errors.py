"""What the user sees when something is wrong: what happened, where, what to do.

Every class also derives from the exception that PyTorch or NumPy raises for the same mistake, so
that `except RuntimeError` in ported code keeps working.
"""

from __future__ import annotations


class TracegradError(Exception):
    """Base of every error that tracegrad raises on purpose."""


class ShapeError(TracegradError, RuntimeError, ValueError):
    """Shapes that do not fit together, or a size that cannot be."""


class DimError(TracegradError, IndexError):
    """A dimension out of range."""


class BoundsError(TracegradError, IndexError):
    """An index out of range."""


class DtypeError(TracegradError, RuntimeError, TypeError):
    """A dtype that an operation does not take."""


class DeviceError(TracegradError, RuntimeError):
    """Tensors on different devices, or a device that is not there."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A device has less memory left than is asked for."""


class GradError(TracegradError, RuntimeError):
    """A backward pass that cannot be done."""


class ArgumentError(TracegradError, TypeError):
    """An argument of the wrong kind."""


class TraceError(TracegradError, RuntimeError):
    """A function that cannot be traced or replayed."""


class TraceLimitWarning(UserWarning):
    """A function that was traced more often than its limit."""


class SideEffectWarning(UserWarning):
    """A function that changes Python objects when it is traced, which compiled code does not."""


class GraphError(TracegradError, ValueError):
    """A graph that breaks the rules of the IR: a bug of tracegrad, or of a hand-written graph."""


class CompilationError(TracegradError, RuntimeError):
    """Generated code that does not compile: a bug of tracegrad."""
