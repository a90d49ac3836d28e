"""In-place changes of arguments and captured tensors: written back once, through every view."""

import numpy as np
import pytest

import tracegrad as tg


def change(a):
    a.add_(1)
    a[0] = 5
    return a.sum()


def test_argument_is_written_once_a_call():
    compiled = tg.compile(change)
    a = tg.zeros(3)
    assert compiled(a).item() == 7
    assert a.tolist() == [5, 1, 1]
    assert compiled(a).item() == 9
    assert a.tolist() == [5, 2, 2]
    assert compiled.statistics.traces == 1
    assert a._version > 0


def test_view_as_argument_writes_into_its_base():
    compiled = tg.compile(change)
    base = tg.zeros(2, 3)
    assert compiled(base[1]).item() == 7
    assert base.tolist() == [[0, 0, 0], [5, 1, 1]]
    assert compiled(base[0]).item() == 7
    assert compiled(base[1]).item() == 9
    assert base.tolist() == [[5, 1, 1], [5, 2, 2]]


def test_arguments_that_share_memory():
    def f(a, b):
        a.add_(1)
        return (a * b).sum()

    compiled = tg.compile(f)
    for g in (f, compiled):
        a, b = tg.zeros(3), tg.ones(3)
        base = tg.zeros(4)
        values = [
            g(a, b).item(),
            g(a, a).item(),
            g(a, b).item(),
            g(base[:3], base[1:]).item(),
            g(base[:3], base[1:]).item(),
            g(base[1:], base).item() if g is None else 0,
        ]
        assert values == [3, 12, 9, 2, 8, 0]
        assert a.tolist() == [3] * 3
        assert base.tolist() == [2, 2, 2, 0]


def test_view_made_inside_sees_the_change_and_makes_it():
    def f(x):
        row = x[0]
        column = x[:, 1]
        row.mul_(10)
        column += 1
        x[1:, 1:] -= row[:2]
        return row * 1, column.sum(), x * 2

    compiled = tg.compile(f)
    start = np.arange(9.0).reshape(3, 3)
    for g in (f, compiled, compiled):
        x = tg.tensor(start)
        results = [t.numpy().copy() for t in g(x)]
        if g is f:
            expected, after = results, x.numpy().copy()
        for a, b in zip(expected, results, strict=True):
            np.testing.assert_allclose(b, a)
        np.testing.assert_allclose(x.numpy(), after)


def test_captured_tensor_is_changed():
    total = tg.zeros(2)

    @tg.compile
    def f(x):
        total.add_(x)
        return total * 2

    for i in range(1, 5):
        assert f(tg.ones(2)).tolist() == [2 * i] * 2
    assert total.tolist() == [4, 4]


def test_array_argument_is_changed():
    def f(a):
        a += 1
        a[0] = 9.0
        return a

    compiled = tg.compile(f)
    data = np.zeros(3)
    for i in range(1, 4):
        assert compiled(data) is data
        assert data.tolist() == [9, i, i]


def test_out_argument():
    compiled = tg.compile(lambda a, b, o: tg.add(a, b, out=o))
    a, out = tg.ones(3), tg.zeros(3)
    for _ in range(2):
        out.zero_()
        assert compiled(a, a, out) is out
        assert out.tolist() == [2, 2, 2]


def test_swap_reads_before_it_writes():
    @tg.compile
    def swap(a, b):
        old = a.clone()
        a.copy_(b)
        b.copy_(old)

    a, b = tg.zeros(2), tg.ones(2)
    swap(a, b)
    assert (a.tolist(), b.tolist()) == ([1, 1], [0, 0])
    swap(a, b)
    assert (a.tolist(), b.tolist()) == ([0, 0], [1, 1])


def test_value_saved_for_backward_and_overwritten():
    # The gradient of w needs the old x, into which the call writes.
    def f(x, w):
        y = (x * w).sum()
        with tg.no_grad():
            x.zero_()
        return y

    compiled = tg.compile(f)
    for _ in range(3):
        x, w = tg.full((2,), 3.0), tg.ones(2, requires_grad=True)
        compiled(x, w).backward()
        assert w.grad.tolist() == [3, 3]
        assert x.tolist() == [0, 0]


