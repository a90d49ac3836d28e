"""Python's own `while` and `if` on tensor values, compiled.

Where Python asks a tensor for its value, the trace keeps a guard. Another outcome is traced and
compiled once more; a path that has been seen runs machine code. No annotation, no special loop.
"""

from dataclasses import dataclass

import numpy as np

import tracegrad as tg


@dataclass
class Result:
    """For each input: the value, the gradient with respect to it, and what plain NumPy says."""

    inputs: list[np.ndarray]
    values: list[np.ndarray]
    gradients: list[np.ndarray]
    expected_values: list[np.ndarray]
    expected_gradients: list[np.ndarray]
    explanation: str


@tg.compile
def grow(a: tg.Tensor) -> tg.Tensor:
    """Double until the norm is at least 1000; a negative sum costs a factor of 100 more."""
    b = a * 2
    while b.norm() < 1000:
        b = b * 2
    return b if b.sum() > 0 else 100 * b


def expected(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value of `grow` by NumPy, and its factor, which is the gradient of each element."""
    factor = 2.0
    while np.linalg.norm(a * factor) < 1000:
        factor *= 2.0
    if (a * factor).sum() <= 0:
        factor *= 100.0
    return a * factor, np.full_like(a, factor)


def main(steps: int = 8, plot: bool = True) -> Result:
    """Call the function on `steps` random inputs. There is nothing to plot."""
    rng = np.random.default_rng(0)
    result = Result([], [], [], [], [], "")
    for _ in range(steps):
        # Three decades of length, so that the loop runs between about 6 and 17 times.
        data = rng.normal(size=3) * 10.0 ** rng.uniform(-1.5, 1.5)
        a = tg.tensor(data, requires_grad=True)
        value = grow(a)
        value.sum().backward()
        print(f"a = {data.round(3)!s:28}   value {value.detach().numpy().round(1)!s:32}", end="")
        print(f"   gradient {a.grad.numpy()[0]:.0f}")
        right_value, right_gradient = expected(data)
        result.inputs.append(data)
        result.values.append(value.detach().numpy().copy())
        result.gradients.append(a.grad.numpy().copy())
        result.expected_values.append(right_value)
        result.expected_gradients.append(right_gradient)
    result.explanation = str(grow.explain())
    print()
    print(result.explanation)
    return result


if __name__ == "__main__":
    main()
