"""Compiled functions return what the functions themselves return, whatever goes in and out."""

import dataclasses
import enum
import functools
import math
from collections import namedtuple

import numpy as np
import pytest

import tracegrad as tg

Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Pair:
    first: tg.Tensor
    second: float


class Mode(enum.Enum):
    DOUBLE = 2
    TRIPLE = 3


def vector(*values):
    return tg.tensor(values or (0.5, -1.5, 2.0), dtype=tg.float64)


def assert_same(expected, found):
    """Equal in type, dtype, structure and, to 1e-12, in value."""
    if isinstance(expected, tg.Tensor):
        assert isinstance(found, tg.Tensor)
        assert expected.dtype is found.dtype
        assert expected.shape == found.shape
        assert expected.requires_grad == found.requires_grad
        tolerance = 1e-12 if expected.dtype is tg.float64 else 1e-5
        np.testing.assert_allclose(
            found.detach().numpy(), expected.detach().numpy(), rtol=tolerance, atol=1e-300
        )
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, list | tuple):
        assert type(expected) is type(found)
        assert len(expected) == len(found)
        for a, b in zip(expected, found, strict=True):
            assert_same(a, b)
    elif isinstance(expected, dict):
        assert list(expected) == list(found)
        for key in expected:
            assert_same(expected[key], found[key])
    elif dataclasses.is_dataclass(expected):
        assert_same(vars(expected), vars(found))
    else:
        assert type(expected) is type(found)
        assert expected == found or math.isclose(expected, found, rel_tol=1e-12)


def check(function, *args, **kwargs):
    """Compiled, twice, as eagerly; one trace."""
    compiled = tg.compile(function)
    expected = function(*args, **kwargs)
    for _ in range(2):
        assert_same(expected, compiled(*args, **kwargs))
    assert compiled.statistics.hits >= 1
    return compiled


X = vector()

