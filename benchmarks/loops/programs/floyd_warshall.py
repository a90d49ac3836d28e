"""Floyd and Warshall's shortest paths between all nodes."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tracegrad as tg
from benchmarks.loops.program import Arguments, Function, Program


def inputs(rng: np.random.Generator, size: int) -> Sequence[Arguments]:
    """Positive distances between `size` nodes; that of a node to itself is its shortest cycle."""
    return [(rng.exponential(size=(size, size)) + 0.01,)]


def plain(distance: tg.Tensor) -> tg.Tensor:
    """The mean length of the shortest paths."""
    for k in range(distance.shape[0]):
        distance = tg.minimum(distance, distance[:, k, None] + distance[k])
    return distance.mean()


def explicit(distance: tg.Tensor) -> tg.Tensor:
    """The same by `tg.fori_loop`."""

    def visit(k: Any, distance: tg.Tensor) -> tg.Tensor:
        return tg.minimum(distance, distance[:, k, None] + distance[k])

    return tg.fori_loop(0, distance.shape[0], visit, distance).mean()


def with_jax() -> Function:
    """The same by `lax.fori_loop`."""
    from jax import lax
    from jax import numpy as jnp

    def loss(distance: Any) -> Any:
        def visit(k: Any, distance: Any) -> Any:
            return jnp.minimum(distance, distance[:, k, None] + distance[k])

        return lax.fori_loop(0, distance.shape[0], visit, distance).mean()

    return loss


def by_hand() -> ModuleType:
    """The same in Numba."""
    from benchmarks.loops.by_hand import floyd_warshall

    return floyd_warshall


PROGRAM = Program(
    name="Floyd-Warshall",
    about="64 nodes; float64, gradient of the 64 x 64 distances",
    sizes=(6, 64),
    inputs=inputs,
    parameters=(0,),
    plain=plain,
    explicit=explicit,
    jax=with_jax,
    by_hand=by_hand,
)
