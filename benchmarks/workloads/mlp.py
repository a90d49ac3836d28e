"""Networks of one hidden layer, value and gradients only: a small one and one bound by BLAS.

The small one has the shapes of the digits training step without its update; the large one those of
MNIST. The images are random: only shapes matter for speed.
"""

from functools import partial
from typing import Any

import numpy as np

from benchmarks.workload import Arrays, Workload
from benchmarks.workloads import gradients
from benchmarks.workloads.gradients import Loss

SMALL_SIZES = (64, 32, 10)


def inputs(batch: int, sizes: tuple[int, int, int], rng: np.random.Generator) -> Arrays:
    """Four parameters, a batch of images between 0 and 1, and their labels."""
    pixels, hidden, classes = sizes
    return {
        "w1": (rng.normal(size=(pixels, hidden)) / pixels**0.5).astype(np.float32),
        "b1": (0.1 * rng.normal(size=hidden)).astype(np.float32),
        "w2": (rng.normal(size=(hidden, classes)) / hidden**0.5).astype(np.float32),
        "b2": (0.1 * rng.normal(size=classes)).astype(np.float32),
        "images": rng.uniform(size=(batch, pixels)).astype(np.float32),
        "labels": rng.integers(classes, size=batch),
    }


def loss(
    tanh: Any, cross_entropy: Any, w1: Any, b1: Any, w2: Any, b2: Any, images: Any, labels: Any
) -> Any:
    """The mean cross-entropy of the scores: the same text for every system but eager PyTorch."""
    return cross_entropy(tanh(images @ w1 + b1) @ w2 + b2, labels)


def _tracegrad() -> Loss:
    import tracegrad as tg

    return partial(loss, tg.tanh, tg.nn.functional.cross_entropy)


def _torch_eager() -> Loss:
    """Product and bias by `addmm`."""
    import torch

    def loss(w1: Any, b1: Any, w2: Any, b2: Any, images: Any, labels: Any) -> Any:
        hidden = torch.tanh(torch.addmm(b1, images, w1))
        return torch.nn.functional.cross_entropy(torch.addmm(b2, hidden, w2), labels)

    return loss


def _torch() -> Loss:
    import torch

    return partial(loss, torch.tanh, torch.nn.functional.cross_entropy)


def _jax() -> Loss:
    import jax

    def cross_entropy(scores: Any, labels: Any) -> Any:
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)
        return -chosen.mean()

    return partial(loss, jax.numpy.tanh, cross_entropy)


def _workload(batch: int, sizes: tuple[int, int, int]) -> Workload:
    return gradients.workload(
        name=f"MLP, {batch} x {'-'.join(map(str, sizes))}",
        about=f"tanh network, batch of {batch}, cross-entropy; gradients of 4 parameters, float32",
        inputs=partial(inputs, batch, sizes),
        parameters=(0, 1, 2, 3),
        tracegrad=_tracegrad,
        torch=_torch,
        torch_eager=_torch_eager,
        jax=_jax,
    )


SMALL = _workload(32, SMALL_SIZES)
LARGE = _workload(128, (784, 256, 10))
