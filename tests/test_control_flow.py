"""Loops and branches over functions: eager and compiled, their derivatives, what they refuse."""

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.errors import (
    ArgumentError,
    BoundsError,
    DtypeError,
    ShapeError,
    TraceError,
    TracegradError,
)

F64 = tg.float64


def t(value, **options):
    return tg.tensor(value, dtype=F64, **options)


def leaves_of(value):
    if isinstance(value, tg.Tensor):
        return [value.detach().numpy()]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves_of(item)]
    return [] if value is None else [np.asarray(value)]


def same(found, expected, tolerance=1e-12):
    found, expected = leaves_of(found), leaves_of(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------- programs


def power_by_fori(x, w):
    return tg.fori_loop(0, 4, lambda i, y: (y * w).sin() + i * 0.1, x)


def growth(x, w):
    return tg.while_loop(lambda y: y < 20.0, lambda y: y * w + 0.5, x)


def recurrence(x, w):
    last, rows = tg.scan(lambda c, s: (c * w + s, c * s), x, w * tg.arange(5, dtype=F64))
    return last + (rows * rows).sum()


def recurrence_backwards(x, w):
    xs = w * tg.arange(5, dtype=F64)
    last, rows = tg.scan(lambda c, s: ((c * w).sin() + s, c * s), x, xs, reverse=True)
    return last * rows[0] + rows.sum()


def scan_without_xs(x, w):
    last, rows = tg.scan(lambda c, _: ((c * w).cos(), c * c), x, length=4)
    return last + rows[1:].sum()


def mapped(x, w):
    return tg.map(lambda s: (s * w).sin() * x, tg.arange(4, dtype=F64) * x).sum()


def chosen(x, w):
    return tg.cond(x * w > 0.2, lambda y: y * w, lambda y: y.sin() / w, x)


def not_chosen(x, w):
    return tg.cond(x * w > 100.0, lambda y: y * w, lambda y: y.sin() / w, x)


def switched(x, w):
    return tg.switch((x * 10).to(tg.int64), [lambda y: y, lambda y: y * w, lambda y: y**3 * w], x)


def carried_pair(x, w):
    def body(i, pair):
        a, b = pair["a"], pair["b"][0]
        return {"a": b * w, "b": [a + b.sin()]}

    out = tg.fori_loop(0, 3, body, {"a": x, "b": [x * w]})
    return out["a"] * out["b"][0]


def vectors(x, w):
    def body(i, v):
        return (v * w + i).sin() + v.sum() * 0.1

    return (tg.fori_loop(0, 3, body, x * tg.arange(4, dtype=F64)) ** 2).sum()


def branch_in_loop(x, w):
    def body(i, y):
        return tg.cond(y > 0.5, lambda y: y * 0.7, lambda y: y + w * 0.3, y)

    return tg.fori_loop(0, 6, body, x)


def loop_in_loop(x, w):
    def outer(i, y):
        return tg.fori_loop(0, i + 1, lambda j, z: (z * w).sin() + x * 0.1, y)

    return tg.fori_loop(0, 3, outer, x)


def loop_in_branch(x, w):
    def slow(y):
        return tg.while_loop(lambda z: z < 3.0, lambda z: z * w + 0.4, y)

    return tg.cond(x > 0.0, slow, lambda y: y * y, x)


def while_in_scan(x, w):
    def step(c, s):
        new = tg.while_loop(lambda z: z < s, lambda z: z * w + 0.3, c)
        return new * 0.5, new

    return tg.scan(step, x, tg.arange(1, 5, dtype=F64))[1].sum()


def updated(x, w):
    def body(i, v):
        return v.at[i].set((v[i - 1] * w).sin() + v[i])

    v = tg.fori_loop(1, 5, body, x * tg.ones(5, dtype=F64))
    return (v * tg.arange(5, dtype=F64)).sum()


def no_trips(x, w):
    return tg.fori_loop(3, 3, lambda i, y: y * w, x) + tg.while_loop(
        lambda y: y > 100.0, lambda y: y * w, x
    )


PROGRAMS = {
    f.__name__: f
    for f in (
        power_by_fori,
        growth,
        recurrence,
        recurrence_backwards,
        scan_without_xs,
        mapped,
        chosen,
        not_chosen,
        switched,
        carried_pair,
        vectors,
        branch_in_loop,
        loop_in_loop,
        loop_in_branch,
        while_in_scan,
        updated,
        no_trips,
    )
}

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
def test_second_order(name):
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


def nodes_of(compiled, *args):
    text = compiled.ir(*args)
    return {name: text.count(f"= {name}(") for name in ("while_loop", "cond")}


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


# --------------------------------------------------------------------- structures, types, operands


def test_nested_structures():
    def body(i, state):
        (a, flag), rest = state
        return (a + rest["v"].sum(), ~flag), {"v": rest["v"] * 2, "none": None, "tag": rest["tag"]}

    def f(v):
        return tg.fori_loop(0, 3, body, ((0.0, True), {"v": v, "none": None, "tag": "s"}))

    def rows(c, x):
        return c + x["a"], {"sum": c, "pair": (x["b"], 1)}

    def g(a, b):
        return tg.scan(rows, tg.zeros(2), {"a": a, "b": b})

    (total, flag), rest = f(tg.ones(2))
    assert (total.item(), flag.item(), rest["tag"]) == (14.0, False, "s")
    (again, flag), rest = tg.compile(f)(tg.ones(2))
    same((again, flag, rest["v"]), (total, tg.tensor(False), 8 * tg.ones(2)))
    a, b = tg.ones(3, 2), tg.arange(3)
    last, out = g(a, b)
    same(out["pair"][0], b)
    same(out["pair"][1], np.ones(3, np.int64))
    same(tg.compile(g)(a, b), (last, out))


def test_dictionaries_may_change_their_order():
    def body(i, d):
        return {"b": d["a"], "a": d["b"]}

    for mode in (lambda f: f, tg.compile):
        out = mode(lambda x: tg.fori_loop(0, 1, body, {"a": x, "b": x * 2}))(t(1.0))
        assert (out["a"].item(), out["b"].item()) == (2.0, 1.0)


@pytest.mark.parametrize("trips", [0, 2])
def test_numbers_take_the_type_of_the_body(trips):
    def f(x):
        return tg.fori_loop(0, trips, lambda i, c: (c[0] + x, c[1] + 1, ~c[2]), (0.1, 3, True))

    for dtype in (tg.float32, tg.float64):
        x = tg.tensor(2.0, dtype=dtype)
        out = f(x)
        assert [leaf.dtype for leaf in out] == [dtype, tg.int64, tg.bool_]
        assert out[0].item() == pytest.approx(
            0.1 + 2.0 * trips, rel=1e-15 if dtype is F64 else 1e-6
        )
        same(tg.compile(f)(x), out, 1e-7)


def test_scans_of_no_length():
    def f(xs):
        return tg.scan(lambda c, x: (c + x, (x * 2).to(tg.float32)), tg.zeros(2, dtype=F64), xs)

    xs = tg.zeros(0, 2, dtype=F64)
    last, rows = f(xs)
    assert (rows.shape, rows.dtype) == ((0, 2), tg.float32)
    same(tg.compile(f)(xs), (last, rows))
    assert tg.map(lambda x: x.sum(), xs).shape == (0,)


def test_map_and_scan_against_numpy():
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(6, 3))
    for mode in (lambda f: f, tg.compile):
        same(mode(lambda x: tg.map(lambda r: r.sum() * r, x))(t(xs)), xs.sum(1, keepdims=True) * xs)
        sums = mode(lambda x: tg.scan(lambda c, r: (c + r, c + r), tg.zeros(3, dtype=F64), x))
        same(sums(t(xs)), (xs.sum(0), np.cumsum(xs, 0)))
        back = mode(
            lambda x: tg.scan(lambda c, r: (c + r, c + r), tg.zeros(3, dtype=F64), x, reverse=True)
        )
        same(back(t(xs)), (xs.sum(0), np.cumsum(xs[::-1], 0)[::-1]))


