"""Graphs on NVIDIA GPUs: memory, kernels and programs of a device.

Importing it imports no CUDA; `machine` does when something first runs.
"""
