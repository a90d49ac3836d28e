"""Time against size, for arrays, batches and graphs: `python -m benchmarks.scaling`."""
