"""Tensors, the eager tape, recording, guards, the trace tree, transforms."""
