"""In-place operations and views: memory, versions, and the tape afterwards."""

import numpy as np
import pytest

import tracegrad as tg


def close(tensor, expected):
    np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=1e-6)


def test_views_share_memory():
    x = tg.arange(12.0).reshape(3, 4)
    x[0].zero_()
    x.T[1, 1] = 100
    x.view(-1)[-1] = 50
    x.unsqueeze(0)[0, 1, 0] = 7
    close(x, [[0, 0, 0, 0], [7, 100, 6, 7], [8, 9, 10, 50]])


def test_operators_in_place_keep_the_tensor():
    x = tg.ones(3)
    same = x
    memory = x.data_ptr()
    x += 2
    x *= 2
    x -= 1
    x /= 5
    x **= 2
    assert x is same
    assert x.data_ptr() == memory
    close(x, [1, 1, 1])


def test_numpy_shares_memory_both_ways():
    x = tg.zeros(3)
    array = x.numpy()
    array[0] = 1
    x[1] = 2
    close(x, [1, 2, 0])
    np.testing.assert_array_equal(array, [1, 2, 0])
    y = tg.from_numpy(array)
    y[2] = 3
    close(x, [1, 2, 3])


def test_gradient_through_an_in_place_operation():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    y.mul_(x)
    assert type(y.grad_fn).__name__ == "MulBackward0"
    y.sum().backward()
    close(x.grad, [2, 4])


def test_writing_to_a_view_changes_the_tape_of_its_base():
    x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    w = tg.tensor([10.0], requires_grad=True)
    y = x * 2
    y[1:2] = w * 3
    assert type(y.grad_fn).__name__ == "CopySlices"
    (y * y).sum().backward()
    close(x.grad, [8, 0, 24])
    close(w.grad, [180])


def test_writing_to_the_base_changes_the_tape_of_its_views():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    first = y[0]
    y.mul_(3)
    assert type(first.grad_fn).__name__ == "AsStridedBackward0"
    first.backward()
    close(x.grad, [3, 0])


def test_two_views_of_one_base():
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = x * 1
    row, column = y[0], y[:, 0]
    row.mul_(5)
    column.mul_(7)
    close(y, [[35, 10], [21, 4]])
    row.sum().backward()
    close(x.grad, [[35, 5], [0, 0]])


def test_a_base_that_gets_its_gradient_from_a_view():
    w = tg.tensor([2.0], requires_grad=True)
    y = tg.zeros(3)
    y[1:2] = w
    assert y.requires_grad
    (y * tg.tensor([1.0, 2.0, 3.0])).sum().backward()
    close(w.grad, [2])


def test_retained_grad_follows_an_in_place_operation():
    x = tg.tensor([1.0], requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    (y * 5).sum().backward()
    close(y.grad, [5])
    close(x.grad, [30])


def test_versions():
    x = tg.zeros(3)
    assert x._version == 0
    x.add_(1)
    x[0].zero_()
    x.detach().fill_(2)
    assert x._version == 3
    x.data.fill_(2)
    assert x._version == 3


def test_out_arguments():
    x = tg.tensor([1.0, 2.0])
    out = tg.empty(2)
    assert tg.add(x, x, out=out) is out
    close(out, [2, 4])
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        tg.mul(x.requires_grad_(), x, out=out)


def test_out_takes_a_view():
    whole = tg.zeros(2, 2)
    tg.exp(tg.zeros(2), out=whole[0])
    close(whole, [[1, 1], [0, 0]])


def test_copy_broadcasts_and_casts():
    x = tg.zeros(2, 3)
    x.copy_(tg.tensor([1, 2, 3]))
    close(x, [[1, 2, 3], [1, 2, 3]])


def test_no_grad_writes_do_not_change_the_tape():
    w = tg.tensor([1.0], requires_grad=True)
    with tg.no_grad():
        w -= 0.5
    assert w.is_leaf
    assert w.requires_grad
    close(w, [0.5])


# Each writes into `x`, which a saved value shares memory with, and is refused or not as in PyTorch.
def test_a_saved_value_that_was_written_is_an_error_with_three_facts():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError) as caught:
        z.sum().backward()
    message = str(caught.value)
    assert "modified by an inplace operation" in message
    assert "MulBackward0" in message
    assert "z = y * y" in message
    assert "add_" in message
    assert "y.add_(1)" in message


