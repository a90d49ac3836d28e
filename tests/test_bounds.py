"""Indices and classes out of range: compiled code raises what eager code raises."""

import re

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.nn import functional


def put(x, i, v):
    x = x * 1
    x[i] = v
    return x


def put_row(x, i):
    x = x * 1
    x[i, 1:] = 7.0
    return x


def scatter_into(x, i):
    return tg.scatter(x, 0, i, tg.ones(2, 3))


def add_into(x, i):
    return tg.scatter_add(x, 0, i, tg.ones(2, 3))


def add_rows(x, i):
    return tg.index_add(x, 0, i, tg.ones(2, 3))


def copy_rows(x, i):
    return tg.index_copy(x, 0, i, tg.ones(2, 3))


def ints(*values):
    return tg.tensor(values)


def matrix():
    return tg.arange(12.0).reshape(4, 3)


# Function, its arguments, arguments that are out of range, the number of the bad one, the size.
CASES = {
    "getitem": (lambda x, i: x[i], (matrix(), ints(1, 0)), (matrix(), ints(1, 4)), 4),
    "getitem from the end": (
        lambda x, i: x[i],
        (matrix(), ints(1, -4)),
        (matrix(), ints(-5, 0)),
        -5,
    ),
    "getitem of int32": (
        lambda x, i: x[i],
        (matrix(), tg.tensor([1, 0], dtype=tg.int32)),
        (matrix(), tg.tensor([1, 9], dtype=tg.int32)),
        9,
    ),
    "getitem of two": (
        lambda x, i, j: x[i, j],
        (matrix(), ints(1, 0), ints(0, 2)),
        (matrix(), ints(1, 0), ints(3, 0)),
        3,
    ),
    "getitem of an int": (lambda x, i: x[i], (matrix(), 1), (matrix(), 7), 7),
    "getitem of a scalar": (
        lambda x, i: x[:, i],
        (matrix(), tg.tensor(2)),
        (matrix(), tg.tensor(3)),
        3,
    ),
    "setitem": (put, (matrix(), ints(1, 0), 5.0), (matrix(), ints(1, 4), 5.0), 4),
    "setitem of an int": (put, (matrix(), 3, 5.0), (matrix(), -5, 5.0), -5),
    "setitem beside a slice": (put_row, (matrix(), ints(0, 3)), (matrix(), ints(0, 12)), 12),
    "gather": (
        lambda x, i: tg.gather(x, 1, i),
        (matrix(), tg.tensor([[2], [0]])),
        (matrix(), tg.tensor([[2], [-1]])),
        -1,
    ),
    "take_along_dim": (
        lambda x, i: tg.take_along_dim(x, i, 0),
        (matrix(), tg.tensor([[3, 0, -4]])),
        (matrix(), tg.tensor([[3, 4, 0]])),
        4,
    ),
    "take": (lambda x, i: tg.take(x, i), (matrix(), ints(11, -12)), (matrix(), ints(12, 0)), 12),
    "index_select": (
        lambda x, i: tg.index_select(x, 0, i),
        (matrix(), ints(3, 0)),
        (matrix(), ints(0, 5)),
        5,
    ),
    "scatter": (
        scatter_into,
        (matrix(), tg.tensor([[3, 0, 1]])),
        (matrix(), tg.tensor([[3, 0, 4]])),
        4,
    ),
    "scatter_add": (
        add_into,
        (matrix(), tg.tensor([[3, 0, 1]])),
        (matrix(), tg.tensor([[3, 0, 4]])),
        4,
    ),
    "index_add": (add_rows, (matrix(), ints(3, 0)), (matrix(), ints(4, 0)), 4),
    "index_copy": (copy_rows, (matrix(), ints(3, 0)), (matrix(), ints(-1, 0)), -1),
    "one_hot": (lambda i: functional.one_hot(i, 3), (ints(2, 0),), (ints(0, 3),), 3),
    "embedding": (
        lambda x, i: functional.embedding(i, x),
        (matrix(), ints(3, 0)),
        (matrix(), ints(3, 6)),
        6,
    ),
    "nll_loss": (
        functional.nll_loss,
        (matrix(), ints(0, 1, 2, 0)),
        (matrix(), ints(0, 1, 3, 0)),
        3,
    ),
    "cross_entropy": (
        functional.cross_entropy,
        (matrix(), ints(0, 1, 2, -100)),
        (matrix(), ints(0, -1, 2, 0)),
        -1,
    ),
}


