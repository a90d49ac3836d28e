"""Devices, buffers, compilation and execution of graphs on plain arrays."""
