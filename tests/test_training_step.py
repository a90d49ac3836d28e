"""Whole training steps as one compiled function: gradient inside, update in place."""

import numpy as np
import pytest

import tracegrad as tg


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(16, 3))
    return tg.tensor(x), tg.tensor(x @ [[1.0], [-2.0], [0.5]] + 0.3)


def parameters():
    return (
        tg.zeros(3, 1, dtype=tg.float64, requires_grad=True),
        tg.zeros(1, dtype=tg.float64, requires_grad=True),
    )


def step(w, b, x, y, rate):
    loss = ((x @ w + b - y) ** 2).mean()
    loss.backward()
    with tg.no_grad():
        w -= rate * w.grad
        b -= rate * b.grad
    w.grad = b.grad = None
    return loss


def test_one_segment_one_program_no_tape():
    compiled = tg.compile(step)
    x, y = data()
    w, b = parameters()
    v, c = parameters()
    for i in range(30):
        rate = 0.1 / (1 + i)
        found, expected = compiled(w, b, x, y, rate), step(v, c, x, y, rate)
        np.testing.assert_allclose(found.item(), expected.item(), rtol=1e-12)
        np.testing.assert_allclose(w.detach().numpy(), v.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(b.detach().numpy(), c.detach().numpy(), rtol=1e-12)
    statistics = compiled.statistics
    assert (statistics.traces, statistics.compilations, statistics.hits) == (1, 1, 29)
    (only,) = compiled.specialisations
    assert len(only.tree.walk()) == 1
    assert only.tree.root.program.backward_graph is None
    assert w.grad is None
    assert w.is_leaf
    with pytest.raises(RuntimeError, match="second time"):
        found.backward()


def test_gradients_accumulate_across_calls():
    compiled = tg.compile(lambda w, x: ((w * x) ** 2).sum().backward())
    w, x = tg.ones(3, requires_grad=True), tg.ones(3)
    for i in range(1, 5):
        assert compiled(w, x) is None
        assert w.grad.tolist() == [2 * i] * 3
    # Without and with a gradient there already.
    assert compiled.statistics.traces == 2


def test_zero_grad_in_the_step():
    @tg.compile
    def f(w, x):
        if w.grad is not None:
            w.grad.zero_()
        loss = (w * w * x).sum()
        loss.backward()
        with tg.no_grad():
            w.sub_(w.grad, alpha=0.1)
        return loss.item()

    w, v = (tg.ones(3, dtype=tg.float64, requires_grad=True) for _ in range(2))
    x = tg.ones(3, dtype=tg.float64)
    for _ in range(4):
        np.testing.assert_allclose(f(w, x), f.__wrapped__(v, x))
        np.testing.assert_allclose(w.detach().numpy(), v.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(w.grad.numpy(), v.grad.numpy(), rtol=1e-12)


def test_autograd_grad_inside():
    @tg.compile
    def f(w, x):
        loss = (tg.tanh(x * w) ** 2).sum()
        (g,) = tg.autograd.grad(loss, w)
        return loss, g

    w, x = tg.rand(3, dtype=tg.float64, requires_grad=True), tg.rand(3, dtype=tg.float64)
    for _ in range(2):
        _, g = f(w, x)
        t = np.tanh(w.detach().numpy() * x.numpy())
        np.testing.assert_allclose(g.numpy(), 2 * t * (1 - t**2) * x.numpy(), rtol=1e-12)
    assert len(f.specialisations[0].tree.walk()) == 1


def test_second_derivative_inside_and_outside():
    @tg.compile
    def slope(x):
        y = (x**3).sum()
        (g,) = tg.autograd.grad(y, x, create_graph=True)
        return (g**2).sum()

    x = tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True)
    for _ in range(2):
        x.grad = None
        slope(x).backward()
        np.testing.assert_allclose(x.grad.numpy(), 36 * x.detach().numpy() ** 3, rtol=1e-12)


def test_momentum_in_dictionaries_with_value_and_grad():
    def loss_of(parameters, x, y):
        hidden = tg.tanh(x @ parameters["w1"] + parameters["b1"])
        return ((hidden @ parameters["w2"] - y) ** 2).mean()

    def train(parameters, velocities, x, y, rate):
        loss, gradients = tg.value_and_grad(loss_of)(parameters, x, y)
        with tg.no_grad():
            for name, parameter in parameters.items():
                velocities[name].mul_(0.9).add_(gradients[name])
                parameter -= rate * velocities[name]
        return loss

    def start():
        rng = np.random.default_rng(1)
        shapes = {"w1": (3, 8), "b1": (8,), "w2": (8, 1)}
        made = {name: tg.tensor(rng.normal(size=shape) * 0.3) for name, shape in shapes.items()}
        return made, {name: tg.zeros_like(value) for name, value in made.items()}

    compiled = tg.compile(train)
    x, y = data()
    histories = []
    for f in (train, compiled):
        p, v = start()
        histories.append([f(p, v, x, y, 0.05 / (1 + i)).item() for i in range(25)])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-10)
    assert histories[1][-1] < histories[1][0] / 3
    assert compiled.statistics.traces == 1
    assert len(compiled.specialisations[0].tree.walk()) == 1