def raised(function, args):
    """The error of a call, as class and text."""
    with pytest.raises(IndexError) as caught:
        function(*args)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_compiled_code_raises_what_eager_code_raises(name):
    function, good, bad, number = CASES[name]
    compiled = tg.compile(function)
    expected = function(*good).numpy()
    np.testing.assert_allclose(compiled(*good).numpy(), expected, rtol=1e-6)
    statistics = compiled.statistics
    before = statistics.traces, statistics.compilations
    inputs = [x.tolist() for x in bad if isinstance(x, tg.Tensor)]
    eager = raised(function, bad)
    assert eager[0] is tg.errors.BoundsError
    assert re.search(rf"(?<![-\d]){number} is out of bounds", eager[1])
    assert raised(compiled, bad)[0] is eager[0]
    if name not in ("nll_loss", "cross_entropy"):
        # The line of the index expression; those two have no line of the user's within them.
        assert raised(compiled, bad)[1] == eager[1]
    assert f"{number} is out of bounds" in raised(compiled, bad)[1]
    assert [x.tolist() for x in bad if isinstance(x, tg.Tensor)] == inputs
    np.testing.assert_allclose(compiled(*good).numpy(), expected, rtol=1e-6)
    assert (statistics.traces, statistics.compilations) == before


def test_the_line_is_that_of_the_index():
    def pick(x, i):
        y = x * 2
        return y[i] + 1

    compiled = tg.compile(pick)
    compiled(tg.ones(3), ints(0))
    with pytest.raises(IndexError, match=r"with size 3, at test_bounds.py:\d+: return y\[i\] \+ 1"):
        compiled(tg.ones(3), ints(3))


def test_an_ignored_class_is_no_error():
    compiled = tg.compile(lambda x, t: functional.cross_entropy(x, t, ignore_index=-7))
    x = matrix()
    compiled(x, ints(0, 1, 2, 0))
    alone = functional.cross_entropy(x[:1], ints(0)).item()
    assert compiled(x, ints(0, -7, -7, -7)).item() == pytest.approx(alone)
    with pytest.raises(IndexError, match="Target -100 is out of bounds"):
        compiled(x, ints(0, -100, -7, -7))


@pytest.mark.parametrize("bad", [1.25, -0.5, float("nan")])
def test_a_probability_out_of_range(bad):
    compiled = tg.compile(lambda x, t: functional.binary_cross_entropy(x, t))
    outcome = tg.tensor([1.0, 0.0])
    right, wrong = tg.tensor([0.5, 0.5]), tg.tensor([0.5, bad])
    expected = compiled(right, outcome).item()
    assert expected == pytest.approx(np.log(2), rel=1e-6)
    for function in (compiled.__wrapped__, compiled):
        with pytest.raises(tg.errors.ArgumentError, match="should be between 0 and 1"):
            function(wrong, outcome)
    assert compiled(right, outcome).item() == expected
    assert compiled.statistics.traces == 1


def test_nothing_is_written_by_a_call_that_fails():
    total = tg.zeros(4)

    @tg.compile
    def accumulate(x, i, count):
        count += 1
        total.add_(x)
        return x[i]

    count = tg.zeros(())
    x = tg.ones(4)
    accumulate(x, ints(0), count)
    with pytest.raises(IndexError):
        accumulate(x, ints(4), count)
    assert count.item() == 1
    assert total.tolist() == [1, 1, 1, 1]
    accumulate(x, ints(3), count)
    assert count.item() == 2
    assert total.tolist() == [2, 2, 2, 2]
    assert accumulate.statistics.traces == 1


def test_no_random_number_is_drawn_by_a_call_that_fails():
    draw = tg.compile(lambda i: tg.rand(3)[i])
    tg.manual_seed(1)
    expected = [tg.rand(3).tolist()[0] for _ in range(2)]
    tg.manual_seed(1)
    assert draw(ints(0)).tolist() == pytest.approx(expected[:1])
    with pytest.raises(IndexError):
        draw(ints(3))
    assert draw(ints(0)).tolist() == pytest.approx(expected[1:])


@pytest.mark.parametrize("at", [0, 54_321, 99_999])
def test_one_bad_index_among_many(at):
    compiled = tg.compile(lambda x, i: x[i])
    index = np.random.default_rng(0).integers(-1000, 1000, 100_000)
    x = tg.arange(1000)
    np.testing.assert_array_equal(compiled(x, tg.tensor(index)).numpy(), np.arange(1000)[index])
    for bad in (1000, -1001, 2**62, -(2**62)):
        wrong = index.copy()
        wrong[at] = bad
        with pytest.raises(IndexError, match=f"index {bad} is out of bounds"):
            compiled(x, tg.tensor(wrong))


def test_a_strided_index():
    compiled = tg.compile(lambda x, i: x[i])
    base = tg.tensor([0, 9, 2, 9])
    assert compiled(tg.arange(3.0), base[::2]).tolist() == [0, 2]
    base[2] = 3
    with pytest.raises(IndexError, match="index 3 is"):
        compiled(tg.arange(3.0), base[::2])


def test_an_index_that_is_computed():
    compiled = tg.compile(lambda x, i: x[(i * 2 + 1).reshape(-1)].sum())
    x = tg.arange(6.0)
    assert compiled(x, tg.tensor([[0, 2]])).item() == 6
    with pytest.raises(IndexError, match="index 7 is out of bounds"):
        compiled(x, tg.tensor([[0, 3]]))


