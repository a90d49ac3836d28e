"""Calls that are taken natively: they do what Python would have done, or leave it to Python."""

import functools
import gc
import sys
import threading
import types
from dataclasses import dataclass

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.config import config
from tracegrad.errors import GradError, TraceLimitWarning


def entries(compiled):
    return [entry for group in compiled._entries for entry in group]


def native_hits(compiled):
    """How many calls were taken natively since the counts were settled last."""
    return sum(entry.hits for entry in entries(compiled))


def warm(compiled, *args, times=4):
    for _ in range(times):
        result = compiled(*args)
    assert len(entries(compiled)) >= 1
    compiled._native.settle()
    compiled(*args)
    assert native_hits(compiled) == 1
    return result


def taken_natively(compiled, *args):
    """The result, and whether it came natively."""
    compiled._native.settle()
    result = compiled(*args)
    return result, native_hits(compiled) == 1


RATE = 3.0


def scaled(x, y):
    return x * RATE + y


@pytest.fixture
def one_of_each():
    compiled = tg.compile(lambda x, y: x * 2 + y)
    x, y = tg.arange(6.0), tg.ones(6)
    warm(compiled, x, y)
    return compiled, x, y


def test_a_known_call_runs_natively_and_is_counted(one_of_each):
    compiled, x, y = one_of_each
    before = compiled.statistics.calls, compiled.statistics.hits
    results = [compiled(x, y) for _ in range(10)]
    assert native_hits(compiled) == 10
    assert (compiled.statistics.calls, compiled.statistics.hits) == (before[0] + 10, before[1] + 10)
    assert native_hits(compiled) == 0
    assert all(r.tolist() == (x * 2 + y).tolist() for r in results)
    assert len({r._array.ctypes.data for r in results}) == 10
    assert not results[0].requires_grad
    assert results[0].is_leaf
    assert compiled.explain().count("15 hits") == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda x: x.double(), id="dtype"),
        pytest.param(lambda x: x[:1], id="shape"),
        pytest.param(lambda x: x.reshape(6, 1), id="dimensions"),
        pytest.param(lambda x: tg.stack([x, x], dim=1)[:, 0], id="strides"),
        pytest.param(lambda x: x.clone().requires_grad_(), id="requires_grad"),
        pytest.param(lambda x: x.clone().requires_grad_() * 1, id="on the tape"),
        pytest.param(lambda x: x.clone().requires_grad_()[:], id="view of a leaf"),
        pytest.param(lambda x: 2.5, id="float"),
        pytest.param(lambda x: 2, id="int"),
        pytest.param(lambda x: True, id="bool"),
        pytest.param(lambda x: x.numpy().copy(), id="array"),
    ],
)
def test_another_kind_of_argument_is_no_known_call(one_of_each, other):
    compiled, x, y = one_of_each
    value = other(x)
    result, native = taken_natively(compiled, value, y)
    assert not native
    expected = compiled.__wrapped__(value, y)
    assert result.dtype == expected.dtype
    assert result.tolist() == expected.tolist()
    assert result.requires_grad == expected.requires_grad
    # And the first kind is known as before.
    assert taken_natively(compiled, x, y)[1]


def test_a_view_without_gradient_is_as_good_as_any_tensor(one_of_each):
    compiled, _, y = one_of_each
    batch = tg.arange(12.0)
    for i in (0, 6):
        result, native = taken_natively(compiled, batch[i : i + 6], y)
        assert native
        assert result.tolist() == (batch[i : i + 6] * 2 + y).tolist()


def test_an_argument_that_comes_to_require_a_gradient_is_seen(one_of_each):
    compiled, x, y = one_of_each
    x.requires_grad_()
    assert compiled(x, y).requires_grad
    with tg.no_grad():
        assert not compiled(x, y).requires_grad
    base = tg.zeros(12)
    view = base[:6]
    assert not compiled(view, y).requires_grad
    base.requires_grad_()
    later = base[:6]
    assert compiled(later, y).requires_grad


def test_numbers_are_inputs():
    compiled = tg.compile(lambda x, n, r: x * n + r)
    x = tg.ones(3, dtype=tg.float64)
    warm(compiled, x, 2, 0.5)
    for n, r in ((3, 1.5), (-7, float("inf")), (2**62, 0.0)):
        result, native = taken_natively(compiled, x, n, r)
        assert native
        assert result.tolist() == (x * n + r).tolist()
    # A number beyond 64 bits is no input.
    result, native = taken_natively(compiled, x, 2**70, 0.5)
    assert not native
    assert result.tolist() == [float(2**70)] * 3
    assert taken_natively(compiled, x, 2, 0.5)[1]