PROGRAMS = {
    "arithmetic": (lambda x: 2 * x / 3 - x**2 + 1, X),
    "reduction": (lambda x: (x.sum(), x.mean(), x.max(), x.norm()), X),
    "matmul": (lambda a, b: a @ b, tg.ones(2, 3), tg.ones(3, 4)),
    "vector times matrix": (lambda a, b: a @ b, X, tg.ones(3, 4, dtype=tg.float64)),
    "float argument": (lambda x, rate: x * rate, X, 0.1),
    "numbers among themselves": (lambda x, rate: x * (rate * 0.1 + 1), X, 0.3),
    "whole numbers divide": (lambda x, n: x * (n / 3), X, 2),
    "whole numbers floor": (lambda x, n: x[: n // 2 + 1], X, 2),
    "power": (lambda x, n: x**n, X, 3),
    "negative number": (lambda x, n: x * -n, X, 3),
    "absolute number": (lambda x, n: x * abs(n), X, -3),
    "round a number": (lambda x, n: x * round(n), X, 2.6),
    "divmod": (lambda x, n: x * divmod(n, 3)[1], X, 5),
    "int of a float": (lambda x, n: x * int(n), X, 2.6),
    "floor of a float": (lambda x, n: x * math.floor(n), X, 2.6),
    "math on a number": (lambda x, n: x * math.sqrt(n), X, 2),
    "larger of numbers": (lambda x, n: x * max(n, 1), X, 3),
    "format a number": (lambda x, n: (f"{n:.2f}", x), X, 2.5),
    "a number comes out": (lambda a, b: a * b + 1, 2.5, 3),
    "the number itself": (lambda n: n, 2),
    "whole numbers come out": (lambda a, b: a * b - 1, 2, 3),
    "range": (lambda x, n: sum((x * i for i in range(n)), x), X, 4),
    "index by a number": (lambda x, n: x[n], X, 1),
    "slice by a number": (lambda x, n: x[:n], X, 2),
    "shape by a number": (lambda x, n: x.reshape(n, 1), X, 3),
    "compare a number": (lambda x, n: x if n == 2 else -x, X, 2),
    "integer tensor, float number": (lambda x, n: tg.tensor([1, 2]) + n, X, 1.5),
    "zeros by a number": (lambda x, n: tg.zeros(n, dtype=tg.float64) + x, X, 3),
    "full of a number": (lambda x, n: tg.full((3,), n, dtype=tg.float64) + x, X, 2.5),
    "tensor of a number": (lambda x, n: tg.tensor([n, 1.0, 2.0], dtype=tg.float64) + x, X, 2.5),
    "arange": (lambda n: tg.arange(n), 4),
    "flag": (lambda x, flag: x * 2 if flag else x, X, True),
    "string": (lambda x, kind: tg.sin(x) if kind == "sin" else x, X, "sin"),
    "enum": (lambda x, mode: x * mode.value, X, Mode.TRIPLE),
    "dtype": (lambda x, dtype: x.to(dtype), X, tg.float32),
    "none": (lambda x, y=None: x if y is None else y, X),
    "dict": (lambda d: {"a": d["b"] * 2, "c": [d["b"], 1]}, {"b": X, "z": 3}),
    "list of tuples": (lambda v: [(a * b, b) for a, b in v], [(X, X + 1), (X * 2, X)]),
    "named tuple": (lambda p: Point(p.y, p.x * 2), Point(X, X + 1)),
    "dataclass": (lambda p: Pair(p.first * p.second, p.second), Pair(X, 2.0)),
    "array argument": (lambda x, a: x * a, X, np.arange(3.0)),
    "array comes out": (lambda a: a, np.arange(3.0)),
    "numpy scalar": (lambda x, a: x * a, X, np.float64(2.5)),
    "mixed results": (lambda x: (x, 5, "s", None, 2.5, [x]), X),
    "no result": (lambda x: None, X),
    "no argument": (lambda: tg.arange(3) * 2,),
    "item": (lambda x: x.sum().item() * x, X),
    "list comes out": (lambda x: x.tolist(), X),
    "array demanded": (lambda x: x.numpy() * 2, X),
    "mask": (lambda x: x[x > 0].sum(), X),
    "nonzero": (lambda x: tg.nonzero(x > 0), X),
    "where": (lambda x: tg.where(x > 0, x, 0 * x), X),
    "numpy function": (lambda x: np.sin(x) + np.sum(x), X),
    "iterate a tensor": (lambda x: sum(v * i for i, v in enumerate(x)), X),
    "unpack a tensor": (lambda x: [a * 2 for a in x], X),
    "sorted comprehension": (lambda x: {k: x * k for k in sorted({3, 1, 2})}, X),
    "empty": (lambda x: (x * 2, x.sum()), tg.zeros(0, 3)),
    "0-d": (lambda x: x * x + 1, tg.tensor(3.0)),
    "strided": (lambda a: a * 2 + 1, tg.arange(24.0).reshape(4, 6)[::2, 1::3].T),
    "reversed": (lambda a: a * 2, tg.from_numpy(np.arange(5.0)[::-1])),
    "expanded": (lambda a: a + 1, tg.ones(1, 3).expand(4, 3)),
    "integers": (lambda a: (a * 3 // 2, a % 2, a == 2), tg.arange(5)),
    "bools": (lambda a: (~a, a & True, a.any()), tg.tensor([True, False])),
    "half": (lambda a: a * 2 + 1, tg.tensor([1.0, 2.0], dtype=tg.float16)),
    "view of an argument": (lambda x: x[1:], X),
    "transposed argument": (lambda a: a.T, tg.ones(2, 3)),
    "in place on a fresh tensor": (lambda x: tg.zeros(3, dtype=tg.float64).add_(x).mul_(2), X),
    "seeded": (lambda x: (tg.manual_seed(0), x + tg.rand(3, dtype=tg.float64))[1], X),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_eager(name):
    function, *args = PROGRAMS[name]
    check(function, *args)


def test_gradient_of_a_compiled_function():
    def loss(w, b, x, y):
        return 0.5 * ((x @ w + b - y) ** 2).sum()

    rng = np.random.default_rng(0)
    data = [rng.normal(size=shape) for shape in ((3, 2), (2,), (5, 3), (5, 2))]
    compiled = tg.compile(loss)
    for _ in range(3):
        results = []
        for f in (loss, compiled):
            w, b, x, y = (tg.tensor(a) for a in data)
            w.requires_grad_()
            b.requires_grad_()
            value = f(w, b, x, y)
            value.backward()
            results.append((value.item(), w.grad.numpy(), b.grad.numpy()))
        for expected, found in zip(*results, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert compiled.statistics.traces == 1


def test_one_node_on_the_tape():
    compiled = tg.compile(lambda w: (w * w).sum(), name="square")
    w = vector().requires_grad_()
    value = compiled(w)
    assert value.grad_fn.name() == "CompiledFunctionBackward(square)"
    assert [node.name() for node, _ in value.grad_fn.next_functions] == ["AccumulateGrad"]
    assert "CompiledFunctionBackward(square)" in repr(value)


def test_backward_twice_needs_retain_graph():
    compiled = tg.compile(lambda w: (w * w).sum())
    w = vector(1.0, 2.0).requires_grad_()
    value = compiled(w)
    value.backward(retain_graph=True)
    value.backward()
    assert w.grad.tolist() == [4, 8]
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


def test_some_results_are_differentiated():
    compiled = tg.compile(lambda w, x: ((w * x).sum(), tg.exp(w * x), w * x > 1, w.detach() * 2))
    w, x = vector(1.0, 1.0).requires_grad_(), vector(1.0, 2.0)
    first, second, third, fourth = compiled(w, x)
    assert [t.requires_grad for t in (first, second, third, fourth)] == [True, True, False, False]
    first.backward(retain_graph=True)
    assert w.grad.tolist() == [1, 2]
    second.sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), [1 + np.e, 2 + 2 * np.exp(2)], rtol=1e-12)


def test_absent_cotangents_do_not_bring_nan():
    # The cotangent of the second result is absent, not zero: zero times infinity must not appear.
    compiled = tg.compile(lambda x: (x.sum(), tg.sqrt(x)))
    x = vector(0.0, 4.0).requires_grad_()
    compiled(x)[0].backward()
    assert x.grad.tolist() == [1, 1]


@pytest.mark.parametrize("order", [2, 3])
def test_higher_derivatives_through_create_graph(order):
    compiled = tg.compile(lambda t: (tg.sin(t) ** 2).sum())
    t = vector().requires_grad_()
    value = compiled(t)
    for _ in range(order):
        (value,) = tg.autograd.grad(value.sum(), t, create_graph=True)
    a = t.detach().numpy()
    expected = {2: 2 * np.cos(2 * a), 3: -4 * np.sin(2 * a)}[order]
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-12)


def test_hooks_and_retain_grad_of_results():
    compiled = tg.compile(lambda w: w * 3)
    w = vector(1.0, 2.0).requires_grad_()
    h = compiled(w)
    h.retain_grad()
    seen = []
    h.register_hook(lambda g: seen.append(g.tolist()) or g * 10)
    (h * h).sum().backward()
    assert seen == [[6, 12]]
    assert h.grad.tolist() == [60, 120]
    assert w.grad.tolist() == [180, 360]


def test_results_of_compiled_functions_are_arguments_of_others():
    f = tg.compile(lambda x: tg.tanh(x) * 2)
    g = tg.compile(lambda x: (x**3).sum())
    w = vector().requires_grad_()
    g(f(w)).backward()
    e = vector().requires_grad_()
    ((tg.tanh(e) * 2) ** 3).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), e.grad.numpy(), rtol=1e-12)


def test_changed_after_the_call_names_function_and_line():
    compiled = tg.compile(lambda w, x: (w * w * x).sum(), name="loss")
    w = vector().requires_grad_()
    value = compiled(w, vector())
    with tg.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match=r"input w of .*\(loss\).*expected version 0.*w\.add_"):
        value.backward()