def test_optimiser_object():
    class SGD:
        def __init__(self, weights, rate):
            self.weights = weights
            self.rate = rate

        def zero_grad(self):
            for w in self.weights:
                w.grad = None

        @tg.no_grad()
        def step(self):
            for w in self.weights:
                w -= self.rate * w.grad

    x, y = data()
    w, b = parameters()
    optimiser = SGD([w, b], 0.1)

    @tg.compile
    def train(x, y):
        optimiser.zero_grad()
        loss = ((x @ w + b - y) ** 2).mean()
        loss.backward()
        optimiser.step()
        return loss.detach()

    losses = [train(x, y).item() for _ in range(60)]
    assert losses[-1] < 1e-2 * losses[0]
    # The rate is a number of a captured object: another one is another trace.
    traces = train.statistics.traces
    optimiser.rate = 0.05
    train(x, y)
    assert train.statistics.traces == traces + 1


def test_compiled_loss_and_eager_update_as_in_the_tutorial():
    @tg.compile
    def loss(w, b, x, y):
        return 0.5 * ((x @ w + b - y) ** 2).sum()

    x, y = data()
    w, b = parameters()
    for _ in range(200):
        value = loss(w, b, x, y)
        value.backward()
        with tg.no_grad():
            w -= 0.02 * w.grad
            b -= 0.02 * b.grad
        w.grad = b.grad = None
    np.testing.assert_allclose(w.detach().numpy().ravel(), [1, -2, 0.5], atol=1e-3)
    assert loss.statistics.traces == 1


def test_hooks_inside_are_part_of_the_trace():
    @tg.compile
    def f(w):
        h = w * 2
        h.register_hook(lambda g: g * 10)
        (h**2).sum().backward()

    for _ in range(2):
        w = tg.ones(2, requires_grad=True)
        f(w)
        assert w.grad.tolist() == [80, 80]


def test_failure_in_the_middle_of_a_step():
    @tg.compile
    def f(w, n):
        (w * w).sum().backward()
        with tg.no_grad():
            w -= 0.5 * w.grad
        if n > 1:
            raise RuntimeError("diverged")
        w.grad = None

    w = tg.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="diverged"):
        f(w, 2)
    assert w.tolist() == [1, 1]
    assert w.grad is None
    f(w, 1)
    assert w.tolist() == [0, 0]


def test_batches_cut_out_of_a_data_set_are_one_trace():
    @tg.compile
    def step(w, x, y):
        loss = ((x @ w - y) ** 2).mean()
        loss.backward()
        with tg.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
        return loss.detach()

    w = tg.zeros(1, 1, requires_grad=True)
    x = tg.linspace(-1, 1, 40).reshape(40, 1)
    y = 3 * x
    for _ in range(40):
        for i in range(0, 40, 4):
            step(w, x[i : i + 4], y[i : i + 4])
    assert w.item() == pytest.approx(3, abs=1e-2)
    assert step.statistics.traces == 1


def test_parts_that_share_memory_are_told_apart():
    @tg.compile
    def shift(a, b):
        a += 1
        return b * 1

    whole = tg.zeros(6)
    assert shift(whole[:3], whole[3:]).tolist() == [0, 0, 0]
    assert shift(whole[:3], whole[2:5]).tolist() == [2, 0, 0]
    assert shift(whole[:3], whole[:3]).tolist() == [3, 3, 3]
    # Tensors on one memory that know nothing of each other's versions.
    assert shift(whole, whole.data).tolist() == whole.tolist()
    assert shift(tg.zeros(6), whole.data).tolist() == whole.tolist()
