"""Differentiate a simulation with contact: throw a ball so that it bounces twice and hits a cup.

Each flight is a Python `while` that ends when the ball comes down, so the number of iterations
depends on the throw. Compiled, it is a native loop; a throw that flies longer compiles nothing. The
time of a contact is found within the step. Were it rounded to whole steps, the landing point would
be a staircase in the parameters, and its gradient would know nothing of how the contact moves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tracegrad as tg

STEP = 0.005  # s
GRAVITY = 9.81  # m/s2
DRAG = 0.02  # 1/m: quadratic drag of a tennis ball
RESTITUTION = 0.75  # of the vertical speed
FRICTION = 0.9  # what a bounce leaves of the horizontal speed

HAND = 1.5  # m above the floor
BOUNCES = 2
CUP = (5.0, 0.3)  # m: distance, height of the rim
PEAK = 0.7  # m: the height of the last arc, so that the ball falls into the cup, not against it

GUESS = (4.0, 0.3)  # m/s, and radians above the horizon
OUTPUT = Path(__file__).resolve().parent / "output"

Path2D = list[tuple[float, float]]
Watch = Callable[[tg.Tensor, tg.Tensor], None]


@dataclass
class Result:
    """The throw that was found, what it does, and the misses of each attempt in metres.

    `path` holds the points of the ball's way, of the first attempt and of the last.
    """

    speed: float
    angle: float
    landing: float
    peak: float
    misses: list[float]
    paths: tuple[Path2D, Path2D]


def throw(speed_and_angle: tg.Tensor, watch: Watch | None = None) -> tg.Tensor:
    """Where the ball comes down to the height of the rim after its bounces, and the last peak.

    The result is (distance, height) in metres. `watch` is called with each position.
    """
    speed, angle = speed_and_angle.unbind()
    x = tg.zeros_like(speed)
    y = HAND * tg.ones_like(speed)
    across = speed * tg.cos(angle)
    up = speed * tg.sin(angle)
    peak = y
    for flight in range(BOUNCES + 1):
        floor = 0.0 if flight < BOUNCES else CUP[1]
        peak = y
        before = x, y, across, up
        # Going up, the ball may be below the rim and yet not have come down to it.
        while (up > 0.0) | (y > floor):
            before = x, y, across, up
            resistance = DRAG * tg.sqrt(across**2 + up**2)
            across = across - STEP * resistance * across
            up = up - STEP * (GRAVITY + resistance * up)
            x = x + STEP * across
            y = y + STEP * up
            peak = tg.maximum(peak, y)
            if watch is not None:
                watch(x, y)
        # Back to the share of the last step at which the ball crosses the floor: the speeds too, or
        # they would jump where a throw needs one step more.
        share = (before[1] - floor) / (before[1] - y)
        x, y, across, up = (
            old + share * (new - old) for old, new in zip(before, (x, y, across, up), strict=True)
        )
        across = FRICTION * across
        up = -RESTITUTION * up
    return tg.stack([x, peak])


compiled_throw = tg.compile(throw)
compiled_derivatives = tg.compile(tg.jacrev(throw))


def path_of(speed_and_angle: np.ndarray) -> Path2D:
    """The points of a throw. Not compiled, because it is the points that are wanted."""
    points = [(0.0, HAND)]
    throw(tg.tensor(speed_and_angle), lambda x, y: points.append((x.item(), y.item())))
    return points


def main(steps: int = 12, plot: bool = True) -> Result:
    """Correct the throw by Newton's method until it is right to a micrometre."""
    wanted = np.array([CUP[0], PEAK])
    aim = np.array(GUESS)
    misses = []
    for attempt in range(steps):
        outcome = compiled_throw(tg.from_numpy(aim)).numpy()
        misses.append(float(np.abs(outcome - wanted).max()))
        print(
            f"throw {attempt}   {aim[0]:.4f} m/s at {np.degrees(aim[1]):6.2f} degrees   "
            f"lands at {outcome[0]:.4f} m, peak {outcome[1]:.4f} m"
        )
        if misses[-1] < 1e-6:
            break
        derivatives = compiled_derivatives(tg.from_numpy(aim)).numpy()
        change = np.linalg.solve(derivatives, wanted - outcome)
        # The derivatives hold for throws like this one: never change much at once.
        aim = aim + change * min(1.0, 0.5 / np.abs(change).max())

    print(f"the cup stands at {CUP[0]} m; the ball bounces {BOUNCES} times on its way")
    result = Result(
        float(aim[0]),
        float(aim[1]),
        float(outcome[0]),
        float(outcome[1]),
        misses,
        (path_of(np.array(GUESS)), path_of(aim)),
    )
    if plot:
        save_plot(result)
    return result


def save_plot(result: Result) -> None:
    """Save the first throw and the last; say so and go on if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    # A Figure by itself needs neither a screen nor a choice of backend.
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for path, style, label in zip(result.paths, ("--", "-"), ("guess", "found"), strict=True):
        left.plot(*np.array(path).T, style, label=label)
    left.plot([CUP[0] - 0.1, CUP[0] + 0.1], [CUP[1], CUP[1]], "k", linewidth=3, label="cup")
    left.axhline(0.0, color="0.7")
    left.set(xlabel="distance (m)", ylabel="height (m)")
    left.legend()
    right.semilogy(result.misses, "o-")
    right.set(xlabel="throw", ylabel="miss (m)")
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "contact_simulation.png"
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


if __name__ == "__main__":
    main()