def test_a_result_changed_after_the_call():
    compiled = tg.compile(lambda w: tg.exp(w))
    w = vector().requires_grad_()
    y = compiled(w)
    with tg.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_same_tensor_comes_out_as_itself():
    def f(x, y):
        z = x + y
        return x, z, z

    compiled = tg.compile(f)
    x = vector()
    for _ in range(2):
        a, b, c = compiled(x, x * 2)
        assert a is x
        assert b is c


def test_view_of_an_argument_is_a_view():
    compiled = tg.compile(lambda x: x[1:])
    x = vector(1.0, 2.0, 3.0)
    for _ in range(2):
        tail = compiled(x)
        tail += 1
    assert x.tolist() == [1, 4, 5]
    w = vector(1.0, 2.0, 3.0).requires_grad_()
    (compiled(w) ** 2).sum().backward()
    assert w.grad.tolist() == [0, 4, 6]


def test_results_own_their_memory():
    compiled = tg.compile(lambda x: (x * 2, x.clone()))
    x = vector(1.0, 2.0)
    for _ in range(2):
        double, copy = compiled(x)
        copy.zero_()
        double.zero_()
        assert x.tolist() == [1, 2]


def test_one_tensor_as_two_arguments():
    compiled = tg.compile(lambda a, b: (a * b).sum())
    a = vector(2.0, 3.0).requires_grad_()
    compiled(a, a).backward()
    assert a.grad.tolist() == [4, 6]
    b = vector(5.0, 5.0)
    assert compiled(a, b).item() == 25
    assert compiled(b, b).item() == 50


