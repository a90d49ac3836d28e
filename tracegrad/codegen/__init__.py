"""Graphs to kernels to Numba source text. Pure: nothing here compiles or launches."""
