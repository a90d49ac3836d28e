"""Tensors without gradients: making them, their attributes, views, conversions, operators,
printing.
"""

import copy
import math
import pickle

import numpy as np
import pytest

import tracegrad as tg


def test_dtypes():
    assert tg.tensor([1.0]).dtype is tg.float32
    assert tg.tensor([1]).dtype is tg.int64
    assert tg.tensor([True]).dtype is tg.bool
    assert tg.tensor([1, 2.5]).dtype is tg.float32
    assert tg.tensor(np.zeros(2)).dtype is tg.float64
    assert tg.tensor([]).dtype is tg.float32
    assert repr(tg.float32) == "tracegrad.float32"
    assert tg.float is tg.float32
    assert tg.double is tg.float64
    assert tg.long is tg.int64
    assert tg.tensor([1.0]).double().half().int().dtype is tg.int32
    assert tg.tensor([1.0]).to(tg.uint8).dtype is tg.uint8


def test_default_dtype():
    tg.set_default_dtype(tg.float64)
    try:
        assert tg.get_default_dtype() is tg.float64
        assert tg.tensor([1.0]).dtype is tg.float64
        assert tg.zeros(1).dtype is tg.float64
        assert (tg.tensor([1]) / 2).dtype is tg.float64
        assert repr(tg.tensor([1.0])) == "tensor([1.])"
    finally:
        tg.set_default_dtype(tg.float32)
    with pytest.raises(TypeError, match="only floating-point types"):
        tg.set_default_dtype(tg.int32)


def test_shape():
    x = tg.zeros(2, 3)
    assert x.shape == (2, 3)
    assert repr(x.shape) == "tracegrad.Size([2, 3])"
    assert x.shape.numel() == 6
    assert x.size() == (2, 3)
    assert x.size(-1) == 3
    assert x.ndim == x.dim() == 2
    assert x.numel() == 6
    assert len(x) == 2
    assert tg.zeros((2, 3)).shape == tg.zeros([2, 3]).shape == (2, 3)


def test_memory_attributes():
    x = tg.zeros(3, 4)
    assert x.stride() == (4, 1)
    assert x.stride(0) == 4
    assert x.is_contiguous()
    view = x[1:, ::2]
    assert view.stride() == (4, 2)
    assert view.storage_offset() == 4
    assert view.data_ptr() == x.data_ptr() + 16
    assert not view.is_contiguous()
    assert view.contiguous().is_contiguous()
    assert x.contiguous() is x
    assert x.T.contiguous().stride() == (3, 1)
    assert x.element_size() == 4
    assert view._base is x
    assert x._base is None


def test_device():
    x = tg.zeros(1)
    assert x.device == tg.device("cpu")
    assert x.device.type == "cpu"
    assert x.cpu() is x
    assert x.to("cpu") is x
    assert not x.is_cuda
    assert str(tg.device("cuda:1")) == "cuda:1"
    with pytest.raises(RuntimeError, match="Invalid device string"):
        tg.device("gpu")