def test_keywords_defaults_and_the_rest():
    def f(a, /, b, *args, c=2.0, **kw):
        return a * b * c * sum(args, 1) * kw.get("z", 1)

    compiled = tg.compile(f)
    x = vector(1.0, 2.0)
    for call in (
        lambda g: g(x, 2.0),
        lambda g: g(x, b=2.0, c=1.0),
        lambda g: g(x, 2.0, 1.0, 2.0, z=x * 3),
        lambda g: g(x, 3.0, c=5.0),
    ):
        assert_same(call(f), call(compiled))
        assert_same(call(f), call(compiled))
    with pytest.raises(TypeError, match="missing"):
        compiled()


def test_positional_keyword_and_default_are_one_trace():
    compiled = tg.compile(lambda x, rate=0.5: x * rate)
    x = vector(2.0)
    assert compiled(x).item() == 1
    assert compiled(x, 0.25).item() == 0.5
    assert compiled(x, rate=2.0).item() == 4
    assert compiled.statistics.traces == 1


def test_a_decorator_sees_the_call_as_it_was_made():
    def f(x, n=2.0, *, m=3.0):
        return x * n - m

    def wrapper(*args, **kwargs):
        return f(*args, **kwargs) * (1 + len(args) + 10 * len(kwargs))

    told = functools.wraps(f)(wrapper)
    x = vector(1.0, 2.0)
    for function in (told, tg.vmap(f, in_axes=0), functools.partial(told, m=1.0)):
        compiled = tg.compile(function)
        for _ in range(2):
            assert_same(function(x), compiled(x))
            assert_same(function(x, n=x), compiled(x, n=x))
            assert_same(function(x, x), compiled(x, x))
            assert_same(function(n=x, x=2 * x), compiled(n=x, x=2 * x))
    # The first parameter of what is wrapped, by keyword beside another argument by position.
    compiled = tg.compile(functools.wraps(f)(lambda y, **given: f(**given) + y))
    assert compiled(x, x=x).tolist() == [0.0, 3.0]
    assert compiled(2.0, x=x).tolist() == [1.0, 3.0]


def test_decorator_forms():
    @tg.compile
    def a(x):
        """Doubles."""
        return x * 2

    @tg.compile(name="other", max_traces=3)
    def b(x):
        return x * 3

    assert (a.__name__, a.__doc__) == ("a", "Doubles.")
    assert b.name == "other"
    assert a(vector(1.0)).item() == 2
    assert b(vector(1.0)).item() == 3
    assert tg.compile(a) is a


def test_methods_of_objects():
    class Layer:
        def __init__(self, scale):
            self.weight = vector(1.0, 2.0).requires_grad_()
            self.scale = scale

        @tg.compile
        def forward(self, x):
            return self.helper(x) * self.scale

        def helper(self, x):
            return x * self.weight

    one, two = Layer(2), Layer(3)
    x = vector(1.0, 1.0)
    assert one.forward(x).tolist() == [2, 4]
    assert two.forward(x).tolist() == [3, 6]
    assert one.forward(x).tolist() == [2, 4]
    one.forward(x).sum().backward()
    assert one.weight.grad.tolist() == [2, 2]
    assert Layer.forward(two, x).tolist() == [3, 6]
    assert Layer.forward.statistics.traces == 2