def test_a_global_is_looked_at(monkeypatch):
    compiled = tg.compile(scaled)
    x, y = tg.ones(2), tg.zeros(2)
    warm(compiled, x, y)
    monkeypatch.setattr(sys.modules[__name__], "RATE", 5.0)
    result, native = taken_natively(compiled, x, y)
    assert not native
    assert result.tolist() == [5.0, 5.0]
    monkeypatch.undo()
    assert compiled(x, y).tolist() == [3.0, 3.0]


def test_what_a_module_has_is_looked_at():
    settings = types.ModuleType("settings")
    settings.rate = 2.0
    compiled = tg.compile(lambda x: x * settings.rate)
    x = tg.ones(2)
    warm(compiled, x)
    settings.rate = 4.0
    assert compiled(x).tolist() == [4.0, 4.0]
    assert compiled(x).tolist() == [4.0, 4.0]


def test_a_variable_of_an_enclosing_function_is_looked_at():
    weight = tg.full((2,), 2.0)
    count = 3

    def compute(x):
        return x * weight + count  # noqa: F821

    compiled = tg.compile(compute)
    x = tg.ones(2)
    warm(compiled, x)
    weight = tg.full((2,), 4.0)
    result, native = taken_natively(compiled, x)
    assert native
    assert result.tolist() == [7.0, 7.0]
    count = 5
    assert compiled(x).tolist() == [9.0, 9.0]
    weight = tg.full((2,), 4.0, dtype=tg.float64)
    result, native = taken_natively(compiled, x)
    assert not native
    assert result.dtype is tg.float64
    del weight
    with pytest.raises(NameError):
        compiled(x)


class Layer:
    def __init__(self):
        self.weights = [tg.full((2,), 2.0), tg.full((2,), 3.0)]
        self.shift = {"by": 1.0}

    @tg.compile
    def forward(self, x):
        return x * self.weights[0] * self.weights[1] + self.shift["by"]


def test_a_method_reads_its_object_anew():
    layer, x = Layer(), tg.ones(2)
    warm(Layer.forward, layer, x)
    assert layer.forward(x).tolist() == [7.0, 7.0]
    layer.weights[1] = tg.full((2,), 5.0)
    result, native = taken_natively(Layer.forward, layer, x)
    assert native
    assert result.tolist() == [11.0, 11.0]
    layer.shift["by"] = 2.0
    assert layer.forward(x).tolist() == [12.0, 12.0]
    layer.weights.append(tg.ones(2))
    assert layer.forward(x).tolist() == [12.0, 12.0]
    other = Layer()
    assert other.forward(x).tolist() == [7.0, 7.0]


class Computed:
    @property
    def weight(self):
        return tg.full((2,), 2.0)


def test_a_property_is_asked_by_python():
    thing = Computed()
    compiled = tg.compile(lambda x: x * thing.weight)
    for _ in range(6):
        assert compiled(tg.ones(2)).tolist() == [2.0, 2.0]


@dataclass
class Pair:
    a: object
    b: object


def test_containers_are_known_by_their_structure():
    compiled = tg.compile(lambda p: p["w"] * p["pair"].a + p["list"][1] - p["pair"].b)

    def made(order=("w", "pair", "list"), more=()):
        parts = {
            "w": tg.full((2,), 2.0),
            "pair": Pair(tg.full((2,), 3.0), 1.0),
            "list": [tg.zeros(2), (tg.ones(2)), *more],
        }
        return {key: parts[key] for key in order}

    warm(compiled, made())
    assert taken_natively(compiled, made())[1]
    for other in (made(more=[tg.ones(1)]), made(order=("list", "w", "pair"))):
        result, native = taken_natively(compiled, other)
        assert not native
        assert result.tolist() == [6.0, 6.0]
    changed = made()
    changed["pair"] = [1, 2]
    with pytest.raises(AttributeError):
        compiled(changed)


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def of(self, x):
        return x * self.factor


