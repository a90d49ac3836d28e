"""Loops and branches over functions: structures, types, random numbers, and what they refuse."""

import numpy as np
import pytest

import tracegrad as tg
from tests.control_programs import F64, nodes_of, recurrence, same, t
from tracegrad.errors import (
    ArgumentError,
    BoundsError,
    DtypeError,
    ShapeError,
    TraceError,
    TracegradError,
)

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
    with pytest.raises(TraceError, match=r"random.*tg\.scan.*test_control_forms"):
        f(tg.zeros(2), 3)


# ------------------------------------------------------------------------------------------ errors


def fails(error, f, *args, match, eager=True):
    """Both ways, naming the line of this file."""
    for call in ((f,) if eager else ()) + (tg.compile(f),):
        with pytest.raises(error, match=match) as caught:
            call(*args)
        assert "test_control_forms.py" in str(caught.value)
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
    with pytest.raises(BoundsError, match=r"index 3 is out of bounds.*test_control_forms\.py"):
        f(v, 5)
    assert f(v, 2).item() == 2.0
    assert f.statistics.traces == 1