def test_captured_tensors_are_read_at_every_call():
    w = t(2.0, requires_grad=True)

    @tg.compile
    def f(x):
        return tg.fori_loop(0, 3, lambda i, y: tg.scan(lambda c, s: (c * w, None), y, x)[0], x[0])

    x = tg.ones(2, dtype=F64)
    assert f(x).item() == 64.0
    f(x).backward()
    assert w.grad.item() == 6 * 32.0
    with tg.no_grad():
        w.fill_(3.0)
    assert f(x).item() == 729.0
    assert f.statistics.traces == 1


def test_gradients_stop_where_they_are_stopped():
    def f(x, w):
        def body(i, y):
            with tg.no_grad():
                z = y * w
            return y * w.detach() + z

        return tg.fori_loop(0, 3, body, x)

    gradient = tg.grad(f, (0, 1))(t(1.5), t(0.7))
    assert gradient[1].item() == 0.0
    same(tg.compile(tg.grad(f, (0, 1)))(t(1.5), t(0.7)), gradient)
    with tg.no_grad():
        assert not tg.compile(f)(t(1.5), t(0.7, requires_grad=True)).requires_grad


def test_derivatives_within_a_body():
    def f(x, w):
        def step(i, x):
            return x - 0.1 * tg.grad(lambda x: ((x * w).sin() ** 2).sum())(x)

        return tg.fori_loop(0, 5, step, x).sum()

    x, w = t([0.3, 0.8]), t(1.3)
    same(tg.compile(f)(x, w), f(x, w))
    gradient = tg.grad(f, (0, 1))(x, w)
    same(tg.compile(tg.grad(f, (0, 1)))(x, w), gradient)
    difference = (f(x, w + 1e-5) - f(x, w - 1e-5)).item() / 2e-5
    np.testing.assert_allclose(gradient[1].item(), difference, rtol=1e-6)


