"""Indices of a running program, `x.at`, dynamic slices, `associative_scan`: against NumPy."""

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.errors import ArgumentError, BoundsError, DtypeError, ShapeError

F64 = tg.float64
RNG = np.random.default_rng(3)
ARRAY = RNG.normal(size=(5, 6))
VECTOR = RNG.normal(size=8)


def t(value, **options):
    return tg.tensor(value, dtype=F64, **options)


def same(found, expected, tolerance=1e-13):
    expected = np.asarray(expected)
    assert tuple(found.shape) == expected.shape
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------- integers of a running program

READS = {
    "scalar": lambda x, i, j: x[i, j],
    "row": lambda x, i, j: x[i],
    "column": lambda x, i, j: x[:, j],
    "part of a row": lambda x, i, j: x[i, 1:-1],
    "part of a column": lambda x, i, j: x[1::2, j],
    "new axis": lambda x, i, j: x[None, i, None, 2:],
    "dots": lambda x, i, j: x[..., j],
    "neighbour": lambda x, i, j: x[i - 1, j + 1],
    "slice": lambda x, i, j: x[i : i + 2],
    "slice and integer": lambda x, i, j: x[i, j - 1 : j + 2],
    "integer and slice": lambda x, i, j: x[i - 1 : i + 2, j],
    "two slices": lambda x, i, j: x[i - 1 : i + 1, j - 1 : j + 2],
    "slice with a step": lambda x, i, j: x[:, j - 2 : j + 2 : 2],
    "slice and new axis": lambda x, i, j: x[None, i : i + 2, None, 1:3],
    "beside a list": lambda x, i, j: x[i, [0, 2, 0]],
    "beside a mask": lambda x, i, j: x[[True, False, True, True, False], j],
}
PLACES = ((1, 2), (2, 4), (3, 3))


@pytest.mark.parametrize("name", READS)
def test_reading(name):
    read = READS[name]
    compiled = tg.compile(lambda x, i, j: read(x, i, j) * 1.0)
    gradient = tg.compile(tg.grad(lambda x, i, j: (read(x, i, j) ** 2).sum()))
    for i, j in PLACES:
        expected = read(ARRAY, i, j)
        cells = read(np.arange(ARRAY.size).reshape(ARRAY.shape), i, j)
        marks = np.bincount(cells.ravel(), minlength=ARRAY.size).reshape(ARRAY.shape)
        for given in ((i, j), (tg.tensor(i), tg.tensor(j, dtype=tg.int32))):
            same(compiled(t(ARRAY), *given), expected)
            same(gradient(t(ARRAY), *given), 2 * ARRAY * marks)
    # One for numbers, one for tensors.
    assert compiled.statistics.traces == gradient.statistics.traces == 2


WRITES = {name: read for name, read in READS.items() if not name.startswith("beside")}


def _index_of(name, i, j):
    """The index that a read uses."""

    class Catch:
        def __getitem__(self, index):
            return index

    return READS[name](Catch(), i, j)


@pytest.mark.parametrize("name", WRITES)
def test_writing(name):
    def put(x, i, j, value):
        x = x.clone()
        x[_index_of(name, i, j)] = value
        return x

    def change(x, i, j, value):
        x = x.clone()
        x[_index_of(name, i, j)] += value
        return x

    def by_at(x, i, j, value):
        return x.at[_index_of(name, i, j)].multiply(value)

    compiled = [tg.compile(f) for f in (put, change, by_at)]
    gradient = tg.compile(tg.grad(lambda x, v, i, j: (put(x, i, j, v) ** 2).sum(), (0, 1)))
    for i, j in PLACES:
        index = _index_of(name, i, j)
        value = RNG.normal(size=ARRAY[index].shape)
        expected = [ARRAY.copy() for _ in compiled]
        expected[0][index] = value
        expected[1][index] += value
        expected[2][index] *= value
        for f, result in zip(compiled, expected, strict=True):
            same(f(t(ARRAY), i, j, t(value)), result)
            same(f(t(ARRAY), tg.tensor(i), tg.tensor(j), t(value)), result)
        to_x, to_value = gradient(t(ARRAY), t(value), i, j)
        same(to_value, 2 * value)
        kept = 2 * ARRAY
        kept[index] = 0.0
        same(to_x, kept)
    assert [f.statistics.traces for f in compiled] == [2, 2, 2]