def test_methods_and_partials():
    x = tg.ones(2)
    held = Scaled(2.0)
    compiled = tg.compile(held.of)
    warm(compiled, x)
    held.factor = 3.0
    assert compiled(x).tolist() == [3.0, 3.0]

    for transform in (lambda f: f, tg.vmap):
        bound = functools.partial(scaled, y=2.0)
        compiled = tg.compile(transform(bound))
        warm(compiled, x)
        bound.keywords["y"] = 4.0
        assert compiled(x).tolist() == [7.0, 7.0]

    powers = [2.0, 3.0]
    compiled = tg.compile(transform(functools.partial(lambda ps, x: ps[0] * x + ps[1], powers)))
    warm(compiled, x)
    powers[1] = 5.0
    assert compiled(x).tolist() == [7.0, 7.0]


def test_a_captured_list_of_numbers():
    numbers = [1.0, 2.0]
    compiled = tg.compile(lambda x: x * numbers[0] + len(numbers))
    x = tg.ones(2)
    warm(compiled, x)
    numbers[0] = float("1")
    # Equal, but another object: that is for Python to say.
    assert compiled(x).tolist() == [3.0, 3.0]
    assert compiled.statistics.traces == 1
    numbers[0] = 2.0
    assert compiled(x).tolist() == [4.0, 4.0]
    numbers.append(0.0)
    assert compiled(x).tolist() == [5.0, 5.0]
    numbers[:] = [1.0, 2]
    assert compiled(x).tolist() == [3.0, 3.0]


def test_results_have_their_structure():
    def compute(x):
        return x + 1, [x * 2, (x * 3, None)], ()

    compiled = tg.compile(compute)
    x = tg.ones(2)
    for _ in range(6):
        a, [b, (c, d)], e = compiled(x)
        assert (a.tolist(), b.tolist(), c.tolist()) == ([2, 2], [2, 2], [3, 3])
        assert (d, e) == (None, ())


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: {"y": x + 1},
        lambda x: None,
        lambda x: x,
        lambda x: (x, x + 1, x[:1]),
        lambda x: (x + 1).sum().item() * 2.0,
        lambda x: 7,
    ],
)
def test_results_that_python_has_to_make(compute):
    compiled = tg.compile(compute)
    x = tg.ones(2)
    expected = compute(x)
    for _ in range(6):
        assert repr(compiled(x)) == repr(expected)


def test_defaults_and_keywords():
    def compute(x, scale=2.0, *, shift=1.0):
        return x * scale + shift

    compiled = tg.compile(compute)
    x = tg.ones(2)
    for _ in range(6):
        assert compiled(x).tolist() == [3.0, 3.0]
        assert compiled(x, 3.0).tolist() == [4.0, 4.0]
        assert compiled(x, shift=2.0).tolist() == [4.0, 4.0]

    positional = tg.compile(lambda x, scale=2.0: x * scale)
    warm(positional, x)
    assert positional(x).tolist() == [2.0, 2.0]
    with pytest.raises(TypeError, match="wrong arguments"):
        positional(x, 1.0, 2.0)
    with pytest.raises(TypeError, match="wrong arguments"):
        positional()


def test_modes():
    compiled = tg.compile(lambda w: (w * w).sum())
    w = tg.ones(3, requires_grad=True)
    for _ in range(6):
        assert compiled(w).requires_grad
        with tg.no_grad():
            assert not compiled(w).requires_grad
        with tg.inference_mode():
            assert not compiled(w).requires_grad
    outer = tg.compile(lambda w: compiled(w) * 2)
    assert outer(w).item() == 6.0
    with config.override(disable=True):
        assert compiled(w).grad_fn.name() == "SumBackward0"
    with config.override(check=True):
        assert not taken_natively(compiled, w)[1]
    tg.set_default_dtype(tg.float64)
    try:
        assert not taken_natively(compiled, w)[1]
    finally:
        tg.set_default_dtype(tg.float32)
    assert taken_natively(compiled, w)[1]


def test_gradients_through_known_calls():
    compiled = tg.compile(lambda w, x: ((x * w).sin() ** 2).sum())
    w, x = tg.full((3,), 0.5, requires_grad=True), tg.arange(3.0)
    hidden = w * 1
    for given in (w, hidden):
        expected = tg.grad(compiled.__wrapped__)(given.detach(), x)
        for _ in range(6):
            w.grad = None
            compiled(given, x).backward(retain_graph=True)
            np.testing.assert_allclose(w.grad.numpy(), expected.numpy(), rtol=1e-6)
    value = compiled(w, x)
    with tg.no_grad():
        x += 1
    with pytest.raises(GradError, match="modified by an inplace operation"):
        value.backward()


