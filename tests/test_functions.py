"""Signatures, dtype rules, errors and conventions of the named functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.random import philox
from tracegrad.tracer.functions import FUNCTIONS, METHODS

F = tg.nn.functional


def leaf(*values: Any) -> tg.Tensor:
    return tg.tensor(list(values), dtype=tg.float64, requires_grad=True)


def slope(function: Callable[[tg.Tensor], tg.Tensor], *values: float) -> list[float]:
    """The gradient of the sum of a function's values."""
    x = leaf(*values)
    function(x).sum().backward()
    assert x.grad is not None
    return list(x.grad.tolist())


# ------------------------------------------------------------------------------ conventions

CONVENTIONS: dict[str, tuple[Callable[[tg.Tensor], tg.Tensor], list[float], list[float]]] = {
    "abs at 0": (tg.abs, [0.0], [0.0]),
    "sign is flat": (tg.sign, [0.0, 2.0], [0.0, 0.0]),
    "floor is flat": (tg.floor, [0.5], [0.0]),
    "relu at 0": (tg.relu, [0.0, -1.0, 1.0], [0.0, 0.0, 1.0]),
    "clamp counts its bounds as inside": (
        lambda x: x.clamp(0, 1),
        [0.0, 1.0, 2.0],
        [1.0, 1.0, 0.0],
    ),
    "hardtanh does not": (F.hardtanh, [-1.0, 1.0, 0.5], [0.0, 0.0, 1.0]),
    "amax shares": (lambda x: x.amax(), [2.0, 2.0, 1.0], [0.5, 0.5, 0.0]),
    "max of all shares": (lambda x: x.max(), [2.0, 2.0, 1.0], [0.5, 0.5, 0.0]),
    "max along a dim takes the first": (lambda x: x.max(0)[0], [2.0, 2.0, 1.0], [1.0, 0.0, 0.0]),
    "maximum shares": (lambda x: tg.maximum(x, 1.0), [1.0, 2.0], [0.5, 1.0]),
    "norm at 0": (lambda x: x.norm(), [0.0, 0.0], [0.0, 0.0]),
    "norm of p < 1 at 0": (lambda x: x.norm(0.5), [0.0, 4.0], [0.0, 1.0]),
    "std at 0": (lambda x: x.std(), [1.0, 1.0], [0.0, 0.0]),
    "hypot at 0": (lambda x: tg.hypot(x, x), [0.0], [0.0]),
    "x**0 is flat": (lambda x: x**0, [0.0, 3.0], [0.0, 0.0]),
    "0**x": (lambda x: 0.0**x, [0.0, 2.0], [0.0, 0.0]),
    "prod with one zero": (lambda x: x.prod(), [0.0, 2.0, 3.0], [6.0, 0.0, 0.0]),
    "prod with two zeros": (lambda x: x.prod(), [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]),
    "xlogy at 0": (lambda x: tg.xlogy(x, tg.tensor([2.0], dtype=tg.float64)), [0.0], [math.log(2)]),
    "logsumexp of -inf": (lambda x: tg.logsumexp(x, 0), [-math.inf, 0.0], [0.0, 1.0]),
    "the branch not taken": (lambda x: tg.where(x > 0, x.sqrt(), 0.0), [0.0, 4.0], [0.0, 0.25]),
    "x log x where it is 0": (
        lambda x: tg.where(x > 0, x * x.log(), 0.0),
        [0.0, 1.0],
        [0.0, 1.0],
    ),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_convention_of_a_gradient(name: str) -> None:
    function, at, expected = CONVENTIONS[name]
    assert slope(function, *at) == pytest.approx(expected)


def test_second_derivative_of_a_product_with_zeros() -> None:
    x = leaf(0.0, 0.0, 3.0)
    (first,) = tg.autograd.grad(x.prod(), [x], create_graph=True)
    (second,) = tg.autograd.grad(first[0], [x])
    assert second.tolist() == [0.0, 3.0, 0.0]


def test_values_stay_in_range() -> None:
    big = tg.tensor([1000.0, 1000.0])
    assert tg.logsumexp(big, 0).item() == pytest.approx(1000 + math.log(2))
    assert tg.softmax(big, 0).tolist() == [0.5, 0.5]
    assert F.softplus(big)[0].item() == 1000.0
    assert F.softplus(-big)[0].item() == 0.0
    assert tg.sigmoid(-big)[0].item() == 0.0
    assert F.binary_cross_entropy_with_logits(big, tg.tensor([1.0, 0.0])).item() == 500.0
    assert tg.logaddexp(big, big)[0].item() == pytest.approx(1000 + math.log(2))
    infinite = tg.tensor([-math.inf])
    assert tg.logaddexp(infinite, infinite).item() == -math.inf


# ------------------------------------------------------------------------------- signatures


def test_numpys_keywords_are_synonyms() -> None:
    x = tg.rand(2, 3)
    assert x.sum(axis=1, keepdims=True).shape == (2, 1)
    assert tg.softmax(x, axis=0).shape == (2, 3)
    assert tg.cat([x, x], axis=1).shape == (2, 6)
    assert x.argmax(axis=0).shape == (3,)


def test_out_is_written() -> None:
    x = tg.tensor([1.0, 4.0])
    out = tg.zeros(2)
    assert tg.sqrt(x, out=out) is out
    assert out.tolist() == [1.0, 2.0]


def test_extremes_have_three_forms() -> None:
    x = tg.tensor([[1.0, 5.0], [7.0, 2.0]])
    assert tg.max(x).item() == 7.0
    values, indices = tg.max(x, dim=1)
    assert values.tolist() == [5.0, 7.0]
    assert indices.tolist() == [1, 0]
    assert tg.max(x, 1).indices.tolist() == [1, 0]
    assert tg.max(x, tg.full_like(x, 3)).tolist() == [[3.0, 5.0], [7.0, 3.0]]
    assert tg.max(x, other=tg.tensor(3.0)).tolist() == [[3.0, 5.0], [7.0, 3.0]]


def test_variance_takes_unbiased_in_both_places() -> None:
    x = tg.tensor([1.0, 3.0])
    assert x.var(False).item() == 1.0
    assert x.var(unbiased=True).item() == 2.0
    assert x.var(0, False).item() == 1.0
    assert x.var(correction=0).item() == 1.0


def test_dtypes_of_results() -> None:
    whole = tg.tensor([1, 2])
    assert whole.sum().dtype is tg.int64
    assert tg.tensor([True, True]).sum().item() == 2
    assert tg.tensor([1, 2], dtype=tg.int8).cumsum(0).dtype is tg.int64
    assert (whole / 2).dtype is tg.float32
    assert (whole // 2).dtype is tg.int64
    assert whole.exp().dtype is tg.float32
    assert (whole + 0.5).dtype is tg.float32
    assert (tg.tensor([1.0], dtype=tg.float16) * 2.5).dtype is tg.float16
    assert (tg.tensor([1.0]) + tg.tensor(1.0, dtype=tg.float64)).dtype is tg.float32
    assert whole.argmax().dtype is tg.int64


def test_every_method_has_a_docstring() -> None:
    for name, function in {**FUNCTIONS, **METHODS}.items():
        assert function.__doc__, name


# ----------------------------------------------------------------------------------- errors

x23 = tg.rand(2, 3)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "mean of integers": (lambda: tg.tensor([1, 2]).mean(), RuntimeError, "floating point"),
    "no such dim": (lambda: x23.sum(2), IndexError, "Dimension out of range"),
    "the same dim twice": (lambda: x23.sum((0, 0)), IndexError, "more than once"),
    "maximum of nothing": (lambda: tg.rand(0).max(), ValueError, "numel"),
    "inner sizes": (lambda: x23 @ x23, RuntimeError, "inner sizes 3 and 2 differ"),
    "matmul of dtypes": (lambda: x23 @ tg.ones(3, 2, dtype=tg.float64), RuntimeError, "same dtype"),
    "shapes that do not broadcast": (lambda: x23 + tg.rand(4), RuntimeError, "broadcast"),
    "difference of bools": (lambda: tg.tensor([True]) - True, RuntimeError, "bool tensor"),
    "negative integer power": (lambda: tg.tensor([2]) ** -1, RuntimeError, "negative integer"),
    "condition not bool": (lambda: tg.where(x23, x23, x23), RuntimeError, "boolean"),
    "nothing to concatenate": (lambda: tg.cat([]), RuntimeError, "non-empty"),
    "stack of shapes": (lambda: tg.stack([x23, x23[0]]), RuntimeError, "equal size"),
    "index out of range": (
        lambda: x23.index_select(0, tg.tensor([2])),
        IndexError,
        "index 2 is out of bounds",
    ),
    "class out of range": (
        lambda: F.cross_entropy(x23, tg.tensor([0, 3])),
        IndexError,
        "Target 3 is out of bounds",
    ),
    "a reduction's name": (lambda: F.mse_loss(x23, x23, "average"), TypeError, "average"),
    "operands of einsum": (lambda: tg.einsum("ij,jk", x23), TypeError, "2 operands"),
    "sizes of einsum": (lambda: tg.einsum("ij,ij", x23, tg.rand(2, 2)), ValueError, "size 2"),
    "sections of split": (lambda: x23.split([1, 2]), RuntimeError, "sum exactly to 2"),
    "k of topk": (lambda: x23.topk(4), RuntimeError, "out of range"),
    "probability of dropout": (lambda: F.dropout(x23, 2.0), TypeError, "between 0 and 1"),
    "no bound": (lambda: x23.clamp(), TypeError, "At least one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_says_what_and_where(name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "test_functions.py:" in str(caught.value)


# ----------------------------------------------------------------------------------- random


def test_philox_gives_the_published_words() -> None:
    words = philox(0, np.zeros(1, np.uint64))
    assert [int(w[0]) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_a_stream_does_not_depend_on_how_it_is_cut() -> None:
    op = OPS["uniform"]
    seed = np.asarray(7)
    params = {"dtype": tg.float64}
    whole = op.evaluate(seed, np.asarray(-3), shape=(40000,), **params)
    later = op.evaluate(seed, np.asarray(39990), shape=(7,), **params)
    np.testing.assert_array_equal(whole[39993:], later)
    assert whole.min() >= 0
    assert whole.max() < 1


@pytest.mark.parametrize("dtype", [tg.float16, tg.float32, tg.float64], ids=str)
def test_moments_of_random_numbers(dtype: tg.dtype) -> None:
    tg.manual_seed(1)
    kept = F.dropout(tg.ones(100_000, dtype=dtype), 0.25)
    assert kept.double().mean().item() == pytest.approx(1, abs=0.01)
    values = OPS["normal"].evaluate(np.asarray(3), np.asarray(0), shape=(100_000,), dtype=dtype)
    assert float(values.astype(float).mean()) == pytest.approx(0, abs=0.02)
    assert float(values.astype(float).std()) == pytest.approx(1, abs=0.02)
