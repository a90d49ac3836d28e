"""`vmap` against JAX's: axes, containers, nesting, control flow, gradients through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)
jnp = jax.numpy

_rng = np.random.default_rng(2)
A = _rng.normal(size=(3, 3, 3))
B = _rng.normal(size=(3, 3, 3))
AXES = (0, 1, 2, -1, None)


def close(found: Any, wanted: Any) -> None:
    wanted = np.asarray(wanted)
    assert tuple(found.shape) == wanted.shape
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "out"),
    [x for x in itertools.product(AXES, AXES, (0, 1, -1)) if x[:2] != (None, None)],
)
def test_axes(first: int | None, second: int | None, out: int) -> None:
    def f(a: Any, b: Any) -> Any:
        # Rows may have three axes or two.
        return (a * b).cumsum(0) - a.T

    options: dict[str, Any] = {"in_axes": (first, second), "out_axes": out}
    close(tg.vmap(f, **options)(tg.tensor(A), tg.tensor(B)), jax.vmap(f, **options)(A, B))


def test_two_levels_of_axes() -> None:
    def f(a: Any, b: Any) -> Any:
        return a * b + a.sum()

    for inner, outer, out in itertools.product((0, 1), (0, 2), (0, 1)):
        mine = tg.vmap(tg.vmap(f, inner, out), (outer, None), -1)
        theirs = jax.vmap(jax.vmap(f, inner, out), (outer, None), -1)
        close(mine(tg.tensor(A), tg.tensor(B[0])), theirs(A, B[0]))


def test_containers() -> None:
    def f(p: Any, x: Any) -> Any:
        return {"y": p["w"] * x[0] + p["b"], "z": (x[1].sum(), p["b"])}

    options: dict[str, Any] = {
        "in_axes": ({"w": 0, "b": None}, (None, 1)),
        "out_axes": {"y": 1, "z": (0, None)},
    }
    mine = tg.vmap(f, **options)(
        {"w": tg.tensor(A), "b": tg.tensor(A[0, 0])}, (tg.tensor(B[0]), tg.tensor(B))
    )
    theirs = jax.vmap(f, **options)({"w": A, "b": A[0, 0]}, (B[0], B))
    close(mine["y"], theirs["y"])
    close(mine["z"][0], theirs["z"][0])
    close(mine["z"][1], theirs["z"][1])


def programs(t: Any, control: Any) -> dict[str, Callable[..., Any]]:
    """The same programs in both systems: `t` has the functions, `control` loops and branches."""
    return {
        "cond": lambda r, n: control.cond(
            r.sum() > 0, lambda r: t.sin(r) * n, lambda r: t.exp(r) - r[0], r
        ),
        "switch": lambda r, n: control.switch(
            n, [lambda r: r * r[1], lambda r: t.cumsum(r, 0), lambda r: t.sin(r)], r
        ),
        "scan": lambda r, n: control.scan(lambda c, x: (c * 0.5 + x, c * x), r.sum(), r)[1],
        "scan in reverse": lambda r, n: control.scan(
            lambda c, x: (t.sin(c) + x, c * x), r.sum(), r, reverse=True
        )[1],
        "for": lambda r, n: control.fori_loop(0, 5, lambda i, c: t.sin(c) * (i + 1) + r, r),
        "loop in a branch": lambda r, n: control.cond(
            n > 0,
            lambda r: control.fori_loop(0, 3, lambda i, c: c * r[0] + 1.0, r),
            lambda r: t.exp(r),
            r,
        ),
    }


def only_forward(t: Any, control: Any) -> dict[str, Callable[..., Any]]:
    """Programs that JAX has no reverse mode for."""
    return {
        "while": lambda r, n: control.while_loop(
            lambda s: (s * s).sum() < 40.0, lambda s: s * 1.3 + r[0] * 0.1, r
        ),
        "for up to a number": lambda r, n: control.fori_loop(
            0, n, lambda i, c: t.sin(c) * (i + 1) + r, r
        ),
        "for between numbers": lambda r, n: control.fori_loop(
            n - 1, 2 * n, lambda i, c: c * 0.5 + i, r
        ),
    }


R = _rng.normal(size=(4, 3))
N = np.array([1, 0, 4, 2])
MINE, THEIRS = programs(tg, tg), programs(jnp, jax.lax)
MINE_FORWARD, THEIRS_FORWARD = only_forward(tg, tg), only_forward(jnp, jax.lax)
FORMS: dict[str, Callable[..., Any]] = {"eager": lambda f: f, "compiled": tg.compile}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*MINE, *MINE_FORWARD])
def test_control_flow(name: str, form: str) -> None:
    mine, theirs = {**MINE, **MINE_FORWARD}[name], {**THEIRS, **THEIRS_FORWARD}[name]
    close(FORMS[form](tg.vmap(mine))(tg.tensor(R), tg.tensor(N)), jax.vmap(theirs)(R, N))
    shared = FORMS[form](tg.vmap(mine, in_axes=(0, None)))(tg.tensor(R), tg.tensor(2))
    close(shared, jax.vmap(theirs, in_axes=(0, None))(R, 2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MINE)
def test_gradients_through_control_flow(name: str, form: str) -> None:
    def total(f: Callable[..., Any], t: Any, vmap: Any) -> Callable[..., Any]:
        return lambda r, n: t.sin(vmap(f)(r, n)).sum()

    wanted = jax.grad(total(THEIRS[name], jnp, jax.vmap))(R, N)
    mine = FORMS[form](tg.grad(total(MINE[name], tg, tg.vmap)))
    close(mine(tg.tensor(R), tg.tensor(N)), wanted)
    hessians = jax.vmap(jax.hessian(lambda r, n: THEIRS[name](r, n).sum()))(R, N)
    found = FORMS[form](tg.vmap(tg.hessian(lambda r, n: MINE[name](r, n).sum())))
    close(found(tg.tensor(R), tg.tensor(N)), hessians)