def test_method_of_a_dataclass_changes_the_object():
    @dataclasses.dataclass
    class State:
        total: tg.Tensor

        @tg.compile
        def update(self, x):
            self.total.add_(x)
            return self.total * 1

    state = State(vector(0.0, 0.0))
    for i in range(1, 4):
        assert state.update(vector(1.0, 2.0)).tolist() == [i, 2 * i]
    assert state.total.tolist() == [3, 6]


def test_compiled_within_compiled_is_part_of_it():
    inner = tg.compile(lambda x: x * 2)
    outer = tg.compile(lambda x: inner(x) + 1)
    assert outer(vector(1.0)).item() == 3
    assert inner.statistics.calls == 0


def test_recursion():
    @tg.compile
    def factorial(n):
        return n if n <= 1 else n * factorial(n - 1)

    assert [factorial(n) for n in (5, 3, 5, 1)] == [120, 6, 120, 1]


def test_exception_leaves_everything_as_it_was():
    @tg.compile
    def f(x, n):
        x.add_(1)
        if n > 2:
            raise ValueError("too large")
        return x * 2

    x = vector(0.0, 0.0)
    for n in (3, 1, 5, 1):
        before, version = x.tolist(), x._version
        if n > 2:
            with pytest.raises(ValueError, match="too large"):
                f(x, n)
            assert x.tolist() == before
            assert x._version == version
        else:
            assert f(x, n).tolist() == [2 * (v + 1) for v in before]
    assert x.tolist() == [2, 2]


def test_error_inside_names_the_users_line():
    compiled = tg.compile(lambda a, b: a @ b)
    with pytest.raises(tg.errors.ShapeError, match=r"test_compile\.py"):
        compiled(tg.ones(2, 3), tg.ones(2, 3))
    assert compiled(tg.ones(2, 3), tg.ones(3, 2)).shape == (2, 2)


def test_same_bits_first_and_later():
    compiled = tg.compile(lambda x: (tg.sin(x) * tg.exp(x)).sum())
    x = tg.rand(1000, dtype=tg.float64)
    assert len({compiled(x).item() for _ in range(4)}) == 1


def test_random_numbers_are_those_of_eager_code():
    def f(x):
        return x + tg.randn(3), tg.rand(2)

    compiled = tg.compile(f)
    streams = []
    for g in (f, compiled):
        tg.manual_seed(3)
        draws = [t.tolist() for _ in range(3) for t in g(tg.ones(3))]
        streams.append(np.concatenate([*draws, tg.rand(4).tolist()]))
    np.testing.assert_allclose(streams[1], streams[0], rtol=1e-5)
    assert compiled.statistics.traces == 1
    assert len(set(streams[1].tolist())) == len(streams[1])


def test_no_grad_outside_and_inside():
    def f(w, x):
        with tg.no_grad():
            s = (w * x).sum()
        return w * s, (w.detach() * w).sum()

    compiled = tg.compile(f)
    for g in (f, compiled, compiled):
        w, x = vector(1.0, 2.0).requires_grad_(), vector(1.0, 1.0)
        a, b = g(w, x)
        (a.sum() + b).backward()
        assert w.grad.tolist() == [4, 5]
    with tg.no_grad():
        a, b = compiled(w, x)
    assert not a.requires_grad
    assert not b.requires_grad


def test_escaped_tensor_is_an_ordinary_tensor():
    kept = []

    @tg.compile
    def f(w):
        kept.append(w * 2)
        return w.sum()

    w = vector(1.0, 2.0).requires_grad_()
    f(w)
    f(w)
    assert len(kept) == 2
    assert f.statistics.traces == 1
    assert kept[0].tolist() == [2, 4]
    kept[0].sum().backward()
    assert w.grad.tolist() == [2, 2]


def test_default_dtype_is_part_of_the_signature():
    compiled = tg.compile(lambda: tg.ones(2) * 0.1)
    assert compiled().dtype is tg.float32
    tg.set_default_dtype(tg.float64)
    try:
        assert compiled().dtype is tg.float64
    finally:
        tg.set_default_dtype(tg.float32)
    assert compiled().dtype is tg.float32
    assert compiled.statistics.traces == 2


def test_object_with_tensors_as_result():
    class Output:
        def __init__(self, mean, name):
            self.mean = mean
            self.name = name

    compiled = tg.compile(lambda x: Output(x.mean(), "m"))
    for value in (1.0, 2.0, 3.0):
        out = compiled(vector(value, value))
        assert isinstance(out, Output)
        assert (out.mean.item(), out.name) == (value, "m")


