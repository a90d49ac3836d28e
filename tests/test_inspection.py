"""What a compiled function shows of itself, and what the environment switches."""

import re
import subprocess
import sys

import pytest

import tracegrad as tg
from tracegrad.config import config
from tracegrad.ir.parser import parse


@pytest.fixture
def loss():
    @tg.compile
    def loss(w, x):
        return (tg.tanh(x @ w) ** 2).mean()

    return loss


def arguments(size=4, dtype=tg.float32):
    return tg.ones(3, 2, dtype=dtype, requires_grad=True), tg.ones(size, 3, dtype=dtype)


def test_nothing_called_yet(loss):
    assert "not been called" in loss.ir()
    assert "not been called" in loss.source()
    assert "0 specialisations" in repr(loss)
    assert "0 calls" in loss.explain()


def test_ir_is_text_that_parses(loss):
    loss(*arguments())
    text = loss.ir()
    assert "def loss(" in text
    assert "def loss_backward(" in text
    assert "test_inspection.py" in text
    parts = [part for part in text.split("# loss, specialisation") if "def " in part]
    for part in parts:
        graph = parse("#" + part)
        assert graph.nodes


def test_ir_for_arguments_traces_without_calling(loss):
    w, x = arguments()
    text = loss.ir(w, x)
    assert "specialisation 1 of 1" in text
    assert loss.statistics.calls == 0
    loss(w, x)
    assert loss.statistics.traces == 1
    assert loss.ir(w, x) == text
    loss(*arguments(dtype=tg.float64))
    assert "f64" not in loss.ir(w, x)
    assert "specialisation 2 of 2" in loss.ir()


def test_ir_changes_nothing():
    @tg.compile
    def f(x):
        x.add_(1)
        return x

    x = tg.zeros(2)
    assert "add" in f.ir(x)
    assert x.tolist() == [0, 0]


def test_source_is_the_code_that_runs(loss):
    loss(*arguments()).backward()
    assert "def " in loss.source()


def test_explain_tells_why(loss):
    loss(*arguments())
    loss(*arguments(size=5))
    loss(*arguments(dtype=tg.float64))
    with tg.no_grad():
        loss(*arguments())
    text = loss.explain()
    assert "4 calls, 0 hits, 4 traces" in text
    assert "1: first call" in text
    assert "x: f32[4, 3] -> f32[5, 3]" in text
    assert "w: f32[3, 2], requires_grad -> f64[3, 2], requires_grad" in text
    assert "grad mode: on -> off" in text
    assert "bytes saved for backward" in text


KERNEL = re.compile(r"    k[0-9a-f]{8} (.+): ([\d,]+) bytes read, ([\d,]+) written")


def kernels_of(text):
    """What each kernel fuses, the bytes that it reads and writes, and what follows."""
    found = []
    for line in text.splitlines():
        match = KERNEL.match(line)
        if match:
            read, written = (int(match[i].replace(",", "")) for i in (2, 3))
            found.append((match[1], read, written, line[match.end() :]))
    return found


def test_explain_lists_kernels_and_what_is_saved(loss):
    loss(*arguments()).backward()
    text = loss.explain()
    assert "segment 0, forward: 2 kernels\n" in text
    assert "segment 0, backward:" in text
    product, rest, *backward = kernels_of(text)
    # x: f32[4, 3] and w: f32[3, 2] make 8 values, which are reduced to one.
    assert product == ("matmul of [4, 3], [3, 2]", 4 * 12 + 4 * 6, 4 * 8, "")
    assert rest[0].startswith("tanh ")
    assert " sum " in rest[0]
    assert rest[0].endswith(" over 4x2, reducing 4x2")
    assert rest[1] == 4 * 8
    assert backward[-1][0].startswith("matmul of ")
    saved = text[text.index("segment 0 saves") :]
    assert "saves 2 values" in saved
    assert "    input x: f32[4, 3], 48 bytes" in saved
    assert re.search(r"    (tanh|matmul): f32\[4, 2\], 32 bytes at test_inspection.py:\d+", saved)


