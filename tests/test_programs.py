"""Each program of the table: compiled = eager = differences, whatever path it takes."""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import tracegrad as tg
from tests.generated_programs import HEAD, load, sources
from tests.programs import PROGRAMS, Program
from tracegrad.config import config

SEEDS = range(8)
STEP = 1e-5
# After so many runs over all inputs nothing is traced any more. A loop that is rolled later than a
# path through it was traced takes the second.
WARM = 2 if config.roll else 1


def tensors_of(value: Any) -> Any:
    """Arguments for a call: arrays and NumPy floats as tensors, floating ones with gradients."""
    if isinstance(value, np.ndarray | np.floating):
        array = np.array(value)
        return tg.tensor(array, requires_grad=array.dtype.kind == "f")
    return rebuilt(value, tensors_of)


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container with every item changed; anything else as it is."""
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    if isinstance(value, list | tuple):
        return type(value)(map(change, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: change(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def leaves(value: Any) -> Iterator[tg.Tensor]:
    """The tensors in a value, and its floats as tensors."""
    if isinstance(value, tg.Tensor | float):
        yield value if isinstance(value, tg.Tensor) else tg.tensor(value, dtype=tg.float64)
        return
    found: list[Any] = []
    rebuilt(value, found.append)
    for item in found:
        yield from leaves(item)


def plain(value: Any) -> Any:
    """A value without tensors, to be compared."""
    if isinstance(value, tg.Tensor):
        return ("tensor", str(value.dtype), tuple(value.shape), value.requires_grad)
    return "float" if type(value) is float else rebuilt(value, plain)


def loss_of(result: Any) -> Any:
    """One number that every floating tensor in a result has a part in."""
    total: Any = 0.0
    for i, x in enumerate(leaves(result)):
        if x.dtype.is_floating_point:
            weights = tg.tensor(np.cos(np.arange(x.numel()) + i).reshape(tuple(x.shape)))
            total = total + (x.double() * weights.to(x.device)).sum().cpu()
    return total


def call(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    backward: bool = True,
    place: Callable[[Any], Any] = lambda given: given,
) -> tuple[Any, list[np.ndarray]]:
    """The result, and the gradient of its loss by each floating tensor among the arguments, which
    `place` puts on a device.
    """
    given = place(tensors_of(tuple(arguments)))
    result = function(*given)
    loss = loss_of(result)
    if not backward:
        return result, []
    if isinstance(loss, tg.Tensor) and loss.requires_grad:
        loss.backward()
    wanted = [x for x in leaves(given) if x.requires_grad]
    return result, [
        np.zeros(tuple(x.shape)) if x.grad is None else x.grad.cpu().numpy() for x in wanted
    ]


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray | np.floating):
        if np.asarray(value).dtype.kind == "f":
            yield np.asarray(value)
        return
    found: list[Any] = []
    rebuilt(value, found.append)
    for item in found:
        yield from arrays_in(item)


def moved(value: Any, steps: Iterator[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray | np.floating):
        return value + next(steps) if np.asarray(value).dtype.kind == "f" else value
    return rebuilt(value, lambda item: moved(item, steps))


def check_differences(
    item: Program, arguments: Sequence[Any], gradients: Sequence[np.ndarray]
) -> None:
    """The gradients along a random direction are what differences of eager values say."""
    rng = np.random.default_rng(3)
    steps = [rng.normal(size=np.shape(x)) for x in arrays_in(tuple(arguments))]
    claimed = sum(float((g * s).sum()) for g, s in zip(gradients, steps, strict=True))

    def value(scale: float) -> float:
        given = moved(tuple(arguments), iter([scale * STEP * s for s in steps]))
        with tg.no_grad():
            return float(loss_of(item.function(*tensors_of(given))))

    measured = (8 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12 * STEP)
    np.testing.assert_allclose(claimed, measured, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("item", PROGRAMS, ids=lambda item: item.name)
def test_compiled_is_eager_is_differences(item: Program) -> None:
    inputs = [item.arguments(np.random.default_rng(seed)) for seed in SEEDS]
    compiled = tg.compile(item.function, max_traces=1000)
    expected = [call(item.function, arguments, backward=item.taped) for arguments in inputs]
    if item.smooth:
        for arguments, (_, gradients) in zip(inputs, expected, strict=True):
            if not item.taped:
                _, gradients = call(compiled, arguments)
            check_differences(item, arguments, gradients)
    order = list(range(len(inputs)))
    traces = 0
    for run in range(WARM + 1):
        random.Random(run).shuffle(order)
        for i in order:
            result, gradients = call(compiled, inputs[i])
            assert plain(result) == plain(expected[i][0])
            pairs = zip(leaves(result), leaves(expected[i][0]), strict=True)
            for found, known in pairs:
                np.testing.assert_allclose(
                    found.detach().numpy(), known.detach().numpy(), rtol=1e-10, atol=1e-12
                )
            known_gradients = expected[i][1] if item.taped else gradients
            for found, known in zip(gradients, known_gradients, strict=True):
                np.testing.assert_allclose(found, known, rtol=1e-9, atol=1e-11)
        if run == WARM - 1:
            traces = compiled.statistics.traces
    assert compiled.statistics.traces == traces


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(PROGRAMS) >= 80
    assert len({item.name for item in PROGRAMS}) == len(PROGRAMS)


@settings(max_examples=8)
@given(sources())
def test_a_generated_program_is_the_same_compiled(source: str) -> None:
    function = load(source)
    compiled = tg.compile(function, max_traces=1000)
    rng = np.random.default_rng(0)
    inputs = [(rng.normal(size=3), n % 4, float(rng.normal())) for n in range(6)]
    traces = 0
    for run in range(WARM + 1):
        for arguments in inputs:
            result, gradients = call(compiled, arguments)
            expected, known = call(function, arguments)
            np.testing.assert_allclose(
                result.detach().numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-11
            )
            np.testing.assert_allclose(gradients[0], known[0], rtol=1e-8, atol=1e-10)
        if run == WARM - 1:
            traces = compiled.statistics.traces
    assert compiled.statistics.traces == traces


def test_a_generated_program_has_lines_and_source() -> None:
    function = load(HEAD + "    return a.reshape(7)\n")
    assert "buf = x * 0.1" in inspect.getsource(function)
    with pytest.raises(tg.errors.ShapeError, match=r"generated_\d+\.py:\d+: return a.reshape\(7\)"):
        tg.compile(function)(tg.ones(3), 1, 0.5)
