"""Functional transforms: alone, nested, over compiled functions and inside of them."""

import numpy as np
import pytest

import tracegrad as tg


def array(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).normal(size=shape))


def loss(w, b, x):
    return (tg.tanh(x @ w + b) ** 2).sum()


def close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


MODES = {"eager": lambda f: f, "compiled": tg.compile}


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


def test_value_and_grad_is_one_program():
    w, b, x = array(3, 2), array(2), array(4, 3)
    transformed = tg.value_and_grad(loss, argnums=(0, 1))
    compiled = tg.compile(transformed)
    value, (gw, gb) = transformed(w, b, x)
    assert not value.requires_grad
    for _ in range(3):
        found, (hw, hb) = compiled(w, b, x)
        close(found, value.numpy())
        close(hw, gw.numpy())
        close(hb, gb.numpy())
    statistics = compiled.statistics
    assert (statistics.traces, statistics.compilations) == (1, 1)
    assert len(compiled.specialisations[0].tree.walk()) == 1


def test_gradient_by_finite_differences(mode):
    w, b, x = array(3, 2), array(2), array(4, 3)
    gradient = mode(tg.grad(loss))(w, b, x)
    direction = array(3, 2, seed=1)
    h = 1e-6
    slope = (loss(w + h * direction, b, x) - loss(w - h * direction, b, x)).item() / (2 * h)
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-7)


def test_argnums_and_negative_argnums(mode):
    f = mode(tg.grad(lambda a, b: (a * b**2).sum(), argnums=-1))
    close(f(tg.tensor([2.0, 3.0]), tg.tensor([4.0, 5.0])), [16, 30])
    with pytest.raises(TypeError, match="argnums has 2"):
        tg.grad(lambda a: a.sum(), argnums=2)(tg.ones(1))


def test_containers_and_aux(mode):
    def f(p, x):
        y = p["w"] * x + p["b"][0]
        return (y**2).sum(), {"y": y, "name": "aux"}

    p = {"w": array(3), "b": [array(3, seed=1)]}
    x = array(3, seed=2)
    gradient, aux = mode(tg.grad(f, has_aux=True))(p, x)
    y = p["w"] * x + p["b"][0]
    close(gradient["w"], (2 * y * x).numpy())
    close(gradient["b"][0], (2 * y).numpy())
    close(aux["y"], y.numpy())
    assert aux["name"] == "aux"
    (value, aux), _ = mode(tg.value_and_grad(f, has_aux=True))(p, x)
    close(value, (y**2).sum().numpy())


def test_numbers_as_arguments(mode):
    f = mode(tg.grad(lambda x, n: x**n, argnums=0))
    assert f(3.0, 2).item() == 6
    assert f(2.0, 3).item() == 12
    assert tg.grad(lambda x: x * x)(3).item() == 6


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_nested_grad(mode, order):
    f = lambda x: tg.sin(x) * tg.exp(x)  # noqa: E731
    for _ in range(order):
        f = tg.grad(f)
    x = 0.7
    expected = np.imag((1 + 1j) ** order * np.exp((1 + 1j) * x))
    found = mode(f)(tg.tensor(x, dtype=tg.float64))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_grad_of_compiled_function():
    inner = tg.compile(lambda x: (tg.sin(x) ** 2).sum())
    x = array(3)
    close(tg.grad(inner)(x), np.sin(2 * x.numpy()))
    close(tg.grad(lambda v: tg.grad(inner)(v).sum())(x), 2 * np.cos(2 * x.numpy()))


def test_gradient_of_what_contains_a_gradient_reaches_closures(mode):
    w = tg.tensor([2.0, 3.0], requires_grad=True)

    def f(x):
        return tg.grad(lambda v: (v**2 * w).sum())(x).sum()

    mode(f)(tg.tensor([1.0, 1.0])).backward()
    assert w.grad.tolist() == [2, 2]


def test_result_is_off_the_tape_unless_something_outside_is_on_it(mode):
    g = mode(tg.grad(lambda x: (x**2).sum()))
    assert not g(tg.ones(2)).requires_grad
    x = tg.ones(2, requires_grad=True)
    found = g(x)
    assert found.requires_grad
    found.sum().backward()
    assert x.grad.tolist() == [2, 2]
    with tg.no_grad():
        assert not g(x).requires_grad


def test_vjp(mode):
    x, c = array(3), array(3, seed=1)

    def f(x, c):
        value, pullback = tg.vjp(lambda v: (tg.sin(v), v * 2), x)
        return value, pullback((c, c))[0], pullback((c, c * 0))[0]

    value, first, second = mode(f)(x, c)
    close(value[0], np.sin(x.numpy()))
    close(first, np.cos(x.numpy()) * c.numpy() + 2 * c.numpy())
    close(second, np.cos(x.numpy()) * c.numpy())


def test_jvp(mode):
    x, t = array(3), array(3, seed=1)
    value, tangent = mode(lambda x, t: tg.jvp(lambda v: tg.exp(v) * v, [x], [t]))(x, t)
    close(value, np.exp(x.numpy()) * x.numpy())
    close(tangent, np.exp(x.numpy()) * (1 + x.numpy()) * t.numpy())


def test_jacobians(mode):
    x, m = array(3), array(2, 3, seed=1)

    def f(v):
        return tg.sin(m @ v)

    expected = np.cos(m.numpy() @ x.numpy())[:, None] * m.numpy()
    close(mode(tg.jacrev(f))(x), expected)
    close(mode(tg.jacfwd(f))(x), expected)


def test_jacobian_of_containers():
    rows = tg.jacrev(lambda a, b: {"s": a * b, "t": a.sum()}, argnums=(0, 1))(
        tg.tensor([1.0, 2.0]), tg.tensor([3.0, 4.0])
    )
    close(rows["s"][0], np.diag([3.0, 4.0]))
    close(rows["s"][1], np.diag([1.0, 2.0]))
    close(rows["t"][0], [1, 1])
    close(rows["t"][1], [0, 0])


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_hessian(mode):
    x = array(4)
    found = mode(tg.hessian(rosenbrock))(x)
    a = x.numpy()
    expected = np.zeros((4, 4))
    for i in range(3):
        expected[i, i] += 1200 * a[i] ** 2 - 400 * a[i + 1] + 2
        expected[i + 1, i + 1] += 200
        expected[i, i + 1] = expected[i + 1, i] = -400 * a[i]
    close(found, expected)


def test_hessian_vector_product(mode):
    x, v = array(4), array(4, seed=1)
    product = mode(lambda x, v: tg.grad(lambda y: (tg.grad(rosenbrock)(y) * v).sum())(x))
    close(product(x, v), tg.hessian(rosenbrock)(x).numpy() @ v.numpy())


def test_errors():
    with pytest.raises(tg.errors.GradError, match="scalar result"):
        tg.grad(lambda x: x * 2)(tg.ones(3))
    with pytest.raises(tg.errors.GradError, match="not a scalar tensor"):
        tg.grad(lambda x: 3)(tg.ones(3))
    with pytest.raises(tg.errors.GradError, match="only floating-point"):
        tg.grad(lambda x: x.sum())(tg.ones(3, dtype=tg.int64))
    with pytest.raises(TypeError, match="tangent"):
        tg.jvp(lambda x: x, [tg.ones(2)], [tg.ones(3)])


def test_no_dependence_is_zero(mode):
    assert mode(tg.grad(lambda a, b: b.sum()))(tg.ones(2), tg.ones(2)).tolist() == [0, 0]
