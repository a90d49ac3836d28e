"""What a function reads beside its arguments: seen at every call, never baked in."""

import functools
import types

import numpy as np
import pytest

import tracegrad as tg

WEIGHT = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
SCALE = 2.0
TABLE = {"a": tg.ones(3), "rate": 0.5}
SETTINGS = types.SimpleNamespace(power=2, weight=tg.ones(3))


def helper(x):
    return x * WEIGHT * SCALE


def through_helper(x):
    return helper(x)


@pytest.fixture
def x():
    return tg.ones(3)


def test_global_tensor_through_a_helper_is_an_input(x, monkeypatch):
    compiled = tg.compile(through_helper)
    assert compiled(x).tolist() == [2, 4, 6]
    WEIGHT.grad = None
    compiled(x).sum().backward()
    assert WEIGHT.grad.tolist() == [2, 2, 2]
    WEIGHT.grad = None
    monkeypatch.setitem(globals(), "WEIGHT", tg.full((3,), 5.0, requires_grad=True))
    assert compiled(x).tolist() == [10, 10, 10]
    with tg.no_grad():
        WEIGHT.mul_(2)
    assert compiled(x).tolist() == [20, 20, 20]
    assert compiled.statistics.traces == 1


def test_global_number_is_guarded(x, monkeypatch):
    compiled = tg.compile(through_helper)
    compiled(x)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert compiled(x).tolist() == [3, 6, 9]
    assert "SCALE: 2.0 -> 3.0" in compiled.explain()
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert compiled(x).tolist() == [2, 4, 6]
    assert compiled.statistics.traces == 2


def test_int_and_float_of_equal_value_are_told_apart(monkeypatch):
    compiled = tg.compile(lambda: tg.arange(3) * SCALE)
    assert compiled().dtype is tg.float32
    monkeypatch.setitem(globals(), "SCALE", 2)
    assert compiled().dtype is tg.int64


def test_helper_exchanged(x, monkeypatch):
    compiled = tg.compile(through_helper)
    compiled(x)
    monkeypatch.setitem(globals(), "helper", lambda x: x - 1)
    assert compiled(x).tolist() == [0, 0, 0]


def test_tensor_becomes_another_shape_or_dtype(x, monkeypatch):
    compiled = tg.compile(through_helper)
    compiled(x)
    monkeypatch.setitem(globals(), "WEIGHT", tg.ones(2, 3))
    assert compiled(x).shape == (2, 3)
    monkeypatch.setitem(globals(), "WEIGHT", tg.ones(3, dtype=tg.float64))
    assert compiled(x).dtype is tg.float64
    assert compiled.statistics.traces == 3


def test_closure_rebinding(x):
    w = tg.ones(3)
    n = 2

    @tg.compile
    def f(x):
        return x * w * n

    assert f(x).tolist() == [2, 2, 2]
    w = w + 1
    assert f(x).tolist() == [4, 4, 4]
    assert f.statistics.traces == 1
    n = 3
    assert f(x).tolist() == [6, 6, 6]
    assert f.statistics.traces == 2


def test_dictionary_and_attributes(x, monkeypatch):
    compiled = tg.compile(
        lambda x: x * TABLE["a"] * TABLE["rate"] * SETTINGS.weight**SETTINGS.power
    )
    assert compiled(x).tolist() == [0.5] * 3
    monkeypatch.setitem(TABLE, "a", tg.full((3,), 4.0))
    assert compiled(x).tolist() == [2] * 3
    monkeypatch.setattr(SETTINGS, "weight", tg.full((3,), 3.0))
    assert compiled(x).tolist() == [18] * 3
    assert compiled.statistics.traces == 1
    monkeypatch.setattr(SETTINGS, "power", 1)
    assert compiled(x).tolist() == [6] * 3
    monkeypatch.setitem(TABLE, "rate", 1.0)
    assert compiled(x).tolist() == [12] * 3


class Layer:
    def __init__(self, value):
        self.weight = tg.full((3,), value, requires_grad=True)
        self.active = True

    def __call__(self, x):
        return x * self.weight if self.active else x


class Network:
    def __init__(self):
        self.layers = [Layer(2.0), Layer(3.0)]
        self._offset = 1.0

    @property
    def offset(self):
        return self._offset

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x + self.offset


def test_network_of_objects(x):
    network = Network()
    compiled = tg.compile(network.forward)
    assert compiled(x).tolist() == [7] * 3
    compiled(x).sum().backward()
    assert network.layers[0].weight.grad.tolist() == [3] * 3
    network.layers[1].weight = tg.full((3,), 10.0, requires_grad=True)
    assert compiled(x).tolist() == [21] * 3
    assert compiled.statistics.traces == 1
    network.layers[0].active = False
    assert compiled(x).tolist() == [11] * 3
    network.layers.append(Layer(2.0))
    assert compiled(x).tolist() == [21] * 3
    network._offset = 0.0
    assert compiled(x).tolist() == [20] * 3


def test_object_as_argument_is_guarded_by_identity(x):
    compiled = tg.compile(lambda model, x: model.forward(x))
    one, two = Network(), Network()
    two.layers.pop()
    assert compiled(one, x).tolist() == [7] * 3
    assert compiled(two, x).tolist() == [3] * 3
    one.layers[0].weight = tg.full((3,), 1.0, requires_grad=True)
    assert compiled(one, x).tolist() == [4] * 3
    assert compiled.statistics.traces == 2


