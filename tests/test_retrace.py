"""Guards, the tree of traces, and how often a function is traced and compiled."""

import random
import warnings

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.config import config


def grow(a):
    b = a * 2
    while b.norm() < 1000:
        b = b * 2
    return b if b.sum() > 0 else 100 * b


def test_tutorial_function_traces_each_path_once_and_compiles_nothing_twice():
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=3) * 10.0 ** rng.uniform(-1.5, 1.5) for _ in range(100)]
    compiled = tg.compile(grow)
    paths = set()

    def run_all():
        for data in inputs:
            factor, trips = 2.0, 0
            while np.linalg.norm(data * factor) < 1000:
                factor, trips = factor * 2, trips + 1
            positive = (data * factor).sum() > 0
            factor = factor if positive else 100 * factor
            paths.add((trips, positive))
            a = tg.tensor(data, requires_grad=True)
            value = compiled(a)
            value.sum().backward()
            np.testing.assert_allclose(value.detach().numpy(), data * factor, rtol=1e-12)
            np.testing.assert_allclose(a.grad.numpy(), np.full(3, factor), rtol=1e-12)

    run_all()
    statistics = compiled.statistics
    # A loop that is rolled is one path, whatever its number of iterations.
    assert statistics.traces == (2 if config.roll else len(paths))
    # Every iteration is the same segment: a handful of programs, not one for each.
    assert statistics.compilations < 10
    before = statistics.traces, statistics.compilations
    run_all()
    assert (statistics.traces, statistics.compilations) == before


def test_a_steady_loop_neither_traces_nor_compiles():
    compiled = tg.compile(lambda w, x: ((x @ w) ** 2).sum())
    w, x = tg.ones(3, 1, requires_grad=True), tg.ones(5, 3)
    compiled(w, x).backward()
    statistics = compiled.statistics
    before = statistics.traces, statistics.compilations
    for _ in range(1000):
        w.grad = None
        compiled(w, x).backward()
    assert (statistics.traces, statistics.compilations) == before == (1, 2)
    assert statistics.retraces == 0
    assert (statistics.calls, statistics.hits) == (1001, 1000)


def classify(x, n):
    if x.sum() > 0:
        for i in range(n):
            if i == 2:
                continue
            x = x + i
        kind = "positive"
    elif x.min() < -5:
        return x * 0, "low"
    else:
        kind = "negative"
        while True:
            x = x + 1
            if x.sum() > 3:
                break
    total = float(x.sum())
    return (x * 2, kind) if total < 10 else (x / 2, kind + "!")


def test_branches_loops_break_continue_and_early_return():
    rng = np.random.default_rng(1)
    calls = [
        (rng.integers(-8, 5, size=2).astype(float), int(rng.integers(0, 5))) for _ in range(60)
    ]
    compiled = tg.compile(classify, max_traces=200)
    for _ in range(2):
        random.Random(0).shuffle(calls)
        for data, n in calls:
            expected, kind = classify(tg.tensor(data), n)
            found, other = compiled(tg.tensor(data), n)
            assert kind == other
            np.testing.assert_allclose(found.numpy(), expected.numpy())
    traces = compiled.statistics.traces
    for data, n in calls:
        compiled(tg.tensor(data), n)
    assert compiled.statistics.traces == traces


def test_gradient_follows_the_path_taken():
    def f(x):
        return (x**2).sum() if x.sum() > 0 else (x**3).sum()

    compiled = tg.compile(f)
    for sign in (1, -1, 1, -1):
        x = tg.tensor([1.0 * sign, 2.0 * sign], requires_grad=True)
        compiled(x).backward()
        expected = [2.0, 4.0] if sign > 0 else [3.0, 12.0]
        assert x.grad.tolist() == expected
    assert compiled.statistics.traces == 2


def test_a_value_from_before_a_condition_is_used_after_it():
    def f(x):
        early = tg.exp(x)
        if x.sum() > 0:
            return (early * x).sum()
        return (early + x).sum()

    compiled = tg.compile(f)
    for value in (1.0, -1.0, 2.0, -2.0):
        x = tg.tensor([value], dtype=tg.float64, requires_grad=True)
        e = tg.tensor([value], dtype=tg.float64, requires_grad=True)
        found, expected = compiled(x), f(e)
        found.backward()
        expected.backward()
        np.testing.assert_allclose(found.item(), expected.item(), rtol=1e-12)
        np.testing.assert_allclose(x.grad.numpy(), e.grad.numpy(), rtol=1e-12)


def test_floats_do_not_retrace_until_their_value_is_asked_for():
    compiled = tg.compile(lambda x, rate: x * rate)
    asked = tg.compile(lambda x, rate: x * rate if rate > 0.5 else x)
    used = tg.compile(lambda x, rate: x * float(rate))
    x = tg.ones(2)
    for rate in np.linspace(0.1, 0.9, 9):
        for f in (compiled, asked, used):
            f(x, float(rate))
    assert compiled.statistics.traces == 1
    assert asked.statistics.traces == 2
    assert used.statistics.traces == 9


