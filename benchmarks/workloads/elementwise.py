"""One input array, one scalar, one gradient: how the chains of elementwise operations are run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Workload
from benchmarks.workloads import gradients
from benchmarks.workloads.gradients import Loss

# The function under test, of the system's namespace (tracegrad, torch, jax.numpy) and the array.
Chain = Callable[[Any, Any], Any]


def workload(
    *, name: str, about: str, inputs: Callable[[np.random.Generator], Arrays], chain: Chain
) -> Workload:
    """The chain and its gradient."""
    return gradients.workload(
        name=name,
        about=about,
        inputs=inputs,
        parameters=(0,),
        tracegrad=partial(_tracegrad, chain),
        torch=partial(_torch, chain),
        jax=partial(_jax, chain),
    )


def _tracegrad(chain: Chain) -> Loss:
    import tracegrad as tg

    return lambda x: chain(tg, x)


def _torch(chain: Chain) -> Loss:
    import torch

    return lambda x: chain(torch, x)


def _jax(chain: Chain) -> Loss:
    import jax

    return lambda x: chain(jax.numpy, x)
