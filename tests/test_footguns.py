"""Surprises that users of such systems know, one test each."""

import threading
import warnings

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.tracer import moving_views


def in_threads(count, work):
    """Run `work(i)` in `count` threads at once; raises the first of their errors."""
    errors = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# ------------------------------------------------------------------------------------------ threads


def test_threads_call_one_compiled_function_on_large_arrays():
    # Large enough for several threads within each call: there Numba gives up the GIL. The product
    # of a product is kept in scratch memory, which no two calls may share either.
    @tg.compile
    def f(x, w):
        return ((x * 2 + 1) @ w) @ w

    size = 400
    w = tg.eye(size)
    inputs = [tg.full((size, size), float(i)) for i in range(4)]
    for x in inputs:
        f(x, w)

    def work(i):
        for _ in range(30):
            assert (f(inputs[i], w).numpy() == 2 * i + 1).all()

    in_threads(4, work)


def test_threads_trace_and_retrace_at_once():
    @tg.compile
    def grow(x):
        y = x
        while y.sum() < 100:
            y = y * 2
        return (y * x).sum()

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(15):
            a = abs(rng.normal(size=3)) * 10.0 ** rng.uniform(-1, 1.5)
            factor = 1.0
            while (a * factor).sum() < 100:
                factor *= 2
            x = tg.tensor(a, requires_grad=True)
            grow(x).backward()
            np.testing.assert_allclose(x.grad.numpy(), 2 * factor * a, rtol=1e-12)

    in_threads(3, work)


# --------------------------------------------------------------------------- empty and 0-d arrays


@pytest.mark.parametrize("wrap", [lambda f: f, tg.compile], ids=["eager", "compiled"])
def test_the_gradient_of_a_scalar_used_twice_can_be_written_to(wrap):
    x = tg.tensor(2.0, requires_grad=True)
    square = wrap(lambda x: x * x)
    (square(x) + square(x) + x).backward()
    assert type(x.grad.numpy()) is np.ndarray
    x.grad.mul_(2)
    assert x.grad.item() == 18
    x.grad.zero_()
    assert x.grad.item() == 0


@pytest.mark.parametrize("wrap", [lambda f: f, tg.compile], ids=["eager", "compiled"])
def test_the_mean_of_nothing_is_nan_without_a_word_from_numpy(wrap):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(wrap(lambda x: x.mean())(tg.zeros(0)).item())
        assert wrap(lambda x: x.mean(1))(tg.zeros(0, 3)).shape == (0,)
        assert wrap(lambda x: x.mean(0))(tg.zeros(0, 3)).isnan().all()


# ---------------------------------------------------------------------- values that Python asks for


def test_a_formatted_number_is_not_baked_in():
    f = tg.compile(lambda x: f"{x.sum():.2f} {x.sum()}")
    for value in (1.0, 2.5, 1.0):
        assert f(tg.full((2,), value)) == f"{2 * value:.2f} {2 * value}"
    assert f.statistics.traces == 2


@pytest.mark.parametrize("dim", ["a", 1.5, None])
def test_a_dim_that_is_no_integer_is_a_type_error_of_ours(dim):
    x = tg.ones(2, 3)
    with pytest.raises(TypeError, match=r"integer.* at test_footguns.py:\d+"):
        x.flip(dim)
    with pytest.raises(TypeError, match=r"integer.* at test_footguns.py:\d+"):
        x.transpose(dim, 0)
    with pytest.raises(TypeError, match=r"integer.* at test_footguns.py:\d+"):
        x.reshape(dim, 6)
    assert x.tolist() == [[1, 1, 1], [1, 1, 1]]


# ------------------------------------------------------------------ equal values, different memory


def doubled_twice(x):
    return x * 2, x * 2


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_equal_results_have_memory_and_gradients_of_their_own(mode):
    f = tg.compile(doubled_twice) if mode == "compiled" else doubled_twice
    for _ in range(2):
        x = tg.tensor([1.0, 2.0], requires_grad=True)
        a, b = f(x)
        (a + 3 * b).sum().backward()
        assert x.grad.tolist() == [8, 8]
        with tg.no_grad():
            a.zero_()
        assert b.tolist() == [2, 4]


