"""Speed of tracegrad beside PyTorch and JAX on the same mathematics: `python -m benchmarks`."""
