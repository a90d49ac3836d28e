"""Loops and branches over functions, eager and compiled: derivatives, and what is compiled."""

import numpy as np
import pytest

import tracegrad as tg
from tests.control_programs import (
    F64,
    PROGRAMS,
    branch_in_loop,
    chosen,
    growth,
    mapped,
    nodes_of,
    power_by_fori,
    recurrence_backwards,
    same,
    switched,
    t,
    while_in_scan,
)

POINTS = ((0.31, 1.27), (0.83, 1.61))


def numeric(f, x, w, step=1e-5):
    """Derivatives for both arguments by central differences."""

    def value(a, b):
        return f(t(a), t(b)).item()

    return (
        (value(x + step, w) - value(x - step, w)) / (2 * step),
        (value(x, w + step) - value(x, w - step)) / (2 * step),
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_eager_and_compiled_agree_with_differences(name):
    f = PROGRAMS[name]
    compiled = tg.compile(f)
    compiled_gradient = tg.compile(tg.grad(f, (0, 1)))
    for x, w in POINTS:
        expected = f(t(x), t(w))
        same(compiled(t(x), t(w)), expected)
        gradient = tg.grad(f, (0, 1))(t(x), t(w))
        np.testing.assert_allclose([g.item() for g in gradient], numeric(f, x, w), rtol=2e-6)
        same(compiled_gradient(t(x), t(w)), gradient)
        # The compiled call is one node on the ordinary tape.
        a, b = t(x, requires_grad=True), t(w, requires_grad=True)
        compiled(a, b).backward()
        same((a.grad, b.grad), gradient)
    # One for tensors that require grad, one for others.
    assert compiled.statistics.traces == 2
    assert compiled_gradient.statistics.traces == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_second_order(name, interpreted):
    f = PROGRAMS[name]

    def slope(x, w):
        return tg.grad(f)(x, w)

    x, w = POINTS[1]
    second = tg.grad(slope, (0, 1))(t(x), t(w))
    np.testing.assert_allclose(
        [g.item() for g in second], numeric(slope, x, w), rtol=5e-6, atol=1e-8
    )
    same(tg.compile(tg.grad(slope, (0, 1)))(t(x), t(w)), second, 1e-10)
    hessian = tg.compile(tg.hessian(f))(t(x), t(w))
    same(hessian, second[0], 1e-10)


@pytest.mark.parametrize("name", PROGRAMS)
def test_forward_mode(name):
    f = PROGRAMS[name]
    x, w = POINTS[0]

    def along(x, w):
        return tg.jvp(f, (x, w), (t(0.7), t(-0.4)))

    value, tangent = along(t(x), t(w))
    same(value, f(t(x), t(w)))
    dx, dw = numeric(f, x, w)
    np.testing.assert_allclose(tangent.item(), 0.7 * dx - 0.4 * dw, rtol=2e-6)
    same(tg.compile(along)(t(x), t(w)), (value, tangent), 1e-10)
    second = tg.jvp(lambda x, w: along(x, w)[1], (t(x), t(w)), (t(1.0), t(0.0)))[1]
    compiled = tg.compile(
        lambda x, w: tg.jvp(lambda x, w: along(x, w)[1], (x, w), (t(1.0), t(0.0)))[1]
    )
    same(compiled(t(x), t(w)), second, 1e-9)


# ------------------------------------------------------------------------- writing in place


def written(x, w):
    def body(i, v):
        v[i] = v[i - 1] * w + 0.1
        v[i] += w * i
        return v

    return (tg.fori_loop(1, 5, body, x * tg.ones(5, dtype=F64)) ** 2).sum()


def test_a_body_writes_into_what_it_carries():
    def by_at(x, w):
        def body(i, v):
            v = v.at[i].set(v[i - 1] * w + 0.1)
            return v.at[i].add(w * i)

        return (tg.fori_loop(1, 5, body, x * tg.ones(5, dtype=F64)) ** 2).sum()

    x, w = t(0.4), t(1.2)
    same(written(x, w), by_at(x, w))
    same(tg.compile(written)(x, w), by_at(x, w))
    # Eagerly the tape refuses, as it does in any loop that overwrites what it needs.
    same(tg.compile(tg.grad(written, (0, 1)))(x, w), tg.grad(by_at, (0, 1))(x, w))


def test_what_is_given_to_a_loop_is_not_written():
    def body(i, v):
        v[i] = 7.0
        return v

    def step(c, row):
        row += 1.0
        return c + row, row

    for mode in (lambda f: f, tg.compile):
        v, m = tg.zeros(3), tg.zeros(2, 3)
        same(mode(lambda v: tg.fori_loop(0, 2, body, v))(v), np.float32([7, 7, 0]))
        same(
            mode(lambda v, m: tg.scan(step, v, m))(v, m),
            (np.full(3, 2.0, "f4"), np.ones((2, 3), "f4")),
        )
        same((v, m), (np.zeros(3, "f4"), np.zeros((2, 3), "f4")))


# ----------------------------------------------------------------- what is compiled, and how often


def test_each_form_is_one_op():
    x, w = t(0.3), t(1.2)
    assert nodes_of(tg.compile(power_by_fori), x, w) == {"while_loop": 1, "cond": 0}
    assert nodes_of(tg.compile(growth), x, w) == {"while_loop": 1, "cond": 0}
    assert nodes_of(tg.compile(recurrence_backwards), x, w) == {"while_loop": 1, "cond": 0}
    assert nodes_of(tg.compile(mapped), x, w) == {"while_loop": 1, "cond": 0}
    assert nodes_of(tg.compile(chosen), x, w) == {"while_loop": 0, "cond": 1}
    assert nodes_of(tg.compile(switched), x, w) == {"while_loop": 0, "cond": 1}
    assert nodes_of(tg.compile(branch_in_loop), x, w) == {"while_loop": 1, "cond": 1}
    assert nodes_of(tg.compile(while_in_scan), x, w) == {"while_loop": 2, "cond": 0}


def test_other_bounds_and_conditions_compile_nothing():
    @tg.compile
    def between(lower, upper, x):
        return tg.fori_loop(lower, upper, lambda i, y: y * 0.9 + i, x)

    @tg.compile
    def until(x, limit):
        return tg.while_loop(lambda y: y < limit, lambda y: y * 1.1, x)

    def expected(lower, upper, x):
        for i in range(lower, upper):
            x = x * 0.9 + i
        return x

    for lower, upper in ((0, 3), (2, 40), (5, 5), (7, 2), (-3, 4), (0, 1500)):
        found = between(lower, upper, t(1.0))
        np.testing.assert_allclose(found.item(), expected(lower, upper, 1.0), rtol=1e-12)
    steps = [until(t(1.0), t(limit)).item() for limit in (0.5, 2.0, 50.0, 1e30)]
    np.testing.assert_allclose(steps[-1], 1.1 ** np.ceil(np.log(1e30) / np.log(1.1)), rtol=1e-9)
    assert steps[0] == 1.0
    assert (between.statistics.traces, until.statistics.traces) == (1, 1)
    compilations = between.statistics.compilations + until.statistics.compilations
    between(1, 9, t(1.0)), until(t(1.0), t(3.0))
    assert between.statistics.compilations + until.statistics.compilations == compilations


def test_bounds_may_be_tensors():
    @tg.compile
    def f(n, x):
        return tg.fori_loop(n - 2, n, lambda i, y: y + i, x)

    assert f(tg.tensor(7), tg.tensor(0)).item() == 11
    assert f(tg.tensor(3), tg.tensor(1)).item() == 4
    assert f.statistics.traces == 1
    assert (
        tg.fori_loop(tg.tensor(1, dtype=tg.int32), 4, lambda i, y: y + i, tg.tensor(0)).item() == 6
    )


def test_an_index_counts_as_a_python_number():
    for mode in (lambda f: f, tg.compile):
        f = mode(lambda x: tg.fori_loop(0, 3, lambda i, y: y + i * 0.1 * x, x))
        for dtype in (tg.float32, tg.float64):
            x = tg.tensor([1.0, 2.0], dtype=dtype)
            assert f(x).dtype is dtype
        # 0.1 is not rounded to float32 on its way.
        assert f(t(1.0)).item() == 1.0 + 0.1 + 2 * 0.1


def test_both_branches_are_compiled_at_once():
    f = tg.compile(lambda x: tg.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, x))
    same(f(t([1.0, 2.0])), t([2.0, 4.0]))
    same(f(t([-1.0, -2.0])), t([-2.0, -3.0]))
    assert f.statistics.traces == 1