def test_explain_of_arguments_measures_and_changes_nothing():
    @tg.compile
    def step(w, x):
        w.data.mul_(2.0)
        return (w * x + tg.rand(3)).sum()

    w, x = tg.ones(3, requires_grad=True), tg.full((3,), 4.0)
    tg.manual_seed(5)
    before = step.explain(w, x)
    assert w.tolist() == [1, 1, 1]
    assert step.statistics.calls == 0
    assert " 0 hits, return" in before
    drawn = tg.rand(2).tolist()
    tg.manual_seed(5)
    assert tg.rand(2).tolist() == drawn
    for fused, _, _, rest in kernels_of(before):
        assert fused
        assert re.fullmatch(r", \d+\.\d us, \d+%", rest)
    shares = [int(rest.rpartition(" ")[2][:-1]) for *_, rest in kernels_of(before)]
    assert 99 <= sum(shares) <= 101
    assert re.search(r"segment 0, forward: \d+ kernels in \d+\.\d us", before)
    assert re.search(r"segment 0, backward: \d+ kernels in \d+\.\d us", before)
    value = step(w, x)
    assert w.tolist() == [2, 2, 2]
    value.backward()
    assert w.grad.tolist() == [4, 4, 4]


def test_explain_of_arguments_follows_their_path():
    @tg.compile
    def f(x):
        return x * 2 if x.sum() > 0 else x - 1

    f(tg.ones(2))
    text = f.explain(-tg.ones(2))
    assert "2 paths" in text
    assert [fused.split()[0] for fused, *_ in kernels_of(text)] == ["sum", "sub"]
    assert "segment 2, forward" in text


def test_explain_shows_conditions_with_their_lines():
    @tg.compile
    def f(x):
        return x if x.sum() > 0 else -x

    f(tg.ones(2))
    f(-tg.ones(2))
    text = f.explain()
    assert "bool() at test_inspection.py" in text
    assert "True -> False" in text
    assert "2 paths" in text


def test_counters_of_statistics(loss):
    for _ in range(5):
        loss(*arguments())
    s = loss.statistics
    assert (s.calls, s.hits, s.traces, s.retraces) == (5, 4, 1, 0)
    assert repr(loss) == "<compiled function loss: 1 specialisations, 1 traces, 5 calls>"


def test_print_inside_shows_the_traced_tensor(capsys):
    @tg.compile
    def f(x):
        y = x * 2
        print(y)
        return y

    f(tg.ones(2))
    f(tg.ones(2))
    assert re.fullmatch(
        r"tensor\(\[2\., 2\.\], traced=f32\[2\] by mul at test_inspection\.py:\d+\)\n",
        capsys.readouterr().out,
    )
    assert f.specialisations[0].tree.root.guard is None


def test_disable_runs_everything_eagerly(loss):
    with config.override(disable=True):
        value = loss(*arguments())
    assert loss.statistics.calls == 0
    assert value.grad_fn.name() == "MeanBackward0"


def test_check_mode_verifies_and_agrees(loss):
    expected = loss.__wrapped__(*arguments()).item()
    with config.override(check=True):
        value = loss(*arguments())
        value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_log_and_dump(tmp_path, capsys):
    @tg.compile
    def unusual(x):
        return (x * 1.2345).sum() / 7.891

    with config.override(log=frozenset({"trace", "cache", "source"}), dump=tmp_path):
        unusual(tg.ones(5))
    error = capsys.readouterr().err
    assert "tracegrad[trace] unusual: trace 1: first call" in error
    assert "tracegrad[cache] unusual: new structure" in error
    assert "tracegrad[source]" in error
    stages = {path.name.split("-", 2)[-1] for path in tmp_path.iterdir()}
    assert {"trace.py", "source.py"} <= stages


def test_import_does_not_import_numba():
    code = "import sys, tracegrad; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
