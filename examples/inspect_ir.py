"""Look inside a compiled function: its graphs, the Numba source that runs, and its history."""

from dataclasses import dataclass

import tracegrad as tg


@dataclass
class Result:
    """The three texts, as printed."""

    ir: str
    source: str
    explanation: str


@tg.compile
def loss(w: tg.Tensor, b: tg.Tensor, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    """The mean squared error of one layer with tanh."""
    return ((tg.tanh(x @ w + b) - y) ** 2).mean()


def main(steps: int = 3, plot: bool = True) -> Result:
    """Call the function `steps` times with each of two dtypes and print what became of it."""
    tg.manual_seed(0)
    for dtype in (tg.float32, tg.float64):
        w = tg.randn(4, 2, dtype=dtype, requires_grad=True)
        b = tg.zeros(2, dtype=dtype, requires_grad=True)
        x = tg.randn(16, 4, dtype=dtype)
        y = tg.randn(16, 2, dtype=dtype)
        for _ in range(steps):
            loss(w, b, x, y).backward()

    result = Result(str(loss.ir()), str(loss.source()), str(loss.explain()))
    print("# The graphs, forward and backward, of every specialisation\n")
    print(result.ir)
    print("\n# The source that Numba compiles\n")
    print(result.source)
    print("\n# What happened, and why\n")
    print(result.explanation)
    return result


if __name__ == "__main__":
    main()
