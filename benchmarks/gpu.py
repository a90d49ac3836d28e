"""Everything that needs a GPU, in one go: the tests on the device, then times beside other systems.

python -m benchmarks.gpu            on a GPU; writes results/<date>-<device>.md
python -m benchmarks.gpu --small    under the simulator of numba-cuda, to try the command itself
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
TESTS = ("cuda_kernels", "cuda_tensors", "control_codegen")

# Seconds of a turn, and turns of each system.
TURN = 0.2
ROUNDS = 7

Call = Callable[[], Any]


def chain(on: Any, x: Any) -> Any:
    """Four multiply-adds and a mean: bound by memory."""
    return ((((x * 0.5 + 1.0) * x + 0.25) * x + 2.0) * x + 3.0).mean()


def softmax(on: Any, x: Any) -> Any:
    """The mean of the squares of softmax over rows."""
    largest = on.amax(x, 1, True)
    powers = on.exp(x - largest)
    return ((powers / on.sum(powers, 1, True)) ** 2).mean()


def regression(on: Any, w: Any, x: Any, y: Any) -> Any:
    """The loss of a linear regression: next to nothing to compute."""
    return ((x @ w - y) ** 2).mean()


def names_of_torch() -> Any:
    """PyTorch's functions by the names that the losses use."""
    import torch

    return SimpleNamespace(exp=torch.exp, amax=torch.amax, sum=torch.sum)


def names_of_jax() -> Any:
    """JAX's functions by the same names."""
    from jax import numpy

    return SimpleNamespace(
        exp=numpy.exp,
        amax=lambda x, axis, keep: numpy.max(x, axis, keepdims=keep),
        sum=lambda x, axis, keep: numpy.sum(x, axis, keepdims=keep),
    )


def losses(small: bool) -> dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], int]]:
    """By name: the loss, the shapes of its arguments, and how often what it differentiates by is
    read or written, at least.
    """
    elements, rows, columns = (4096, 16, 64) if small else (1 << 26, 1 << 14, 1 << 12)
    return {
        f"multiply-add chain, {elements:,}": (chain, [(elements,)], 2),
        f"softmax, {rows:,} x {columns:,}": (softmax, [(rows, columns)], 2),
        "linear regression, 32 rows": (regression, [(1, 1), (32, 1), (32, 1)], 0),
    }


def ours(loss: Callable[..., Any], arrays: list[np.ndarray]) -> tuple[Call, Call]:
    """A call for value and gradient, and the wait for all that was asked for."""
    import tracegrad as tg

    arguments = [tg.tensor(array, device="cuda") for array in arrays]
    step = tg.compile(tg.value_and_grad(lambda *a: loss(tg, *a)))
    return lambda: step(*arguments), tg.cuda.synchronize


def torch_eager(loss: Callable[..., Any], arrays: list[np.ndarray]) -> tuple[Call, Call]:
    """The same by PyTorch's tape."""
    import torch

    on = names_of_torch()
    arguments = [torch.from_numpy(array).cuda() for array in arrays]
    wanted = arguments[0].requires_grad_()

    def call() -> Any:
        return torch.autograd.grad(loss(on, *arguments), wanted)

    return call, torch.cuda.synchronize


def torch_compile(loss: Callable[..., Any], arrays: list[np.ndarray]) -> tuple[Call, Call]:
    """The same by PyTorch's compiler."""
    import torch

    on = names_of_torch()
    arguments = [torch.from_numpy(array).cuda() for array in arrays]
    step = torch.compile(torch.func.grad_and_value(lambda *a: loss(on, *a)))
    return lambda: step(*arguments), torch.cuda.synchronize


def jax_jit(loss: Callable[..., Any], arrays: list[np.ndarray]) -> tuple[Call, Call]:
    """The same by JAX."""
    import jax

    on = names_of_jax()
    arguments = [jax.device_put(array) for array in arrays]
    step = jax.jit(jax.value_and_grad(lambda *a: loss(on, *a)))
    last: list[Any] = [None]

    def call() -> None:
        last[0] = step(*arguments)

    return call, lambda: jax.block_until_ready(last[0])


