"""Loops that append to lists, rolled: the lists hold rows of what the loop stacked."""

from __future__ import annotations

import types

import numpy as np
import pytest

import tracegrad as tg
from tests.test_rolling import X, check, tensor

SEQUENCE = tensor(np.random.default_rng(1).normal(size=(20, 5)))
W = tensor(0.3 * np.random.default_rng(0).normal(size=(5, 5)))
BOTH = [(W, SEQUENCE)] * 3


def states(w, xs):
    out = []
    h = xs[0] * 0
    for t in range(len(xs)):
        h = (w @ h + xs[t]).tanh()
        out.append(h)
    return out, h


# ------------------------------------------------------------------ what becomes of the list

USES = {
    "stack": lambda out, h: (tg.stack(out), h),
    "stack along the last axis": lambda out, h: tg.stack(out, dim=-1),
    "cat": lambda out, h: tg.cat(out),
    "sum": lambda out, h: sum(out),
    "the last": lambda out, h: out[-1] * h,
    "returned": lambda out, h: (out, h),
    "some items": lambda out, h: out[3] * out[7] + out[-2],
    "iteration": lambda out, h: [x * i for i, x in enumerate(out)],
    "a slice": lambda out, h: tg.stack(out[5:15]).sum(0),
    "reversed": lambda out, h: tg.stack(out[::-1]),
    "the length": lambda out, h: tg.stack(out).sum() / len(out),
    "appended to": lambda out, h: tg.stack([*out, h * 2, h * 3]),
    "nothing": lambda out, h: h,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_uses(use):
    check(lambda w, xs: use(*states(w, xs)), BOTH, traces=1)


def test_the_last_item_is_the_variable():
    def f(w, xs):
        out, h = states(w, xs)
        assert out[-1] is h
        assert type(out) is list
        return out, h

    compiled = check(f, BOTH, traces=1)
    out, h = compiled(W, SEQUENCE)
    assert out[-1] is h


@pytest.mark.parametrize("join", [tg.stack, tg.cat])
@pytest.mark.parametrize("dim", [0, 1])
def test_what_is_joined_costs_the_same_for_all_lengths(join, dim):
    def f(w, xs):
        out, _ = states(w, xs)
        return join([x.reshape(1, 5) for x in out], dim)

    nodes = []
    for length in (20, 200):
        xs = tensor(np.random.default_rng(1).normal(size=(length, 5)))
        compiled = check(f, [(W, xs)], traces=1)
        (found,) = compiled.specialisations
        programs = [each.program for each in found.tree.walk()]
        graphs = [p.forward_graph for p in programs] + [p.backward_graph for p in programs]
        nodes.append([len(graph.nodes) for graph in graphs])
        assert all(len(graph.nodes) < 40 for graph in graphs)
        assert all("concatenate(" not in text for text in (compiled.ir(),))
    assert nodes[0] == nodes[1]


def test_each_item_gets_its_own_gradient():
    compiled = tg.compile(states)
    for items in ([0], [19], [3, 7, 8], range(20)):
        gradients = []
        for function in (states, compiled):
            w, xs = tensor(W.detach().numpy()), tensor(SEQUENCE.detach().numpy())
            out, _ = function(w, xs)
            sum((out[i] * out[i]).sum() * (i + 1) for i in items).backward()
            gradients.append((w.grad.numpy(), xs.grad.numpy()))
        for a, b in zip(*gradients, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def test_second_derivatives():
    def f(w, xs):
        out, h = states(w, xs)
        return (tg.stack(out) ** 2).sum() + h.sum()

    found = []
    for function in (f, tg.compile(f)):
        w = tensor(W.detach().numpy())
        (first,) = tg.autograd.grad(function(w, SEQUENCE), w, create_graph=True)
        found.append(tg.autograd.grad((first * first).sum(), w)[0].numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


def test_backward_within():
    def train(w, xs):
        w.grad = None
        out, _ = states(w, xs)
        (tg.stack(out) ** 2).sum().backward()
        with tg.no_grad():
            w -= 0.01 * w.grad
        return w.detach().clone()

    compiled = tg.compile(train)
    a, b = tensor(W.detach().numpy()), tensor(W.detach().numpy())
    for _ in range(3):
        np.testing.assert_allclose(
            compiled(b, SEQUENCE.detach()).numpy(), train(a, SEQUENCE.detach()).numpy(), rtol=1e-9
        )
    assert compiled.statistics.traces == 1
    assert "while_loop(" in compiled.ir()


def test_a_memory_budget():
    def f(w, xs):
        return (tg.stack(states(w, xs)[0]) ** 2).sum()

    compiled = tg.compile(f, memory_budget=200)
    found = []
    for function in (f, compiled):
        w, xs = tensor(W.detach().numpy()), tensor(SEQUENCE.detach().numpy())
        function(w, xs).backward()
        found.append((w.grad.numpy(), xs.grad.numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9)


# ------------------------------------------------------------------ how it is appended


def test_rows_of_a_tensor():
    def f(w, xs):
        out = []
        h = xs[0] * 0
        for x in xs:
            h = (w @ h + x).tanh()
            out.append(h * 2)
        return tg.stack(out), h

    check(f, BOTH, traces=1)


def test_a_list_with_items():
    def f(x):
        path = [x, x * 2]
        for i in range(15):
            path.append((path[-1] * 0.9 + i * 0.1 + path[0] * 0.1).sin())
        return tg.stack(path), path[-1]

    check(f, [(X,)] * 3, traces=1)


def test_before_it_changes():
    def f(x):
        first = x
        seen = []
        for _ in range(15):
            seen.append(x)
            x = x.sin() + 0.1
        assert seen[0] is first
        return tg.stack(seen), x, seen[0]

    check(f, [(X,)] * 3, traces=1)


def test_several_lists():
    def lstm(w, xs):
        h, c = xs[0] * 0, xs[0] * 0
        hs, cs, both, scalars = [], [], [], []
        for x in xs:
            z = w @ h + x
            c = c * z.sigmoid() + z.tanh()
            h = c.tanh() * z.sigmoid()
            hs.append(h)
            cs.append(c)
            both.append(h)
            both += [c]
            both.extend([h + c])
            scalars.append(h.sum())
        assert both[0] is hs[0]
        assert both[-2] is c
        return tg.stack(hs), tg.stack(cs), tg.stack(both), tg.stack(scalars), h, c

    check(lstm, BOTH, traces=1)


def test_one_tensor_in_two_lists():
    def f(x):
        a, b, c = [], [], []
        for _ in range(12):
            x = x.sin()
            y = x * 2
            a.append(y)
            b.append(y)
            c.append(y + 0)
        assert a[3] is b[3]
        assert a[3] is not c[3]
        return a, b, c

    compiled = check(f, [(X,)] * 2, traces=1)
    a, b, c = compiled(X)
    assert a[3] is b[3]
    assert a[3] is not c[3]


def test_lists_in_objects():
    def f(x):
        model = types.SimpleNamespace(history=[], log={"x": []})
        for i in range(12):
            x = x.sin() + i * 0.01
            model.history.append(x)
            model.log["x"].append(x.sum())
        return tg.stack(model.history), tg.stack(model.log["x"])

    check(f, [(X,)] * 2, traces=1)


def test_a_method_that_appends():
    class Cell:
        def __init__(self, w):
            self.w = w
            self.states = []

        def __call__(self, h):
            h = (self.w @ h).tanh() + h
            self.states.append(h)
            return h

    def f(w, x):
        cell = Cell(w)
        for _ in range(12):
            x = cell(x)
        return tg.stack(cell.states), x

    check(f, [(W, X)] * 2, traces=1)


def test_a_list_of_the_caller():
    def f(x, out):
        for _ in range(12):
            x = x.sin() + 0.1
            out.append(x)
        return x

    compiled = tg.compile(f)
    for _ in range(3):
        given, wanted = [X * 2], [X * 2]
        same, plain = compiled(X, given), f(X, wanted)
        assert type(given) is list
        assert len(given) == len(wanted)
        for a, b in zip([*given, same], [*wanted, plain], strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-12)
    assert "while_loop(" in compiled.ir()
    assert compiled.statistics.traces == 1


def test_numbers():
    def f(x):
        places, sums, total = [], [], 0
        for i in range(12):
            total += i
            places.append(i)
            sums.append(total)
            x = x * 0.9 + total
        return x, places, sums

    check(f, [(X,)] * 2, traces=1)


def test_random_numbers():
    def f(x):
        out = []
        for _ in range(12):
            x = x + 0.1 * tg.randn(5, dtype=tg.float64)
            out.append(x)
        return tg.stack(out), tg.rand(1)

    check(f, [(X,)] * 3, traces=1)


def test_nested_loops_with_a_list_each():
    def f(x):
        outer = []
        for i in range(9):
            inner = []
            for j in range(10):
                x = x * 0.9 + i * 0.1 + j * 0.01
                inner.append(x)
            outer.append(tg.stack(inner).mean(0))
        return tg.stack(outer), x

    compiled = check(f, [(X,)] * 2, traces=1)
    assert compiled.ir().split("_backward")[0].count("while_loop(") >= 2


def test_one_list_for_nested_loops():
    def f(x):
        out = []
        for i in range(9):
            for j in range(10):
                x = x * 0.9 + i * 0.1 + j * 0.01
                out.append(x)
            out.append(x * 2)
        return tg.stack(out), x

    check(f, [(X,)] * 2, traces=1)


def test_paths():
    def f(x):
        out = []
        for i in range(30):
            if (x * x).sum() > 3:
                x = x * 0.5
                out.append(x)
            elif i % 7 == 3:
                x = x + 0.2
                out.append(x)
                continue
            else:
                x = x + 0.3
                out.append(x)
        return tg.stack(out), x

    calls = [(X,), (X * 2,), (X * 0.1,), (X * -3,)]
    check(f, [(tensor(x.detach().numpy()),) for (x,) in calls for _ in range(2)], settled=8)


# ------------------------------------------------------------------ what stays as it is


def unrolled(function, *arguments, reason=""):
    compiled = check(function, [arguments] * 2, rolled=False)
    assert reason in compiled.explain()
    return compiled


def test_a_length_that_is_not_known():
    def f(x, n):
        out = []
        for _ in range(n):
            x = x * 0.9
            out.append(x)
        return tg.stack(out)

    check(f, [(X, n) for n in (10, 3, 20)], rolled=False)


def test_while():
    def f(x):
        out = []
        while x.sum() > 1:
            x = x * 0.9
            out.append(x)
        return out

    unrolled(f, X, reason="out grows, and how many iterations there are is not known")


LOOKS = {
    "len": lambda out, x: x * len(out),
    "truth": lambda out, x: x * 2 if out else x,
    "iteration": lambda out, x: sum(out, x) * 0.1,
    "stack": lambda out, x: x + tg.stack([x, *out]).mean(0),
    "an index from the end": lambda out, x: x + out[-2] if out[1:] else x,
    "in": lambda out, x: x + (1 if any(y is x for y in out) else 0),
    "a sum of lists": lambda out, x: x * len([1, *out]),
    "comparison": lambda out, x: x + 1 if out == [] else x,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_an_iteration_that_looks_at_the_list(look):
    def f(x):
        out = []
        for _ in range(12):
            x = look(out, x).sin()
            out.append(x)
        return tg.stack(out), x

    unrolled(f, X, reason="its body looks at out, which it appends to")


def test_a_copy_of_the_list():
    def f(x):
        out = []
        copies = []
        for _ in range(12):
            x = x.sin()
            out.append(x)
            copies = list(out)
        return tg.stack(copies)

    unrolled(f, X)


def test_a_new_list_each_time():
    def f(x):
        first = out = []
        for _ in range(12):
            x = x.sin()
            out = [*out, x]
        return tg.stack(out), len(first)

    unrolled(f, X)


def test_now_and_then():
    def f(x):
        out = []
        for i in range(12):
            x = x.sin()
            if i % 3 == 0:
                out.append(x)
        return tg.stack(out)

    unrolled(f, X)


def test_different_types():
    def f(x):
        out = []
        for _ in range(12):
            x = x.sin()
            out.append(x)
            out.append(x.sum())
        return out

    unrolled(f, X, reason="it appends values of different types to out")


def test_break():
    def f(x):
        out = []
        for i in range(40):
            x = x * 0.9
            out.append(x)
            if x.sum() < 1 + i * 0.001:
                break
        return tg.stack(out).sum(0), len(out)

    compiled = tg.compile(f)
    for scale in (1.0, 3.0, 0.2, 1.0, 300.0, 5.0):
        x = tensor(X.detach().numpy() * scale)
        wanted, found = f(x), compiled(x)
        np.testing.assert_allclose(found[0].detach().numpy(), wanted[0].detach().numpy())
        assert found[1] == wanted[1]


def test_return():
    def f(x):
        out = []
        for _ in range(40):
            if x.sum() < 1:
                return out[-1] if out else x, len(out)
            x = x * 0.9
            out.append(x)
        return tg.stack(out).sum(0), len(out)

    compiled = tg.compile(f)
    for scale in (300.0, 1.0, 3.0, 0.2, 1.0, 300.0, 5.0):
        x = tensor(X.detach().numpy() * scale)
        wanted, found = f(x), compiled(x)
        np.testing.assert_allclose(found[0].detach().numpy(), wanted[0].detach().numpy())
        assert found[1] == wanted[1]


def test_memory_that_is_changed_in_place():
    def f(x):
        out = []
        buffer = x * 1
        for i in range(12):
            buffer += i
            out.append(buffer)
        return sum(out), tg.stack(out)

    unrolled(f, X.detach())


def test_what_was_there_before():
    def f(x, y):
        out = []
        for _ in range(12):
            x = x * 0.9
            out.append(y)
        y += 1
        return tg.stack(out), x

    unrolled(f, X, X.detach() * 2, reason="it appends what was there before the loop")


def test_views_of_what_was_there_before():
    def f(xs):
        out = []
        for i in range(12):
            out.append(xs[i])
        xs += 1
        return tg.stack(out)

    unrolled(f, SEQUENCE.detach())


def test_items_that_are_changed_afterwards():
    def f(x):
        out = []
        for _ in range(12):
            x = x.sin()
            out.append(x)
        out[3] *= 2
        x += 1
        return tg.stack(out)

    unrolled(f, X.detach(), reason="a tensor that it appends to a list is changed in place")


def test_a_view_of_a_variable_that_is_changed_afterwards():
    def f(x, change):
        out = []
        for i in range(12):
            x = x.sin()
            out.append(x[1:] if i >= 0 else x)
        if change:
            x += 1
        return tg.stack(out), x

    check(f, [(X, False)] * 2)
    unrolled(f, X.detach(), True, reason="a tensor that it appends to a list is changed in place")


def test_rows_themselves():
    def f(xs):
        out = []
        for row in xs:
            out.append(row)
        xs += 1
        return tg.stack(out)

    unrolled(f, SEQUENCE.detach(), reason="it appends what was there before the loop")


def test_an_exception_in_an_iteration():
    def f(x, out):
        for i in range(12):
            x = x.sin()
            out.append(x)
            if i == 2:
                raise ValueError("stop")
        return x

    compiled = tg.compile(f)
    given = []
    with pytest.raises(ValueError, match="stop"):
        compiled(X, given)
    assert type(given) is list
    assert len(given) in (0, 3)


def test_a_loop_that_is_left_in_its_third_iteration():
    def f(x, n):
        out = []
        for i in range(12):
            x = x.sin()
            out.append(x)
            if i == n:
                break
        return tg.stack(out), len(out), type(out) is list

    for n in range(5):
        compiled = tg.compile(f)
        for _ in range(2):
            wanted, found = f(X, n), compiled(X, n)
            np.testing.assert_allclose(found[0].detach().numpy(), wanted[0].detach().numpy())
            assert found[1:] == wanted[1:]