def test_integers_retrace_only_where_they_shape_the_computation():
    scaled = tg.compile(lambda x, n: x * n)
    repeated = tg.compile(lambda x, n: sum([x] * 1, x * len(range(n))))
    for n in (1, 2, 3, 2, 1):
        assert scaled(tg.ones(2), n).tolist() == [n, n]
        assert repeated(tg.ones(2), n).tolist() == [n + 1, n + 1]
    assert scaled.statistics.traces == 1
    assert repeated.statistics.traces == 3


def test_nan_and_negative_zero_are_outcomes_of_their_own():
    @tg.compile
    def f(x):
        return x * 0 + (1 if str(x.item()) == "-0.0" else 2)

    for value, expected in ((0.0, 2), (-0.0, 1), (0.0, 2), (-0.0, 1)):
        assert f(tg.tensor(value)).item() == expected
    nan = tg.tensor(float("nan"))
    f(nan)
    f(nan)
    assert f.statistics.traces == 3


def test_signature_parts_that_make_another_trace():
    compiled = tg.compile(lambda x: x * 2)
    x = tg.ones(4, 4)
    variants = [
        x,
        x.double(),
        x[:2],
        x.T[:, :2],
        x.clone().requires_grad_(),
        tg.ones(4, 4, dtype=tg.int64),
    ]
    for count, variant in enumerate(variants, 1):
        for _ in range(2):
            assert compiled(variant).sum().item() == variant.sum().item() * 2
            assert compiled.statistics.traces == count
    with tg.no_grad():
        compiled(x)
    assert compiled.statistics.traces == len(variants) + 1


def test_guards_of_one_value_are_asked_once():
    @tg.compile
    def f(x):
        s = x.sum()
        if s > 0 and s > 0 and (s > 0):
            return x
        return -x

    f(tg.ones(2))
    segments = f.specialisations[0].tree.walk()
    assert sum(s.guard is not None for s in segments) == 1


def test_outcomes_that_do_not_depend_on_inputs_are_no_guards():
    compiled = tg.compile(lambda x: x * 2 if tg.ones(3).sum() > 2 else x)
    compiled(tg.ones(1))
    assert compiled.specialisations[0].tree.root.guard is None


def test_a_function_that_depends_on_something_hidden_is_an_error_when_traced_again():
    state = iter([1, 2, 3])

    @tg.compile
    def f(x):
        y = x * next(state)
        return y if x.sum() > 0 else y + 1

    f(tg.ones(2))
    with pytest.raises(tg.errors.TraceError, match=r"mul at test_retrace\.py:\d+"):
        f(-tg.ones(2))


def test_retrace_draws_the_same_random_numbers_and_writes_once():
    def f(x, count):
        noise = tg.rand(2)
        count.add_(1)
        return x + noise if x.sum() > 0 else x - noise

    results = []
    for g in (f, tg.compile(f)):
        tg.manual_seed(7)
        count = tg.zeros(1)
        values = [g(tg.ones(2) * s, count).tolist() for s in (1, -1, 1, -1)]
        results.append((values, count.item()))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    assert results[1][1] == results[0][1] == 4


def test_past_the_limit_one_warning_with_a_table_and_right_results():
    compiled = tg.compile(lambda x, n: x * len(range(n)), max_traces=4)
    with pytest.warns(tg.errors.TraceLimitWarning) as caught:
        for n in (*range(8), *range(8)):
            assert compiled(tg.ones(2), n).tolist() == [n, n]
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "max_traces=4" in text
    assert "index() at test_retrace.py" in text
    assert "0 -> 1" in text
    assert sum(len(s.tree.paths) for s in compiled.specialisations) <= 4


def test_past_the_limit_the_least_recently_used_signature_goes():
    compiled = tg.compile(lambda x: x + 1, max_traces=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.errors.TraceLimitWarning)
        for size in (1, 2, 1, 3, 1):
            compiled(tg.ones(size))
    traces = compiled.statistics.traces
    compiled(tg.ones(1))
    assert compiled.statistics.traces == traces
    compiled(tg.ones(2))
    assert compiled.statistics.traces == traces + 1


def test_compiled_rounding_decides_where_it_differs_from_eager():
    # Near the threshold eager and compiled sums may round differently; whatever the outcome, the
    # call ends and gives one of the two results.
    compiled = tg.compile(lambda x: x * 2 if x.sum() > 1.0 else x * 3)
    for seed in range(50):
        x = tg.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(997)).astype(np.float32))
        found = compiled(x)
        ratio = (found.sum() / x.sum()).item()
        assert min(abs(ratio - 2), abs(ratio - 3)) < 1e-4
    assert compiled.statistics.traces <= 3


def test_one_tensor_in_two_places_takes_a_new_path():
    """What was traced for two tensors serves a call with one, up to where no trace went."""
    held = tg.tensor([0.1, 0.2])

    @tg.compile
    def f(x, y, n):
        result = (x * 2.0).sin().sum() + (y * held).sum()
        return result * 2.0 if n > 0 else result

    x, y, more, less = tg.tensor([1.0, 2.0]), tg.tensor([5.0, 7.0]), tg.tensor(1), tg.tensor(0)
    for a, b, n in [(x, y, more), (x, x, less), (x, y, less), (held, y, less), (y, y, more)] * 2:
        np.testing.assert_allclose(f(a, b, n).numpy(), f.__wrapped__(a, b, n).numpy(), rtol=1e-6)
