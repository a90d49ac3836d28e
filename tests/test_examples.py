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


@pytest.mark.parametrize("name", ["linear_regression", "control_flow"])
def test_an_example_runs_as_a_script_without_the_compiler(name):
    # A script is how a reader starts it, and with compilation off everything must still be right.
    environment = {**os.environ, "TRACEGRAD_DISABLE": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], env=environment, check=True, timeout=300
    )
