"""The op table: importing this package registers every op."""

from tracegrad.ir.ops import arithmetic, contraction, movement, reductions

__all__ = ["arithmetic", "contraction", "movement", "reductions"]
