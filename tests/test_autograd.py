"""The tape and the backward engine: gradients, hooks, modes, higher derivatives, deep graphs."""

import gc
import warnings
import weakref

import numpy as np
import pytest

import tracegrad as tg


def close(tensor, expected):
    np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=1e-6)


def leaf(*values):
    return tg.tensor(values, requires_grad=True)


def test_gradients_accumulate():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    close(x.grad, [2, 4])
    (x * x).sum().backward()
    close(x.grad, [4, 8])
    x.grad = None
    assert x.grad is None


def test_grad_does_not_share_memory_with_another_grad():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (x + y).backward(tg.ones(2))
    x.grad.mul_(10)
    close(y.grad, [1, 1])


def test_backward_with_a_gradient():
    x = leaf(1.0, 2.0, 3.0)
    (x * 2).backward(tg.tensor([0.1, 1.0, 0.01]))
    close(x.grad, [0.2, 2.0, 0.02])


def test_a_node_used_twice_gets_the_sum():
    x = leaf(3.0)
    y = x * 2
    (y * y + y).backward()
    close(x.grad, [2 * (2 * 6 + 1)])


def test_graph_of_nodes():
    x = leaf(1.0)
    y = x * 2
    z = y + x
    assert type(z.grad_fn).__name__ == "AddBackward0"
    assert z.grad_fn.name() == "AddBackward0"
    assert repr(z.grad_fn).startswith("<AddBackward0 object at 0x")
    (first, number), (second, _) = z.grad_fn.next_functions
    assert first is y.grad_fn
    assert number == 0
    assert type(second).__name__ == "AccumulateGrad"
    assert second.variable is x
    assert y.grad_fn.next_functions[0][0] is second
    assert y.grad_fn.next_functions[1] == (None, 0)


def test_leaves():
    x = leaf(1.0)
    assert x.is_leaf
    assert x.grad_fn is None
    assert tg.ones(2).is_leaf
    assert not (x * 2).is_leaf
    assert (tg.ones(2) * 2).is_leaf
    assert x.detach().is_leaf
    assert not x.detach().requires_grad


def test_autograd_grad_leaves_grad_alone():
    x, y = leaf(2.0), leaf(3.0)
    gx, gy = tg.autograd.grad(x * y, [x, y])
    close(gx, [3])
    close(gy, [2])
    assert x.grad is None


def test_grad_of_an_intermediate():
    x = leaf(2.0)
    y = x * x
    z = y * 3
    gy, gx = tg.autograd.grad(z, [y, x])
    close(gy, [3])
    close(gx, [12])


def test_unused_inputs():
    x, y = leaf(2.0), leaf(3.0)
    with pytest.raises(tg.errors.GradError, match="appears to not have been used in the graph"):
        tg.autograd.grad(x * 2, [x, y])
    assert tg.autograd.grad(x * 2, [x, y], allow_unused=True)[1] is None
    close(tg.autograd.grad(x * 2, [x, y], materialize_grads=True)[1], [0])


def test_backward_to_some_inputs():
    x, y = leaf(2.0), leaf(3.0)
    (x * y).backward(inputs=[x])
    close(x.grad, [3])
    assert y.grad is None


def test_backward_to_an_intermediate():
    x = leaf(2.0)
    y = x * x
    (y * 3).backward(inputs=[y])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(y.grad, [3])
    assert x.grad is None


def test_third_derivative():
    x = tg.tensor([2.0, 3.0], requires_grad=True, dtype=tg.float64)
    y = (x**4).sum()
    (first,) = tg.autograd.grad(y, x, create_graph=True)
    close(first, 4 * np.array([2.0, 3.0]) ** 3)
    (second,) = tg.autograd.grad(first.sum(), x, create_graph=True)
    close(second, 12 * np.array([2.0, 3.0]) ** 2)
    (third,) = tg.autograd.grad(second.sum(), x)
    close(third, 24 * np.array([2.0, 3.0]))
    assert not third.requires_grad


def test_second_derivative_through_a_saved_output():
    x = tg.tensor([0.5], requires_grad=True, dtype=tg.float64)
    (first,) = tg.autograd.grad(x.exp().tanh().sum(), x, create_graph=True)
    (second,) = tg.autograd.grad(first.sum(), x)
    u = np.exp(0.5)
    t = np.tanh(u)
    close(second, [u * (1 - t**2) + u * u * (-2 * t * (1 - t**2))])


def test_create_graph_through_backward():
    x = leaf(3.0)
    (x**3).sum().backward(create_graph=True)
    first = x.grad
    x.grad = None
    first.sum().backward()
    close(x.grad, [18])


def test_retained_grads():
    x = leaf(1.0, 2.0)
    y = x * 3
    y.retain_grad()
    assert y.retains_grad
    (y * y).sum().backward()
    close(y.grad, [6, 12])
    close(x.grad, [18, 36])


def test_reading_grad_of_a_non_leaf_warns():
    x = leaf(1.0)
    y = x * 2
    with pytest.warns(UserWarning, match="not a leaf Tensor is being accessed"):
        assert y.grad is None


def test_hooks_see_and_replace_gradients():
    x = leaf(1.0, 2.0)
    seen = []
    handle = x.register_hook(lambda g: seen.append(g.tolist()))
    y = x * 2
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    assert seen == [[20.0, 20.0]]
    close(x.grad, [20, 20])
    handle.remove()
    handle.remove()
    (x * 2).sum().backward()
    assert len(seen) == 1


