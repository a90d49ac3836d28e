"""`tracegrad.random`: the stream of random numbers."""

from tracegrad.runtime.random import Generator
from tracegrad.tracer.randomness import (
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)

__all__ = [
    "Generator",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
]