def test_partial_and_function_arguments(x):
    compiled = tg.compile(functools.partial(lambda w, x: x * w, tg.full((3,), 2.0)))
    assert compiled(x).tolist() == [2] * 3
    apply = tg.compile(lambda f, x: f(x))
    assert apply(tg.abs, x).tolist() == [1] * 3
    assert apply(tg.neg, x).tolist() == [-1] * 3


def test_array_by_reference():
    data = np.arange(3.0)
    compiled = tg.compile(lambda x: x.double() * data)
    assert compiled(tg.ones(3)).tolist() == [0, 1, 2]
    data[0] = 7
    assert compiled(tg.ones(3)).tolist() == [7, 1, 2]
    assert compiled.statistics.traces == 1


def test_argument_that_is_also_captured(x):
    w = tg.full((3,), 2.0)
    compiled = tg.compile(lambda v: (v * w).sum())
    assert compiled(w).item() == 12
    assert compiled(x).item() == 6
    assert compiled(w).item() == 12


def test_two_names_of_one_tensor():
    a = tg.full((2,), 2.0)
    b = a

    @tg.compile
    def f():
        return (a * b).sum()

    assert f().item() == 8
    b = tg.full((2,), 5.0)
    assert f().item() == 20


def test_tensor_without_a_path_is_captured_by_reference(x):
    hidden = tg.full((3,), 2.0)
    source = iter([hidden, hidden, hidden])
    compiled = tg.compile(lambda x: x * next(source))
    assert compiled(x).tolist() == [2] * 3
    hidden.add_(1)
    assert compiled(x).tolist() == [3] * 3


def test_calls_do_not_keep_their_tensors_alive():
    import gc
    import weakref

    compiled = tg.compile(lambda x: (x * 2).sum())
    references = []
    for _ in range(2):
        big = tg.ones(10)
        references.append(weakref.ref(big))
        compiled(big)
        del big
    gc.collect()
    assert [r() for r in references] == [None, None]


def test_attribute_that_the_function_sets(x):
    class Cell:
        def __init__(self):
            self.state = None
            self.steps = tg.zeros(())

        @tg.compile
        def step(self, x):
            previous = x if self.state is None else self.state
            self.state = previous * 2 + x
            self.steps = self.steps + 1
            return self.state.sum()

    one, two = Cell(), Cell()
    for expected in (9, 21, 45, 93):
        assert one.step(x).item() == expected
        assert two.step.__func__.__wrapped__(two, x).item() == expected
        assert one.state.tolist() == two.state.tolist()
        assert one.steps.item() == two.steps.item()
    assert Cell.step.statistics.traces == 2


def test_global_that_the_function_sets(x):
    total = tg.zeros(3, dtype=tg.float64)

    @tg.compile
    def f(x):
        nonlocal total
        total = total + x.double()
        return x * 2

    for i in range(1, 4):
        f(x)
        assert total.tolist() == [i] * 3
    assert f.statistics.traces == 1


def test_dictionary_argument_that_the_function_changes(x):
    @tg.compile
    def step(parameters, rate):
        for name in ("w", "b"):
            parameters[name] = parameters[name] - rate * parameters[name] ** 2
        parameters["last"] = parameters["w"] * 1
        return parameters["w"].sum()

    a = {"w": tg.ones(2, dtype=tg.float64), "b": tg.ones(1, dtype=tg.float64)}
    b = dict(a)
    for rate in (0.1, 0.2, 0.3, 0.1):
        found, expected = step(a, rate), step.__wrapped__(b, rate)
        np.testing.assert_allclose(found.item(), expected.item(), rtol=1e-12)
        assert list(a) == list(b)
        for name in a:
            np.testing.assert_allclose(a[name].numpy(), b[name].numpy(), rtol=1e-12)
    assert step.statistics.traces == 2


def test_gradient_through_a_stored_tensor(x):
    cache = {}

    @tg.compile
    def f(w):
        cache["h"] = w * 3
        return w.sum()

    w = tg.ones(3, requires_grad=True)
    for _ in range(3):
        w.grad = None
        f(w)
        (cache["h"] ** 2).sum().backward()
        assert w.grad.tolist() == [18] * 3


def test_counter_is_announced_once(x):
    counts = {"calls": 0}

    @tg.compile
    def f(x):
        counts["calls"] += 1
        return x * 2

    with pytest.warns(tg.errors.SideEffectWarning, match=r"counts\['calls'\]: 0 -> 1"):
        f(x)
    for _ in range(3):
        f(x)
    assert f.statistics.traces == 1


def test_exception_after_a_store_puts_the_old_tensor_back(x):
    cache = {"h": x}

    @tg.compile
    def f(v):
        cache["h"] = v * 2
        raise ValueError

    with pytest.raises(ValueError):
        f(tg.ones(3))
    assert cache["h"] is x


class Callable:
    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)


FORMS = {
    "function": lambda f: f,
    "partial": functools.partial,
    "object": Callable,
    "method": lambda f: Callable(f).__call__,
    "transform": tg.checkpoint,
    "named like a function of NumPy": functools.wraps(np.sin),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_wrapper_of_a_transform_is_not_guarded_but_what_it_wraps_is_followed(form) -> None:
    scale = tg.tensor(2.0)

    def loss(x: tg.Tensor) -> tg.Tensor:
        return (x * scale).sum()

    f = tg.compile(tg.value_and_grad(form(loss)))
    x = tg.ones(3)
    assert f(x)[0].item() == 6
    scale.fill_(3.0)
    value, gradient = f(x)
    assert value.item() == 9
    assert gradient.tolist() == [3, 3, 3]
    assert f.statistics.traces == 1
    if form is FORMS["function"]:
        assert "guarded" not in f.explain()
