"""Speed of loops beside JAX and Numba written by hand: `python -m benchmarks.loops`."""
