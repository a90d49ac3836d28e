"""The rows of `docs/conventions.md`, each as a small test, in eager and in compiled code."""

from __future__ import annotations

import enum
import math
import random
import re
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

F = tg.nn.functional
INF, NAN = math.inf, math.nan
MODES = {"eager": lambda function: function, "compiled": tg.compile}

Case = tuple[Callable[..., tg.Tensor], list[list[float]], Any, list[list[float]]]


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(
        np.asarray(found, float), np.asarray(wanted, float), rtol=1e-12, atol=0, equal_nan=True
    )


def masked_write(x: tg.Tensor) -> tg.Tensor:
    """The logarithm of what is positive, 0 elsewhere, by assignment."""
    out = tg.zeros_like(x)
    positive = x > 0
    out[positive] = x[positive].log()
    return out


# ------------------------------------------------------------------- gradients at special points

# Name: function, inputs, values, gradients of the sum of the values by each input.
GRADIENTS: dict[str, Case] = {
    "abs": (tg.abs, [[0.0, -0.0, NAN]], [0, 0, NAN], [[0, 0, NAN]]),
    "sign": (tg.sign, [[-2.0, 0.0, NAN]], [-1, 0, NAN], [[0, 0, 0]]),
    "rounding": (lambda x: x.floor() + x.ceil() + x.round(), [[1.0, 1.5]], [3, 5], [[0, 0]]),
    "round": (tg.round, [[0.5, 1.5, 2.5, -0.5]], [0, 2, 2, -0.0], [[0, 0, 0, 0]]),
    "floor division": (lambda x, y: x // y, [[-7.0], [2.0]], [-4], [[0], [0]]),
    "remainder": (lambda x, y: x % y, [[7.0, -7.0], [3.0, 3.0]], [1, 2], [[1, 1], [-2, 3]]),
    "fmod": (tg.fmod, [[7.0, -7.0], [3.0, 3.0]], [1, -1], [[1, 1], [-2, 2]]),
    "relu": (tg.relu, [[0.0, -1.0, NAN]], [0, 0, NAN], [[0, 0, 1]]),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), [[0.0, 1.0]], [0, 1], [[0.1, 1]]),
    "clamp": (
        lambda x: x.clamp(-1.0, 1.0),
        [[-2.0, -1.0, 1.0, 2.0, NAN]],
        [-1, -1, 1, 1, NAN],
        [[0, 1, 1, 0, 0]],
    ),
    "clamp with crossed bounds": (lambda x: x.clamp(2.0, 1.0), [[0.0, 3.0]], [1, 1], [[0, 0]]),
    "hardtanh": (F.hardtanh, [[-1.0, 0.5, 1.0]], [-1, 0.5, 1], [[0, 1, 0]]),
    "amax": (lambda x: x.amax(0), [[1.0, 3.0, 3.0]], 3, [[0, 0.5, 0.5]]),
    "amin": (lambda x: x.amin(0), [[1.0, 1.0, 3.0]], 1, [[0.5, 0.5, 0]]),
    "max of all": (lambda x: x.max(), [[1.0, 3.0, 3.0]], 3, [[0, 0.5, 0.5]]),
    "max along a dim": (lambda x: x.max(0).values, [[1.0, 3.0, 3.0]], 3, [[0, 1, 0]]),
    "amax with NaN": (lambda x: x.amax(0), [[1.0, NAN, 3.0]], NAN, [[0, 0, 0]]),
    "maximum": (
        tg.maximum,
        [[1.0, 2.0, NAN], [1.0, 3.0, 1.0]],
        [1, 3, NAN],
        [[0.5, 0, 1], [0.5, 1, 1]],
    ),
    "fmax": (
        tg.fmax,
        [[1.0, 2.0, NAN], [1.0, 3.0, 1.0]],
        [1, 3, 1],
        [[0.5, 0, 0], [0.5, 1, 1]],
    ),
    "median": (lambda x: x.median(), [[4.0, 2.0, 1.0, 2.0]], 2, [[0, 1, 0, 0]]),
    "topk": (lambda x: tg.topk(x, 2).values, [[3.0, 1.0, 3.0, 3.0]], [3, 3], [[1, 0, 1, 0]]),
    "sqrt": (tg.sqrt, [[0.0, -1.0]], [0, NAN], [[INF, NAN]]),
    "norm": (lambda x: x.norm(), [[0.0, 0.0]], 0, [[0, 0]]),
    "norm of p < 1": (lambda x: x.norm(p=0.5), [[0.0, 4.0]], 4, [[0, 1]]),
    "norm of p = inf": (lambda x: x.norm(p=INF), [[2.0, -2.0, 1.0]], 2, [[0.5, -0.5, 0]]),
    "hypot": (tg.hypot, [[0.0, 3.0], [0.0, 4.0]], [0, 5], [[0, 0.6], [0, 0.8]]),
    "atan2": (tg.atan2, [[0.0], [0.0]], [0], [[0], [0]]),
    "std of equal values": (lambda x: x.std(), [[1.0, 1.0, 1.0]], 0, [[0, 0, 0]]),
    "x ** 0": (lambda x: x**0, [[0.0, INF, NAN]], [1, 1, 1], [[0, 0, 0]]),
    "x ** 0.5": (lambda x: x**0.5, [[0.0, 4.0]], [0, 2], [[INF, 0.25]]),
    "0 ** y": (lambda y: 0.0**y, [[0.0, 2.0]], [1, 0], [[0, 0]]),
    "x ** y": (
        lambda x, y: x**y,
        [[0.0, 0.0, -2.0], [0.0, 2.0, 2.0]],
        [1, 0, 4],
        [[0, 0, -4], [0, 0, NAN]],
    ),
    "prod with one zero": (lambda x: x.prod(), [[2.0, 0.0, 3.0]], 0, [[0, 6, 0]]),
    "prod with two zeros": (lambda x: x.prod(), [[2.0, 0.0, 0.0]], 0, [[0, 0, 0]]),
    "cumprod with a zero": (lambda x: x.cumprod(0), [[2.0, 0.0, 3.0]], [2, 0, 0], [[1, 8, 0]]),
    "logsumexp of -inf": (lambda x: tg.logsumexp(x, 0), [[-INF, -INF]], -INF, [[0, 0]]),
    "logaddexp of infinities": (
        tg.logaddexp,
        [[-INF, INF], [-INF, INF]],
        [-INF, INF],
        [[0.5, 0.5], [0.5, 0.5]],
    ),
    "softmax of -inf": (
        lambda x: tg.softmax(x, 1),
        [[[-INF, 0.0], [-INF, -INF]]],
        [[0, 1], [NAN, NAN]],
        [[[0, 0], [NAN, NAN]]],
    ),
    "where masks a root": (
        lambda x: tg.where(x > 0, x.sqrt(), 0.0),
        [[0.0, -1.0, 4.0]],
        [0, 0, 2],
        [[0, 0, 0.25]],
    ),
    "where masks a division": (
        lambda x: tg.where(x != 0, 1 / x, 0.0),
        [[0.0, 2.0]],
        [0, 0.5],
        [[0, -0.25]],
    ),
    "where masks the other branch": (
        lambda x: tg.where(x <= 0, 0.0, x.log()),
        [[0.0, 4.0]],
        [0, math.log(4)],
        [[0, 0.25]],
    ),
    "where within where": (
        lambda x: tg.where(x > 0, tg.where(x > 1, (x - 1).sqrt(), x), 0.0),
        [[0.0, 1.0, 2.0]],
        [0, 1, 1],
        [[0, 1, 0.5]],
    ),
    "writing under a mask": (masked_write, [[0.0, 4.0]], [0, math.log(4)], [[0, 0.25]]),
    "multiplying by a mask": (
        lambda x: (x > 0) * (1 / x),
        [[0.0, 2.0]],
        [NAN, 0.5],
        [[NAN, -0.25]],
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name: str, mode: str) -> None:
    function, inputs, value, gradients = GRADIENTS[name]
    tensors = [tg.tensor(x, dtype=tg.float64, requires_grad=True) for x in inputs]
    result = MODES[mode](function)(*tensors)
    same(result.detach().numpy(), value)
    result.backward(tg.ones_like(result))
    for tensor, gradient in zip(tensors, gradients, strict=True):
        same(tensor.grad.numpy(), gradient)


