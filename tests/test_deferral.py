"""While a function is recorded, only what somebody asks for is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tests.test_ops import BY_OP, arrangements
from tracegrad.ir.op import Array
from tracegrad.tracer import deferral
from tracegrad.tracer.deferral import Deferrals
from tracegrad.tracer.dispatch import Call, apply
from tracegrad.tracer.views import VIEWS


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what was computed after it had waited."""
    found: list[tuple[int, ...]] = []
    fill = Deferrals._fill

    def noted(self: Deferrals, waiting: Any) -> None:
        found.append(deferral._alive(waiting)[0].shape)
        fill(self, waiting)

    monkeypatch.setattr(Deferrals, "_fill", noted)
    return found


def data(*shape: int) -> tg.Tensor:
    return tg.tensor(np.random.default_rng(len(shape)).standard_normal(shape), dtype=tg.float64)


def agrees(function: Callable[..., Any], *args: Any) -> None:
    """The first call, the second, and eager code give the same."""
    compiled = tg.compile(function)
    for _ in range(2):
        np.testing.assert_allclose(compiled(*args).numpy(), function(*args).numpy(), rtol=1e-12)


def network(w: tg.Tensor, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    return tg.nn.functional.cross_entropy(tg.tanh(x @ w), y)


def test_a_function_without_conditions_computes_nothing(computed: list[Any]) -> None:
    w, x, y = data(5, 3), data(7, 5), tg.tensor([0, 1, 2, 0, 1, 2, 0])
    compiled = tg.compile(tg.value_and_grad(network))
    value, gradient = compiled(w, x, y)
    assert not computed
    expected, expected_gradient = tg.value_and_grad(network)(w, x, y)
    np.testing.assert_allclose(value.numpy(), expected.numpy(), rtol=1e-12)
    np.testing.assert_allclose(gradient.numpy(), expected_gradient.numpy(), rtol=1e-10)


def test_a_condition_computes_what_it_needs(computed: list[Any]) -> None:
    def f(x: tg.Tensor) -> tg.Tensor:
        unasked = (x @ x).exp()
        if x.sum() > 0:
            return unasked.sin()
        return unasked.cos()

    agrees(f, tg.ones(4, 4, dtype=tg.float64))
    assert computed == [(), ()]


def test_backward_inside_computes_nothing(computed: list[Any]) -> None:
    def f(x: tg.Tensor) -> Any:
        x = x.detach().requires_grad_()
        (x.sin() @ x).sum().backward()
        return x.grad

    agrees(f, data(4, 4))
    assert not computed


def test_a_tensor_that_leaves_by_a_way_of_its_own_has_its_value() -> None:
    kept: list[Any] = []

    def hide(value: Any) -> None:
        # Not by the names that the function can reach.
        (lambda: globals().setdefault("hidden", []))().append(value)
        kept.append(value)

    def f(x: tg.Tensor) -> tg.Tensor:
        y = x.exp()
        hide(y)
        hide(y[1:])
        hide(y.T @ y)
        return (y * 2).sum()

    x = data(3, 3)
    tg.compile(f)(x)
    y = np.exp(x.numpy())
    for found in (kept, globals().pop("hidden")):
        for tensor, expected in zip(found, (y, y[1:], y.T @ y), strict=True):
            np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=1e-12)


def test_a_tensor_that_an_exception_carries_has_its_value() -> None:
    class OwnError(Exception):
        pass

    def f(x: tg.Tensor) -> tg.Tensor:
        raise OwnError(x.exp())

    x = data(3)
    with pytest.raises(OwnError) as caught:
        tg.compile(f)(x)
    np.testing.assert_allclose(caught.value.args[0].numpy(), np.exp(x.numpy()))


def test_values_are_those_from_before_a_write() -> None:
    def f(x: tg.Tensor) -> tg.Tensor:
        before = x * 3
        made = x.clone()
        half = made[0] * 0.5
        made[0] = 7.0
        made += half
        return before + made

    agrees(f, data(3, 2))


def test_values_are_those_from_before_numpy_has_the_memory() -> None:
    seen = []

    def f(x: tg.Tensor) -> tg.Tensor:
        y = x.exp()
        before = y * 3
        array = y.numpy()
        array[0] = 0
        seen.append(before.tolist())
        return y.sum()

    x = data(3)
    tg.compile(f)(x)
    np.testing.assert_allclose(seen[0], 3 * np.exp(x.numpy()))


