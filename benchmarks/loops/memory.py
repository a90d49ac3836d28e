"""Memory and time of the gradient of a loop of 10,000 steps: `python -m benchmarks.loops.memory`.

The heat equation with an unknown diffusivity, 1,000 points in float64: the way back reads the
temperature of every step, 80 MB, unless a budget makes it compute some of them again. Each row is
measured in a process of its own, by the high-water mark of its resident memory.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks import memory
from benchmarks.loops.program import EXPLICIT, NUMBA, PLAIN, SYSTEMS, convert
from benchmarks.loops.programs import heat
from benchmarks.memory import MEGABYTE
from benchmarks.report import table

STEPS = 10_000
BUDGETS = (None, 32 * MEGABYTE, 8 * MEGABYTE, MEGABYTE)


def gradient_of(key: str, budget: int | None) -> Any:
    """Value and gradients of the heat equation by the system with this key."""
    if key == NUMBA.key:
        return heat.PROGRAM.functions(key)["gradient"]
    import tracegrad as tg

    loss = heat.plain if key == PLAIN.key else heat.explicit
    step = tg.value_and_grad(loss, argnums=heat.PROGRAM.parameters)
    return tg.compile(step) if budget is None else tg.compile(step, memory_budget=budget)


def measure(key: str, budget: int | None, steps: int, results: Any) -> None:
    """Put the bytes beyond what the process had, the seconds of a call, and value and gradients."""
    try:
        gradient = gradient_of(key, budget)
        arguments = heat.inputs(np.random.default_rng(0), steps)[0]
        temperature, diffusivity, steps = (convert(key, value) for value in arguments)
        # Compiled before memory is read: the compiler's own is no part of the loop's.
        gradient(temperature, diffusivity, 10)
        before = memory.resident()
        memory.reset_peak()
        value, gradients = _flat(gradient(temperature, diffusivity, steps))
        peak = memory.peak() - before
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            gradient(temperature, diffusivity, steps)
            seconds.append(time.perf_counter() - started)
        results.put((peak, statistics.median(seconds), value, gradients))
    except Exception as error:  # A row that fails says so and lets the others run.
        results.put(f"{type(error).__name__}: {error}")


def _flat(result: Any) -> tuple[float, np.ndarray]:
    value, *gradients = result
    if len(gradients) == 1:
        (gradients,) = gradients
    return float(value), np.concatenate([np.ravel(np.asarray(each)) for each in gradients])


def row(key: str, budget: int | None, steps: int, expected: list[Any]) -> list[str]:
    """Measure in a new process; the cells. The first row is what the others are held against."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=measure, args=(key, budget, steps, results))
    process.start()
    answer = results.get(timeout=600)
    process.join()
    title = next(system.title for system in SYSTEMS if system.key == key)
    said = "none" if budget is None else f"{budget / MEGABYTE:.0f} MB"
    if isinstance(answer, str):
        return [title, said, answer, "", ""]
    peak, seconds, value, gradients = answer
    if not expected:
        expected += [value, gradients]
    same = np.isclose(value, expected[0], rtol=1e-10) and np.allclose(
        gradients, expected[1], rtol=1e-8, atol=1e-12
    )
    cells = f"{peak / MEGABYTE:.1f}", f"{seconds * 1e3:.1f}", "yes" if same else "NO"
    return [title, said, *cells]


def main() -> int:
    """Print the table. 1 if a row failed or found something else."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loops.memory", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    if not memory.can_reset():
        print("only Linux tells and resets the high-water mark of memory", file=sys.stderr)
        return 2
    chosen = [(NUMBA.key, None), *((EXPLICIT.key, budget) for budget in BUDGETS)]
    chosen += [(PLAIN.key, budget) for budget in (BUDGETS[0], BUDGETS[-1])]
    expected: list[Any] = []
    body = [row(key, budget, options.steps, expected) for key, budget in chosen]
    header = ["form", "memory_budget", "peak (MB)", "a call (ms)", "same result"]
    print(f"gradient of {options.steps:,} steps of the heat equation on {heat.POINTS:,} points")
    print("\n".join(table(header, body)))
    return 0 if all(cells[-1] == "yes" for cells in body) else 1


if __name__ == "__main__":
    raise SystemExit(main())
