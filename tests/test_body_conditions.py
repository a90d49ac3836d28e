"""Python's `if`, `and`, `while`, `range` and `assert` in functions given to loops and branches."""

import numpy as np
import pytest

import tracegrad as tg
from tests.body_programs import PROGRAMS
from tests.control_programs import same, t
from tests.test_control_flow import numeric

# What they ask for depends on nothing of a body's own: it is asked for where the form is called.
ASK_OUTSIDE = {"if_in_cond", "if_in_switch", "truth_from_around", "while_in_cond"}
POINTS = ((0.31, 1.27), (0.83, 1.61), (-0.45, 1.13))


@pytest.mark.parametrize("name", PROGRAMS)
def test_eager_and_compiled_agree_with_differences(name):
    f = PROGRAMS[name]
    compiled = tg.compile(f)
    compiled_gradient = tg.compile(tg.grad(f, (0, 1)))
    for x, w in POINTS:
        expected = f(t(x), t(w))
        same(compiled(t(x), t(w)), expected)
        gradient = tg.grad(f, (0, 1))(t(x), t(w))
        np.testing.assert_allclose(
            [g.item() for g in gradient], numeric(f, x, w), rtol=2e-6, atol=1e-8
        )
        same(compiled_gradient(t(x), t(w)), gradient)
        a, b = t(x, requires_grad=True), t(w, requires_grad=True)
        compiled(a, b).backward()
        same([t(0.0) if v.grad is None else v.grad for v in (a, b)], gradient)
    # One for tensors that require grad, one for others.
    if name not in ASK_OUTSIDE:
        assert compiled.statistics.traces == 2
        assert compiled_gradient.statistics.traces == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_second_order(name):
    f = PROGRAMS[name]

    def slope(x, w):
        return tg.grad(f)(x, w)

    x, w = POINTS[1]
    second = tg.grad(slope, (0, 1))(t(x), t(w))
    np.testing.assert_allclose(
        [g.item() for g in second], numeric(slope, x, w), rtol=5e-6, atol=1e-7
    )
    same(tg.compile(tg.grad(slope, (0, 1)))(t(x), t(w)), second, 1e-10)


# ------------------------------------------------------------------------------------- under vmap

XS = np.array([0.31, 0.83, -0.45, 1.4])
WS = np.array([1.27, 1.61, 1.13, 1.05])


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_row_goes_its_own_way(name):
    f = PROGRAMS[name]
    xs, ws = t(XS), t(WS)
    rows = [(t(x), t(w)) for x, w in zip(XS, WS, strict=True)]
    expected = tg.stack([f(x, w) for x, w in rows])
    gradients = [tg.grad(f, (0, 1))(x, w) for x, w in rows]
    expected_gradient = tuple(tg.stack(column) for column in zip(*gradients, strict=True))

    def total(xs, ws):
        return tg.vmap(f)(xs, ws).sum()

    for mode in (lambda f: f, tg.compile):
        same(mode(tg.vmap(f))(xs, ws), expected)
        same(mode(tg.grad(total, (0, 1)))(xs, ws), expected_gradient, 1e-10)
        same(mode(tg.vmap(tg.grad(f, (0, 1))))(xs, ws), expected_gradient, 1e-10)
