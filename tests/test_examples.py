"""Every example runs and finds what it promises.

`make test` installs no package that only the examples need: there the plots are left out and the
digits are synthetic. Where scikit-learn and matplotlib are installed, the real thing runs too.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tracegrad as tg

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name):
    """Import an example by its file, as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_linear_regression_finds_the_line():
    example = load("linear_regression")
    result = example.main(steps=300, plot=False)
    assert result.slope == pytest.approx(example.TRUE_SLOPE, abs=0.1)
    assert result.offset == pytest.approx(example.TRUE_OFFSET, abs=0.1)
    # What is left is the noise, whose half mean square is 0.045.
    assert np.mean(result.losses[-50:]) == pytest.approx(example.NOISE**2 / 2, rel=0.2)


def test_linear_regression_says_that_it_cannot_plot(monkeypatch, capsys, tmp_path):
    example = load("linear_regression")
    monkeypatch.setattr(example, "OUTPUT", tmp_path)
    # None in sys.modules makes the import fail, whether or not matplotlib is installed.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    example.main(steps=2, plot=True)
    assert "no plot" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_linear_regression_saves_its_plot(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    example = load("linear_regression")
    monkeypatch.setattr(example, "OUTPUT", tmp_path)
    example.main(steps=20, plot=True)
    assert (tmp_path / "linear_regression.png").stat().st_size > 10_000


def test_digits_network_separates_synthetic_classes():
    # Ten random patterns of 64 pixels with noise: the same shapes and dtypes as the real digits.
    rng = np.random.default_rng(1)
    patterns = rng.uniform(size=(10, 64))
    labels = rng.integers(10, size=800)
    images = (patterns[labels] + rng.normal(scale=0.2, size=(800, 64))).astype(np.float32)
    result = load("digits").train((images[:640], labels[:640]), (images[640:], labels[640:]), 4)
    assert result.test_accuracy > 0.95
    assert result.losses[-1] < result.losses[0] / 3


def test_digits_learns_the_real_digits():
    pytest.importorskip("sklearn")
    assert load("digits").main(plot=False).test_accuracy >= 0.96


def test_control_flow_takes_the_right_path_each_time():
    result = load("control_flow").main(steps=8, plot=False)
    np.testing.assert_allclose(result.values, result.expected_values, rtol=1e-12)
    np.testing.assert_allclose(result.gradients, result.expected_gradients, rtol=1e-12)
    # The inputs must exercise both branches and several lengths of the loop, or this shows little.
    assert len({gradient[0] for gradient in result.gradients}) >= 4
    assert "grow" in result.explanation


def test_inspect_ir_prints_graphs_source_and_history():
    result = load("inspect_ir").main(steps=2, plot=False)
    assert "tanh" in result.ir
    assert "f32[16, 4]" in result.ir
    assert "f64[16, 4]" in result.ir
    # The user's own line is told, so that a node can be traced back to what was written.
    assert "inspect_ir.py:" in result.ir
    assert "def " in result.source
    assert "loss" in result.explanation


def test_a_differential_equation_is_fitted_to_the_hares_and_lynxes():
    example = load("fit_differential_equation")
    result = example.main(steps=400, plot=False)
    # It began at 0.49; what is left is how far the animals are from the model.
    assert result.losses[-1] < 0.05
    # The estimates of a Bayesian analysis of the same data, with its standard deviations.
    assert result.parameters["birth"] == pytest.approx(0.55, abs=0.07)
    assert result.parameters["hunt"] == pytest.approx(0.028, abs=0.004)
    assert result.parameters["death"] == pytest.approx(0.80, abs=0.1)
    assert result.parameters["feed"] == pytest.approx(0.024, abs=0.004)


def test_the_gradient_of_a_differential_equation_is_its_difference_quotient():
    example = load("fit_differential_equation")
    data = np.array([example.HARES, example.LYNXES], dtype=np.float64).T[:3]
    start = np.log(np.array(example.GUESS))
    direction = np.random.default_rng(0).normal(size=start.size)

    def value(shift):
        return example.value_and_gradient(start + shift * direction, data)[0].item()

    gradient = example.value_and_gradient(start, data)[1].numpy()
    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    assert gradient @ direction == pytest.approx(slope, rel=1e-6)


def test_the_ball_lands_in_the_cup():
    example = load("contact_simulation")
    result = example.main(steps=12, plot=False)
    assert result.landing == pytest.approx(example.CUP[0], abs=1e-6)
    assert result.peak == pytest.approx(example.PEAK, abs=1e-6)
    # Newton's method doubles the digits near the end, but only if the derivatives are right.
    assert result.misses[-1] < 1e-2 * result.misses[-2]
    # The way there touches the floor as often as it should, and never goes below it by a step.
    heights = np.array(result.paths[1])[:, 1]
    lowest = (heights[1:-1] < heights[:-2]) & (heights[1:-1] <= heights[2:])
    assert lowest.sum() == example.BOUNCES
    assert heights.min() > -0.05


def test_a_throw_that_flies_longer_compiles_nothing():
    example = load("contact_simulation")
    for speed in (4.0, 5.0):
        example.compiled_throw(tg.tensor([speed, 0.3], dtype=tg.float64))
    before = example.compiled_throw.statistics.compilations
    for speed in (2.0, 6.5, 9.0):
        arguments = tg.tensor([speed, 0.3], dtype=tg.float64)
        found, expected = example.compiled_throw(arguments), example.throw(arguments)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-10)
    assert example.compiled_throw.statistics.compilations == before


@pytest.mark.parametrize("name", ["fit_differential_equation", "contact_simulation"])
def test_a_simulation_saves_its_plot(name, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    example = load(name)
    monkeypatch.setattr(example, "OUTPUT", tmp_path)
    example.main(steps=1, plot=True)
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["fit_differential_equation", "contact_simulation"])
def test_a_simulation_says_that_it_cannot_plot(name, monkeypatch, capsys, tmp_path):
    example = load(name)
    monkeypatch.setattr(example, "OUTPUT", tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    example.main(steps=1, plot=True)
    assert "no plot" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["linear_regression", "control_flow"])
def test_an_example_runs_as_a_script_without_the_compiler(name):
    # A script is how a reader starts it, and with compilation off everything must still be right.
    environment = {**os.environ, "TRACEGRAD_DISABLE": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], env=environment, check=True, timeout=300
    )