def test_no_index_at_all():
    compiled = tg.compile(lambda x, i: x[i])
    assert compiled(tg.ones(3), tg.zeros(0, dtype=tg.int64)).shape == (0,)


def test_before_and_after_a_condition():
    @tg.compile
    def choose(x, i):
        first = x[i]
        if first.sum() > 2:
            return first
        return x[i + 1] + x[i]

    x = tg.arange(5.0)
    assert choose(x, ints(4)).tolist() == [4]
    assert choose(x, ints(1)).tolist() == [3]
    traces = choose.statistics.traces
    for bad in (5, -7):
        with pytest.raises(IndexError, match=f"index {bad} is out"):
            choose(x, ints(bad))
    # Each way on is checked for itself.
    later = tg.compile(lambda x, i: x[i + 1] if i.sum() > 0 else x[i - 1])
    assert later(x, ints(1)).tolist() == [2]
    assert later(x, ints(-1)).tolist() == [3]
    with pytest.raises(IndexError, match="index 5 is"):
        later(x, ints(4))
    with pytest.raises(IndexError, match="index -6 is"):
        later(x, ints(-5))
    assert choose.statistics.traces == traces == 2
    assert later.statistics.traces == 2


def test_in_a_loop():
    @tg.compile
    def walk(following, at, steps):
        for _ in range(steps):
            at = following[at]
        return at

    assert walk(ints(1, 2, 0), ints(0), 4).tolist() == [1]
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        walk(ints(1, 9, 0), ints(0), 4)
    # The last element found is no index.
    assert walk(ints(1, 2, 0), ints(0), 4).tolist() == [1]


def test_within_transforms_and_nested_functions():
    inner = tg.compile(lambda w, i: w[i])

    def loss(w, i):
        return (inner(w, i) ** 2).sum()

    compiled = tg.compile(tg.value_and_grad(loss))
    w = tg.arange(4.0)
    value, gradient = compiled(w, ints(3, 1))
    assert value.item() == 10
    assert gradient.tolist() == [0, 2, 0, 6]
    with pytest.raises(IndexError, match="index 4 is out of bounds"):
        compiled(w, ints(4, 1))
    assert compiled(w, ints(2, 2))[1].tolist() == [0, 0, 8, 0]
    assert compiled.statistics.traces == 1


def test_with_a_gradient_through_the_compiled_function():
    compiled = tg.compile(lambda w, i: functional.embedding(i, w).sum())
    w = matrix().requires_grad_()
    compiled(w, ints(0, 0)).backward()
    expected = [[2.0] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3]
    assert w.grad.tolist() == expected
    with pytest.raises(IndexError, match=r"embedding\(\): index 4"):
        compiled(w, ints(0, 4))
    assert w.grad.tolist() == expected
    compiled(w, ints(0, 3)).backward()
    assert w.grad.tolist() == [[3.0] * 3, [0.0] * 3, [0.0] * 3, [1.0] * 3]


def test_a_training_step():
    w = tg.zeros(4, 3, requires_grad=True)

    @tg.compile
    def step(tokens, classes):
        loss = functional.cross_entropy(functional.embedding(tokens, w), classes)
        w.grad = None
        loss.backward()
        with tg.no_grad():
            w.sub_(w.grad)
        return loss

    first = step(ints(0, 1), ints(0, 2)).item()
    after, gradient = w.tolist(), w.grad.tolist()
    for tokens, classes, message in (
        (ints(0, 4), ints(0, 2), r"embedding\(\): index 4"),
        (ints(0, 1), ints(0, 3), "Target 3 is out"),
    ):
        with pytest.raises(IndexError, match=message):
            step(tokens, classes)
        assert w.tolist() == after
        assert w.grad.tolist() == gradient
    assert step(ints(0, 1), ints(0, 2)).item() < first
    assert step.statistics.traces == 1


def test_an_index_known_while_tracing_is_not_looked_at_again():
    compiled = tg.compile(lambda x: x[[0, 2]] + x[tg.arange(2)])
    compiled(tg.ones(3))
    (specialisation,) = compiled.specialisations
    assert not specialisation.tree.root.flags


def kernels(function, *args):
    compiled = tg.compile(function)
    compiled(*args)
    program = compiled.specialisations[0].tree.root.program
    return len(program.forward.kernels)


def test_one_flag_costs_one_kernel_at_most():
    x = tg.rand(128, 10)
    classes = tg.randint(0, 10, (128,))
    assert kernels(lambda x, i: x[i], x, classes) <= 2
    assert kernels(lambda x, i: x[i, i], tg.rand(10, 10), classes) <= 2
    assert kernels(lambda w, i: functional.embedding(i, w), x, classes) <= 2
    # The reduction over the batch is there already.
    assert kernels(lambda x, t: functional.cross_entropy(x, t), x, classes) == kernels(
        lambda x: -functional.log_softmax(x, 1)[:, 0].mean(), x
    )
    odds, outcomes = tg.rand(128), classes.float() / 10
    assert kernels(lambda x, t: functional.binary_cross_entropy(x, t), odds, outcomes) == 1