def backward_of_a_sum(w, b):
    (w + b).sum().backward()


def scaled_backward_of_a_sum(w, b):
    (w + b).sum().backward()
    w.grad.mul_(5)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_equal_gradients_have_memory_of_their_own(mode):
    for function, outside in ((backward_of_a_sum, True), (scaled_backward_of_a_sum, False)):
        f = tg.compile(function) if mode == "compiled" else function
        for _ in range(2):
            w, b = (tg.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
            f(w, b)
            if outside:
                w.grad.mul_(5)
            assert w.grad.tolist() == [5, 5]
            assert b.grad.tolist() == [1, 1]


# ---------------------------------------------------------------------- hooks within compiled code


def seven(g):
    return g * 7


def hook_on_an_intermediate(x, out):
    z = x * 2
    z.register_hook(seven)
    return z.sum()


def hook_on_a_node(x, out):
    z = x * 2
    z.grad_fn.register_prehook(lambda gs: (gs[0] * 7,))
    return z.sum()


def hook_on_what_is_written(x, out):
    z = x * 2
    z.register_hook(seven)
    out.copy_(z)


def hook_on_an_argument(x, out):
    x.register_hook(seven)
    return x.sum()


def hook_after_accumulation(x, out):
    if x.is_leaf:
        x.register_post_accumulate_grad_hook(lambda x: None)
    else:
        x.grad_fn.register_hook(lambda gs, _: gs)
    return x.sum()


def kept_gradient(x, out):
    z = x * 2
    z.retain_grad()
    (x if x.grad_fn else z).retain_grad()
    return z


@pytest.mark.parametrize(
    "function",
    [
        hook_on_an_intermediate,
        hook_on_a_node,
        hook_on_what_is_written,
        hook_on_an_argument,
        hook_after_accumulation,
        kept_gradient,
    ],
)
@pytest.mark.parametrize("is_leaf", [True, False])
def test_a_hook_that_compiled_code_would_drop_is_an_error(function, is_leaf):
    leaf = tg.tensor([1.0, 2.0], requires_grad=True)
    before = leaf.register_hook(lambda g: g + 1)
    x = leaf if is_leaf else leaf * 1
    out = tg.zeros(2)
    with pytest.raises(tg.errors.TraceError, match=r"outside of it, at test_footguns.py:\d+: "):
        tg.compile(function)(x, out)
    # All is as it was: the caller's own hook runs, no other does, nothing is retained.
    assert out.tolist() == [0, 0]
    assert not x.retains_grad
    x.sum().backward()
    assert leaf.grad.tolist() == [2, 2]
    before.remove()


def test_a_hook_is_taken_back_if_the_traced_function_fails():
    def fails(x):
        x.register_hook(seven)
        raise KeyError("no")

    x = tg.ones(2, requires_grad=True)
    x.register_hook(lambda g: g + 1)
    with pytest.raises(KeyError, match="no"):
        tg.compile(fails)(x)
    x.sum().backward()
    assert x.grad.tolist() == [2, 2]


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_hooks_work_where_backward_is_in_the_function_too(mode):
    def trained(x):
        z = x * 2
        z.register_hook(seven)
        handle = x.register_hook(lambda g: g + 1)
        z.sum().backward()
        handle.remove()
        return x.sum()

    x = tg.ones(2, requires_grad=True)
    f = tg.compile(trained) if mode == "compiled" else trained
    for calls in (1, 2):
        f(x)
        assert x.grad.tolist() == [15 * calls] * 2


# ------------------------------------------------------------------ leaves made in compiled code


def copied_leaf(x):
    return x.detach().clone().requires_grad_(True)


def leaf_on_the_memory_of_an_argument(x):
    return x.detach()[1:].requires_grad_()


def leaf_of_zeros(x):
    return tg.zeros(2, requires_grad=True)


def leaf_computed_without_tape(x):
    with tg.no_grad():
        y = x * 2
    return y.requires_grad_()


def leaf_with_gradient(x):
    leaf = x.detach().clone().requires_grad_(True)
    (leaf * leaf).sum().backward()
    return leaf


def intermediate_with_gradient(x):
    y = x.detach().requires_grad_(True) * 2
    y.retain_grad()
    (y * y).sum().backward()
    return y


@pytest.mark.parametrize(
    "function",
    [
        copied_leaf,
        leaf_on_the_memory_of_an_argument,
        leaf_of_zeros,
        leaf_computed_without_tape,
        leaf_with_gradient,
        intermediate_with_gradient,
    ],
)
@pytest.mark.parametrize("asks", [False, True])
def test_a_leaf_made_in_compiled_code_comes_out_as_in_eager_code(function, asks):
    f = tg.compile(function)
    for _ in range(2):
        x = tg.tensor([1.0, 2.0], requires_grad=asks)
        made, expected = f(x), function(x)
        assert made.tolist() == expected.tolist()
        assert made.requires_grad
        assert made.is_leaf is expected.is_leaf
        assert (made._grad is None) is (expected._grad is None)
        if made._grad is not None:
            assert made._grad.tolist() == expected._grad.tolist()
        elif made.is_leaf:
            (made * 3).sum().backward()
            assert made.grad.tolist() == [3] * len(made)
        assert x.grad is None


def test_a_leaf_returned_with_what_is_computed_from_it_is_an_error():
    def both(x):
        leaf = x.detach().clone().requires_grad_(True)
        return leaf, (leaf * x).sum()

    with pytest.raises(tg.errors.TraceError, match="make the leaf outside"):
        tg.compile(both)(tg.ones(2, requires_grad=True))


def test_a_tensor_on_a_captured_array_comes_out_as_a_tensor():
    array = np.array([1.0, 2.0])
    f = tg.compile(lambda x: (tg.from_numpy(array), tg.from_numpy(array)[1:], x))
    for value in (1.0, 50.0):
        array[1] = value
        whole, part, _ = f(tg.ones(2))
        assert whole.tolist() == [1, value]
        assert part.tolist() == [value]
        assert np.shares_memory(part.numpy(), array)


# --------------------------------------------------------------------------- captured NumPy arrays


@pytest.mark.parametrize(
    ("make", "traces"),
    [
        (tg.tensor, 1),
        (tg.as_tensor, 1),
        (tg.from_numpy, 1),
        (lambda array: tg.tensor(array, dtype=tg.float64), 1),
        (lambda array: tg.as_tensor(array, dtype=tg.float32), 1),
        (lambda array: tg.from_numpy(array[::-1]), 1),
        (lambda array: tg.tensor(array[1:]), 1),
        (lambda array: tg.from_numpy(array) * tg.from_numpy(array), 1),
        (lambda array: tg.arange(100.0)[tg.tensor(array).long()], 1),
        (lambda array: array, 1),
        # What NumPy computes is constant, and so the elements of the array are guards.
        (lambda array: tg.tensor([array, array])[1], 3),
        (lambda array: tg.tensor(array.tolist()), 3),
        (lambda array: np.sin(array), 3),
        (lambda array: float(array[0]), 3),
    ],
)
def test_a_captured_array_is_read_at_every_call(make, traces):
    array = np.array([1.0, 2.0])

    def function(x):
        return x + make(array)

    f = tg.compile(function)
    x = tg.ones(2)
    for value in (1.0, 50.0, 51.0, 51.0):
        array[0] = value
        assert f(x).tolist() == function(x).tolist()
    assert f.statistics.traces == traces


def test_a_captured_array_as_an_index_is_read_at_every_call():
    index = np.array([0, 1])
    mask = np.array([True, False, True])
    pick = tg.compile(lambda x: (x[index], x[mask]))
    x = tg.arange(3.0)
    for first in (0, 2, 1):
        index[0] = first
        mask[1] = first != 0
        picked, masked = pick(x)
        assert picked.tolist() == [first, 1]
        assert masked.tolist() == ([0, 1, 2] if first else [0, 2])
    # Only the mask decides on a shape.
    assert pick.statistics.traces == 2


def test_a_captured_array_can_be_written_through_a_tensor():
    buffer = np.zeros(2)

    @tg.compile
    def count(x):
        tg.from_numpy(buffer).add_(x)
        return tg.from_numpy(buffer) * 1

    for calls in (1, 2, 3):
        assert count(tg.ones(2, dtype=tg.float64)).tolist() == [calls, calls]
        assert buffer.tolist() == [calls, calls]


def test_a_write_by_numpy_while_tracing_is_reported():
    buffer = np.zeros(2)

    @tg.compile
    def count(x):
        buffer[0] += 1
        return x * 2

    with pytest.warns(tg.errors.SideEffectWarning, match="buffer: elements of the array changed"):
        count(tg.ones(2))


def test_a_captured_numpy_scalar_is_a_guard():
    scale = np.float32(2)
    f = tg.compile(lambda x: x * scale)
    assert f(tg.ones(1)).item() == 2
    scale = np.float32(3)
    assert f(tg.ones(1)).item() == 3


def test_a_tensor_made_of_a_float_argument_follows_it():
    f = tg.compile(lambda x, rate: x * tg.tensor(rate))
    for rate in (0.1, 0.2):
        assert f(tg.ones(1), rate).equal(tg.tensor([rate]))
    assert f.statistics.traces == 1
    assert tg.compile(tg.tensor)(0.5).dtype is tg.float32


# --------------------------------------------------------------------------------- wrong arguments


def test_only_functions_can_be_compiled():
    with pytest.raises(tg.errors.ArgumentError, match=r"not int: 3, at test_footguns.py:\d+: "):
        tg.compile(3)


def test_a_ufunc_can_be_compiled():
    x = tg.tensor([0.0, 1.0], requires_grad=True)
    y = tg.compile(np.sin)(x)
    y.sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), np.sin([0.0, 1.0]), rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), np.cos([0.0, 1.0]), rtol=1e-6)
    assert tg.compile(np.add)(x, 1.0).tolist() == [1, 2]