def test_updates_in_place_and_memory_that_is_shared():
    def step(w, g):
        w -= 0.5 * g

    compiled = tg.compile(step)
    w, g = tg.zeros(2), tg.ones(2)
    warm(compiled, w, g, times=4)
    start = w.tolist()
    _, native = taken_natively(compiled, w, g)
    assert native
    assert w.tolist() == [x - 0.5 for x in start]
    assert w._version == 6
    # The two share memory now, which the trace did not know.
    w = tg.ones(2)
    _, native = taken_natively(compiled, w, w)
    assert not native
    assert w.tolist() == [0.5, 0.5]
    whole = tg.ones(4)
    compiled(whole[:2], whole[1:3])
    assert whole.tolist() == [0.5, 0.5, 1.0, 1.0]


def test_a_training_step_of_one_function():
    @tg.compile
    def step(w, x):
        loss = ((w * x) ** 2).sum()
        loss.backward()
        with tg.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
        return loss.detach()

    w, x = tg.ones(2, requires_grad=True), tg.ones(2)
    values = [step(w, x).item() for _ in range(8)]
    assert entries(step)
    expected = [2 * 0.8 ** (2 * i) for i in range(8)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert w.grad is None
    assert step.statistics.traces == 1


def test_updates_and_gradients_that_stay_are_left_natively():
    def update(w, x):
        loss = ((w * x) ** 2).sum()
        loss.backward()
        with tg.no_grad():
            w -= 0.1 * w.grad
        return loss.detach(), w

    compiled = tg.compile(update)
    ours, theirs = (tg.ones(2, requires_grad=True) for _ in range(2))
    x = tg.arange(2.0)
    for _ in range(8):
        ours.grad = theirs.grad = None
        (loss, same), native = taken_natively(compiled, ours, x)
        expected, _ = update(theirs, x)
        assert same is ours
        assert (loss.item(), ours.tolist()) == (expected.item(), theirs.tolist())
        assert ours.grad.tolist() == theirs.grad.tolist()
        assert ours._version == theirs._version
    assert native
    value = (ours**3).sum()
    compiled(ours, x)
    with pytest.raises(GradError, match=r"changed by the compiled function update at .*\.py:\d+"):
        value.backward()


def test_what_may_not_be_written_to_is_left_to_python():
    def shift(w):
        w += 1

    compiled = tg.compile(shift)
    warm(compiled, tg.zeros(2))
    array = np.zeros(2, np.float32)
    tensor = tg.from_numpy(array)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        compiled(tensor)
    assert array.tolist() == [0.0, 0.0]


def test_random_draws_go_on():
    compiled = tg.compile(lambda x: x + tg.rand(3))
    tg.manual_seed(1)
    found = [compiled(tg.zeros(3)).tolist() for _ in range(6)]
    tg.manual_seed(1)
    assert found == [tg.rand(3).tolist() for _ in range(6)]


def test_a_new_outcome_goes_on_from_the_segments_that_have_run():
    def compute(x):
        y = (x * 2).exp()
        if y.sum() > 10:
            return y - 1
        z = y + 1
        if z.sum() > 8:
            return z * 2
        return z * 3

    compiled = tg.compile(compute)
    for _ in range(5):
        compiled(tg.full((2,), 2.0))
    root = compiled.specialisations[0].tree.root
    compiled._native.settle()
    before = root.hits
    exports = len(root.exports)
    x = tg.full((2,), 0.6)
    assert compiled(x).tolist() == pytest.approx(compute(x).tolist())
    compiled._native.settle()
    # Once, though a trace came between: what the first segment computed was used.
    assert root.hits == before + 1
    assert len(root.exports) == exports
    for value in (0.1, 0.6, 2.0, 0.1):
        x = tg.full((2,), value)
        for _ in range(4):
            assert compiled(x).tolist() == pytest.approx(compute(x).tolist())
    assert compiled.statistics.traces == 3


def branching(x, flag):
    y = x * 2
    if flag:
        y = y + 1
    if y.sum() > 10:
        y = y - 1
        if y[0] > 20:
            return y.sum(), y
    n = int(x[0])
    for _ in range(n % 3):
        y = y * 0.5
    return y.sum(), y + n


@pytest.mark.parametrize("grad", [False, True])
def test_conditions_are_decided_natively(grad):
    compiled = tg.compile(branching)
    rng = np.random.default_rng(0)
    numbers = [(float(rng.integers(-9, 20)), int(rng.integers(0, 2))) for _ in range(60)]
    made = []
    for _ in range(3):
        for value, flag in numbers:
            x = tg.full((3,), value, requires_grad=grad)
            (s, y), native = taken_natively(compiled, x, flag)
            made.append(native)
            a, b = branching(x, flag)
            assert (s.item(), y.tolist()) == (a.item(), b.tolist())
            if grad:
                x.grad = None
                (s + y.sum()).backward()
                found = x.grad.tolist()
                x.grad = None
                (a + b.sum()).backward()
                np.testing.assert_allclose(found, x.grad.tolist())
    # One call makes the entry anew.
    assert sum(made[120:]) >= 59
    assert compiled.statistics.traces == len(compiled.specialisations[0].tree.paths) > 10
    compiled._native.settle()
    tree = compiled.specialisations[0].tree
    assert sum(end.hits for end in tree.paths) == compiled.statistics.calls


def test_a_path_that_grew_is_made_native_anew():
    @tg.compile
    def compute(x):
        y = x.exp()
        if x.sum() > 0:
            return y * 2
        return (y + 1) * x

    for _ in range(4):
        compute(tg.ones(2))
    before = entries(compute)
    for _ in range(4):
        compute(-tg.ones(2))
    assert entries(compute) != before
    for x in (tg.ones(2), -tg.ones(2)):
        assert taken_natively(compute, x)[1]


def test_an_index_out_of_range_is_an_error_of_known_calls_too():
    compiled = tg.compile(lambda x, i: x[i] * 2)
    x = tg.arange(3.0)
    for i in (0, 1, 2, -1, 0):
        compiled(x, tg.tensor(i))
    assert entries(compiled)
    for _ in range(2):
        with pytest.raises(IndexError, match="index 3 is out of bounds"):
            compiled(x, tg.tensor(3))
    assert compiled(x, tg.tensor(2)).item() == 4.0


def test_many_signatures_take_turns():
    compiled = tg.compile(lambda x: x + 1)
    for _ in range(5):
        for n in range(1, 13):
            assert compiled(tg.zeros(n)).tolist() == [1.0] * n
    assert len(compiled._entries[1]) == 8
    assert compiled.statistics.traces == 12
    assert compiled.statistics.calls == 60


def test_what_was_used_longest_ago_is_dropped_first():
    compiled = tg.compile(lambda x: x + 1, max_traces=2)
    one, two = tg.zeros(1), tg.zeros(2)
    for x in (one, two):
        warm(compiled, x)
    compiled(one)
    with pytest.warns(TraceLimitWarning):
        compiled(tg.zeros(3))
    traces = compiled.statistics.traces
    compiled(one)
    assert compiled.statistics.traces == traces
    compiled(two)
    assert compiled.statistics.traces == traces + 1


def test_nothing_is_kept_and_nothing_is_lost():
    compiled = tg.compile(lambda x, n: (x * n, [x + 1]))
    taped = tg.compile(lambda x, w: (x * w).sum())
    x, w = tg.ones(100), tg.ones(100, requires_grad=True)
    number = 123456.75
    drawn = tg.compile(lambda x: x + tg.rand(100))

    @tg.compile
    def update(w, x):
        (w * x).sum().backward()
        with tg.no_grad():
            w -= 0.01 * w.grad

    def work():
        for _ in range(200):
            compiled(x, number)
            taped(x, w).backward()
            w.grad = None
            update(w, x)
            w.grad = None
            drawn(x)

    work()
    gc.collect()
    watched = (x, w, x._array, w._array, number, None, False, x._array.dtype, tg.Tensor)
    before = [sys.getrefcount(item) for item in watched], len(gc.get_objects())
    work()
    gc.collect()
    after = [sys.getrefcount(item) for item in watched], len(gc.get_objects())
    # Not a single reference for each of the 200 calls.
    for a, b in zip(before[0], after[0], strict=True):
        assert abs(a - b) < 50
    assert after[1] - before[1] < 50


def test_several_threads():
    compiled = tg.compile(lambda x, n: (x * n).cumsum(0) + n)
    x = tg.ones(50)
    warm(compiled, x, 1.0)
    wrong = []

    def work(n):
        expected = compiled.__wrapped__(x, n).tolist()
        for _ in range(300):
            if compiled(x, n).tolist() != expected:
                wrong.append(n)
        with tg.no_grad():
            compiled(x, n)

    threads = [threading.Thread(target=work, args=(float(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
