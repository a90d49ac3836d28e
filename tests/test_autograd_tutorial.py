"""The steps of PyTorch's introductions to autograd, with `import tracegrad as torch`."""

import math

import numpy as np
import pytest

import tracegrad as torch


def test_polynomial_fitted_to_a_sine_by_hand_and_by_autograd():
    torch.manual_seed(0)
    x = torch.linspace(-math.pi, math.pi, 2000)
    y = torch.sin(x)
    weights = [torch.randn((), requires_grad=True) for _ in range(4)]
    rate = 1e-6
    losses = []
    for _ in range(300):
        prediction = weights[0] + weights[1] * x + weights[2] * x**2 + weights[3] * x**3
        loss = (prediction - y).pow(2).sum()
        losses.append(loss.item())
        loss.backward()
        error = 2.0 * (prediction - y).detach()
        for power, weight in enumerate(weights):
            by_hand = (error * x**power).sum()
            assert weight.grad.item() == pytest.approx(by_hand.item(), rel=1e-3, abs=1e-2)
        with torch.no_grad():
            for weight in weights:
                weight -= rate * weight.grad
                weight.grad = None
    assert losses[-1] < losses[0] / 5


def test_two_parameters_of_one_error():
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    b = torch.tensor([6.0, 4.0], requires_grad=True)
    Q = 3 * a**3 - b**2
    Q.backward(gradient=torch.tensor([1.0, 1.0]))
    assert bool((9 * a**2 == a.grad).all())
    assert bool((-2 * b == b.grad).all())


def test_aggregated_error():
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    (3 * a**3).sum().backward()
    assert a.grad.tolist() == [36, 81]


def test_one_layer():
    torch.manual_seed(1)
    x, y = torch.ones(5), torch.zeros(3)
    w = torch.randn(5, 3, requires_grad=True)
    b = torch.randn(3, requires_grad=True)
    z = torch.matmul(x, w) + b
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y)
    assert "Backward0 object at 0x" in repr(z.grad_fn)
    loss.backward()
    expected = 1 / (1 + np.exp(-z.detach().numpy())) / 3
    np.testing.assert_allclose(b.grad.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(w.grad.numpy(), np.tile(expected, (5, 1)), rtol=1e-5)


def test_simple_graph_and_its_printed_form():
    x = torch.ones(2, 2, requires_grad=True)
    y = x + 2
    assert repr(y) == "tensor([[3., 3.],\n        [3., 3.]], grad_fn=<AddBackward0>)"
    z = y * y * 3
    assert repr(z) == "tensor([[27., 27.],\n        [27., 27.]], grad_fn=<MulBackward0>)"
    out = z.mean()
    assert repr(out) == "tensor(27., grad_fn=<MeanBackward0>)"
    out.backward()
    assert repr(x.grad) == "tensor([[4.5000, 4.5000],\n        [4.5000, 4.5000]])"


def test_doubling_until_the_norm_is_large():
    x = torch.tensor([0.3, -1.2, 0.7], requires_grad=True)
    y = x * 2
    doublings = 1
    while y.data.norm() < 1000:
        y = y * 2
        doublings += 1
    v = torch.tensor([0.1, 1.0, 0.0001], dtype=torch.float)
    y.backward(v)
    np.testing.assert_allclose(x.grad.numpy(), v.numpy() * 2.0**doublings, rtol=1e-6)


def test_tracking_can_be_stopped():
    a = torch.randn(2, 2)
    a = (a * 3) / (a - 1)
    assert not a.requires_grad
    a.requires_grad_(True)
    assert a.requires_grad
    b = (a * a).sum()
    assert "SumBackward0" in repr(b.grad_fn)
    with torch.no_grad():
        assert not (a * a).requires_grad
    c = a.detach()
    assert not c.requires_grad
    assert c.eq(a).all()


def test_gradients_accumulate_over_calls():
    inp = torch.eye(4, 5, requires_grad=True)
    out = (inp + 1).pow(2).t()
    out.backward(torch.ones_like(out), retain_graph=True)
    first = inp.grad.clone()
    out.backward(torch.ones_like(out), retain_graph=True)
    assert torch.equal(inp.grad, 2 * first)
    inp.grad.zero_()
    out.backward(torch.ones_like(out))
    assert torch.equal(inp.grad, first)


def test_saved_and_retained():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x.exp()
    y.retain_grad()
    (y**2).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), 2 * y.detach().numpy())
    np.testing.assert_allclose(x.grad.numpy(), 2 * y.detach().numpy() ** 2, rtol=1e-6)


def test_hooks():
    v = torch.tensor([0.0, 0.0, 0.0], requires_grad=True)
    handle = v.register_hook(lambda grad: grad * 2)
    v.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert v.grad.tolist() == [2, 4, 6]
    handle.remove()
    v.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert v.grad.tolist() == [3, 6, 9]


def test_frozen_parameters():
    w = [torch.rand(3, 3, requires_grad=True) for _ in range(2)]
    w[0].requires_grad_(False)
    ((torch.ones(1, 3) @ w[0]) @ w[1]).sum().backward()
    assert w[0].grad is None
    assert w[1].grad is not None
