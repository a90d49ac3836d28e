"""The code of the README runs, and does what its comments say."""

import re
from pathlib import Path

import pytest

import tracegrad as tg
from tracegrad.tracer.compiled_function import CompiledFunction

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def blocks() -> list[str]:
    """The Python of each code block, in order, on the lines that it has in the file."""
    text = README.read_text(encoding="utf-8")
    return [
        "\n" * text[: match.start(1)].count("\n") + match[1]
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    fit, training_step, loop = blocks()
    names: dict[str, object] = {}
    tg.manual_seed(0)

    exec(compile(fit, str(README), "exec"), names)
    printed = capsys.readouterr().out
    w, b, x, y = (names[name] for name in "wbxy")
    loss = names["loss"]
    assert isinstance(loss, CompiledFunction)
    slope, intercept = map(float, printed.splitlines()[0].split())
    assert (slope, intercept) == (w.item(), b.item())
    assert slope == pytest.approx(3, abs=0.1)
    assert intercept == pytest.approx(0.5, abs=0.05)
    # The first call is traced; every later one is a hit.
    assert (loss.statistics.calls, loss.statistics.traces) == (500, 1)
    assert loss.statistics.hits == 499
    for part in (loss.ir(), loss.source(), loss.explain()):
        assert part in printed
    assert "def loss_backward(" in printed
    assert "def kernel(pointers, table, start, stop):" in printed

    exec(compile(training_step, str(README), "exec"), names)
    step = names["step"]
    assert isinstance(step, CompiledFunction)
    with tg.no_grad():
        w.zero_()
        b.zero_()
    values = [step(w, b, x, y, rate).item() for rate in [0.1, 0.05, 0.2] * 100]
    assert values[-1] < 0.01 < values[0]
    assert w.grad is None
    assert w.item() == pytest.approx(3, abs=0.1)
    assert b.item() == pytest.approx(0.5, abs=0.05)
    # As the text says, a rate that changes never retraces.
    assert step.statistics.traces == 1

    exec(compile(loop, str(README), "exec"), names)
    reach = names["reach"]
    assert isinstance(reach, CompiledFunction)
    arguments = [tg.tensor(value) for value in (0.8, 20.0, 0.01)]
    eager = tg.grad(reach.__wrapped__)(*arguments)
    assert names["slope"].item() == pytest.approx(eager.item(), rel=1e-2)
    assert ": rolled" in reach.explain()


def test_every_path_that_it_names_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"`((?:docs|examples|tests|benchmarks)/[\w./]*)`", text)
    assert {"docs/architecture.md", "docs/conventions.md", "examples/"} <= set(named)
    for path in named:
        assert (ROOT / path).exists(), path


def test_what_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:tracer|ir|codegen|runtime|tests)/[\w/]+\.py)(?:: ([\w.]+))?`", text)
    assert len(named) > 40
    for path, name in named:
        file = ROOT / path if path.startswith("tests/") else ROOT / "tracegrad" / path
        assert file.exists(), path
        for part in name.split(".") if name else ():
            definition = rf"^\s*(def|class) {part}\b|^{part}\b"
            assert re.search(definition, file.read_text(encoding="utf-8"), re.MULTILINE), (
                path,
                part,
            )
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert (ROOT / "tests" / name).exists(), name


def test_the_make_targets_that_it_names_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"make ([\w-]+)", README.read_text(encoding="utf-8")))
    assert {"demo", "test", "bench", "test-reference"} <= named <= targets
