"""What guards a trace: every value that Python asks for, and all state that it reads."""

from __future__ import annotations

import enum
import fractions
import types
import warnings

import numpy as np
import pytest

import tracegrad as tg


def traces_of(compiled):
    return compiled.statistics.traces


# ----------------------------------------------------------------------- shapes that depend on data


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_unique_is_as_in_numpy(mode):
    def everything(x):
        return tg.unique(x, return_inverse=True, return_counts=True)

    f = tg.compile(everything) if mode == "compiled" else everything
    rng = np.random.default_rng(0)
    for size in (6, 6, 6, 6, 0, 1):
        data = rng.integers(0, 4, size=size).astype(float)
        values, inverse, counts = f(tg.tensor(data))
        expected = np.unique(data, return_inverse=True, return_counts=True)
        for found, known in zip((values, inverse, counts), expected, strict=True):
            np.testing.assert_array_equal(found.numpy(), known)
            assert found.numpy().dtype == known.dtype
    assert tg.unique(tg.tensor([[2, 1], [1, 2]])).tolist() == [1, 2]
    grid = tg.unique(tg.tensor([[2, 1], [1, 2]]), return_inverse=True)[1]
    assert grid.tolist() == [[1, 0], [0, 1]]


def test_a_shape_that_depends_on_data_is_traced_once_for_each_size():
    f = tg.compile(lambda x: x[x > 0] * 2)
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = rng.normal(size=4)
        assert f(tg.tensor(data)).tolist() == (data[data > 0] * 2).tolist()
    assert traces_of(f) == 5


# ---------------------------------------------------------------------------- captured plain values


class Mode(enum.Enum):
    ADD = 1
    SCALE = 2


class Flags(enum.Flag):
    A = 1
    B = 2


VALUES = {
    "enum": (Mode.ADD, Mode.SCALE),
    "flag": (Flags.A, Flags.A | Flags.B),
    "string": ("add", "scale"),
    "bytes": (b"add", b"scale"),
    "None": (None, 1.5),
    "bool": (True, False),
    "int": (1, 2),
    "float": (1.0, float("nan")),
    "complex": (1j, 2j),
    "tuple": ((1, "a"), (1, "b")),
    "list": ([1, 2], [1, 3]),
    "set": ({1}, {1, 2}),
    "range": (range(2), range(3)),
    "slice": (slice(1), slice(2)),
    "fraction": (fractions.Fraction(1, 2), fractions.Fraction(1, 3)),
    "dtype": (tg.float32, tg.float64),
    "type": (int, float),
    "function": (abs, len),
    "ufunc": (np.sin, np.cos),
    "numpy scalar": (np.float32(1), np.float32(2)),
    "object": (types.SimpleNamespace(v=1), types.SimpleNamespace(v=2)),
}


class Holder:
    """An object on which things stand."""


@pytest.mark.parametrize("name", VALUES)
def test_a_captured_value_is_a_guard_wherever_it_stands(name, monkeypatch):
    one, two = VALUES[name]
    holder, table, cell = Holder(), {}, None

    def seen(value):
        return repr(value.v) if name == "object" else repr(value)

    @tg.compile
    def f(x):
        return x + 1, seen(holder.value), seen(table["value"]), seen(cell), seen(GLOBAL)

    x = tg.ones(1)
    for value in (one, two, one, two):
        holder.value = table["value"] = cell = value
        monkeypatch.setitem(globals(), "GLOBAL", value)
        assert f(x)[1:] == (seen(value),) * 4
    assert traces_of(f) == 2


GLOBAL: object = None


# Numbers are dynamic, and traced by their type alone.
STATIC = set(VALUES) - {"int", "float", "numpy scalar", "None", "tuple", "list"}