def test_value_and_gradient_run_one_forward_loop():
    f = tg.compile(tg.value_and_grad(recurrence, (0, 1)))
    x, w = t(0.3), t(1.2)
    same(f(x, w), tg.value_and_grad(recurrence, (0, 1))(x, w))
    assert nodes_of(f, x, w)["while_loop"] == 2


# ------------------------------------------------------------------------------------------ errors


def fails(error, f, *args, match, eager=True):
    """Both ways, naming the line of this file."""
    for call in ((f,) if eager else ()) + (tg.compile(f),):
        with pytest.raises(error, match=match) as caught:
            call(*args)
        assert "test_control_flow.py" in str(caught.value)
        assert isinstance(caught.value, TracegradError)


def test_what_is_carried_keeps_its_type():
    x = tg.ones(2)
    fails(
        ShapeError,
        lambda x: tg.fori_loop(0, 2, lambda i, y: y.sum(), x),
        x,
        match=r"f32\[2\].*f32\[\(\)\]",
    )
    fails(
        DtypeError,
        lambda x: tg.fori_loop(0, 2, lambda i, y: y.double(), x),
        x,
        match=r"f32\[2\].*f64\[2\]",
    )
    fails(
        ArgumentError,
        lambda x: tg.fori_loop(0, 2, lambda i, y: (y, y), x),
        x,
        match="tuple.*tensor",
    )
    fails(
        ArgumentError,
        lambda x: tg.while_loop(lambda c: c[0].sum() < 9, lambda c: [c[0] + 1], (x,)),
        x,
        match="list.*tuple",
    )
    fails(
        DtypeError,
        lambda x: tg.fori_loop(0, 2, lambda i, y: y + 0.5, tg.tensor(1)),
        x,
        match=r"i64.*f32",
    )
    fails(
        ShapeError,
        lambda x: tg.scan(lambda c, s: (c[:1], s), x, x),
        x,
        match=r"carry.*f32\[2\].*f32\[1\]",
    )