def test_numbers_and_broadcasts_are_written():
    @tg.compile
    def f(x, i):
        x = x.clone()
        x[i, 1:4] = 7
        x[i + 1] = tg.arange(6, dtype=tg.float32)
        x[:, i] = x[0, 0]
        return x

    expected = ARRAY.copy()
    expected[2, 1:4] = 7
    expected[3] = np.arange(6)
    expected[:, 2] = expected[0, 0]
    same(f(t(ARRAY), 2), expected)
    with pytest.raises(ShapeError, match="shape mismatch"):
        tg.compile(lambda x, i: x.at[i].set(tg.ones(5)))(t(ARRAY), 1)


def test_a_scalar_index_is_one_op():
    def ops(f, *args):
        text = tg.compile(f).ir(*args)
        return [text.count(f"= {name}(") for name in ("gather", "scatter", "slice", "transpose")]

    x = t(ARRAY)
    assert ops(lambda x, i, j: x[i, j] * 2, x, 1, 2) == [1, 0, 0, 0]
    assert ops(lambda x, i, j: x.at[i, j].set(2.0), x, 1, 2) == [0, 1, 0, 0]
    assert ops(lambda x, i: x[i, 1:-1] * 2, x, 1) == [1, 0, 1, 0]
    assert ops(lambda x, i: x.at[i].set(2.0), x, 1) == [0, 1, 0, 0]


def test_indices_out_of_range():
    f = tg.compile(lambda x, i, j: x[i, j] * 1.0)
    g = tg.compile(lambda x, i, j: x.at[i, j].set(0.0))
    for call in (f, g):
        call(t(ARRAY), 0, 0)
        for i, j, axis, size in ((5, 0, 0, 5), (-6, 0, 0, 5), (0, 6, 1, 6), (0, -7, 1, 6)):
            bad = i if axis == 0 else j
            message = f"index {bad} is out of bounds for dimension {axis} with size {size}"
            with pytest.raises(BoundsError, match=message):
                call(t(ARRAY), i, j)
            with pytest.raises(BoundsError, match=message):
                t(ARRAY)[i, j]
    assert f.statistics.traces == g.statistics.traces == 1


def test_slices_that_the_end_cuts_off_are_as_in_eager_code():
    f = tg.compile(lambda x, i: x[i : i + 3] * 1.0)
    for i in (0, 2, 5, 6, 7, 8, -1, -3, -2, 1, 4):
        same(f(t(VECTOR), i), VECTOR[i : i + 3])
    # All that lie within are one trace.
    traces = f.statistics.traces
    for i in (0, 1, 2, 3, 4, 5):
        same(f(t(VECTOR), i), VECTOR[i : i + 3])
    assert f.statistics.traces == traces


def test_slices_in_a_body_lie_within():
    def f(x, n):
        return tg.fori_loop(0, n, lambda i, s: s + (x[i : i + 3] ** 2).sum(), t(0.0))

    compiled = tg.compile(f)
    windows = np.lib.stride_tricks.sliding_window_view(VECTOR, 3)
    same(compiled(t(VECTOR), 6), (windows**2).sum())
    same(compiled(t(VECTOR), 2), (windows[:2] ** 2).sum())
    with pytest.raises(BoundsError, match="slice of 3 elements from index 6"):
        compiled(t(VECTOR), 8)
    assert compiled.statistics.traces == 1


# ---------------------------------------------------------------------------------------- x.at

INDICES = {
    "integer": 1,
    "negative": (-1, 2),
    "slice": (slice(1, 4), slice(None, None, 2)),
    "array": np.array([0, 3]),
    "two arrays": (np.array([0, 3, -1]), np.array([1, 1, 2])),
    "array after a slice": (slice(None), np.array([5, 0])),
    "repeated": np.array([2, 0, 2, 2]),
    "repeated pairs": (np.array([1, 1, 0]), np.array([2, 2, 2])),
    "mask": ARRAY > 0,
    "rows by mask": np.array([True, False, True, False, False]),
    "dots": (..., 1),
}
METHODS = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "mul": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "min": np.minimum,
    "max": np.maximum,
}


