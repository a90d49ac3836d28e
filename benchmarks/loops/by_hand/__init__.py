"""Each program in Numba, written by hand: `forward` and `gradient`, the adjoint included.

They are what a programmer would write who knows the mathematics: no fastmath, one thread, the
memory of the reverse sweep allocated once a call. `gradient` returns the value and then the
gradients in the order of `Program.parameters`.
"""