def test_branches_return_the_same():
    x = tg.ones(2)
    compiled_only = {"eager": False}
    for other, error, match in (
        (lambda: x.sum(), ShapeError, r"f32\[\(\)\].*f32\[2\]|f32\[2\].*f32\[\(\)\]"),
        (lambda: x.double(), DtypeError, r"f64\[2\].*f32\[2\]|f32\[2\].*f64\[2\]"),
        (lambda: (x, x), ArgumentError, "tuple"),
    ):
        fails(
            error,
            lambda x, o=other: tg.cond(x.sum() > 0, lambda: x, o),
            x,
            match=match,
            **compiled_only,
        )


def test_predicates_and_indices():
    x = tg.ones(2)
    fails(ArgumentError, lambda x: tg.cond(x > 0, lambda: x, lambda: x), x, match=r"pred.*b1\[2\]")
    fails(
        ArgumentError,
        lambda x: tg.cond(x.sum(), lambda: x, lambda: x),
        x,
        match=r"pred.*f32\[\(\)\]",
    )
    fails(ArgumentError, lambda x: tg.cond("yes", lambda: x, lambda: x), x, match="pred.*str")
    fails(
        ArgumentError,
        lambda x: tg.while_loop(lambda y: y, lambda y: y, x),
        x,
        match=r"cond_fun.*f32\[2\]",
    )
    fails(ArgumentError, lambda x: tg.switch(x, [lambda: x]), x, match=r"index.*f32\[2\]")
    fails(ArgumentError, lambda x: tg.switch(0, []), x, match="no branches")
    fails(ArgumentError, lambda x: tg.fori_loop(0.5, 2, lambda i, y: y, x), x, match=r"lower")
    fails(ArgumentError, lambda x: tg.scan(lambda c, s: c, x, x), x, match="carry, y")
    fails(ArgumentError, lambda x: tg.scan(lambda c, s: (c, s), x), x, match="length")
    fails(
        ShapeError,
        lambda x: tg.scan(lambda c, s: (c, s), x, (x, tg.ones(3))),
        x,
        match="3 slices.* 2",
    )
    fails(
        ShapeError, lambda x: tg.scan(lambda c, s: (c, s), x, x, length=5), x, match="2 slices.* 5"
    )
    fails(ShapeError, lambda x: tg.map(lambda s: s, x.sum()), x, match="no first axis")


def test_what_a_body_cannot_do():
    x = t([1.0, 2.0])
    kept = []
    outer = tg.zeros(2, dtype=F64)

    def asks(i, y):
        return y * 2 if y.sum() > 3 else y

    def writes(i, y):
        outer.add_(y)
        return y

    def draws(i, y):
        return y + tg.rand(2, dtype=F64)

    def keeps(i, y):
        kept.append(y * 2)
        return y

    def loop(body):
        return lambda x: tg.fori_loop(0, 3, body, x)

    fails(TraceError, loop(asks), x, match="bool.*tg.fori_loop.*tg.cond", eager=False)
    fails(TraceError, loop(lambda i, y: y * y[0].item()), x, match="item", eager=False)
    fails(TraceError, loop(writes), x, match="in place.*carry", eager=False)
    fails(
        TraceError,
        lambda x: tg.cond(x[0] > 0, lambda: draws(0, x), lambda: x),
        x,
        match="random",
        eager=False,
    )
    fails(TraceError, lambda x: loop(keeps)(x) + kept.pop(), x, match="outside", eager=False)
    same(outer, np.zeros(2))


