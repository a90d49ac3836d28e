"""Train a two-layer network on scikit-learn's handwritten digits.

The whole training step is one compiled function: forward, gradient, momentum and the update of
the weights in place. The learning rate is an ordinary float that changes in every epoch; it is an
input of the compiled code, so it never causes a second trace.
"""

import time
from dataclasses import dataclass

import numpy as np

import tracegrad as tg

HIDDEN = 64
CLASSES = 10
BATCH = 32
MOMENTUM = 0.9

Parameters = dict[str, tg.Tensor]
Arrays = tuple[np.ndarray, np.ndarray]


@dataclass
class Result:
    """Accuracies between 0 and 1, and the mean loss of each epoch."""

    train_accuracy: float
    test_accuracy: float
    losses: list[float]


@tg.compile
def predict(parameters: Parameters, images: tg.Tensor) -> tg.Tensor:
    """Scores of each class: (rows, 64) to (rows, 10)."""
    hidden = tg.tanh(images @ parameters["w1"] + parameters["b1"])
    return hidden @ parameters["w2"] + parameters["b2"]


def cross_entropy(parameters: Parameters, images: tg.Tensor, labels: tg.Tensor) -> tg.Tensor:
    """The mean cross-entropy of the predictions, in nats."""
    return tg.nn.functional.cross_entropy(predict(parameters, images), labels)


@tg.compile
def train_step(
    parameters: Parameters,
    velocities: Parameters,
    images: tg.Tensor,
    labels: tg.Tensor,
    learning_rate: float,
) -> tg.Tensor:
    """One step of gradient descent with momentum. Changes parameters and velocities in place."""
    loss, gradients = tg.value_and_grad(cross_entropy)(parameters, images, labels)
    with tg.no_grad():
        for name, parameter in parameters.items():
            velocities[name].mul_(MOMENTUM).add_(gradients[name])
            parameter -= learning_rate * velocities[name]
    return loss


def initial_parameters(rng: np.random.Generator, inputs: int) -> Parameters:
    """Weights with Glorot's variance 2 / (fan in + fan out), which keeps tanh off saturation."""

    def weights(rows: int, columns: int) -> tg.Tensor:
        scale = np.sqrt(2.0 / (rows + columns))
        return tg.tensor(rng.normal(scale=scale, size=(rows, columns)).astype(np.float32))

    return {
        "w1": weights(inputs, HIDDEN),
        "b1": tg.zeros(HIDDEN),
        "w2": weights(HIDDEN, CLASSES),
        "b2": tg.zeros(CLASSES),
    }


def accuracy(parameters: Parameters, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose highest score is at their label."""
    guesses = predict(parameters, tg.from_numpy(images)).numpy().argmax(axis=1)
    return float((guesses == labels).mean())


def train(train_set: Arrays, test_set: Arrays, epochs: int) -> Result:
    """Train on (images, labels): float32 of shape (rows, pixels), int64 of shape (rows,)."""
    images, labels = train_set
    rng = np.random.default_rng(0)
    parameters = initial_parameters(rng, images.shape[1])
    velocities = {name: tg.zeros_like(parameter) for name, parameter in parameters.items()}
    batches = len(images) // BATCH
    losses = []
    started = time.perf_counter()
    for epoch in range(epochs):
        learning_rate = 0.05 * (1.0 - epoch / epochs)
        order = rng.permutation(len(images))[: batches * BATCH].reshape(batches, BATCH)
        total = 0.0
        for rows in order:
            batch = tg.from_numpy(images[rows]), tg.from_numpy(labels[rows])
            total += train_step(parameters, velocities, *batch, learning_rate).item()
        losses.append(total / batches)
        if epoch % 5 == 0 or epoch == epochs - 1:
            print(
                f"epoch {epoch + 1:3d}   loss {losses[-1]:.4f}   "
                f"test accuracy {accuracy(parameters, *test_set):.3f}   "
                f"{time.perf_counter() - started:5.1f} s"
            )
    return Result(accuracy(parameters, *train_set), accuracy(parameters, *test_set), losses)


def load_digits() -> tuple[Arrays, Arrays]:
    """1,797 images of 8 x 8 pixels between 0 and 1, shuffled: 80% to train with, 20% to test."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise SystemExit(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    data = load()
    order = np.random.default_rng(0).permutation(len(data.data))
    images = (data.data[order] / 16.0).astype(np.float32)
    labels = data.target[order].astype(np.int64)
    split = len(images) * 4 // 5
    return (images[:split], labels[:split]), (images[split:], labels[split:])


def main(steps: int = 30, plot: bool = True) -> Result:
    """Train for `steps` epochs. There is nothing to plot."""
    result = train(*load_digits(), epochs=steps)
    print(f"final: train accuracy {result.train_accuracy:.3f}", end=", ")
    print(f"test accuracy {result.test_accuracy:.3f}")
    return result


if __name__ == "__main__":
    if main().test_accuracy < 0.96:
        raise SystemExit("the test accuracy should be at least 0.96")