def test_a_call_with_the_wrong_arguments_names_the_function():
    def model(x, y):
        return x

    f = tg.compile(model)
    x = tg.ones(1)
    with pytest.raises(TypeError, match=r"model\(\).*missing.*'y'"):
        f(x)
    with pytest.raises(TypeError, match=r"model\(\).*too many"):
        f(x, x, x)
    with pytest.raises(TypeError, match=r"model\(\).*unexpected.*'z'"):
        f(x, y=x, z=x)


def test_a_counter_in_a_compiled_method_is_reported_once_with_its_line():
    class Model:
        def __init__(self):
            self.calls = 0

        @tg.compile
        def forward(self, x):
            self.calls += 1
            return x * 2

    model = Model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert model.forward(tg.ones(1)).item() == 2
    (warning,) = caught
    assert warning.filename == __file__
    assert "calls: 0 -> 1" in str(warning.message)
    assert "change the object outside of the function" in str(warning.message)


# ------------------------------------------------------------------------------- detached arguments


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_detached_leaf_is_trained_itself_and_not_what_it_was_detached_from(mode):
    def step(w, x):
        ((w * x) ** 2).sum().backward()
        with tg.no_grad():
            w.sub_(0.25 * w.grad)

    f = tg.compile(step) if mode == "compiled" else step
    source = tg.ones(2)
    w = source.detach().requires_grad_()
    x = tg.tensor([1.0, 2.0])
    f(w, x)
    assert w.grad.tolist() == [2, 8]
    f(w, x)
    assert w.tolist() == source.tolist() == [-0.25, -1]
    assert w.grad.tolist() == [3, 0]
    assert source.grad is None