def test_a_saved_value_written_through_a_view_or_a_detached_alias():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    for alias in (lambda t: t[0], lambda t: t.detach(), lambda t: t.view(2, 1)):
        y = x * 1
        z = y * y
        with tg.no_grad():
            alias(y).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


def test_an_unsaved_value_may_be_written():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    z = y + y
    y.add_(1)
    z.sum().backward()
    close(x.grad, [2, 2])


def test_an_in_place_operation_may_save_its_own_old_value():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    w = tg.tensor([3.0, 4.0], requires_grad=True)
    y = x * 1
    y.mul_(w)
    y.sum().backward()
    close(w.grad, [1, 2])
    close(x.grad, [3, 4])


def test_set_item_with_a_mask():
    x = tg.tensor([1.0, -2.0, 3.0], requires_grad=True)
    y = x * 2
    y[y < 0] = 0
    close(y, [2, 0, 6])
    y.sum().backward()
    close(x.grad, [2, 0, 2])


def test_second_derivative_through_a_written_view():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    y[0] = x[1] ** 3
    (first,) = tg.autograd.grad((y * y).sum(), x, create_graph=True)
    # y = (b^3, b^2), so the sum is b^6 + b^4.
    close(first, [0, 6 * 2**5 + 4 * 2**3])
    (second,) = tg.autograd.grad(first.sum(), x)
    close(second, [0, 30 * 2**4 + 12 * 2**2])


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.add_(1),
        lambda x: x.zero_(),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: x.__iadd__(1),
        lambda x: x.copy_(tg.zeros(2)),
    ],
)
def test_writing_to_a_leaf_is_refused_and_changes_nothing(write):
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        write(x)
    close(x, [1, 2])
    assert x._version == 0
    assert x.is_leaf


def test_writing_to_repeated_elements_is_refused():
    x = tg.zeros(1, 3)
    y = x.expand(2, 3)
    with pytest.raises(RuntimeError, match="refers to a single memory location"):
        y.add_(1)
    close(x, [[0, 0, 0]])
    x.expand(1, 3).add_(1)
    close(x, [[1, 1, 1]])


def test_a_result_of_higher_category_is_refused():
    x = tg.tensor([1, 2])
    with pytest.raises(RuntimeError, match="can't be cast to the desired output type"):
        x += 0.5
    assert x.tolist() == [1, 2]


def test_writing_to_one_repeat_of_an_expanded_tensor():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    y.expand(3, 2)[1].mul_(5)
    close(y, [5, 10])
    (y * y).sum().backward()
    close(x.grad, [50, 100])


@pytest.mark.parametrize("wrap", [lambda f: f, tg.compile])
def test_a_write_through_a_diagonal_reaches_the_matrix_and_its_gradient(wrap):
    def f(x):
        y = x * 2
        d = y.diagonal(1)
        d *= 3
        d[0] = 7
        return y

    x = tg.arange(12.0).reshape(3, 4).clone().requires_grad_()
    y = wrap(f)(x)
    (y * y).sum().backward()
    expected = 2 * np.arange(12.0).reshape(3, 4)
    factor = np.full((3, 4), 2.0)
    expected[[1, 2], [2, 3]] *= 3
    factor[[1, 2], [2, 3]] *= 3
    expected[0, 1], factor[0, 1] = 7, 0
    np.testing.assert_allclose(y.detach().numpy(), expected)
    np.testing.assert_allclose(x.grad.numpy(), 2 * expected * factor)


def test_elements_that_were_read_may_be_overwritten():
    def f(x):
        y = x.clone()
        y[1] = y[0] * y[0]
        y[0] = y[1].sin() * y[0]
        y[2] = y[0].exp() * y[2]
        return (y * x).sum()

    x = tg.tensor([0.4, -1.2, 0.7], dtype=tg.float64)
    gradient = tg.grad(f)(x)
    second = tg.grad(lambda x: (tg.grad(f)(x) ** 2).sum())(x)
    for i in range(3):
        step = tg.zeros(3, dtype=tg.float64)
        step[i] = 1e-6
        slope = (f(x + step) - f(x - step)).item() / 2e-6
        assert gradient[i].item() == pytest.approx(slope, rel=1e-7)
        squares = [(tg.grad(f)(p) ** 2).sum().item() for p in (x + step, x - step)]
        assert second[i].item() == pytest.approx((squares[0] - squares[1]) / 2e-6, rel=1e-6)
