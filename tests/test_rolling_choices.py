"""Items of lists at the index of a rolled loop."""

from __future__ import annotations

import types

import numpy as np
import pytest

import tracegrad as tg
from tests.test_rolling import X, check, tensor


def weights(count=12):
    return [tensor(np.random.default_rng(i).normal(size=5)) for i in range(count)]


def with_items(function):
    """The function of tensors that makes a list of all but the first."""
    return lambda x, *items: function(x, list(items))


def agrees(function, *, rolled=True, traces=1, count=12):
    return check(
        with_items(function),
        [(X, *weights(count))] * 2,
        rolled=rolled,
        traces=traces if rolled else None,
    )


def test_each_item():
    def f(x, ws):
        for i in range(len(ws)):
            x = (x * ws[i]).tanh() + ws[-1 - i] * 0.1
        return x

    compiled = agrees(f)
    assert compiled.ir().split("_backward")[0].count("tanh(") == 1


def test_a_list_argument():
    def f(x, ws):
        for i in range(len(ws)):
            x = (x * ws[i]).tanh()
        return x

    compiled = tg.compile(f)
    for _ in range(2):
        found = []
        for function in (f, compiled):
            x, ws = tensor(X.detach().numpy()), weights()
            y = function(x, ws)
            y.sum().backward()
            found.append([y.detach().numpy(), x.grad.numpy(), *(w.grad.numpy() for w in ws)])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9)
    assert compiled.statistics.traces == 1
    assert "while_loop(" in compiled.ir()


def test_lists_in_an_object():
    def f(x, ws):
        model = types.SimpleNamespace(ws=ws, rates=[0.1 * i for i in range(12)])
        for i in range(12):
            x = (x * model.ws[i]).tanh() + model.rates[11 - i]
        return x

    agrees(f)


def test_computed_indices():
    def f(x, ws):
        for i in range(20):
            x = (x * ws[(i * i) % 7] + ws[i // 2]).tanh() + ws[3] * 0.1
        return x

    agrees(f)


def test_while():
    def f(x, ws):
        i = 0
        while i < 30 and (x * x).sum() < 1000:
            x = x * 1.1 + ws[i % len(ws)] * 0.1
            i += 1
        return x

    agrees(f)


def test_what_another_loop_appended():
    def f(x, ws):
        out = []
        for i in range(12):
            x = (x * ws[i]).tanh()
            out.append(x)
        for i in range(12):
            x = x * 0.9 + out[i] * out[11 - i]
        return x

    compiled = agrees(f)
    assert compiled.ir().split("_backward")[0].count("concatenate(") == 1


def test_nested_loops():
    def f(x, ws):
        for i in range(9):
            for j in range(12):
                x = (x * ws[j] + ws[i]).tanh()
        return x

    compiled = agrees(f)
    assert compiled.ir().split("_backward")[0].count("concatenate(") == 1


def test_paths():
    def f(x, ws):
        for i in range(12):
            if ws[i].sum() > 0:
                x = x + ws[i] * 0.1
            else:
                x = x * 0.5 + ws[i - 1] * x
        return x

    agrees(f)


def test_explicit_forms_within():
    def f(x, ws):
        for i in range(12):
            x = tg.cond(
                x.sum() > 0,
                lambda x, w, all: x - w * 0.1 + all[2],
                lambda x, w, all: x + all[1],
                x,
                ws[i],
                ws,
            )
        return x

    agrees(f)


def test_second_derivatives():
    def f(x, *ws):
        ws = list(ws)
        for i in range(len(ws)):
            x = (x * ws[i]).sin()
        return x.sum()

    found = []
    for function in (f, tg.compile(f)):
        ws = weights()
        first = tg.autograd.grad(function(X, *ws), ws, create_graph=True)
        second = tg.autograd.grad(sum((g * g).sum() for g in first), ws)
        found.append([g.numpy() for g in second])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-12)


def test_an_index_out_of_range():
    def f(x, *ws):
        ws = list(ws)
        for i in range(13):
            x = x * ws[i]
        return x

    for function in (f, tg.compile(f)):
        with pytest.raises(IndexError):
            function(X, *weights())


# ------------------------------------------------------------------ what stays as it is


def test_an_item_that_is_changed_in_place():
    def f(x, ws):
        ws = [w.detach() * 1 for w in ws]
        for i in range(12):
            ws[i].mul_(2)
            x = x + ws[i]
        return x, sum(ws)

    agrees(f, rolled=False)


def test_an_item_that_is_set():
    def f(x, ws):
        for i in range(12):
            ws[i] = ws[i - 1] * 0.5 + x
        return x, sum(ws)

    agrees(f, rolled=False)


def test_another_item_that_is_set():
    def f(x, ws):
        for i in range(12):
            ws[3] = ws[3] * 0.5 + x
            x = x * 0.9 + ws[i]
        return x, sum(ws)

    agrees(f, rolled=False)


def test_different_shapes():
    def f(x, ws):
        ws = [*ws, x.sum()]
        for i in range(12):
            x = x * 0.9 + ws[i]
        return x

    agrees(f, rolled=False)


def test_layers():
    def f(x, ws):
        layers = [types.SimpleNamespace(w=w) for w in ws]
        for i in range(12):
            x = x * 0.9 + layers[i].w
        return x

    agrees(f, rolled=False)