# ---------------------------------------------------------------------------------------- values


def i64(*values: int) -> tg.Tensor:
    return tg.tensor(values)


def f64(*values: float) -> tg.Tensor:
    return tg.tensor(values, dtype=tg.float64)


VALUES: dict[str, tuple[Callable[..., Any], list[tg.Tensor], Any]] = {
    "NaN in a reduction": (
        lambda x: tg.stack([x.sum(), x.amax(), x.prod()]),
        [f64(1, NAN)],
        [NAN] * 3,
    ),
    "median with NaN": (lambda x: x.median(), [f64(1, NAN, 2)], NAN),
    "argmax ties": (lambda x: x.argmax(), [f64(1, 3, 3)], 1),
    "argmax with NaN": (lambda x: x.argmax(), [f64(1, NAN, NAN, 3)], 1),
    "sort ties": (lambda x: x.sort().indices, [f64(2, 1, 2, 1)], [1, 3, 0, 2]),
    "sort descending ties": (lambda x: x.sort(descending=True).indices, [f64(2, 1, 2)], [0, 2, 1]),
    "sort with NaN": (lambda x: x.sort().values, [f64(2, NAN, -INF)], [-INF, 2, NAN]),
    "std": (lambda x: x.std(), [f64(1, 3)], math.sqrt(2)),
    "var with correction": (lambda x: x.var(correction=0), [f64(1, 3)], 1),
    "std of one element": (lambda x: x.std(), [f64(1)], NAN),
    "sum of nothing": (lambda x: tg.stack([x.sum(), x.prod(), x.mean()]), [f64()], [0, 1, NAN]),
    "nan is not equal": (lambda x: x == x, [f64(NAN, 1)], [False, True]),
    "integers divided by zero": (
        lambda x, y: tg.stack([x // y, x % y, x.fmod(y)]),
        [i64(7, -7), i64(0, 0)],
        [[0, 0]] * 3,
    ),
    "floor of a quotient": (
        lambda x, y: tg.stack([x // y, x % y, x.fmod(y)]),
        [i64(-7, 7), i64(3, -3)],
        [[-3, -3], [2, -2], [-1, 1]],
    ),
    "integer power": (lambda x, y: x**y, [i64(2, 1, -1, 3), i64(-1, -2, -3, 4)], [0, 1, -1, 81]),
    "casts truncate": (lambda x: x.to(tg.int32), [f64(1.9, -1.9)], [1, -1]),
    "casts wrap": (lambda x: x.to(tg.uint8), [i64(300, -1)], [44, 255]),
    "casts to bool": (lambda x: x.bool(), [f64(NAN, 0.5, -0.0)], [True, True, False]),
    "true division of integers": (lambda x, y: x / y, [i64(1, 3), i64(2, 0)], [0.5, INF]),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", VALUES)
def test_value(name: str, mode: str) -> None:
    function, inputs, value = VALUES[name]
    same(MODES[mode](function)(*inputs).numpy(), value)


@pytest.mark.parametrize("mode", MODES)
def test_integers_wrap_around(mode: str) -> None:
    def function(x: tg.Tensor) -> list[tg.Tensor]:
        return [x + 1, x * x, -x, x.abs(), x**3]

    big = 2**62 + 1
    numbers = tg.tensor([big, -big, 2**63 - 1])
    for found, exact in zip(
        MODES[mode](function)(numbers),
        [
            [function_of(int(x)) for x in numbers]
            for function_of in (lambda x: x + 1, lambda x: x * x, lambda x: -x, abs, lambda x: x**3)
        ],
        strict=True,
    ):
        # Exact to the last bit, modulo 2**64: nothing goes through a float.
        assert [x % 2**64 for x in found.tolist()] == [x % 2**64 for x in exact]


def test_the_extreme_of_nothing_is_an_error() -> None:
    for function in (lambda x: x.amax(0), lambda x: x.argmax(), lambda x: x.max()):
        for mode in MODES.values():
            with pytest.raises(RuntimeError):
                mode(function)(tg.zeros(0))


@pytest.mark.parametrize("mode", MODES)
def test_no_gradient_through_integers(mode: str) -> None:
    x = tg.tensor([1.5, 2.5], requires_grad=True)
    result = MODES[mode](lambda x: (x.long(), x > 2, x.argmax()))(x)
    assert [y.requires_grad for y in result] == [False, False, False]


# ---------------------------------------------------------------------------------------- dtypes

Expression = Callable[[], tg.Tensor]

DTYPES: dict[str, tuple[Expression, tg.dtype]] = {
    "Python float": (lambda: tg.tensor(1.0), tg.float32),
    "Python int": (lambda: tg.tensor(1), tg.int64),
    "NumPy array": (lambda: tg.tensor(np.zeros(2)), tg.float64),
    "integer and float": (
        lambda: tg.ones(2, dtype=tg.int64) + tg.ones(2, dtype=tg.float16),
        tg.float16,
    ),
    "uint8 and int8": (lambda: tg.ones(2, dtype=tg.uint8) + tg.ones(2, dtype=tg.int8), tg.int16),
    "weak number": (lambda: tg.ones(2, dtype=tg.float16) * 2.5, tg.float16),
    "weak number of a higher kind": (lambda: tg.ones(2, dtype=tg.int8) + 1.5, tg.float32),
    "weak 0-d tensor": (lambda: tg.ones(2) + tg.tensor(1.0, dtype=tg.float64), tg.float32),
    "0-d tensor of a higher kind": (
        lambda: tg.ones(2, dtype=tg.int8) + tg.tensor(1.0, dtype=tg.float64),
        tg.float64,
    ),
    "division of integers": (lambda: i64(1) / i64(2), tg.float32),
    "function of an integer": (lambda: i64(1).exp(), tg.float32),
    "sum of integers": (lambda: tg.ones(2, dtype=tg.int8).sum(), tg.int64),
    "sum of float16": (lambda: tg.ones(2, dtype=tg.float16).sum(), tg.float16),
    "comparison": (lambda: tg.ones(2) > 0, tg.bool),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DTYPES)
def test_dtype(name: str, mode: str) -> None:
    expression, dtype = DTYPES[name]
    assert MODES[mode](expression)().dtype is dtype


def test_default_dtype() -> None:
    tg.set_default_dtype(tg.float64)
    try:
        assert tg.tensor(1.0).dtype is tg.ones(1).dtype is tg.rand(1).dtype is tg.float64
    finally:
        tg.set_default_dtype(tg.float32)
    assert tg.ones(1).dtype is tg.float32


def test_a_python_float_argument_is_weak() -> None:
    scaled = tg.compile(lambda x, rate: x * rate)
    for dtype in (tg.float16, tg.float32, tg.float64):
        assert scaled(tg.ones(2, dtype=dtype), 0.1).dtype is dtype


# ------------------------------------------------------------------------- precision and order


def test_float16_computes_in_float32() -> None:
    x = tg.tensor([1.0], dtype=tg.float16)

    def third(x: tg.Tensor) -> tg.Tensor:
        return x / 3

    def chain(x: tg.Tensor) -> tg.Tensor:
        return (x + 1e-4) * 8192 - 8192

    # A single op rounds alike. Of a fused chain only the end is rounded: 1 + 1e-4 is no float16.
    assert tg.compile(third)(x).item() == third(x).item()
    assert chain(x).item() == 0
    assert tg.compile(chain)(x).item() == pytest.approx(0.8192, rel=1e-2)

    # A cast rounds, on the way in and on the way out.
    for cast in (
        lambda y: y.half().double(),
        lambda y: (y.half() / 3).double(),
        lambda y: (y.half() * y.half()).float().double(),
    ):
        y = tg.tensor([1.0 / 3, 0.1], dtype=tg.float64)
        assert tg.equal(tg.compile(cast)(y), cast(y))


def test_float16_sums_in_more_than_float16() -> None:
    x = tg.full((5000,), 1.0, dtype=tg.float16)
    assert x.sum().item() == tg.compile(lambda x: x.sum())(x).item() == 5000


def test_sums_are_reassociated() -> None:
    x = tg.tensor(np.random.default_rng(0).uniform(size=100_003).astype(np.float32))
    exact = float(np.sum(x.numpy(), dtype=np.float64))
    compiled = tg.compile(lambda x: x.sum())
    first = compiled(x).item()
    # No worse than NumPy's pairwise sum, and the same bits every time.
    assert abs(first - exact) <= max(abs(x.sum().item() - exact), 2e-7 * exact)
    assert compiled(x).item() == first


@pytest.mark.parametrize("mode", MODES)
def test_no_fast_math(mode: str) -> None:
    def function(x: tg.Tensor) -> list[tg.Tensor]:
        return [x * 0, x - x, x / x, x + 0.0]

    product, difference, quotient, total = MODES[mode](function)(f64(INF, -0.0))
    same(product.numpy(), [NAN, -0.0])
    same(difference.numpy(), [NAN, 0])
    same(quotient.numpy(), [NAN, NAN])
    assert not np.signbit(total.numpy()[1])
    assert np.signbit(product.numpy()[1])


def test_random_numbers_are_one_stream() -> None:
    def draw() -> list[tg.Tensor]:
        return [tg.rand(4), tg.randn(3), tg.randint(10, (5,)), tg.randperm(6)]

    compiled = tg.compile(draw)
    for _ in range(2):
        results = []
        for function in (draw, compiled):
            tg.manual_seed(3)
            results.append([x.tolist() for x in (*function(), tg.rand(2))])
        assert results[0] == results[1]
    tg.manual_seed(3)
    halves = tg.cat([tg.rand(2), tg.rand(2)])
    tg.manual_seed(3)
    assert halves.tolist() == tg.rand(4).tolist()


# --------------------------------------------------------------------------- compiled functions


def test_an_index_out_of_range() -> None:
    x = tg.arange(5)
    pick = tg.compile(lambda x, i: x[i])
    assert pick(x, tg.tensor([-2])).item() == 3
    for function in (pick.__wrapped__, pick):
        with pytest.raises(
            IndexError, match="index 7 is out of bounds for dimension 0 with size 5"
        ):
            function(x, tg.tensor([7]))
    with pytest.raises(IndexError, match="index -9 is out of bounds for dimension 0 with size 5"):
        pick(x, tg.tensor([-9]))
    assert pick.statistics.traces == 1


scale = tg.tensor(2.0)
factor = 3


def test_globals_are_read_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    function = tg.compile(lambda x: x * scale * factor)
    x = tg.ones(())
    assert function(x).item() == 6
    monkeypatch.setitem(globals(), "scale", tg.tensor(5.0))
    assert function(x).item() == 15
    assert function.statistics.traces == 1
    monkeypatch.setitem(globals(), "factor", 4)
    assert function(x).item() == 20
    assert function.statistics.traces == 2


def test_floats_are_dynamic() -> None:
    function = tg.compile(lambda x, rate: x * rate)
    for rate in (0.1, 0.2, 0.3):
        assert function(tg.ones(()), rate).item() == pytest.approx(rate)
    assert function.statistics.traces == 1


def test_python_runs_only_while_tracing() -> None:
    seen: list[tg.Tensor] = []
    counts = {"calls": 0}

    def function(x: tg.Tensor) -> tg.Tensor:
        seen.append(x * 2)
        counts["calls"] += 1
        return x + 1

    compiled = tg.compile(function)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for value in (1.0, 2.0, 3.0):
            assert compiled(tg.tensor(value)).item() == value + 1
    # Tensors are put where the function puts them at every call; a number is not counted up.
    assert [x.item() for x in seen] == [2, 4, 6]
    assert counts == {"calls": 1}
    (warning,) = caught
    assert "counts['calls']: 0 -> 1" in str(warning.message)
    assert warning.filename == __file__


def test_a_number_argument_is_a_number() -> None:
    function = tg.compile(lambda n, rate: (isinstance(n, int), isinstance(rate, float), n * rate))
    for n, rate in ((1, 0.5), (2, 0.25)):
        assert function(n, rate) == (True, True, n * rate)
    assert function.statistics.traces == 1


def test_what_the_code_reads_is_a_guard() -> None:
    class Sign(enum.Enum):
        PLUS = 1
        MINUS = -1

    holder = types.SimpleNamespace(sign=Sign.PLUS)
    function = tg.compile(lambda x: x * holder.sign.value)
    for sign in (Sign.PLUS, Sign.MINUS, Sign.PLUS):
        holder.sign = sign
        assert function(tg.ones(())).item() == sign.value
    assert function.statistics.traces == 2


def test_an_exception_on_a_branch() -> None:
    def checked(x: tg.Tensor) -> tg.Tensor:
        x.add_(1)
        assert x.sum() < 10, f"{x.sum():.0f} is too large"
        return x

    function = tg.compile(checked)
    function(tg.ones(1))
    for value in (10.0, 20.0):
        x = tg.tensor([value])
        with pytest.raises(AssertionError, match=f"{value + 1:.0f} is too large"):
            function(x)
        assert x.item() == value


def test_text_of_a_traced_tensor() -> None:
    function = tg.compile(lambda x: str(x * 2))
    texts = {function(tg.tensor([value])) for value in (1.0, 5.0)}
    (text,) = texts
    assert text.startswith("tensor([2.], traced=f32[1] by mul at test_conventions.py:")
    assert function.statistics.traces == 1


def test_a_leaf_made_within_compiled_code() -> None:
    def function(x: tg.Tensor) -> tg.Tensor:
        leaf = x.detach().clone().requires_grad_()
        (leaf * leaf).sum().backward()
        return leaf

    leaf = tg.compile(function)(tg.tensor([3.0], requires_grad=True))
    assert leaf.requires_grad
    assert leaf.is_leaf
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [6]


def test_numpy_within_compiled_code_is_a_guard() -> None:
    function = tg.compile(lambda x: tg.tensor(np.sin(x.numpy())))
    for value in (1.0, 2.0, 1.0):
        assert function(tg.tensor([value])).item() == pytest.approx(math.sin(value))
    assert function.statistics.traces == 2


def test_a_compiled_call_is_one_tape_node() -> None:
    x = tg.ones(2, requires_grad=True)
    square = tg.compile(lambda x: (x * x).sum(), name="square")
    result = square(x)
    assert result.grad_fn.name() == "CompiledFunctionBackward(square)"
    ((following, _),) = result.grad_fn.next_functions
    assert following.name() == "AccumulateGrad"
    (gradient,) = tg.autograd.grad(result, x, create_graph=True)
    (second,) = tg.autograd.grad(gradient.sum(), x)
    assert second.tolist() == [2, 2]


def test_hooks_within_compiled_code() -> None:
    def hooked(x: tg.Tensor) -> tg.Tensor:
        y = x * 2
        y.register_hook(lambda g: g * 10)
        return y.sum()

    def hooked_and_used(x: tg.Tensor) -> tg.Tensor:
        loss = hooked(x)
        loss.backward()
        return loss

    def hooked_argument(x: tg.Tensor) -> tg.Tensor:
        x.register_hook(lambda g: g * 10)
        return x * 2

    def retained(x: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        y = x * 2
        y.retain_grad()
        return y, y.sum()

    x = tg.ones(2, requires_grad=True)
    tg.compile(hooked_and_used)(x)
    assert x.grad.tolist() == [20, 20]
    for function in (hooked, hooked_argument, retained):
        with pytest.raises(RuntimeError, match="outside of it"):
            tg.compile(function)(x)
    # Hooks on arguments and results that are registered outside run as ever.
    x.grad = None
    handle = x.register_hook(lambda g: g + 1)
    result = tg.compile(lambda x: x * 2)(x)
    result.register_hook(lambda g: g * 10)
    result.retain_grad()
    result.sum().backward()
    assert x.grad.tolist() == [21, 21]
    assert result.grad.tolist() == [10, 10]
    handle.remove()


def test_results_have_memory_of_their_own() -> None:
    def function(x: tg.Tensor) -> tuple[tg.Tensor, ...]:
        y = x * 2
        return y, y.view(1, 2), x[:1], y

    x = tg.ones(2)
    for mode, shared in (("eager", True), ("compiled", False)):
        y, view, part, again = MODES[mode](function)(x)
        assert np.shares_memory(y.numpy(), view.numpy()) is shared
        assert np.shares_memory(part.numpy(), x.numpy())
        assert again is y


# ------------------------------------------------------------------ other differences from PyTorch


def test_the_reciprocal_is_a_division() -> None:
    assert (1 / tg.ones(2, requires_grad=True)).grad_fn.name() == "DivBackward0"


def test_names_of_functions_made_of_others() -> None:
    x = tg.ones(2, requires_grad=True)
    assert x.frac().grad_fn.name() == "SubBackward0"
    assert tg.logit(x).grad_fn.name() == "SubBackward0"
    assert tg.nan_to_num(x).grad_fn.name() == "WhereBackward0"
    batch = tg.ones(2, 2, 2, requires_grad=True)
    assert (batch @ batch).grad_fn.name() == "BmmBackward0"


def test_writing_into_a_view_has_no_prefix() -> None:
    a = tg.ones(2, requires_grad=True) * 1
    a[0] = 3.0
    assert a.grad_fn.name() == "CopySlices"


def test_out_of_another_shape_is_an_error() -> None:
    out = tg.full((3,), 7.0)
    with pytest.raises(ValueError, match="out= has shape"):
        tg.add(tg.ones(2), 1, out=out)
    assert out.tolist() == [7, 7, 7]
    empty = tg.empty(0)
    tg.add(tg.ones(2), 1, out=empty)
    assert empty.tolist() == [2, 2]


def test_inference_mode_is_no_grad() -> None:
    with tg.inference_mode():
        made = tg.ones(2)
    made += 1
    x = tg.ones(2, requires_grad=True)
    (made * x).sum().backward()
    assert x.grad.tolist() == [2, 2]


@pytest.mark.parametrize("mode", MODES)
def test_an_in_place_operation_may_read_what_it_writes(mode: str) -> None:
    def function(x: tg.Tensor) -> tg.Tensor:
        y = x * 1
        y *= y
        y.tanh_().relu_()
        y.mul_(y)
        return y.sum()

    x = tg.tensor([0.5], dtype=tg.float64, requires_grad=True)
    MODES[mode](function)(x).backward()
    y = math.tanh(0.25)
    same(x.grad.numpy(), [2 * y * (1 - y * y) * 2 * 0.5])


def test_floor_division_has_gradient_zero() -> None:
    x = tg.tensor([7.0], requires_grad=True)
    (x // 2).sum().backward()
    assert x.grad.tolist() == [0]


def test_errors_name_the_line() -> None:
    with pytest.raises(
        RuntimeError, match=r"test_conventions\.py:\d+: tg\.ones\(3\) \+ tg\.ones\(2\)"
    ):
        tg.ones(3) + tg.ones(2)


def test_python_random_is_not_seen() -> None:
    function = tg.compile(lambda x: x * random.random())
    assert function(tg.ones(())).item() == function(tg.ones(())).item()


# -------------------------------------------------------------------------------- the document


def test_every_row_has_its_test_and_every_test_its_row() -> None:
    text = (Path(__file__).parent.parent / "docs" / "conventions.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and "`test_" in line]
    named = {match for row in rows for match in re.findall(r"`(test_\w+(?:\[[^\]]+\])?)`", row)}
    tables = {"test_gradient": GRADIENTS, "test_value": VALUES, "test_dtype": DTYPES}
    expected = {f"{test}[{name}]" for test, table in tables.items() for name in table}
    expected |= {name for name in globals() if name.startswith("test_") and name not in tables}
    expected.remove("test_every_row_has_its_test_and_every_test_its_row")
    assert named == expected
