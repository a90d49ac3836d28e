"""Small programs of loops and branches over functions, of two float64 scalars; and comparisons."""

import numpy as np

import tracegrad as tg

F64 = tg.float64


def t(value, **options):
    return tg.tensor(value, dtype=F64, **options)


def leaves_of(value):
    if isinstance(value, tg.Tensor):
        return [value.detach().numpy()]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves_of(item)]
    return [] if value is None else [np.asarray(value)]


def same(found, expected, tolerance=1e-12):
    found, expected = leaves_of(found), leaves_of(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def power_by_fori(x, w):
    return tg.fori_loop(0, 4, lambda i, y: (y * w).sin() + i * 0.1, x)


def growth(x, w):
    return tg.while_loop(lambda y: y < 20.0, lambda y: y * w + 0.5, x)


def recurrence(x, w):
    last, rows = tg.scan(lambda c, s: (c * w + s, c * s), x, w * tg.arange(5, dtype=F64))
    return last + (rows * rows).sum()


def recurrence_backwards(x, w):
    xs = w * tg.arange(5, dtype=F64)
    last, rows = tg.scan(lambda c, s: ((c * w).sin() + s, c * s), x, xs, reverse=True)
    return last * rows[0] + rows.sum()


def scan_without_xs(x, w):
    last, rows = tg.scan(lambda c, _: ((c * w).cos(), c * c), x, length=4)
    return last + rows[1:].sum()


def mapped(x, w):
    return tg.map(lambda s: (s * w).sin() * x, tg.arange(4, dtype=F64) * x).sum()


def chosen(x, w):
    return tg.cond(x * w > 0.2, lambda y: y * w, lambda y: y.sin() / w, x)


def not_chosen(x, w):
    return tg.cond(x * w > 100.0, lambda y: y * w, lambda y: y.sin() / w, x)


def switched(x, w):
    return tg.switch((x * 10).to(tg.int64), [lambda y: y, lambda y: y * w, lambda y: y**3 * w], x)


def carried_pair(x, w):
    def body(i, pair):
        a, b = pair["a"], pair["b"][0]
        return {"a": b * w, "b": [a + b.sin()]}

    out = tg.fori_loop(0, 3, body, {"a": x, "b": [x * w]})
    return out["a"] * out["b"][0]


def vectors(x, w):
    def body(i, v):
        return (v * w + i).sin() + v.sum() * 0.1

    return (tg.fori_loop(0, 3, body, x * tg.arange(4, dtype=F64)) ** 2).sum()


def branch_in_loop(x, w):
    def body(i, y):
        return tg.cond(y > 0.5, lambda y: y * 0.7, lambda y: y + w * 0.3, y)

    return tg.fori_loop(0, 6, body, x)


def loop_in_loop(x, w):
    def outer(i, y):
        return tg.fori_loop(0, i + 1, lambda j, z: (z * w).sin() + x * 0.1, y)

    return tg.fori_loop(0, 3, outer, x)


def loop_in_branch(x, w):
    def slow(y):
        return tg.while_loop(lambda z: z < 3.0, lambda z: z * w + 0.4, y)

    return tg.cond(x > 0.0, slow, lambda y: y * y, x)


def while_in_scan(x, w):
    def step(c, s):
        new = tg.while_loop(lambda z: z < s, lambda z: z * w + 0.3, c)
        return new * 0.5, new

    return tg.scan(step, x, tg.arange(1, 5, dtype=F64))[1].sum()


def updated(x, w):
    def body(i, v):
        return v.at[i].set((v[i - 1] * w).sin() + v[i])

    v = tg.fori_loop(1, 5, body, x * tg.ones(5, dtype=F64))
    return (v * tg.arange(5, dtype=F64)).sum()


def no_trips(x, w):
    return tg.fori_loop(3, 3, lambda i, y: y * w, x) + tg.while_loop(
        lambda y: y > 100.0, lambda y: y * w, x
    )


PROGRAMS = {
    f.__name__: f
    for f in (
        power_by_fori,
        growth,
        recurrence,
        recurrence_backwards,
        scan_without_xs,
        mapped,
        chosen,
        not_chosen,
        switched,
        carried_pair,
        vectors,
        branch_in_loop,
        loop_in_loop,
        loop_in_branch,
        while_in_scan,
        updated,
        no_trips,
    )
}


def nodes_of(compiled, *args):
    text = compiled.ir(*args)
    return {name: text.count(f"= {name}(") for name in ("while_loop", "cond")}
