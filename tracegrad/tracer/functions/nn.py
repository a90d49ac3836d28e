"""`tracegrad.nn.functional`, as a namespace."""

from __future__ import annotations

from types import SimpleNamespace

from tracegrad.tracer.functions.table import FUNCTIONAL

functional = SimpleNamespace(**FUNCTIONAL)
"""What a user reaches as `tracegrad.nn.functional`."""