@pytest.mark.parametrize("name", sorted(STATIC))
def test_a_static_argument_is_part_of_the_signature(name):
    f = tg.compile(lambda x, value: (x + 1, repr(value)))
    x = tg.ones(1)
    for value in (*VALUES[name], *VALUES[name]):
        assert f(x, value)[1] == repr(value)
    assert traces_of(f) == 2


def test_an_object_of_another_class_is_another_trace():
    class One:
        def apply(self, x):
            return x * 1

    class Two:
        def apply(self, x):
            return x * 2

    holder = Holder()
    f = tg.compile(lambda x: holder.layer.apply(x))
    for layer, factor in ((One(), 1), (Two(), 2), (One(), 1), (Two(), 2)):
        holder.layer = layer
        assert f(tg.ones(())).item() == factor
    assert traces_of(f) == 2


def test_an_attribute_that_comes_and_goes():
    holder = Holder()

    @tg.compile
    def f(x):
        try:
            return x * holder.scale
        except AttributeError:
            return x * getattr(holder, "other", 7)

    x = tg.ones(())
    for _ in range(2):
        assert f(x).item() == 7
        holder.scale = 2
        assert f(x).item() == 2
        del holder.scale
        holder.other = 3
        assert f(x).item() == 3
        del holder.other
    assert traces_of(f) == 3


def test_the_shape_of_a_captured_tensor_is_a_guard_where_only_that_is_read():
    holder = Holder()
    f = tg.compile(lambda x: x * holder.data.shape[0] if holder.data is not None else -x)
    for data, factor in ((tg.ones(2), 2), (tg.ones(3), 3), (None, -1), (tg.zeros(2), 2)):
        holder.data = data
        assert f(tg.ones(())).item() == factor
    assert traces_of(f) == 3


# --------------------------------------------------------------------------------------- exceptions


class OwnError(Exception):
    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.hint = hint


def checked(x, log):
    x.add_(1)
    log.append(x * 2)
    if x.sum() > 100:
        raise OwnError(7, hint="too large")
    assert x.min() > -50, f"smallest is {x.min():.1f}"
    if x.max() > 60:
        raise ValueError(f"values {x}")
    return x.sum()


@pytest.mark.parametrize("first_fails", [False, True])
def test_an_exception_reappears_with_its_type_message_and_line(first_fails):
    compiled = tg.compile(checked)
    calls = [[1.0, 2.0], [200.0, 1.0], [-90.0, 1.0], [61.0, -30.0], [-70.5, 2.0], [70.0, -30.0]]
    order = [1, 0, 2, 3, 4, 5] * 3 if first_fails else [0, 1, 2, 3, 4, 5] * 3
    for i in order:
        x, log = tg.tensor(calls[i]), []
        eager = tg.tensor(calls[i])
        try:
            expected = checked(eager, [])
        except Exception as error:
            with pytest.raises(type(error)) as caught:
                compiled(x, log)
            # The eager tensor has been changed before the error.
            assert str(caught.value).replace("traced", "") != ""
            assert caught.value.args[0].split("(")[0] == error.args[0].split("(")[0]
            assert vars(caught.value) == vars(error)
            assert caught.traceback[-1].path.name == "test_guards.py"
            assert caught.traceback[-1].lineno == _last_line(error)
            assert x.tolist() == calls[i]
            assert log == []
        else:
            assert compiled(x, log).item() == expected.item()
            assert x.tolist() == eager.tolist()
            assert len(log) == 1


def _last_line(error):
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_lineno - 1


def test_a_raise_leaves_no_trace():
    def body(x):
        if x.sum() > 1:
            raise ValueError("too large")
        return x * 2

    f = tg.compile(body)
    x, bad = tg.ones(1), tg.full((1,), 5.0)
    f(x)
    messages = set()
    for _ in range(3):
        with pytest.raises(ValueError, match="too large") as caught:
            f(bad)
        messages.add(caught.value.args)
    assert f.statistics.traces == 1
    assert messages == {("too large",)}
    assert f(x).item() == 2