@pytest.mark.parametrize("name", INDICES)
def test_at(name):
    index = INDICES[name]
    x = np.abs(ARRAY) + 0.1
    value = RNG.uniform(0.5, 2.0, size=x[index].shape)
    expected = x.copy()
    expected[index] = value
    same(t(x).at[index].set(t(value)), expected)
    same(t(x).at[index].get(), x[index])
    for method, ufunc in METHODS.items():
        expected = x.copy()
        ufunc.at(expected, index, value)
        f = tg.compile(lambda x, v, m=method: getattr(x.at[index], m)(v))
        given = t(x)
        for found in (getattr(given.at[index], method)(t(value)), f(given, t(value))):
            same(found, expected)
        same(given, x)


def test_at_of_traced_arrays_that_repeat():
    def f(x, index, v):
        return x.at[index].multiply(v).at[index].max(v - 0.5)

    index = np.array([2, 0, 2, 2])
    v = RNG.uniform(0.5, 2.0, size=4)
    expected = VECTOR.copy()
    np.multiply.at(expected, index, v)
    np.maximum.at(expected, index, v - 0.5)
    compiled = tg.compile(f)
    same(compiled(t(VECTOR), tg.tensor(index), t(v)), expected)
    same(f(t(VECTOR), tg.tensor(index), t(v)), expected)
    gradient = tg.grad(lambda x, v: f(x, tg.tensor(index), v).sum(), (0, 1))
    found = tg.compile(gradient)(t(VECTOR), t(v))
    for a, b in zip(found, gradient(t(VECTOR), t(v)), strict=True):
        same(a, b.numpy())


def test_at_is_differentiable():
    x, v = t(VECTOR, requires_grad=True), t([2.0, 3.0], requires_grad=True)
    x.at[[0, 0]].add(v).sum().backward()
    same(x.grad, np.ones(8))
    same(v.grad, np.ones(2))
    x.grad = v.grad = None
    (x.at[1:3].set(v) ** 2).sum().backward()
    same(v.grad, 2 * v.detach().numpy())
    assert x.grad[1].item() == x.grad[2].item() == 0.0


def test_at_keeps_the_dtype_and_applies_functions():
    x = tg.zeros(3)
    assert x.at[0].set(t(1.5)).dtype is tg.float32
    assert x.at[0].add([2]).tolist() == [2.0, 0.0, 0.0]
    assert x.at[1:].apply(lambda p: p + 4).tolist() == [0.0, 4.0, 4.0]
    assert "f32[3]" in repr(x.at)


# ------------------------------------------------------------------------------ dynamic slices


def test_dynamic_slices():
    f = tg.compile(lambda x, i, j: tg.dynamic_slice(x, (i, j), (2, 3)))
    g = tg.compile(lambda x, u, i, j: tg.dynamic_update_slice(x, u, (i, j)))
    update = RNG.normal(size=(2, 3))
    for i, j in ((0, 0), (1, 2), (3, 3), (9, 9), (-1, -2), (-4, 1), (-40, 0)):
        a = min(max(i + 5 if i < 0 else i, 0), 3)
        b = min(max(j + 6 if j < 0 else j, 0), 3)
        part = np.s_[a : a + 2, b : b + 3]
        expected = ARRAY.copy()
        expected[part] = update
        for given in ((i, j), (tg.tensor(i), tg.tensor(j))):
            same(tg.dynamic_slice(t(ARRAY), given, (2, 3)), ARRAY[part])
            same(f(t(ARRAY), *given), ARRAY[part])
            same(tg.dynamic_update_slice(t(ARRAY), t(update), given), expected)
            same(g(t(ARRAY), t(update), *given), expected)
    assert f.statistics.traces == g.statistics.traces == 2