def test_threads_share_a_compiled_function():
    from concurrent.futures import ThreadPoolExecutor

    compiled = tg.compile(lambda x: (x * 2).sum())

    def work(i):
        x = tg.full((4,), float(i), dtype=tg.float64).requires_grad_()
        value = compiled(x)
        value.backward()
        return value.item(), x.grad.tolist()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(40)))
    assert results == [(8.0 * i, [2.0] * 4) for i in range(40)]


def test_records_have_strides_of_their_own():
    records = np.zeros(3, dtype=[("a", "f8"), ("b", "i1")])
    records["a"] = [1, 2, 3]
    compiled = tg.compile(lambda x: x * 2)
    for _ in range(2):
        assert compiled(tg.from_numpy(records["a"])).tolist() == [2, 4, 6]
        assert compiled(records["a"]).tolist() == [2, 4, 6]


def test_read_only_memory():
    data = np.arange(3.0)
    data.flags.writeable = False
    compiled = tg.compile(lambda x: x * 2)
    assert compiled(data).tolist() == [0, 2, 4]
    assert compiled(tg.from_numpy(data)).tolist() == [0, 2, 4]


def test_arrays_that_are_no_tensors():
    compiled = tg.compile(lambda x, labels: x * len(labels))
    assert compiled(vector(1.0), np.array(["a", "b"])).item() == 2
    for dtype in (">f8", "c16"):
        with pytest.raises(TypeError, match="supported types"):
            compiled(vector(1.0), np.zeros(2, dtype))


def test_sets_and_large_integers_are_static():
    compiled = tg.compile(lambda x, s: x * len(s))
    s = {1}
    assert compiled(vector(1.0), s).item() == 1
    s.add(2)
    assert compiled(vector(1.0), s).item() == 2
    assert tg.compile(lambda x, n: x * (n % 10))(vector(1.0), 10**30 + 7).item() == 7


def test_a_generator_as_result_is_refused():
    compiled = tg.compile(lambda x: (v * 2 for v in x))
    with pytest.raises(tg.errors.TraceError, match="return a list"):
        compiled(vector(1.0))


def test_assertions_and_caught_exceptions_on_a_branch():
    @tg.compile
    def f(x):
        assert (x > -5).all(), "too low"
        try:
            if x.sum() > 0:
                raise KeyError
            return x
        except KeyError:
            return x * 2

    for _ in range(2):
        assert f(vector(1.0)).item() == 2
        assert f(vector(-1.0)).item() == -1
        with pytest.raises(AssertionError, match="too low"):
            f(vector(-9.0))
    assert f(vector(3.0)).item() == 6


def test_gradient_for_strided_arguments():
    def f(a, w):
        return ((a @ w) ** 2).sum()

    rng = np.random.default_rng(0)
    a, w = rng.normal(size=(3, 4)), rng.normal(size=(5, 3))
    gradients = []
    for g in (f, tg.compile(f)):
        leaf = tg.tensor(w).T.requires_grad_()
        g(tg.tensor(a).T, leaf).backward()
        gradients.append(leaf.grad.numpy())
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-12)


def test_copies_are_the_function_itself():
    import copy
    import pickle

    assert copy.deepcopy(module_level) is module_level
    assert pickle.loads(pickle.dumps(module_level)) is module_level


@tg.compile
def module_level(x):
    return x + 1


def test_seed_set_inside():
    def f():
        tg.manual_seed(5)
        return tg.rand(3, dtype=tg.float64)

    compiled = tg.compile(f)
    tg.manual_seed(1)
    tg.rand(7)
    expected = f()
    after = tg.rand(2, dtype=tg.float64).tolist()
    for _ in range(3):
        tg.manual_seed(2)
        tg.rand(11)
        assert_same(expected, compiled())
        assert tg.rand(2, dtype=tg.float64).tolist() == after


def test_generator_of_its_own_is_refused():
    generator = tg.Generator(3)
    compiled = tg.compile(lambda: tg.rand(2, generator=generator))
    with pytest.raises(tg.errors.TraceError, match="Generator of its own"):
        compiled()