def test_a_message_with_values_of_tensors_is_that_of_the_call():
    @tg.compile
    def f(x):
        if x.sum() > 1:
            raise ValueError("sum", x.sum().item(), "of", x.tolist())
        if x.sum() < -1:
            raise ValueError(str(x))
        return x

    f(tg.zeros(1))
    for value in (2.0, 3.0, 2.0):
        with pytest.raises(ValueError, match="sum") as caught:
            f(tg.tensor([value]))
        assert caught.value.args == ("sum", value, "of", [value])
    for value in (-2.0, -3.0, -2.0):
        with pytest.raises(ValueError, match=rf"tensor\(\[{value:.0f}\.\], traced=f32\[1\]"):
            f(tg.tensor([value]))


def test_an_exception_that_holds_a_tensor():
    class Stop(Exception):  # noqa: N818
        pass

    @tg.compile
    def f(x):
        y = x * 2
        if y.sum() > 1:
            raise Stop(y)
        return y

    f(tg.zeros(1))
    for value in (2.0, 3.0, 4.0):
        with pytest.raises(Stop) as caught:
            f(tg.tensor([value]))
        assert caught.value.args[0].tolist() == [2 * value]


def test_a_chained_exception_keeps_its_cause():
    @tg.compile
    def f(x):
        try:
            if x > 0:
                raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer") from error
        return x

    for _ in range(3):
        with pytest.raises(RuntimeError, match="outer") as caught:
            f(tg.tensor(1.0))
        assert isinstance(caught.value.__cause__, KeyError)
    assert f(tg.tensor(-1.0)).item() == -1


# ------------------------------------------------------------------------------- the limit of paths


def test_the_report_past_the_limit_says_what_differed_where_and_what_to_do():
    def steps(x, n):
        x = x + len(range(n))
        return x if x.sum() > 3 else -x

    f = tg.compile(steps, max_traces=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in (*range(8), *range(8)):
            assert f(tg.zeros(1), n).item() == (n if n > 3 else -n)
    (warning,) = caught
    assert warning.category is tg.errors.TraceLimitWarning
    assert warning.filename == __file__
    text = str(warning.message)
    assert "max_traces=4" in text
    rows = text.splitlines()
    (row,) = [row for row in rows if "index()" in row and "len(range(n))" in row]
    assert "test_guards.py:" in row
    assert "-> 4" in text
    assert any("bool()" in row and "x.sum() > 3" in row for row in rows)
    assert any("range()" in row and "tg.fori_loop" in row for row in rows[-4:])
    assert any("tg.where" in row for row in rows[-4:])
    assert sum(len(s.tree.paths) for s in f.specialisations) <= 4


def test_past_the_limit_a_loop_is_never_run_eagerly():
    f = tg.compile(lambda x, n: x * len(range(n)), max_traces=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.errors.TraceLimitWarning)
        for n in range(6):
            f(tg.ones(1), n)
        traces = f.statistics.traces
        assert traces == 6
        # The two used last are there, the others are traced again.
        f(tg.ones(1), 5)
        f(tg.ones(1), 4)
        assert f.statistics.traces == traces
        f(tg.ones(1), 0)
        assert f.statistics.traces == traces + 1


# ----------------------------------------------------------------- numbers as arguments are numbers


def test_a_number_argument_is_a_number_for_python_too():
    def kinds(x, n, rate):
        n += 1
        found = [isinstance(n, int), isinstance(rate, float), isinstance(n, bool)]
        found += [isinstance(rate, int), isinstance(n * 2, int), isinstance(n / 2, float)]
        match n:
            case int():
                found.append("int")
            case _:
                found.append("other")
        return x * n * rate, found

    f = tg.compile(kinds)
    x = tg.ones(2)
    for n, rate in ((1, 2.0), (2, 0.5), (5, 3.0)):
        result, found = f(x, n, rate)
        expected, known = kinds(x, n, rate)
        assert result.tolist() == expected.tolist()
        assert found == known
    assert traces_of(f) == 1


def test_a_number_argument_is_counted_up_as_a_number():
    def counted(x, n, rate):
        n += 1
        before = n
        n += 2
        rate *= 2
        return x * n * rate, n, rate, before

    f = tg.compile(counted)
    x = tg.ones(2)
    for n, rate in ((1, 2.0), (2, 0.5), (5, 3.0)):
        found, expected = f(x, n, rate), counted(x, n, rate)
        assert found[0].tolist() == expected[0].tolist()
        assert found[1:] == expected[1:]
        assert [type(value) for value in found[1:]] == [int, float, int]
    assert traces_of(f) == 1


# -------------------------------------------------------------------------------- looking at values


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_debug_print_prints_the_values_of_each_call_in_order(mode, capsys):
    def function(x):
        tg.debug_print("sum {:.1f} of {size}", x.sum(), size=len(x))
        y = x * 2
        tg.debug_print("first {0} {y}", y[0], y=y)
        y += 1
        tg.debug_print("after {} {}", y, "text")
        return y.sum() if x[0] > 0 else -y.sum()

    f = tg.compile(function) if mode == "compiled" else function
    for value in (1.0, 2.0, -1.0, -2.0, 3.0):
        x = tg.tensor([value, 1.0], requires_grad=True)
        f(x).backward()
        assert x.grad.tolist() == ([2, 2] if value > 0 else [-2, -2])
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            f"sum {value + 1:.1f} of 2",
            f"first {2 * value} tensor({_row(2 * value, 2.0)})",
            f"after tensor({_row(2 * value + 1, 3.0)}) text",
        ]
    if mode == "compiled":
        assert traces_of(f) == 2