def test_creation():
    assert tg.full((2, 2), 7).tolist() == [[7, 7], [7, 7]]
    assert tg.full((2,), 7).dtype is tg.int64
    assert tg.full((2,), 0.5).dtype is tg.float32
    assert tg.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert tg.arange(3).tolist() == [0, 1, 2]
    assert tg.arange(3).dtype is tg.int64
    assert tg.arange(1, 2, 0.5).tolist() == [1.0, 1.5]
    assert tg.arange(5, 0, -2).tolist() == [5, 3, 1]
    assert tg.linspace(0, 1, 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    x = tg.zeros(2, 3, dtype=tg.float64)
    assert tg.ones_like(x).dtype is tg.float64
    assert tg.zeros_like(x, dtype=tg.int32).dtype is tg.int32
    assert tg.full_like(x, 3).tolist() == [[3.0] * 3] * 2
    assert tg.empty_like(x).shape == (2, 3)
    assert x.new_ones(2).dtype is tg.float64
    assert tg.Tensor([1, 2]).dtype is tg.float32
    assert tg.Tensor(2, 3).shape == (2, 3)
    assert tg.tensor([tg.tensor(1.0), 2.0]).tolist() == [1, 2]


def test_tensor_copies_and_from_numpy_shares():
    array = np.zeros(2, np.float32)
    copied, shared, also = tg.tensor(array), tg.from_numpy(array), tg.as_tensor(array)
    array[0] = 1
    assert copied.tolist() == [0, 0]
    assert shared.tolist() == also.tolist() == [1, 0]
    assert tg.as_tensor(shared) is shared


def test_random_numbers_come_again():
    tg.manual_seed(3)
    first = [tg.rand(4), tg.randn(2, 3), tg.randint(0, 10, (5,)), tg.randperm(6)]
    state = tg.get_rng_state()
    later = tg.rand(3).tolist()
    tg.manual_seed(3)
    again = [tg.rand(4), tg.randn(2, 3), tg.randint(0, 10, (5,)), tg.randperm(6)]
    assert [x.tolist() for x in first] == [x.tolist() for x in again]
    assert sorted(first[3].tolist()) == list(range(6))
    tg.set_rng_state(state)
    assert tg.rand(3).tolist() == later
    assert tg.rand(3).tolist() != later


def test_random_distributions():
    tg.manual_seed(0)
    u = tg.rand(100_000, dtype=tg.float64).numpy()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    n = tg.randn(100_000).numpy()
    assert abs(n.mean()) < 0.02
    assert abs(n.std() - 1) < 0.02
    counts = np.bincount(tg.randint(2, 5, (30_000,)).numpy())
    assert counts[:2].sum() == 0
    assert abs(counts[2:] - 10_000).max() < 500
    assert abs(tg.normal(5.0, 2.0, (100_000,)).numpy().mean() - 5) < 0.05


def test_views():
    x = tg.arange(24).reshape(2, 3, 4)
    assert x.permute(2, 0, 1).shape == (4, 2, 3)
    assert x.transpose(0, -1).shape == (4, 3, 2)
    assert x.T.shape == (4, 3, 2)
    assert x.mT.shape == (2, 4, 3)
    assert x.unsqueeze(-1).shape == (2, 3, 4, 1)
    assert tg.zeros(1, 2, 1).squeeze().shape == (2,)
    assert tg.zeros(1, 2, 1).squeeze(0).shape == (2, 1)
    assert tg.zeros(1, 3).expand(2, -1).shape == (2, 3)
    assert x.flatten(1).shape == (2, 12)
    assert x.view(6, -1).shape == (6, 4)
    assert x.unflatten(2, (2, -1)).shape == (2, 3, 2, 2)
    assert x.movedim(0, -1).shape == (3, 4, 2)
    assert x.narrow(1, 1, 2).tolist() == x[:, 1:3].tolist()
    assert [part.shape for part in x.unbind(1)] == [(2, 4)] * 3
    assert all(view._is_view() for view in (x[0], x.T, x.view(24), x.unsqueeze(0)))
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.T.view(24)
    assert not x.T.reshape(24)._is_view()


def test_python_conversions():
    assert tg.tensor(2.5).item() == 2.5
    assert type(tg.tensor(2).item()) is int
    assert tg.tensor([[1, 2]]).tolist() == [[1, 2]]
    assert float(tg.tensor([2.5])) == 2.5
    assert int(tg.tensor(2.9)) == 2
    assert bool(tg.tensor(0.0)) is False
    assert [10, 20, 30][tg.tensor(1)] == 20
    assert list(range(tg.tensor(3))) == [0, 1, 2]
    assert math.sqrt(tg.tensor(4.0)) == 2
    assert f"{tg.tensor(1.23456):.2f}" == "1.23"
    assert [x.item() for x in tg.tensor([1, 2])] == [1, 2]
    assert 2 in tg.tensor([1, 2])
    assert 3 not in tg.tensor([1, 2])
    with pytest.raises(RuntimeError, match="more than one value is ambiguous"):
        bool(tg.zeros(2))
    with pytest.raises(RuntimeError, match="cannot be converted to Scalar"):
        tg.zeros(2).item()
    with pytest.raises(TypeError, match="converted to an index"):
        [1, 2][tg.tensor(1.0)]


def test_numpy_functions_on_tensors():
    x = tg.tensor([1.0, 4.0], requires_grad=True)
    assert isinstance(np.sqrt(x), tg.Tensor)
    (np.sum(np.sqrt(x)) + np.mean(x)).backward()
    np.testing.assert_allclose(x.grad.numpy(), [1.0, 0.75])
    d = x.detach()
    assert np.asarray(d).tolist() == [1, 4]
    assert isinstance(np.ones(2) * d, tg.Tensor)
    assert np.concatenate([d, d], axis=0).tolist() == [1, 4, 1, 4]
    assert np.transpose(tg.zeros(2, 3)).shape == (3, 2)
    assert np.isclose(np.var(d), 2.25)
    assert np.histogram(d, bins=2)[0].tolist() == [1, 1]
    out = np.zeros(2, np.float32)
    np.add(d, d, out=out)
    assert out.tolist() == [2, 8]
    with pytest.raises(RuntimeError, match=r"Use tensor\.detach\(\)\.numpy\(\)"):
        np.asarray(x)


def test_operators():
    x = tg.tensor([4.0, 9.0])
    assert (2 - x).tolist() == [-2, -7]
    assert (36 / x).tolist() == [9, 4]
    assert (2**x).tolist() == [16, 512]
    assert (x // 2).tolist() == [2, 4]
    assert (x % 5).tolist() == [4, 4]
    assert (7 % x).tolist() == [3, 7]
    assert (x @ x).item() == 97
    assert (-x).tolist() == [-4, -9]
    assert abs(-x).tolist() == [4, 9]
    i = tg.tensor([6, 5])
    assert (i & 3).tolist() == [2, 1]
    assert (i | 1).tolist() == [7, 5]
    assert (i ^ 1).tolist() == [7, 4]
    assert (~i).tolist() == [-7, -6]
    assert (i << 1).tolist() == [12, 10]
    assert (i >> 1).tolist() == [3, 2]
    assert (i == 5).tolist() == [False, True]
    assert (i != 5).tolist() == [True, False]
    assert (x >= 9).tolist() == [False, True]
    assert (i / 2).dtype is tg.float32
    assert (tg.tensor([250], dtype=tg.uint8) + 10).tolist() == [4]
    with pytest.raises(TypeError):
        x + "1"


def test_promotion_of_weak_operands():
    x = tg.tensor([1.0], dtype=tg.float16)
    assert (x * 2.0).dtype is tg.float16
    assert (x * tg.tensor(2.0, dtype=tg.float64)).dtype is tg.float16
    assert (x * tg.tensor([2.0], dtype=tg.float64)).dtype is tg.float64
    i = tg.tensor([1], dtype=tg.int8)
    assert (i + 1).dtype is tg.int8
    assert (i * 1.0).dtype is tg.float32
    assert (i + True).dtype is tg.int8
    assert tg.result_type(i, tg.tensor(1, dtype=tg.int64)) is tg.int8
    assert tg.promote_types(tg.int8, tg.uint8) is tg.int16


def test_copies():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    x.grad = tg.ones(2)
    twin = copy.deepcopy(x)
    assert twin.requires_grad
    assert twin.grad.tolist() == [1, 1]
    twin.grad.zero_()
    assert x.grad.tolist() == [1, 1]
    back = pickle.loads(pickle.dumps(x))
    assert back.requires_grad
    assert back.tolist() == [1, 2]
    assert pickle.loads(pickle.dumps(tg.float32)) is tg.float32
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(x * 2)


def test_data():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    x.data.mul_(3)
    assert x.tolist() == [3, 6]
    x.data = tg.zeros(2)
    assert x.tolist() == [0, 0]
    assert x.requires_grad


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda: tg.tensor([1.0, 2.5]), "tensor([1.0000, 2.5000])"),
        (lambda: tg.tensor([1.0, 2.0]), "tensor([1., 2.])"),
        (lambda: tg.tensor(3), "tensor(3)"),
        (lambda: tg.tensor([True, False]), "tensor([ True, False])"),
        (lambda: tg.tensor([1e-8, 1.0]), "tensor([1.0000e-08, 1.0000e+00])"),
        (lambda: tg.tensor([math.nan, 1.0]), "tensor([nan, 1.])"),
        (lambda: tg.zeros(0), "tensor([])"),
        (lambda: tg.zeros(0, 3), "tensor([], size=(0, 3))"),
        (lambda: tg.zeros(1, dtype=tg.int32), "tensor([0], dtype=tracegrad.int32)"),
        (lambda: tg.ones(1, requires_grad=True), "tensor([1.], requires_grad=True)"),
        (
            lambda: tg.full((2, 2), 9.0, requires_grad=True) * 3,
            "tensor([[27., 27.],\n        [27., 27.]], grad_fn=<MulBackward0>)",
        ),
        (lambda: tg.arange(1001), "tensor([   0,    1,    2,  ...,  998,  999, 1000])"),
    ],
)
def test_printed_form(value, text):
    assert repr(value()) == text


def test_print_options():
    try:
        tg.set_printoptions(precision=2, sci_mode=False)
        assert repr(tg.tensor([1e-8, 1.0])) == "tensor([0.00, 1.00])"
    finally:
        tg.set_printoptions(profile="default")
