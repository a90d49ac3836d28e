"""Fit a differential equation to data: hares and lynxes that were trapped in Canada, 1900 to 1920.

The solver is a plain Python loop over Runge-Kutta steps. Compiled, it is one native loop, and its
gradient is another one that runs backwards in time. Parameters of a population model are positive
and differ by factors of a hundred, so it is their logarithms that are fitted, by Adam.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tracegrad as tg

# Pelts in thousands, as in the records of the Hudson's Bay Company.
FIRST_YEAR = 1900
HARES = (30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57, 76.6, 52.3)
HARES += (19.5, 11.2, 7.6, 14.6, 16.2, 24.7)
LYNXES = (4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7)
LYNXES += (51.1, 29.7, 15.8, 9.7, 10.1, 8.6)

# Births of hares; hares caught by a lynx; deaths of lynxes; lynxes fed by a hare (each a year);
# hares and lynxes in the first year.
NAMES = ("birth", "hunt", "death", "feed", "hares", "lynxes")
GUESS = (0.8, 0.03, 0.8, 0.02, 30.0, 4.0)

STEPS_A_YEAR = 10
OUTPUT = Path(__file__).resolve().parent / "output"


@dataclass
class Result:
    """The fitted parameters by name, the loss of each step, and hares and lynxes of each year."""

    parameters: dict[str, float]
    losses: list[float]
    fitted: np.ndarray


def advance(rates: tg.Tensor, hares: tg.Tensor, lynxes: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
    """One Runge-Kutta step of order 4."""
    birth, hunt, death, feed = rates.unbind()
    step = 1.0 / STEPS_A_YEAR

    def slopes(hares: tg.Tensor, lynxes: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        return (birth - hunt * lynxes) * hares, (feed * hares - death) * lynxes

    h1, l1 = slopes(hares, lynxes)
    h2, l2 = slopes(hares + step / 2 * h1, lynxes + step / 2 * l1)
    h3, l3 = slopes(hares + step / 2 * h2, lynxes + step / 2 * l2)
    h4, l4 = slopes(hares + step * h3, lynxes + step * l3)
    return (
        hares + step / 6 * (h1 + 2 * h2 + 2 * h3 + h4),
        lynxes + step / 6 * (l1 + 2 * l2 + 2 * l3 + l4),
    )


def loss(logarithms: tg.Tensor, data: tg.Tensor) -> tg.Tensor:
    """The mean squared error of the logarithms of both populations in all years.

    Logarithms, because who counts thousands of pelts is wrong by a factor, not by a number.
    `logarithms` (6,) are those of the parameters in the order of NAMES; `data` is (years, 2).
    """
    parameters = logarithms.exp()
    rates, hares, lynxes = parameters[:4], parameters[4], parameters[5]
    total = ((tg.stack([hares, lynxes]).log() - data[0].log()) ** 2).sum()
    for year in range(1, data.shape[0]):
        for _ in range(STEPS_A_YEAR):
            hares, lynxes = advance(rates, hares, lynxes)
        total = total + (hares.log() - data[year, 0].log()) ** 2
        total = total + (lynxes.log() - data[year, 1].log()) ** 2
    return total / (2 * data.shape[0])


value_and_gradient = tg.compile(tg.value_and_grad(loss))


class Adam:
    """Kingma and Ba's method: steps of about the learning rate, whatever the gradient's size."""

    def __init__(self, learning_rate: float, count: int) -> None:
        self.learning_rate = learning_rate
        self.mean = np.zeros(count)
        self.square = np.zeros(count)
        self.steps = 0

    def change(self, gradient: np.ndarray) -> np.ndarray:
        """What to add to the parameters."""
        self.steps += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient**2 - self.square)
        # Both begin at zero, which is undone by what is still missing from the weights.
        mean = self.mean / (1 - 0.9**self.steps)
        square = self.square / (1 - 0.999**self.steps)
        return -self.learning_rate * mean / (np.sqrt(square) + 1e-8)


def solution(parameters: np.ndarray, years: int) -> np.ndarray:
    """Hares and lynxes at the beginning of each year: (years, 2)."""
    rates = tg.tensor(parameters[:4])
    hares, lynxes = tg.tensor(parameters[4]), tg.tensor(parameters[5])
    rows = [(hares.item(), lynxes.item())]
    for _ in range(years - 1):
        for _ in range(STEPS_A_YEAR):
            hares, lynxes = advance(rates, hares, lynxes)
        rows.append((hares.item(), lynxes.item()))
    return np.array(rows)


def main(steps: int = 400, plot: bool = True, years: int = len(HARES)) -> Result:
    """Fit the model to the first `years` years by `steps` steps of Adam."""
    data = np.array([HARES, LYNXES], dtype=np.float64).T[:years]
    logarithms = np.log(np.array(GUESS))
    optimiser = Adam(learning_rate=0.02, count=len(NAMES))
    losses = []
    for step in range(steps):
        value, gradient = value_and_gradient(tg.from_numpy(logarithms), tg.from_numpy(data))
        losses.append(value.item())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:3d}   loss {losses[-1]:.4f}")
        logarithms = logarithms + optimiser.change(gradient.numpy())

    parameters = np.exp(logarithms)
    result = Result(
        dict(zip(NAMES, parameters.tolist(), strict=True)), losses, solution(parameters, years)
    )
    for name, value in result.parameters.items():
        print(f"{name:7} {value:8.4f}")
    # The two terms of each equation cancel there, and the cycles go around it.
    balance = parameters[2] / parameters[3], parameters[0] / parameters[1]
    print("in balance: {:.1f} thousand hares, {:.1f} thousand lynxes".format(*balance))
    if plot:
        save_plot(result, data)
    return result


def save_plot(result: Result, data: np.ndarray) -> None:
    """Save data and fit; say so and go on if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    # A Figure by itself needs neither a screen nor a choice of backend.
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    years = FIRST_YEAR + np.arange(len(data))
    for column, name, colour in ((0, "hares", "C0"), (1, "lynxes", "C3")):
        left.plot(years, data[:, column], "o", color=colour, label=f"{name}, data")
        left.plot(years, result.fitted[:, column], color=colour, label=f"{name}, model")
    left.set(xlabel="year", ylabel="pelts (thousands)", xticks=years[::5])
    left.legend()
    right.semilogy(result.losses)
    right.set(xlabel="step", ylabel="loss")
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "fit_differential_equation.png"
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


if __name__ == "__main__":
    main()