def test_hooks_run_in_order():
    x = leaf(1.0)
    x.register_hook(lambda g: g + 1)
    x.register_hook(lambda g: g * 2)
    (x * 1).sum().backward()
    close(x.grad, [4])


def test_hook_of_a_leaf_sees_the_whole_gradient_once():
    x = leaf(1.0)
    seen = []
    x.register_hook(lambda g: seen.append(g.item()))
    (x * 2 + x * 3).sum().backward()
    assert seen == [5.0]


def test_node_hooks():
    x = leaf(1.0)
    y = x * 2
    calls = []
    y.grad_fn.register_prehook(lambda grads: calls.append("before") or (grads[0] * 3,))
    y.grad_fn.register_hook(lambda inputs, outputs: calls.append(inputs[0].tolist()))
    y.sum().backward()
    assert calls == ["before", [6.0]]
    close(x.grad, [6])


def test_post_accumulate_hook():
    x = leaf(1.0)
    seen = []
    x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.item()))
    (x * 2).sum().backward()
    assert seen == [2.0]


def test_hook_needs_a_gradient():
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        tg.ones(2).register_hook(print)


def test_no_grad_as_context_and_decorator():
    x = leaf(1.0)
    with tg.no_grad():
        assert not tg.is_grad_enabled()
        assert not (x * 2).requires_grad
        with tg.enable_grad():
            assert (x * 2).requires_grad
    assert tg.is_grad_enabled()

    @tg.no_grad()
    def double(t):
        return t * 2

    @tg.no_grad
    def triple(t):
        return t * 3

    assert not double(x).requires_grad
    assert not triple(x).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), tg.no_grad():
        raise ZeroDivisionError
    assert tg.is_grad_enabled()


def test_no_grad_generator_does_not_leak():
    @tg.no_grad()
    def items():
        yield tg.is_grad_enabled()
        yield tg.is_grad_enabled()

    for inside in items():
        assert not inside
        assert tg.is_grad_enabled()


def test_set_grad_enabled():
    x = leaf(1.0)
    with tg.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    tg.set_grad_enabled(False)
    assert not (x * 2).requires_grad
    tg.set_grad_enabled(True)
    assert (x * 2).requires_grad


def test_inference_mode():
    x = leaf(1.0)
    with tg.inference_mode():
        assert tg.is_inference_mode_enabled()
        assert not (x * 2).requires_grad
    assert not tg.is_inference_mode_enabled()


def test_detach_shares_memory():
    x = leaf(1.0, 2.0)
    y = x.detach()
    y[0] = 5.0
    close(x, [5, 2])


def test_saved_values_are_freed():
    x = leaf(1.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        y.backward()
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    close(x.grad, [6])


def test_a_graph_without_saved_values_can_be_walked_again():
    x = leaf(1.0)
    y = (x + x).sum()
    y.backward()
    y.backward()
    close(x.grad, [4])


@pytest.mark.parametrize(
    "function", [lambda t: t * t, lambda t: t.exp(), lambda t: t.mul_(2).tanh()]
)
def test_freeing_a_graph_frees_its_tensors(function):
    x = leaf(1.0)
    y = function(x * 1)
    alive = weakref.ref(y)
    z = y * y
    gc.disable()
    try:
        del y
        z.sum().backward()
        del z
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("create_graph", [False, True])
def test_deep_graphs(create_graph):
    x = leaf(1.0)
    y = x
    for _ in range(30_000):
        y = y + 1
    y.sum().backward(create_graph=create_graph)
    close(x.grad, [1])
    x.grad = None
    del y


def test_a_wide_graph_costs_linear_time():
    x = leaf(1.0)
    y = x
    for _ in range(40):
        # Paths double at each step: an engine that walks paths would not end.
        y = y * 0.5 + y * 0.5
    y.sum().backward()
    close(x.grad, [1])


def test_where_brings_no_nan_from_the_branch_not_taken():
    x = leaf(0.0, 4.0)
    y = tg.where(x > 0, x.sqrt(), x)
    y.sum().backward()
    close(x.grad, [1, 0.25])


def test_a_masked_and_an_unmasked_gradient_meet():
    x = leaf(0.0, 4.0)
    u = x * 1
    (tg.where(x > 0, u.sqrt(), u * 0) + u * 2).sum().backward()
    close(x.grad, [2, 2.25])
    x.grad = None
    u = x * 1
    (u * 2 + tg.where(x > 0, u.sqrt(), u * 0)).sum().backward()
    close(x.grad, [2, 2.25])


def test_the_mask_of_where_holds_through_broadcasting():
    x = leaf(0.0)
    taken = tg.tensor([True, True, False])
    divisor = tg.where(taken, tg.ones(3), x + 2)
    y = tg.where(taken, tg.ones(3) * 3, tg.where(taken, tg.ones(3) / x, 1 / divisor))
    y.sum().backward()
    close(x.grad, [-0.25])


def test_a_real_nan_stays():
    x = leaf(0.0)
    (x.sqrt() * 0).sum().backward()
    assert np.isnan(x.grad.numpy()).all()


def test_dtypes_of_gradients():
    x = tg.tensor([1.0, 2.0], dtype=tg.float32, requires_grad=True)
    w = tg.tensor([3.0, 4.0], dtype=tg.float64)
    (x * w).sum().backward()
    assert x.grad.dtype is tg.float32
    close(x.grad, [3, 4])


def test_integers_have_no_gradients():
    with pytest.raises(RuntimeError, match="only Tensors of floating point"):
        tg.tensor([1, 2], requires_grad=True)
    x = leaf(1.0, 2.0)
    assert not (x > 1).requires_grad
    assert not x.long().requires_grad
