"""Loops that draw random numbers, rolled: they draw what eager code draws."""

from __future__ import annotations

import numpy as np
import pytest

import tracegrad as tg
from tests.test_rolling import TRIPS, X, check, tensor


@pytest.fixture(autouse=True)
def _seeded():
    # In float32 the compiled normals may differ from NumPy's in the last place.
    before = tg.get_default_dtype()
    tg.set_default_dtype(tg.float64)
    tg.manual_seed(17)
    yield
    tg.set_default_dtype(before)


def calls(*counts):
    return [(X, n) for n in counts or TRIPS]


def noise(x, n):
    for _ in range(n):
        x = x * 0.9 + 0.1 * tg.randn_like(x)
    return x


def test_for_over_range():
    compiled = check(noise, calls(), traces=1)
    assert compiled.ir().count("normal(") == 1


def test_the_position_of_equal_draws_is_not_carried():
    compiled = tg.compile(noise)
    compiled(X, 30)
    assert "carries=1" in compiled.ir()


def test_static_range():
    def static(x):
        for i in range(40):
            x = x + tg.rand(5) * i
        return x, tg.rand(2)

    check(static, [(X,)] * 3, traces=1)


def test_while_on_a_condition():
    def walk(x, n):
        k = 0
        while (x * x).sum() < n:
            x = x + 0.3 * tg.randn_like(x).abs()
            k += 1
        return x, k, tg.randn(3)

    found = check(walk, calls(40, 0, 9, 300, 3, 8))
    assert found.statistics.traces <= 2


def test_numbers_before_between_and_after_loops():
    def several(x, n):
        x = x * tg.rand(())
        for _ in range(n):
            x = x + tg.rand(2).sum()
        x = x * tg.randn(5)
        for _ in range(n + 1):
            x = x + tg.randn(3).sum() * 0.1
            x = x * tg.rand(())
        return x, tg.rand(2)

    check(several, calls(), traces=1)


def test_a_condition_that_draws():
    def luck(x, p):
        k = 0
        while tg.rand(()) < p:
            x = x * tg.rand(())
            k += 1
        return x, k

    check(luck, calls(0.9, 0.95, 0.1, 0.99, 0.9, 0.9, 0.5, 0.0), settled=6)


def test_paths_that_draw_different_amounts():
    def ways(x, n):
        for i in range(n):
            if tg.rand(()) < 0.4:
                x = x + 0.1 * tg.randn_like(x)
            elif i % 3 == 0:
                continue
            else:
                x = x * tg.rand(2).sum()
        return x, tg.rand(())

    check(ways, calls(30, 3, 0, 40, 100, 7, 9, 1), settled=7)


def test_break_and_return():
    def stop(x, n):
        for i in range(n):
            step = tg.rand_like(x)
            if step.sum() > 4.0:
                break
            if (x + step).sum() > 60.0:
                return x, i, tg.rand(1)
            x = x + step
        else:
            x = x + tg.rand(())
        return x, n, tg.rand(1)

    check(stop, calls(5, 60, 1, 80, 80, 80, 80, 0, 80, 80), settled=9)


def test_nested_loops():
    def nested(x, n):
        for i in range(n):
            for _ in range(i):
                x = x + 0.1 * tg.randn_like(x)
            while tg.rand(()) < 0.5:
                x = x * 0.9 + tg.rand(())
            x = x * 0.5
        return x, tg.rand(())

    check(nested, calls(12, 3, 0, 15, 1, 9, 12, 2), settled=7)


def test_rows_of_a_tensor_with_dropout():
    def network(w, rows):
        h = w[0] * 0
        for row in rows:
            h = tg.dropout(w @ h + row, 0.3).tanh()
        return h

    w = tensor(0.3 * np.random.default_rng(0).normal(size=(5, 5)))
    rows = tensor(np.random.default_rng(1).normal(size=(20, 5)))
    check(network, [(w, rows)] * 3, traces=1)


def test_all_kinds_of_draws():
    def kinds(x, n):
        order = tg.randperm(5)
        for _ in range(n):
            order = order[tg.randperm(5)]
            x = x * tg.bernoulli(x * 0 + 0.9)
            x = x + tg.randint(0, 5, (5,)) * 0.01
            x = x + tg.normal(0.0, x * 0.01)
            y = tg.zeros(5)
            y.uniform_(-1.0, 1.0)
            x = x + y * 0.1
        return x[order]

    check(kinds, calls(), traces=1)


def test_a_tensor_filled_in_place():
    def filled(x, n):
        buffer = x.detach() * 0
        for i in range(n):
            buffer[i % 5] = tg.rand(())
            x = (x + buffer.clone() * x) * 0.5
        return x, buffer

    check(filled, calls(), settled=5)


def test_a_seed_that_the_function_chooses():
    def seeded(x, n):
        tg.manual_seed(3)
        for _ in range(n):
            x = x + tg.rand_like(x)
        return x, tg.rand(1)

    tg.manual_seed(3)
    check(seeded, calls(), traces=1)