def test_written_argument_gets_a_tape_node():
    def f(h, w):
        h.mul_(w)
        return h.sum()

    compiled = tg.compile(f)
    for g in (f, compiled, compiled):
        w, h = tg.tensor([1.0, 2.0, 3.0], requires_grad=True), tg.full((3,), 2.0)
        g(h, w)
        assert h.requires_grad
        assert not h.is_leaf
        (h * h).sum().backward()
        assert w.grad.tolist() == [8, 16, 24]


def test_write_under_no_grad_keeps_the_leaf():
    def f(w, x):
        with tg.no_grad():
            w.mul_(2)
        return (w * w * x).sum()

    compiled = tg.compile(f)
    for g in (f, compiled, compiled):
        w = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
        g(w, tg.ones(3)).backward()
        assert w.is_leaf
        assert w.grad.tolist() == [4, 8, 12]


def test_leaf_changed_in_place_is_the_error_of_eager_code():
    compiled = tg.compile(lambda w: w.add_(1))
    w = tg.ones(2, requires_grad=True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            compiled(w)
        assert w.tolist() == [1, 1]


def test_data_attribute():
    @tg.compile
    def step(w, x):
        loss = (w * x).sum()
        loss.backward()
        w.data -= 0.5 * w.grad
        w.grad = None
        return loss.detach()

    w = tg.ones(3, requires_grad=True)
    assert step(w, tg.ones(3)).item() == 3
    assert w.tolist() == [0.5] * 3
    assert step(w, tg.ones(3)).item() == 1.5
    assert w.tolist() == [0] * 3


def test_data_exchanged():
    @tg.compile
    def f(w):
        w.data = w.data * 2
        return w.sum()

    w = tg.ones(2)
    assert [f(w).item() for _ in range(3)] == [4, 8, 16]
    assert w.tolist() == [8, 8]


def test_requires_grad_switched_inside():
    compiled = tg.compile(lambda x: x.requires_grad_())
    for _ in range(2):
        x = tg.ones(2)
        assert compiled(x) is x
        assert x.requires_grad


def test_a_loop_that_fills_a_table():
    def f(x, n):
        out = tg.zeros(6, dtype=tg.float64)
        for i in range(n):
            out[i] = (x * i).sum()
        return out

    compiled = tg.compile(f)
    x = tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True)
    for n in (3, 5, 3):
        compiled(x, n).sum().backward()
    e = tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True)
    for n in (3, 5, 3):
        f(e, n).sum().backward()
    assert x.grad.tolist() == e.grad.tolist()


def test_writes_on_different_paths():
    def f(x, flag):
        x.add_(1)
        if x.sum() > 4:
            x.mul_(0)
            return flag * 1
        flag.sub_(1)
        return x * 2

    compiled = tg.compile(f)
    states = []
    for g in (f, compiled):
        x, flag = tg.zeros(2), tg.zeros(1)
        states.append([(g(x, flag).tolist(), x.tolist(), flag.tolist()) for _ in range(7)])
    assert states[0] == states[1]


def test_create_graph_after_a_write_says_what_to_do():
    compiled = tg.compile(lambda h, w: h.mul_(w).sum())
    w, h = tg.ones(2, requires_grad=True), tg.ones(2)
    value = compiled(h, w)
    with pytest.raises(RuntimeError, match="changed h in place"):
        tg.autograd.grad(value, w, create_graph=True)


def test_a_gradient_reads_what_was_there_before_a_write():
    """Eager code keeps a copy where the write itself needs one, and refuses other writes; a traced
    value stays what it was.
    """

    def squares(x):
        y = x * 2
        y *= y
        y *= x
        return y.sum()

    def elements(x):
        y = x.clone()
        y[1] = y[0] * y[0]
        y[0] = y[1].sin() * y[0]
        y[1] = y[0].exp()
        return (y * x).sum()

    def rows(x):
        y = x.clone()
        y[1:] = y[:-1].sin() * y[1:]
        y[:-1] = y[1:].exp()
        y[:] = y * y
        return y.sum()

    for f, eager in ((squares, True), (elements, False), (rows, False)):
        compiled = tg.compile(tg.grad(f))
        for seed in range(2):
            x = tg.tensor(np.random.default_rng(seed).normal(size=3))
            found = compiled(x)
            if eager:
                np.testing.assert_allclose(found.numpy(), tg.grad(f)(x).numpy(), rtol=1e-12)
            for i in range(3):
                step = tg.zeros(3, dtype=tg.float64)
                step[i] = 1e-6
                slope = (f(x + step) - f(x - step)).item() / 2e-6
                assert found[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)