def test_a_branch_not_taken_brings_no_nan_into_the_gradient():
    f = tg.compile(tg.grad(lambda x: tg.cond(x > 0, lambda x: x.sqrt(), lambda x: x * 0.0, x)))
    assert f(t(-1.0)).item() == 0.0
    assert f(t(4.0)).item() == 0.25


def test_switch_clamps():
    branches = [lambda x: x, lambda x: x * 10, lambda x: x * 100]
    f = tg.compile(lambda i, x: tg.switch(i, branches, x))
    for i, expected in ((-5, 1), (0, 1), (1, 10), (2, 100), (9, 100)):
        assert tg.switch(i, branches, t(1.0)).item() == expected
        assert tg.switch(tg.tensor(i), branches, t(1.0)).item() == expected
        assert f(tg.tensor(i), t(1.0)).item() == expected
    assert f.statistics.traces == 1


def test_what_python_knows_is_decided_by_python():
    f = tg.compile(lambda x, flag: tg.cond(flag, lambda: x, lambda: x * 2))
    assert f(t(1.0), True).item() == 1.0
    assert f(t(1.0), False).item() == 2.0
    assert nodes_of(f, t(1.0), True)["cond"] == 0


def test_a_body_may_ask_for_what_was_there_before():
    @tg.compile
    def f(x, n):
        def body(i, y):
            for _ in range(n):
                y = y * 2
            return y if x > 0 else -y

        return tg.fori_loop(0, 2, body, x)

    assert f(t(1.0), 2).item() == 16.0
    assert f(t(1.0), 1).item() == 4.0
    assert f(t(-1.0), 1).item() == -4.0