def test_a_leaf_on_memory_that_is_written_through_another_argument_is_an_error():
    @tg.compile
    def f(leaf, x):
        (leaf * leaf).sum().backward()
        x.add_(1)

    x = tg.ones(2)
    leaf = x.detach().requires_grad_()
    with pytest.raises(tg.errors.TraceError, match="Pass a leaf with memory of its own"):
        f(leaf, x)
    assert x.tolist() == [1, 1]
    assert leaf.grad is None
    assert x.grad is None


# -------------------------------------------------------------------------------------------- loops


def agree(function, *arguments):
    """Compiled, called twice, against eager: the arrays of the results."""
    expected = function.__wrapped__(*(x.clone() for x in arguments))
    for _ in range(2):
        got = function(*(x.clone() for x in arguments))
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)


def test_loop_inside_does_not_keep_the_first_index_of_the_loops_around():
    # Both inner loops are rolled while k is still the number 0, and once more when it is carried.
    @tg.compile
    def eliminate(a):
        n = a.shape[0]
        for k in range(n):
            for i in range(k + 1, n):
                m = a[i, k] / a[k, k]
                for j in range(k, n):
                    a[i, j] = a[i, j] - m * a[k, j]
        return a

    numbers = np.random.default_rng(1).standard_normal((10, 10)) + 5 * np.eye(10)
    agree(eliminate, tg.tensor(numbers))


