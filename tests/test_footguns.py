"""Surprises that users of such systems know, one test each."""

import threading
import warnings

import numpy as np
import pytest

import tracegrad as tg


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
