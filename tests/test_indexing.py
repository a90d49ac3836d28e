"""NumPy's indexing, read and write, against NumPy; gradients; errors."""

import numpy as np
import pytest

import tracegrad as tg

ARRAY = np.arange(60.0).reshape(3, 4, 5)
INDICES = {
    "integer": 1,
    "negative": -1,
    "slices": (slice(1, None), slice(None, None, 2), slice(-3, -1)),
    "empty slice": slice(2, 1),
    "dots": (..., 0),
    "new axes": (None, 1, ..., None),
    "list": [0, 2],
    "array": np.array([[0, -1], [1, 1]]),
    "two arrays": (np.array([0, 2]), np.array([1, -1])),
    "broadcast arrays": (np.array([[0], [2]]), np.array([1, 3, 0])),
    "array after slice": (slice(None), np.array([0, 2])),
    "separated arrays": (np.array([0, 2]), slice(None), np.array([1, 4])),
    "array and new axis": (np.array([0, 2]), None),
    "mask": ARRAY % 2 == 0,
    "leading mask": np.array([True, False, True]),
    "two-dimensional mask": ARRAY[:, :, 0] > 20,
    "mask in the middle": (slice(None), np.array([True, False, True, True])),
    "empty mask": np.zeros(3, bool),
    "empty list": [],
}


def to_numpy(index):
    """The index as NumPy takes it: an empty list would be floating."""
    return np.array(index, int) if isinstance(index, list) else index


def to_ours(index):
    """The index with arrays as tensors."""
    if isinstance(index, tuple):
        return tuple(to_ours(part) for part in index)
    return tg.from_numpy(index) if isinstance(index, np.ndarray) else index


@pytest.mark.parametrize("name", INDICES)
def test_reading(name):
    index = INDICES[name]
    x = tg.tensor(ARRAY)
    expected = ARRAY[to_numpy(index)]
    for ours in (index, to_ours(index)):
        found = x[ours]
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("name", INDICES)
def test_writing(name):
    index = INDICES[name]
    there = to_numpy(index)
    for value in (-1.0, np.random.default_rng(0).uniform(size=ARRAY[there].shape)):
        expected = ARRAY.copy()
        x = tg.tensor(ARRAY)
        if isinstance(index, np.ndarray) and name == "array" and not np.isscalar(value):
            value = value[0, :1]
        expected[there] = value
        x[to_ours(index)] = value if np.isscalar(value) else tg.tensor(value)
        np.testing.assert_array_equal(x.numpy(), expected)


@pytest.mark.parametrize("name", INDICES)
def test_gradients(name):
    index = INDICES[name]
    there = to_numpy(index)
    x = tg.tensor(ARRAY, requires_grad=True)
    found = x[to_ours(index)]
    weight = np.random.default_rng(0).uniform(size=tuple(found.shape))
    found.backward(tg.tensor(weight, dtype=tg.float64))
    expected = np.zeros_like(ARRAY)
    np.add.at(expected, there, weight)
    np.testing.assert_allclose(x.grad.numpy(), expected)


def test_basic_indexing_is_a_view_and_advanced_a_copy():
    x = tg.zeros(3, 3)
    x[1:][0] = 1
    x[0, 0].fill_(5)
    x[[0, 1]].fill_(9)
    x[tg.tensor([True, False, False])].fill_(9)
    assert x.tolist() == [[5, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_augmented_assignment():
    x = tg.zeros(4)
    x[1:3] += 2
    x[[0, 3]] -= 1
    x[x > 1] *= 10
    assert x.tolist() == [-1, 20, 20, -1]


def test_assignment_broadcasts_and_casts():
    x = tg.zeros(2, 3)
    x[:, 1] = tg.tensor([1, 2])
    x[0] = tg.ones(1, 3)
    x[1, [0, 2]] = True
    assert x.tolist() == [[1, 1, 1], [1, 2, 1]]
    i = tg.zeros(2, dtype=tg.int64)
    i[0] = 2.7
    assert i.tolist() == [2, 0]


def test_gradient_of_a_scattered_value():
    x = tg.zeros(4)
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    x[[3, 0]] = w * w
    (x * tg.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert w.grad.tolist() == [8, 4]


def test_second_derivative():
    x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = (x[[0, 0, 2]] ** 3).sum()
    (first,) = tg.autograd.grad(y, x, create_graph=True)
    assert first.tolist() == [6, 0, 27]
    (second,) = tg.autograd.grad(first.sum(), x)
    assert second.tolist() == [12, 0, 18]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (5, "index 5 is out of bounds for dimension 0 with size 3"),
        ((0, -6), "index -6 is out of bounds for dimension 1 with size 4"),
        ([0, 3], "index 3 is out of bounds for dimension 0 with size 3"),
        ((0, 0, 0, 0), "too many indices for tensor of dimension 3"),
        (np.array([True, False]), "The shape of the mask"),
        (1.5, "only integers, slices"),
        (([0, 1], [0, 1, 2]), "could not be broadcast together"),
        ((..., ...), "single ellipsis"),
        (np.array([0.5]), "tensors used as indices must be"),
    ],
)
def test_bad_indices(index, message):
    x = tg.tensor(ARRAY)
    with pytest.raises(IndexError, match=message) as caught:
        x[index]
    assert "test_indexing.py" in str(caught.value)
    with pytest.raises(IndexError, match=message):
        x[index] = 1
    np.testing.assert_array_equal(x.numpy(), ARRAY)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="step must be greater than zero"):
        tg.zeros(3)[::-1]


def test_values_that_do_not_fit():
    x = tg.zeros(3, 3)
    with pytest.raises(RuntimeError):
        x[0] = tg.ones(2)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        x[[0, 1]] = tg.ones(2, 2)
    assert not x.any()