def _row(a, b):
    return f"[{a:2.0f}., {b:2.0f}.]" if a < 0 else f"[{a:.0f}., {b:.0f}.]"


def test_debug_print_in_a_loop_and_before_an_exception(capsys):
    @tg.compile
    def f(x):
        while x.sum() < 10:
            x = x * 2
            tg.debug_print("{}", x.sum())
        if x.sum() > 100:
            raise ValueError("large")
        return x

    for value in (1.0, 4.0, 3.0, 2.0):
        f(tg.tensor([value]))
        expected = []
        while value < 10:
            value *= 2
            expected.append(str(value))
        assert capsys.readouterr().out.splitlines() == expected
    for _ in range(2):
        with pytest.raises(ValueError, match="large"):
            f(tg.tensor([-1.0]) * -200)


def test_debug_print_in_a_body_is_an_error_with_a_line():
    @tg.compile
    def f(x):
        def step(i, v):
            tg.debug_print("{}", v)
            return v * 2

        return tg.fori_loop(0, 3, step, x)

    with pytest.raises(tg.errors.TraceError, match=r"debug_print.*fori_loop.*test_guards.py:\d+"):
        f(tg.ones(1))


def test_a_breakpoint_stops_where_its_condition_is_true(monkeypatch, capsys):
    import sys

    stops = []

    def stop():
        frame = sys._getframe()
        while frame.f_code.co_name != "body":
            frame = frame.f_back
        stops.append(frame.f_locals["y"].tolist())

    monkeypatch.setattr(sys, "breakpointhook", stop)

    def body(x):
        y = x * 2
        tg.breakpoint_if(y.sum() > 10)
        return y + 1

    f = tg.compile(body)
    for value in (1.0, 7.0, 2.0, 8.0, 9.0, 1.0):
        assert f(tg.tensor([value])).tolist() == [2 * value + 1]
    assert stops == [[14], [16], [18]]
    error = capsys.readouterr().err
    assert error.count("test_guards.py") == 3
    assert "tg.breakpoint_if(y.sum() > 10)" in error
    body(tg.tensor([10.0]))
    assert stops[-1] == [20]
