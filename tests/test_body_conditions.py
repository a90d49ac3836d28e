"""Python's `if`, `and`, `while`, `range` and `assert` in functions given to loops and branches."""

import itertools

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
def test_second_order(name, interpreted):
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
    for mode in (lambda f: f, tg.compile):
        same(mode(tg.vmap(f))(xs, ws), expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_of_rows_that_go_their_own_ways(name, interpreted):
    f = PROGRAMS[name]
    xs, ws = t(XS), t(WS)
    rows = [(t(x), t(w)) for x, w in zip(XS, WS, strict=True)]
    gradients = [tg.grad(f, (0, 1))(x, w) for x, w in rows]
    expected_gradient = tuple(tg.stack(column) for column in zip(*gradients, strict=True))

    def total(xs, ws):
        return tg.vmap(f)(xs, ws).sum()

    for mode in (lambda f: f, tg.compile):
        same(mode(tg.grad(total, (0, 1)))(xs, ws), expected_gradient, 1e-10)
        same(mode(tg.vmap(tg.grad(f, (0, 1))))(xs, ws), expected_gradient, 1e-10)


# ------------------------------------------------------------------------- what is done, how often


def test_the_function_runs_once_for_each_way():
    runs = itertools.count()

    def body(i, y):
        next(runs)
        if y > 0.5:
            return y * 0.7
        return y + 0.3 if i > 1 else y * 2

    f = tg.compile(lambda x: tg.fori_loop(0, 4, body, x))
    same(f(t(0.4)), tg.fori_loop(0, 4, body, t(0.4)))
    assert next(runs) == 3 + 4
    f(t(0.9))
    assert (next(runs), f.statistics.traces) == (8, 1)


def test_a_condition_that_is_asked_again_is_one():
    def body(i, y):
        if y > 0.5:
            y = y * 2
        return y if i * 2 > 3 else (y + 1 if i * 2 > 3 else y - 1)

    f = tg.compile(lambda x: tg.fori_loop(0, 4, body, x))
    same(f(t(0.4)), tg.fori_loop(0, 4, body, t(0.4)))
    assert f.ir(t(0.4)).count("= cond(") <= 3


def test_random_numbers_on_the_ways():
    def body(c, s):
        r = tg.rand((), dtype=tg.float64)
        if r > 0.5:
            return c + r * tg.rand((), dtype=tg.float64), r
        return c - tg.rand((), dtype=tg.float64), c

    def f(x):
        return tg.scan(body, x, tg.arange(5.0))

    compiled = tg.compile(f)
    for seed in range(3):
        tg.manual_seed(seed)
        expected = f(t(0.5))
        end = tg.get_rng_state().tolist()
        tg.manual_seed(seed)
        same(compiled(t(0.5)), expected)
        assert tg.get_rng_state().tolist() == end


def test_rows_write_on_some_ways():
    def row(v):
        if v[0] > 1.0:
            v[1] = v[0] * 2
            return v.sum()
        return v[0]

    def f(v):
        return tg.vmap(row)(v)

    for mode in (lambda f: f, tg.compile):
        v = tg.arange(6.0).reshape(3, 2)
        same(mode(f)(v), np.array([0.0, 6.0, 12.0], np.float32))
        same(v, np.array([[0, 1], [2, 4], [4, 8]], np.float32))


def test_vmap_of_numbers_and_tensors():
    def row(v):
        return v * 2 if v > 0.5 else 1

    v = tg.tensor([0.0, 1.0], dtype=tg.float64)
    for mode in (lambda f: f, tg.compile):
        same(mode(tg.vmap(row))(v), np.array([1.0, 2.0]))
        same(mode(tg.vmap(lambda v: 1.5))(v), np.array([1.5, 1.5], np.float32))


# ------------------------------------------------------------------------------------------ errors


def raised(f, *args):
    """The type of the exception, its text and what was noted of it."""
    try:
        f(*args)
    except Exception as error:
        return type(error), str(error), "\n".join(getattr(error, "__notes__", ()))
    raise AssertionError("nothing was raised")


def asserting(x):
    def body(i, y):
        assert y < 10.0, f"too large after {1} step"
        if y < -10.0:
            raise KeyError("too small")
        return y * 2

    return tg.fori_loop(0, 6, body, x)


def test_exceptions_are_raised_when_their_way_is_taken():
    compiled = tg.compile(asserting)
    for x, kind, text in ((0.2, None, ""), (1.0, AssertionError, "after 1 step"), (0.1, None, "")):
        if kind is None:
            same(compiled(t(x)), asserting(t(x)))
        else:
            assert raised(asserting, t(x))[0] is kind
            found = raised(compiled, t(x))
            assert found[0] is kind
            assert text in found[1]
            assert "test_body_conditions.py" in found[2]
    # In compiled code that is there already, and the one of the other line.
    assert raised(compiled, t(-3.0))[:2] == (KeyError, "'too small'")
    assert raised(compiled, t(3.0))[0] is AssertionError
    assert compiled.statistics.traces == 1
    # Not one that a function of equal structure raises.
    other = tg.compile(lambda x: tg.fori_loop(0, 6, lambda i, y: refusing(y, "another message"), x))
    another = tg.compile(lambda x: tg.fori_loop(0, 6, lambda i, y: refusing(y, "this message"), x))
    assert raised(other, t(1.0))[1] == "another message"
    assert raised(another, t(1.0))[1] == "this message"


def refusing(y, message):
    if y > 3.0:
        raise ValueError(message)
    return y * 2


def test_exceptions_in_branches_and_rows():
    def chosen(x):
        def slow(y):
            k = tg.fori_loop(0, 3, lambda i, z: refusing(z, "in a loop in a branch"), y)
            return refusing(k * 0.1, "in a branch")

        return tg.cond(x > 0.0, slow, lambda y: y, x)

    def mapped(x):
        return tg.vmap(lambda v: refusing(v, "in a row"))(x * tg.arange(3, dtype=tg.float64))

    for f, good, bad, text in (
        (chosen, (-9.0, 0.3), 2.0, "in a loop in a branch"),
        (mapped, (0.5, -4.0), 2.0, "in a row"),
    ):
        compiled = tg.compile(f)
        for x in good:
            same(compiled(t(x)), f(t(x)))
        for call in (f, compiled, tg.compile(f)):
            assert raised(call, t(bad))[:2] == (ValueError, text)


def test_indices_out_of_range_on_one_way():
    def body(i, y):
        return y + v[i] if i < n else y

    v = tg.ones(3, dtype=tg.float64)
    n = tg.tensor(3)
    f = tg.compile(lambda x: tg.fori_loop(0, 6, body, x))
    assert f(t(0.0)).item() == 3.0
    n = tg.tensor(5)
    kind, text, _ = raised(f, t(0.0))
    assert kind is tg.errors.BoundsError
    assert "index 3 is out of bounds" in text


ERRORS = {
    "shapes": (
        lambda c, s: (c, s) if s > 1.0 else (c, tg.stack([s, s])),
        tg.errors.ShapeError,
        r"tg.scan: result is f64\[\(\)\] where the condition at .*holds.*f64\[2\] where.*not hold",
    ),
    "dtypes": (
        lambda c, s: (c, s.float()) if s > 1.0 else (c, s),
        tg.errors.DtypeError,
        r"f32\[\(\)\] where the condition at .*computed at test_body_conditions.*f64",
    ),
    "structures": (
        lambda c, s: (c, (s, s)) if s > 1.0 else (c, s),
        tg.errors.ArgumentError,
        r"condition at test_body_conditions.* tuple\(tensor, tensor\)",
    ),
    "number": (
        lambda c, s: (c * float(s), s),
        tg.errors.TraceError,
        r"float\(\).*keep it a",
    ),
    "item": (lambda c, s: (c * s.item(), s), tg.errors.TraceError, r"item\(\).*keep it a"),
    "random numbers": (
        lambda c, s: (c + tg.rand((), dtype=tg.float64), s) if s > 1.0 else (c, s),
        tg.errors.TraceError,
        r"draws 1 random numbers where the condition at test_body.* holds, and 0 where",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_lines(name):
    body, kind, match = ERRORS[name]
    f = tg.compile(lambda x: tg.scan(body, x, tg.arange(3, dtype=tg.float64)))
    with pytest.raises(kind, match=match):
        f(t(0.5))


def test_too_many_ways():
    def body(i, y):
        for k in range(7):
            if y * k > 0.5:
                y = y * 0.9
        return y

    def endless(i, y):
        kept = []
        while y < 3.0:
            y = y * 2
            kept.append(y)
        return y

    for function, roll in ((body, True), (endless, True), (endless, False)):
        f = tg.compile(lambda x, g=function: tg.fori_loop(0, 3, g, x), roll=roll)
        kind, text, _ = raised(f, t(0.5))
        assert issubclass(kind, tg.errors.TraceError)
        assert "more than 64 ways" in text
        assert "test_body_conditions.py" in text
        assert "tg.while_loop" in text


def test_what_is_done_has_to_depend_on_what_is_given():
    calls = []

    def body(i, y):
        calls.append(1)
        y = y * len(calls)
        return y + 1 if y > 0.5 else y

    f = tg.compile(lambda x: tg.fori_loop(0, 3, body, x))
    kind, text, _ = raised(f, t(0.5))
    assert issubclass(kind, tg.errors.TraceError)
    assert "may only depend on what it is given" in text
