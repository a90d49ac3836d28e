"""`vmap` against an explicit loop over the rows: values, gradients, eagerly and compiled."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.errors import (
    ArgumentError,
    BoundsError,
    DimError,
    GradError,
    ShapeError,
    TraceError,
)

Function = Callable[..., Any]
_rng = np.random.default_rng(11)


def tensor(*shape: int) -> tg.Tensor:
    return tg.tensor(_rng.normal(size=shape), dtype=tg.float64)


def looped(f: Function) -> Function:
    """`vmap(f)` for tensors with the rows in front, one row after the other."""

    def wrapper(*xs: tg.Tensor) -> tg.Tensor:
        return tg.stack([f(*(x[i] for x in xs)) for i in range(len(xs[0]))])

    return wrapper


def close(found: Any, wanted: Any) -> None:
    assert found.dtype is wanted.dtype
    found, wanted = found.detach().numpy(), wanted.detach().numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


X = tensor(3, 4)
Y = tensor(3, 4)
N = tg.tensor([1, 3, 0])
W = tensor(4, 4)


def written(r: tg.Tensor) -> tg.Tensor:
    y = r * 2
    y[0] = 5.0
    y[1:3] += r[:2]
    return y


def written_at(r: tg.Tensor, n: tg.Tensor) -> tg.Tensor:
    y = r.clone()
    y[n] = r[n] * r[0]
    return y


def newton(a: tg.Tensor) -> tg.Tensor:
    def step(state: Any) -> Any:
        x, _ = state
        new = 0.5 * (x + (a * a + 1) / x)
        return new, (new - x).abs().max()

    return tg.while_loop(lambda s: s[1] > 1e-9, step, (a.abs() + 1, a.sum() * 0 + 1.0))[0]


def collatz_like(r: tg.Tensor) -> tg.Tensor:
    def step(x: tg.Tensor) -> tg.Tensor:
        return tg.cond(x.sum() > 2, lambda x: x * 0.5, lambda x: x.cumsum(0).exp() + 0.1, x)

    return tg.fori_loop(0, 4, lambda i, x: step(x), r)


PROGRAMS: dict[str, tuple[Function, tuple[tg.Tensor, ...]]] = {
    "elementwise": (lambda r, s: tg.sin(r) * s + 1.0, (X, Y)),
    "reduction": (lambda r: r.sum() / r.std(), (X,)),
    "dot": (lambda r, s: r @ s, (X, Y)),
    "captured matrix": (lambda r: tg.tanh(W @ r), (X,)),
    "captured matrix on the right": (lambda r: tg.tanh(r @ W), (X,)),
    "outer": (lambda r, s: tg.outer(r, s), (X, Y)),
    "movement": (lambda r: tg.cat([r.reshape(2, 2).T.reshape(-1), r.flip(0)[1:]]), (X,)),
    "softmax": (lambda r: tg.softmax(r, 0), (X,)),
    "cumsum": (lambda r: r.cumsum(0), (X,)),
    "sort": (lambda r: r.sort()[0] * r, (X,)),
    "where": (lambda r: tg.where(r > 0, tg.exp(r), r * r), (X,)),
    "index": (lambda r, n: r[n] * r, (X, N)),
    "write": (written, (X,)),
    "write at an index": (written_at, (X, N)),
    "result without the row": (lambda r: W[0] * 2, (X,)),
    "no grad within": (lambda r: (r.detach() * r).sum() + r[0], (X,)),
    "cond": (
        lambda r: tg.cond(r.sum() > 0, lambda r: tg.sin(r) * 2, lambda r: r.cumsum(0), r),
        (X,),
    ),
    "cheap cond": (lambda r: tg.cond(r[0] > 0, lambda r: tg.sin(r), lambda r: r * r, r), (X,)),
    "cond of a captured tensor": (
        lambda r: tg.cond(W[0, 0] > 0, lambda r: tg.sin(r) * W[1], lambda r: r, r),
        (X,),
    ),
    "switch": (
        lambda r, n: tg.switch(n, [lambda r: r, lambda r: r * 2, lambda r: r.sum() * r], r),
        (X, N),
    ),
    "scan": (lambda r: tg.scan(lambda c, x: (c * x + 1, c + x), r[0], r)[1], (X,)),
    "scan in reverse": (
        lambda r: tg.scan(lambda c, x: (c * W[0] + x, c * x), r, r, reverse=True)[1],
        (X,),
    ),
    "while": (
        lambda r: tg.while_loop(
            lambda s: s[0] < 5.0, lambda s: (s[0] * 1.5 + 1, s[1] * s[0]), (r.abs().sum(), r)
        )[1],
        (X,),
    ),
    "newton": (newton, (X,)),
    "for": (lambda r, n: tg.fori_loop(0, n, lambda i, c: c * 1.1 + i * r, r), (X, N)),
    "map": (lambda r: tg.map(lambda x: tg.sin(x) * x, r), (X,)),
    "branch in a loop": (collatz_like, (X,)),
}
FORMS = {"eager": lambda f: f, "compiled": tg.compile}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_values(name: str, form: str) -> None:
    f, xs = PROGRAMS[name]
    mapped = FORMS[form](tg.vmap(f))
    for _ in range(2):
        close(mapped(*xs), looped(f)(*xs))


def _gradients(f: Function, xs: tuple[tg.Tensor, ...]) -> list[tg.Tensor]:
    """Of the function's inputs and of the captured matrix."""
    leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in xs]
    W.requires_grad_()
    try:
        value = f(*leaves)
        weights = tg.arange(value.numel(), dtype=tg.float64).reshape(value.shape)
        wanted = [x for x in (*leaves, W) if x.requires_grad]
        found = tg.autograd.grad(
            (tg.sin(value) * weights).sum(), wanted, create_graph=True, materialize_grads=True
        )
        total = sum((g * g).sum() for g in found)
        if total.requires_grad:
            found += tg.autograd.grad(total, wanted, materialize_grads=True)
        return list(found)
    finally:
        W.requires_grad_(False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_two_gradients_through_vmap(name: str, form: str, interpreted: None) -> None:
    f, xs = PROGRAMS[name]
    for mine, theirs in zip(
        _gradients(FORMS[form](tg.vmap(f)), xs), _gradients(looped(f), xs), strict=False
    ):
        close(mine, theirs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_vmap_of_a_gradient(name: str, form: str) -> None:
    f, xs = PROGRAMS[name]
    gradient = tg.grad(lambda *xs: tg.sin(f(*xs)).sum())
    close(FORMS[form](tg.vmap(gradient))(*xs), looped(gradient)(*xs))


@pytest.mark.parametrize("name", PROGRAMS)
def test_vmap_of_a_compiled_function(name: str) -> None:
    f, xs = PROGRAMS[name]
    close(tg.vmap(tg.compile(f))(*xs), looped(f)(*xs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_vmap_of_vmap(name: str, form: str) -> None:
    f, xs = PROGRAMS[name]
    twice = tuple(tg.stack([x, x.flip(0)]) for x in xs)
    close(FORMS[form](tg.vmap(tg.vmap(f)))(*twice), looped(looped(f))(*twice))


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_rows(name: str) -> None:
    f, xs = PROGRAMS[name]
    found = tg.vmap(f)(*(x[:0] for x in xs))
    assert found.shape == (0, *f(*(tg.zeros_like(x[0]) for x in xs)).shape)


@pytest.mark.parametrize("transform", [tg.jacrev, tg.jacfwd, tg.hessian])
def test_transforms_within_and_around(transform: Function) -> None:
    def f(r: tg.Tensor) -> tg.Tensor:
        return tg.sin(r) * r.sum() if transform is not tg.hessian else tg.sin(r).prod()

    close(tg.vmap(transform(f))(X), looped(transform(f))(X))

    def total(x: tg.Tensor) -> tg.Tensor:
        return tg.vmap(f)(x).sum()

    close(transform(total)(X), transform(lambda x: looped(f)(x).sum())(X))


def test_jvp_and_vjp_through_vmap() -> None:
    def f(r: tg.Tensor) -> tg.Tensor:
        return tg.sin(r) * r.sum()

    for mine, theirs in zip(tg.jvp(tg.vmap(f), [X], [Y]), tg.jvp(looped(f), [X], [Y]), strict=True):
        close(mine, theirs)
    _, pull = tg.vjp(tg.vmap(f), X)
    _, pull_looped = tg.vjp(looped(f), X)
    close(pull(Y)[0], pull_looped(Y)[0])


# ------------------------------------------------------------------------------------- axes


def test_in_axes_and_out_axes() -> None:
    a, b = tensor(2, 3, 4), tensor(5, 3)
    found = tg.vmap(lambda a, b: tg.outer(a.sum(0), b), in_axes=(1, -1), out_axes=-1)(a, b)
    wanted = np.stack([np.outer(a[:, i].sum(0), b[:, i]) for i in range(3)], -1)
    np.testing.assert_allclose(found, wanted)
    assert tg.vmap(lambda a: a, out_axes=1)(a).shape == (3, 2, 4)
    assert tg.vmap(lambda a: a, in_axes=2)(a).shape == (4, 2, 3)


def test_in_dims_and_out_dims() -> None:
    a = tensor(2, 3)
    assert tg.vmap(lambda a: a * 2, in_dims=1, out_dims=-1)(a).shape == (2, 3)


Pair = namedtuple("Pair", "first second")


@dataclass
class Params:
    weight: tg.Tensor
    bias: tg.Tensor


def test_containers() -> None:
    params = {"w": tensor(3, 4), "b": tensor(4)}

    def f(params: Any, pair: Any, data: Any) -> Any:
        y = pair.first @ params["w"] + params["b"] * data.weight
        return {"y": y, "pair": Pair(pair.second * 2, None), "n": 3}

    data = Params(tensor(4, 5), tensor(2))
    pair = Pair(tensor(5, 3), tensor(5))
    axes = ({"w": None, "b": None}, 0, Params(1, None))  # type: ignore[arg-type]
    out = {"y": 1, "pair": Pair(0, None), "n": None}
    found = tg.vmap(f, in_axes=axes, out_axes=out)(params, pair, data)
    rows = [
        f(params, Pair(pair.first[i], pair.second[i]), Params(data.weight[:, i], data.bias))
        for i in range(5)
    ]
    close(found["y"], tg.stack([r["y"] for r in rows], 1))
    close(found["pair"].first, pair.second * 2)
    assert found["pair"].second is None
    assert found["n"].item() == 3
    # One entry for a whole container.
    assert tg.vmap(f, in_axes=(None, 0, Params(1, None)))(params, pair, data)["n"].shape == (5,)  # type: ignore[arg-type]


def test_keyword_arguments() -> None:
    found = tg.vmap(lambda x, *, scale, dim: (x * scale).sum(dim))(X, scale=X[:, 0], dim=0)
    close(found, (X * X[:, :1]).sum(1))


def test_numpy_arguments_and_numbers() -> None:
    found = tg.vmap(lambda x, a: x * a, in_axes=(0, None))(np.ones((2, 3)), 4)
    np.testing.assert_array_equal(found, np.full((2, 3), 4.0))
    assert tg.vmap(lambda x: 1.5)(X).tolist() == [1.5] * 3


def test_axis_size() -> None:
    assert tg.vmap(lambda x: x * 2, in_axes=None, axis_size=3)(X[0]).shape == (3, 4)
    drawn = tg.vmap(lambda: tg.rand(2), axis_size=4, randomness="different")()
    assert drawn.shape == (4, 2)


def test_results_that_rows_share() -> None:
    close(tg.vmap(lambda x: (x, W * 2), out_axes=(0, None))(X)[1], W * 2)
    assert tg.vmap(lambda x: W)(X).shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: tg.vmap(lambda a, b: a)(X, X[:2]),
            ShapeError,
            "3 for axis 0 of argument 0, but 2",
        ),
        (lambda: tg.vmap(lambda a: a, in_axes=2)(X), DimError, r"axis 2 for argument 0.*\[3, 4\]"),
        (lambda: tg.vmap(lambda a: a, out_axes=2)(X), DimError, "out_axes has axis 2"),
        (lambda: tg.vmap(lambda a: a, in_axes=(0, 0))(X), ArgumentError, "2 entries.*1 arguments"),
        (lambda: tg.vmap(lambda a: a, in_axes=({"x": 0},))(X), ArgumentError, "no container"),
        (
            lambda: tg.vmap(lambda a: a, in_axes=([0, 0, 0],))([X, X]),
            ArgumentError,
            "argument 0, which is list",
        ),
        (lambda: tg.vmap(lambda a: a, in_axes="x")(X), ArgumentError, "an axis is an int"),
        (lambda: tg.vmap(lambda a: a)(3.0), ArgumentError, "float 3.0.*use None in in_axes"),
        (lambda: tg.vmap(lambda a: a, in_dims=0)(3.0), ArgumentError, "None in in_dims"),
        (lambda: tg.vmap(lambda a: a)(tg.tensor(1.0)), DimError, "axis 0 for argument 0"),
        (lambda: tg.vmap(lambda a: a, in_axes=None)(X), ArgumentError, "nothing is mapped"),
        (lambda: tg.vmap(lambda a: a, axis_size=2)(X), ShapeError, "2 for axis_size, but 3"),
        (lambda: tg.vmap(lambda a: a, out_axes=None)(X), ArgumentError, "differs from row to row"),
        (lambda: tg.vmap(lambda a: a, out_axes=(0, 0))(X), ArgumentError, "no container"),
        (lambda: tg.vmap(lambda a: a, randomness="some"), ArgumentError, "randomness is one of"),  # type: ignore[arg-type]
        (lambda: tg.vmap(lambda a: a * float(a[0]))(X), TraceError, "keep it a tensor"),
        (lambda: tg.vmap(lambda a: a[a > 0])(X), TraceError, "tg.vmap"),
        (lambda: tg.vmap(lambda a: a + tg.rand(4))(X), TraceError, "randomness='different'"),
        (lambda: tg.vmap(lambda a: W.add_(a))(X), TraceError, "changes a tensor in place"),
        (lambda: tg.vmap(lambda a: a @ X)(X), ShapeError, "size"),
        (lambda: tg.vmap(lambda a, n: a[n])(X, N + 1), BoundsError, "index 4 is out of bounds"),
    ],
)
def test_errors(call: Function, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    if "randomness is one of" not in message:
        assert "test_vmap.py" in str(caught.value)


def test_an_index_out_of_range_in_compiled_code() -> None:
    f = tg.compile(tg.vmap(lambda a, n: a[n]))
    close(f(X, N), X[tg.arange(3), N])
    with pytest.raises(BoundsError, match="out of bounds"):
        f(X, N + 1)


# ------------------------------------------------------------------------------- what it does


def test_the_function_runs_once() -> None:
    calls = []

    def f(r: tg.Tensor) -> tg.Tensor:
        calls.append(r.shape)
        return r * 2

    tg.vmap(f)(tensor(100, 3))
    assert calls == [(3,)]


def test_what_rows_share_is_computed_once() -> None:
    compiled = tg.compile(tg.vmap(lambda r: r * tg.sin(W).sum()))
    compiled(X)
    assert "sin(W)" in compiled.ir() and "f64[3, 4, 4]" not in compiled.ir()


def test_python_may_ask_for_what_rows_share() -> None:
    def f(r: tg.Tensor) -> tg.Tensor:
        scaled = W * 2
        return r * 2 if scaled.sum() > 0 else r * 3

    factor = 2 if W.sum() > 0 else 3
    close(tg.vmap(f)(X), X * factor)
    compiled = tg.compile(lambda x, w: tg.vmap(lambda r: r * 2 if (w * 2).sum() > 0 else r)(x))
    for w in (W * 0 + 1, W * 0 - 1):
        close(compiled(X, w), X * (2 if w.sum() > 0 else 1))
    assert compiled.statistics.traces == 2


def test_writing_into_an_argument() -> None:
    for form in FORMS.values():
        x, y = X.clone(), X.clone()

        def f(r: tg.Tensor) -> tg.Tensor:
            r[1] = 7.0
            r *= 2
            return r.sum()

        close(form(tg.vmap(f, in_axes=1))(x), looped(f)(y.T))
        close(x, y)


def test_writing_into_an_argument_with_a_gradient() -> None:
    def through(f: Function) -> tg.Tensor:
        leaf = X.clone().requires_grad_()
        x = leaf * 1.0
        f(x)
        return tg.autograd.grad(tg.sin(x).sum(), [leaf])[0]

    def f(r: tg.Tensor) -> tg.Tensor:
        r[1] = tg.sin(r * 2)[0]
        return r

    close(through(tg.vmap(f)), through(looped(f)))
    with pytest.raises(GradError, match="a leaf Variable"):
        tg.vmap(f)(X.clone().requires_grad_())


@pytest.mark.parametrize("form", FORMS)
def test_random_numbers(form: str) -> None:
    def drawn(randomness: Any) -> tuple[tg.Tensor, tg.Tensor]:
        tg.manual_seed(3)
        f = FORMS[form](tg.vmap(lambda r: r + tg.rand(4, dtype=tg.float64), randomness=randomness))
        return f(X) - X, tg.rand(2)

    different, after = drawn("different")
    tg.manual_seed(3)
    close(different, tg.rand(3, 4, dtype=tg.float64) + X - X)
    close(after, tg.rand(2))
    same, after = drawn("same")
    tg.manual_seed(3)
    close(same, tg.rand(4, dtype=tg.float64).expand(3, 4) + X - X)
    close(after, tg.rand(2))


def test_random_numbers_of_another_generator() -> None:
    generator = tg.Generator().manual_seed(1)
    with pytest.raises(TraceError, match="Generator of its own"):
        tg.vmap(lambda r: r + tg.rand(4, generator=generator), randomness="different")(X)


def test_a_failed_call_leaves_no_trace() -> None:
    x = X.clone()

    def f(r: tg.Tensor) -> tg.Tensor:
        r[0] = 1.0
        raise KeyError("no")

    tg.manual_seed(5)
    before = tg.get_rng_state().tolist()
    with pytest.raises(KeyError):
        tg.vmap(f)(x)
    close(x, X)
    assert tg.get_rng_state().tolist() == before
    assert (x * 2).sum().grad_fn is None
    with tg.no_grad():
        close(tg.vmap(lambda r: r)(x), x)


def test_a_compiled_vmap_is_traced_once() -> None:
    f = tg.compile(tg.vmap(lambda r, n: tg.fori_loop(0, n, lambda i, c: c * 1.1 + 1.0, r)))
    for _ in range(5):
        n = tg.tensor(_rng.integers(0, 50, 3))
        x = tensor(3)
        wanted = [x[i].item() for i in range(3)]
        for i in range(3):
            for _ in range(n[i].item()):
                wanted[i] = wanted[i] * 1.1 + 1.0
        np.testing.assert_allclose(f(x, n), wanted)
    assert f.statistics.traces == 1


def test_one_branch_a_row() -> None:
    """Beside a branch that would give NaN the gradient of what all rows share is finite."""
    w = tg.tensor([0.0, 4.0], dtype=tg.float64, requires_grad=True)

    def f(r: tg.Tensor) -> tg.Tensor:
        return tg.cond(r > 0, lambda r: (tg.sqrt(w) * r).sum(), lambda r: r * 2, r)

    for form in FORMS.values():
        value = form(tg.vmap(f))(tg.tensor([-1.0, -2.0], dtype=tg.float64))
        (found,) = tg.autograd.grad(value.sum(), [w], allow_unused=True)
        assert found is None or found.tolist() == [0.0, 0.0]