def test_dynamic_slices_along_one_axis():
    x = t(ARRAY)
    i = tg.tensor(2)
    same(tg.dynamic_slice_in_dim(x, i, 3, axis=1), ARRAY[:, 2:5])
    same(tg.dynamic_index_in_dim(x, i), ARRAY[2:3])
    same(tg.dynamic_index_in_dim(x, i, axis=-1, keepdims=False), ARRAY[:, 2])
    same(tg.dynamic_slice(x, (0, 0), (5, 6)), ARRAY)
    expected = ARRAY.copy()
    expected[:, 2] = 0.0
    same(tg.dynamic_update_index_in_dim(x, tg.zeros(5, dtype=F64), i, 1), expected)
    same(tg.dynamic_update_slice_in_dim(x, tg.zeros(5, 1, dtype=F64), i, 1), expected)


def test_errors_of_dynamic_slices():
    x = t(ARRAY)
    with pytest.raises(ArgumentError, match=r"2 axes.*1 start.*test_at"):
        tg.dynamic_slice(x, (0,), (1, 1))
    with pytest.raises(ShapeError, match="7 elements of an axis of 6"):
        tg.dynamic_slice(x, (0, 0), (1, 7))
    with pytest.raises(DtypeError, match=r"float64.*float32"):
        tg.dynamic_update_slice(x, tg.ones(1, 1), (0, 0))
    with pytest.raises(ShapeError, match=r"f64\[5, 6\].*f64\[1\]"):
        tg.dynamic_update_slice(x, tg.ones(1, dtype=F64), (0, 0))
    with pytest.raises(ArgumentError, match="integer"):
        tg.dynamic_slice(x, (0.5, 0), (1, 1))


# ---------------------------------------------------------------------------- associative_scan


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("reverse", [False, True])
def test_associative_scan_of_sums(size, reverse):
    values = RNG.normal(size=(3, size))
    ordered = values[:, ::-1] if reverse else values
    expected = np.cumsum(ordered, 1)
    expected = expected[:, ::-1] if reverse else expected
    for mode in (lambda f: f, tg.compile):
        f = mode(lambda x: tg.associative_scan(lambda a, b: a + b, x, reverse=reverse, axis=1))
        same(f(t(values)), expected, 1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_associative_scan_against_a_scan(reverse):
    """Linear recurrences c = a c + b, whose composition does not commute."""
    a, b = RNG.normal(size=(2, 11))

    def compose(f, g):
        return {"a": f["a"] * g["a"], "b": f["b"] * g["a"] + g["b"]}

    def fast(a, b):
        return tg.associative_scan(compose, {"a": a, "b": b}, reverse=reverse)["b"]

    def slow(a, b):
        def step(c, ab):
            c = ab[0] * c + ab[1]
            return c, c

        return tg.scan(step, t(0.0), (a, b), reverse=reverse)[1]

    same(fast(t(a), t(b)), slow(t(a), t(b)).numpy(), 1e-12)
    same(tg.compile(fast)(t(a), t(b)), slow(t(a), t(b)).numpy(), 1e-12)
    for argnum in (0, 1):
        expected = tg.grad(lambda a, b: (slow(a, b) ** 2).sum(), argnum)(t(a), t(b))
        f = tg.grad(lambda a, b: (fast(a, b) ** 2).sum(), argnum)
        same(f(t(a), t(b)), expected.numpy(), 1e-10)
        same(tg.compile(f)(t(a), t(b)), expected.numpy(), 1e-10)


def test_errors_of_associative_scan():
    with pytest.raises(ShapeError, match="several sizes along axis 0"):
        tg.associative_scan(lambda a, b: a, (tg.ones(2), tg.ones(3)))
    with pytest.raises(ShapeError, match="no axis"):
        tg.associative_scan(lambda a, b: a, tg.tensor(1.0))
    with pytest.raises(ShapeError, match="element by element"):
        tg.associative_scan(lambda a, b: (a + b).sum(), tg.ones(4))
    with pytest.raises(ArgumentError, match="returned"):
        tg.associative_scan(lambda a, b: (a, b), tg.ones(4))