SYSTEMS = {
    "tracegrad": ours,
    "PyTorch eager": torch_eager,
    "torch.compile": torch_compile,
    "JAX": jax_jit,
}


def seconds_of(call: Call, wait: Call, turn: float) -> float:
    """Seconds of one of the calls that fit into a turn."""
    wait()
    begin = time.perf_counter()
    count = 0
    while not count or time.perf_counter() - begin < turn:
        call()
        count += 1
        if count % 16 == 0:
            wait()
    wait()
    return (time.perf_counter() - begin) / count


def times(
    loss: Callable[..., Any], arrays: list[np.ndarray], names: list[str], turn: float, rounds: int
) -> dict[str, float | str]:
    """By system the median of its turns, which come in turn; or why there is none."""
    ready: dict[str, tuple[Call, Call]] = {}
    found: dict[str, float | str] = {}
    for name in names:
        try:
            call, wait = SYSTEMS[name](loss, arrays)
            for _ in range(3):
                call()
            wait()
            ready[name] = call, wait
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    turns: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, (call, wait) in ready.items():
            turns[name].append(seconds_of(call, wait, turn))
    return found | {name: statistics.median(each) for name, each in turns.items()}


def copy_speed(elements: int, turn: float, rounds: int) -> float:
    """Bytes read and written in a second by a copy on the device."""
    import tracegrad as tg

    x = tg.ones(elements, device="cuda")
    found = [seconds_of(x.clone, tg.cuda.synchronize, turn) for _ in range(rounds)]
    return 2 * 4 * elements / statistics.median(found)


def tests_on_the_device() -> str:
    """What pytest says in its last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-x"]
    command += [f"tests/test_{name}.py" for name in TESTS]
    environment = {**os.environ, "TRACEGRAD_TEST_GPU": "1", "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout[-4000:], done.stderr[-2000:], flush=True)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Run all of it and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.gpu")
    parser.add_argument("--small", action="store_true", help="try the command under the simulator")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    options = parser.parse_args()
    if options.small:
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
    import tracegrad as tg

    if not tg.cuda.is_available():
        from tracegrad.runtime.cuda import availability

        raise SystemExit(f"no GPU to run on: {availability.problem()}")
    device = tg.cuda.get_device_name()
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [f"# CUDA, {today}", "", f"{device}, Python {sys.version.split()[0]}.", ""]
    if not (options.no_tests or options.small):
        lines += [f"Tests on the device: {tests_on_the_device()}", ""]
    turn, rounds = (0.0, 1) if options.small else (TURN, ROUNDS)
    names = ["tracegrad"] if options.small else list(SYSTEMS)
    speed = copy_speed(4096 if options.small else 1 << 26, turn, rounds)
    lines += [
        "Value and gradient, microseconds, median of interleaved turns. Bandwidth is that of the "
        f"argument and its gradient, beside {speed / 1e9:,.0f} GB/s of a copy on the device.",
        "",
        f"| workload | {' | '.join(names)} | of a copy |",
        "| --- |" + " ---: |" * (len(names) + 1),
    ]
    random = np.random.default_rng(0)
    for name, (loss, shapes, passes) in losses(options.small).items():
        arrays = [random.random(shape, dtype=np.float32) for shape in shapes]
        found = times(loss, arrays, names, turn, rounds)
        cells = [x if isinstance(x, str) else f"{x * 1e6:,.0f}" for x in map(found.get, names)]
        mine = found["tracegrad"]
        share = (
            ""
            if isinstance(mine, str) or not passes
            else (f"{passes * arrays[0].nbytes / mine / speed:.0%}")
        )
        lines.append(f"| {name} | {' | '.join(map(str, cells))} | {share} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.small:
        slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        (RESULTS / f"{today}-{slug}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