def test_a_seed_in_the_loop():
    def seeded(x, n):
        for _ in range(n):
            tg.manual_seed(3)
            x = x + tg.rand_like(x)
            tg.manual_seed(4)
            x = x * tg.rand_like(x)
        return x, tg.rand(1)

    tg.manual_seed(3)
    check(seeded, calls(10, 20, 3, 10, 20))


def test_the_seed_of_the_generator_before_the_call_is_no_choice():
    def seeded(x):
        tg.manual_seed(0)
        return x + tg.rand_like(x)

    compiled = tg.compile(seeded)
    tg.manual_seed(0)
    first = compiled(X)
    tg.rand(3)
    np.testing.assert_array_equal(compiled(X).detach().numpy(), first.detach().numpy())


def test_a_seed_of_the_index_is_left_unrolled():
    def seeded(x):
        for i in range(9):
            tg.manual_seed(i)
            x = x + tg.rand_like(x)
        return x

    check(seeded, [(X,)] * 3, rolled=False)


def test_explicit_forms_within():
    def forms(x, n):
        for _ in range(n):
            x = tg.fori_loop(0, 4, lambda i, x: x + 0.1 * tg.randn_like(x), x)
            x, _ = tg.scan(lambda c, _: (c * tg.rand(()), c.sum()), x, length=3)
        return x, tg.rand(1)

    check(forms, calls(10, 2, 0, 12, 1, 9), traces=1)


def test_vmap_within():
    def rows(x, n):
        for _ in range(n):
            x = tg.vmap(lambda e: e + tg.randn(()), randomness="different")(x) * 0.5
        return x, tg.rand(1)

    check(rows, calls(10, 2, 0, 12, 1, 9), traces=1)


def test_second_derivatives():
    def smooth(x, n):
        for _ in range(n):
            x = (x * tg.rand_like(x)).sin() + x * x * 0.1
        return x.sum()

    def second(function, x, n):
        x = tensor(x)
        (first,) = tg.autograd.grad(function(x, n), x, create_graph=True)
        (found,) = tg.autograd.grad((first * first).sum(), x)
        return found.numpy()

    compiled = tg.compile(smooth)
    for n in (10, 3, 1, 12):
        state = tg.get_rng_state()
        wanted = second(smooth, X.detach().numpy(), n)
        tg.set_rng_state(state)
        np.testing.assert_allclose(second(compiled, X.detach().numpy(), n), wanted, rtol=1e-9)


def test_backward_within():
    def train(w, x, n):
        for _ in range(n):
            w.grad = None
            out = tg.dropout((x @ w).tanh(), 0.2)
            (out * out).sum().backward()
            with tg.no_grad():
                w -= 0.1 * w.grad
        return w.detach().clone()

    w = tensor(0.3 * np.random.default_rng(0).normal(size=(5, 3)))
    x = tensor(np.random.default_rng(1).normal(size=(4, 5)), False)
    compiled = tg.compile(train)
    for n in (10, 20, 3, 40):
        state = tg.get_rng_state()
        wanted = train(tensor(w.detach().numpy()), x, n)
        after = tg.get_rng_state()
        tg.set_rng_state(state)
        found = compiled(tensor(w.detach().numpy()), x, n)
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-9)
        assert tg.get_rng_state().tolist() == after.tolist()
    assert compiled.statistics.traces <= 2


def test_a_memory_budget():
    compiled = tg.compile(noise, memory_budget=2000)
    for n in (200, 5, 300):
        x, y = tensor(np.ones(5)), tensor(np.ones(5))
        state = tg.get_rng_state()
        (noise(x, n).sin() ** 2).sum().backward()
        tg.set_rng_state(state)
        (compiled(y, n).sin() ** 2).sum().backward()
        np.testing.assert_allclose(y.grad.numpy(), x.grad.numpy(), rtol=1e-9)


def test_an_exception_leaves_the_generator():
    def broken(x, n):
        for _ in range(n):
            x = x + tg.rand_like(x)
        if x.sum() > 30:
            raise ValueError("too much")
        return x

    compiled = tg.compile(broken)
    compiled(X, 3)
    for _ in range(2):
        state = tg.get_rng_state().tolist()
        with pytest.raises(ValueError, match="too much"):
            compiled(X, 50)
        assert tg.get_rng_state().tolist() == state


def loops_that_draw_in_bodies(x):
    def body(c, _):
        for _ in range(12):
            c = c * 0.9 + tg.randn(3)
        return c, c.sum()

    c, sums = tg.scan(body, x, None, length=4)
    return c, sums, tg.rand(2)


def bodies_that_draw_in_loops(x):
    for _ in range(10):
        x = tg.fori_loop(0, 5, lambda i, c: c + tg.rand(3), x)
        x = tg.map(lambda row: row + tg.rand(()), x)
    return x, tg.rand(2)


@pytest.mark.parametrize("compute", [loops_that_draw_in_bodies, bodies_that_draw_in_loops])
def test_bodies_and_loops_within_each_other_draw_the_numbers_of_eager_code(compute):
    compiled = tg.compile(compute)
    tg.manual_seed(3)
    expected = [compute(tg.ones(3)) for _ in range(3)]
    tg.manual_seed(3)
    for values in expected:
        for ours, theirs in zip(compiled(tg.ones(3)), values, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5)
