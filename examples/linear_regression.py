"""Fit a line to noisy points with a compiled loss, forward and backward.

The loop is the one of a PyTorch tutorial. Only `@tg.compile` is new: the first call records the
loss, derives its gradient and compiles both; the other 499 calls run machine code.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tracegrad as tg

TRUE_SLOPE = 2.5
TRUE_OFFSET = -1.0
NOISE = 0.3
BATCH = 32
OUTPUT = Path(__file__).resolve().parent / "output"


@dataclass
class Result:
    """The fitted line and the loss of each step, in units of the squared noise."""

    slope: float
    offset: float
    losses: list[float]


@tg.compile
def loss(w: tg.Tensor, b: tg.Tensor, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    """Half the mean squared error of the line ``x @ w + b``."""
    return 0.5 * ((x @ w + b - y) ** 2).mean()


def noisy_line(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """`rows` points of the true line with Gaussian noise: two columns, x and y."""
    x = rng.uniform(-2.0, 2.0, size=(rows, 1)).astype(np.float32)
    noise = rng.normal(scale=NOISE, size=(rows, 1)).astype(np.float32)
    y = TRUE_SLOPE * x + TRUE_OFFSET + noise
    return x, y.astype(np.float32)


def main(steps: int = 500, plot: bool = True) -> Result:
    """Fit the line by gradient descent on a new batch in each step."""
    rng = np.random.default_rng(0)
    w = tg.zeros(1, 1, requires_grad=True)
    b = tg.zeros(1, 1, requires_grad=True)
    losses = []
    for step in range(steps):
        x, y = (tg.from_numpy(column) for column in noisy_line(rng, BATCH))
        value = loss(w, b, x, y)
        value.backward()
        with tg.no_grad():
            w -= 0.05 * w.grad
            b -= 0.05 * b.grad
        w.grad = b.grad = None
        losses.append(value.item())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:3d}   loss {losses[-1]:.4f}   y = {w.item():.3f} x + {b.item():.3f}")

    result = Result(w.item(), b.item(), losses)
    print(f"true line              y = {TRUE_SLOPE:.3f} x + {TRUE_OFFSET:.3f}")
    if plot:
        save_plot(result, *noisy_line(rng, 200))
    return result


def save_plot(result: Result, x: np.ndarray, y: np.ndarray) -> None:
    """Save the fit and the course of the loss; say so and go on if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    # A Figure by itself needs neither a screen nor a choice of backend.
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ends = np.array([x.min(), x.max()])
    left.scatter(x, y, s=8, color="0.6", label="data")
    left.plot(ends, TRUE_SLOPE * ends + TRUE_OFFSET, "--", color="0.2", label="truth")
    left.plot(ends, result.slope * ends + result.offset, label="fit")
    left.set(xlabel="x", ylabel="y")
    left.legend()
    right.semilogy(result.losses)
    right.axhline(NOISE**2 / 2, linestyle="--", color="0.2", label="noise alone")
    right.set(xlabel="step", ylabel="loss")
    right.legend()
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "linear_regression.png"
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


if __name__ == "__main__":
    main()