@pytest.mark.parametrize("size", [3, 5])
def test_indices_out_of_range_are_errors_as_in_eager_code(size):
    def by_fori(v):
        return tg.fori_loop(0, 4, lambda i, total: total + v[i], t(0.0))

    def by_while(v):
        def body(c):
            i, total = c
            return i + 1, total + v[i]

        return tg.while_loop(lambda c: v[c[0]] > 0, body, (tg.tensor(0), t(0.0)))[1]

    def by_branch(v, k):
        return tg.cond(k > 0, lambda: v[k], lambda: v[0])

    v = tg.ones(size, dtype=F64)
    if size == 5:
        v[4] = -1.0
    compiled = tg.compile(by_fori), tg.compile(by_while), tg.compile(by_branch)
    for f, g, h in ((by_fori, by_while, by_branch), compiled):
        if size == 5:
            assert (f(v).item(), g(v).item(), h(v, tg.tensor(4)).item()) == (4.0, 4.0, -1.0)
            assert h(v, tg.tensor(-9)).item() == 1.0
        else:
            for call in (f, g, lambda v, h=h: h(v, tg.tensor(3))):
                with pytest.raises(
                    BoundsError, match="index 3 is out of bounds for dimension 0 with size 3"
                ):
                    call(v)
            assert h(v, tg.tensor(-9)).item() == 1.0


def test_an_index_goes_out_of_range_on_replay():
    f = tg.compile(lambda v, n: tg.fori_loop(0, n, lambda i, s: s + v[i], t(0.0)))
    v = tg.ones(3, dtype=F64)
    assert f(v, 3).item() == 3.0
    with pytest.raises(BoundsError, match=r"index 3 is out of bounds.*test_control_flow\.py"):
        f(v, 5)
    assert f(v, 2).item() == 2.0
    assert f.statistics.traces == 1


# ----------------------------------------------------------------------------------- random numbers


def noisy(x):
    start = tg.rand(2)

    def body(i, y):
        y = y + tg.randn(2) * i
        y = tg.fori_loop(0, 2, lambda j, z: z + tg.rand(2), y)
        return y * tg.rand(2)

    y = tg.fori_loop(1, 4, body, x + start)

    def step(c, s):
        return c + tg.rand(()), tg.rand(3) * s

    return y + tg.rand(2), *tg.scan(step, tg.zeros(()), tg.arange(3.0), reverse=True), tg.rand(1)


def test_compiled_loops_draw_the_numbers_of_eager_ones():
    compiled = tg.compile(noisy)
    tg.manual_seed(3)
    expected = [noisy(tg.zeros(2)) for _ in range(3)]
    end = tg.get_rng_state().tolist()
    tg.manual_seed(3)
    for values in expected:
        same(compiled(tg.zeros(2)), values, 1e-6)
    assert tg.get_rng_state().tolist() == end
    assert compiled.statistics.traces == 1


def test_a_loop_may_follow_a_seed():
    def seeded(x):
        tg.manual_seed(5)
        return noisy(x)

    compiled = tg.compile(seeded)
    expected = seeded(tg.zeros(2))
    for _ in range(2):
        same(compiled(tg.zeros(2)), expected, 1e-6)


def test_gradients_through_noise():
    def f(x):
        return tg.fori_loop(0, 4, lambda i, y: (y * tg.randn(2, dtype=F64)).sin(), x).sum()

    tg.manual_seed(1)
    expected = tg.grad(f)(t([0.3, 0.7]))
    tg.manual_seed(1)
    same(tg.compile(tg.grad(f))(t([0.3, 0.7])), expected)


def test_draws_whose_number_is_not_known_before_are_refused():
    f = tg.compile(lambda x, n: tg.fori_loop(0, n, lambda i, y: y + tg.rand(2), x))
    with pytest.raises(TraceError, match=r"random.*tg\.scan.*test_control_flow"):
        f(tg.zeros(2), 3)