@pytest.mark.parametrize("order", ["rows", "columns", "steps", "repeated"])
def test_strides_are_those_of_eager_code(order: str) -> None:
    x = data(4, 6)
    x = {"rows": x, "columns": x.T, "steps": x[::2, ::3], "repeated": x[:, :1].expand(4, 6)}[order]
    functions = (
        lambda x: x + 1,
        lambda x: tg.exp(x) * x.sum(0),
        lambda x: x @ x.T,
        lambda x: x.sort(1, descending=True)[0],
        lambda x: x.flip(0),
        lambda x: x.sum(0, keepdim=True),
        lambda x: tg.where(x > 0, x, 0.0),
        lambda x: x.reshape(-1),
    )
    for f in functions:
        strides = []

        def g(x: tg.Tensor, f: Any = f, strides: Any = strides) -> tg.Tensor:
            strides.append(layout(f(x)._array))
            return f(x)

        tg.compile(g)(x)
        assert strides == [layout(f(x)._array)]


def layout(array: Array) -> list[tuple[int, int]]:
    """Size and stride of the axes that are longer than 1."""
    return [pair for pair in zip(array.shape, array.strides, strict=True) if pair[0] > 1]


def test_memory_that_waits_is_laid_out_as_that_of_eager_code() -> None:
    known = 0
    # No tensor is computed by these while a function is recorded.
    apart = VIEWS | {"transfer", "detach", "settled"}
    for calls in BY_OP.values():
        for call in calls:
            (output,) = call.graph().outputs
            if not deferral.may_wait(call.op, output.type) or call.op.name in apart:
                continue
            for arrays in arrangements(call):
                tensors = [tg.from_numpy(array) for array in arrays]
                memory = deferral.memory_for(Call(call.op, tensors, call.params), arrays)
                if memory is not None:
                    known += 1
                    eager = apply(call.op, tensors, call.params)
                    assert layout(memory) == layout(eager.numpy()), call
    assert known > 1000


def test_a_long_chain_is_no_deep_recursion() -> None:
    def f(x: tg.Tensor) -> tg.Tensor:
        y = x
        for _ in range(3000):
            y = y * 0.999 + x
        return y if y.sum() > 0 else -y

    compiled = tg.compile(f, roll=False)
    x = tg.ones(2, dtype=tg.float64)
    np.testing.assert_allclose(compiled(x).numpy(), f(x).numpy(), rtol=1e-10)


def test_a_loop_that_is_rolled_waits_as_one(computed: list[Any]) -> None:
    def f(x: tg.Tensor) -> tg.Tensor:
        y = total = x
        for _ in range(500):
            y = y * 0.9 + x
            total = total + y
        return total + y

    agrees(f, tg.ones(3, dtype=tg.float64))
    # The values with which its body is tried, and not those of its rounds.
    assert len(computed) <= 4


def test_results_of_a_loop_that_leave_have_their_values() -> None:
    kept = []

    def f(x: tg.Tensor) -> tg.Tensor:
        n, y = tg.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] * 2), (0, x))
        kept.extend([y, y + n])
        return y.sum()

    tg.compile(f)(tg.ones(2))
    assert [x.tolist() for x in kept] == [[32.0, 32.0], [37.0, 37.0]]


def test_what_nobody_holds_is_not_computed(computed: list[Any]) -> None:
    def f(x: tg.Tensor) -> tg.Tensor:
        for _ in range(3):
            x.exp()
        return x + 1

    tg.compile(f)(data(3))
    assert not computed


def test_a_printed_tensor_has_its_value() -> None:
    texts = []

    def f(x: tg.Tensor) -> tg.Tensor:
        texts.append(str(x * 2))
        return x + 1

    tg.compile(f)(tg.tensor([1.0, 2.0]))
    assert "2., 4." in texts[0]


def test_another_thread_is_not_concerned() -> None:
    results = []

    def f(x: tg.Tensor) -> tg.Tensor:
        thread = threading.Thread(target=lambda: results.append((tg.ones(3) * 2).tolist()))
        thread.start()
        thread.join()
        return x.sin()

    tg.compile(f)(data(3))
    assert results == [[2.0, 2.0, 2.0]]


@pytest.fixture(autouse=True)
def nothing_waits_outside_of_a_recording() -> Iterator[None]:
    yield
    assert deferral.state.deferrals is None