@pytest.mark.parametrize("seed", range(4))
def test_loop_inside_that_changes_its_mind_late_sees_the_indices_around(seed):
    # Whether the best row is replaced, is first seen in another round than the one recorded first.
    @tg.compile
    def pivots(a):
        n = a.shape[0]
        found = tg.zeros(n, dtype=tg.float64)
        for k in range(n):
            best = k
            for i in range(k + 1, n):
                if a[i, k].abs() > a[best, k].abs():
                    best = i
            found[k] = best
        return found

    numbers = np.random.RandomState(seed).randn(10, 10)
    numbers[0, 0] = numbers[1, 1] = 9.0
    agree(pivots, tg.tensor(numbers))


@pytest.mark.parametrize("size", [5, 15])
def test_what_an_index_of_a_loop_reads_is_a_view(size):
    # Rolled or written out: as eagerly, where x[i] is a view.
    @tg.compile
    def swap(x):
        for j in range(x.shape[0] - 1):
            x[j], x[j + 1] = x[j + 1], x[j]
        return x

    @tg.compile
    def write(x):
        for i in range(x.shape[0]):
            row = x[i]
            row += 1.0
            x[i].mul_(i + 1)
            x[i, 1:].sub_(3)
            x[i][0] = row[1] * row[2]
        return x

    @tg.compile
    def read_late(x):
        for i in range(x.shape[0]):
            row, first = x[i], x[i, 1:]
            x[i, 1] = 5.0
            x[i, 0] = row[1] + first[0]
        return x

    numbers = np.random.default_rng(2).standard_normal((size, 3))
    agree(swap, tg.tensor(numbers[:, 0]))
    agree(write, tg.tensor(numbers))
    agree(read_late, tg.tensor(numbers))


def test_gradient_of_a_view_at_an_index_of_a_loop():
    def late(x):
        y = x.clone()
        for i in range(y.shape[0] - 1):
            kept = y[i]
            y[i] = kept * y[i + 1]
            y[i + 1] = y[i + 1] + kept
        return (y * y).sum()

    x = tg.tensor(np.random.default_rng(3).standard_normal(12))
    expected = tg.grad(late)(x)
    np.testing.assert_allclose(tg.grad(tg.compile(late))(x).numpy(), expected.numpy(), rtol=1e-9)


def test_what_nobody_has_any_more_is_not_read_again(monkeypatch):
    reads = []
    read = moving_views.MovingView.read
    monkeypatch.setattr(
        moving_views.MovingView, "read", lambda view: reads.append(view) or read(view)
    )

    @tg.compile
    def build(x, i):
        for _ in range(6):
            x[i + 1] = x[i] * 2 + x[i + 1]
        kept = x[i]
        x[i] = 0.0
        return x.sum() + kept

    build(tg.ones(4, requires_grad=True) * 1, 1)
    # Of the twelve that are used up nothing; `kept` once.
    assert len(reads) == 1


def test_list_of_indices_with_one_that_was_computed_is_one_path():
    @tg.compile
    def exchange(a):
        for k in range(a.shape[0] - 1):
            p = a[k:, 0].abs().argmax() + k
            a[[k, p]] = a[[p, k]]
        return a

    for seed in range(5):
        numbers = np.random.default_rng(seed).standard_normal((6, 3))
        agree(exchange, tg.tensor(numbers))
    assert "0 retraces" in exchange.explain()
