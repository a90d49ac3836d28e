"""What a compiled function changes beside returning something: the same as eager code changes."""

from __future__ import annotations

import collections
import copy
import dataclasses
import types
import warnings

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.errors import SideEffectWarning


def plain(value):
    """A value with lists in place of tensors, so that it can be compared."""
    if isinstance(value, tg.Tensor):
        return "tensor", value.detach().numpy().round(10).tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | collections.deque):
        return type(value)(map(plain, value))
    if isinstance(value, set):
        return sorted(map(repr, map(plain, value)))
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "__dict__") and not isinstance(value, type | types.FunctionType):
        return {name: plain(item) for name, item in vars(value).items()}
    return value


def as_eager(body, state, values, traces=None):
    """`body(state, x)` compiled does to `state` what it does in eager code, call by call."""

    def compiled_body(x):
        return body(state, x)

    expected_state = copy.deepcopy(state)
    compiled = tg.compile(compiled_body)
    for value in values:
        x = tg.tensor(value, dtype=tg.float64)
        expected, found = body(expected_state, x), compiled(x)
        assert plain(found) == plain(expected)
        assert plain(state) == plain(expected_state)
    if traces is not None:
        assert compiled.statistics.traces == traces
    return compiled


VALUES = [1.0, 2.0, -3.0, 4.0, 5.0, -1.0]


class Recorder:
    """An object to store things on."""


def state_of(**attributes):
    found = Recorder()
    vars(found).update(attributes)
    return found


def append(state, x):
    state.log.append(x * 2)
    return x + 1


def append_by_another_name(state, x):
    log = state.log
    log.append(x * 2)
    log.append(x)
    return x


def append_a_tensor_and_a_number(state, x):
    state.log.append(x * 2)
    state.log.append(7)
    return x


def extend(state, x):
    state.log.extend([x, x * 3])
    state.log += [x * 4]
    return x


def insert_in_front(state, x):
    state.log.insert(0, x * 2)
    return x


def append_on_a_branch(state, x):
    if x > 0:
        state.log.append(x * 2)
    return x


def append_in_a_loop(state, x):
    for i in range(3):
        state.log.append(x * i)
    return x


def append_a_structure(state, x):
    state.log.append({"x": x * 2, "pair": (x, [x + 1, "name"])})
    return x


@pytest.mark.parametrize(
    "body",
    [
        append,
        append_by_another_name,
        append_a_tensor_and_a_number,
        extend,
        insert_in_front,
        append_in_a_loop,
        append_a_structure,
    ],
)
@pytest.mark.parametrize("start", [0, 2])
def test_what_is_appended_is_appended_at_every_call_of_one_trace(body, start):
    # Where an empty list grows at either end, only a second trace tells which.
    traces = 2 if body is insert_in_front and start == 0 else 1
    as_eager(body, state_of(log=[tg.tensor(9.0)] * start), VALUES, traces=traces)


def test_appending_on_a_branch():
    as_eager(append_on_a_branch, state_of(log=[]), VALUES, traces=2)


LOG: list = []


def append_to_a_global(x):
    LOG.append(x * 2)
    return x


def test_a_global_list(monkeypatch):
    compiled = tg.compile(append_to_a_global)
    for value in VALUES:
        compiled(tg.tensor(value))
    assert [x.item() for x in LOG] == [2 * value for value in VALUES]
    other: list = []
    monkeypatch.setitem(globals(), "LOG", other)
    compiled(tg.tensor(5.0))
    assert [x.item() for x in other] == [10]
    assert compiled.statistics.traces == 1


def test_a_list_that_grows_long_costs_no_more_a_call():
    log = []

    @tg.compile
    def f(x):
        log.append(x * 2)
        return x

    x = tg.ones(())
    for _ in range(2000):
        f(x)
    assert len(log) == 2000
    assert f.statistics.traces == 1
    # A retrace does not walk through the list.
    f(tg.ones(1))
    assert len(log) == 2001


def test_a_tensor_from_a_list_has_a_tape():
    log = []

    @tg.compile
    def f(w):
        log.append(w * 3)
        return w.sum()

    w = tg.ones(3, requires_grad=True)
    for calls in (1, 2, 3):
        w.grad = None
        f(w)
        sum((x**2).sum() for x in log).backward()
        assert w.grad.tolist() == [18 * calls] * 3
        log = [*log]
        log[:] = [w * 3 for _ in log]


# --------------------------------------------------------------- lists that the function looks at


def keep_the_last_two(state, x):
    state.log.append(x * 2)
    if len(state.log) > 2:
        state.log.pop(0)
    return x + len(state.log)


def replace_an_item(state, x):
    state.log[0] = state.log[0] + x
    state.log[-1] = x
    return state.log[0] * 2


def clear_and_append(state, x):
    state.log.clear()
    state.log.append(x)
    return x


def delete_and_reverse(state, x):
    if len(state.log) > 2:
        del state.log[1]
    state.log.append(x * 2)
    state.log.reverse()
    return x


def swap(state, x):
    state.log[0], state.log[1] = state.log[1], state.log[0] + x
    return state.log[0] * 1


@pytest.mark.parametrize(
    "body", [keep_the_last_two, replace_an_item, clear_and_append, delete_and_reverse, swap]
)
def test_other_changes_of_a_list(body):
    state = state_of(log=[tg.tensor(1.0), tg.tensor(2.0)])
    compiled = as_eager(body, state, VALUES * 2)
    traces = compiled.statistics.traces
    assert traces <= 4
    for value in VALUES:
        compiled(tg.tensor(value, dtype=tg.float64))
    assert compiled.statistics.traces == traces


# --------------------------------------------------------- dictionaries, sets, deques, attributes


def store_in_a_dictionary(state, x):
    state.cache["h"] = x * 2
    state.cache.setdefault("first", x * 1)
    return x


def take_out_of_a_dictionary(state, x):
    old = state.cache.pop("h", None)
    if old is None:
        state.cache["h"] = x * 3
        return x
    return old + x


def reorder_a_dictionary(state, x):
    state.cache["a"] = state.cache.pop("a", x) * 2
    state.cache["b"] = state.cache.pop("b", x) + 1
    return x


def update_a_dictionary(state, x):
    state.cache.update(h=x, g={"inner": x * 2}, kind="dict")
    state.cache |= {"k": x}
    return x


def set_attributes(state, x):
    state.hidden = x * 2
    state.pair = (x, x + 1)
    state.mode = "trained"
    state.shape = tuple(x.shape)
    return x


def delete_an_attribute(state, x):
    if hasattr(state, "hidden"):
        del state.hidden
    else:
        state.hidden = x
    return x


def toggle(state, x):
    state.on = not getattr(state, "on", False)
    return x * 2 if state.on else x * 3


def set_a_flag(state, x):
    if not getattr(state, "ready", False):
        state.ready = True
        state.scale = x * 2
    return x * state.scale


def use_a_deque(state, x):
    state.window.append(x)
    total = x * 0
    for item in state.window:
        total = total + item
    return total


def use_a_long_deque(state, x):
    state.window.append(x)
    state.window.appendleft(x * 2)
    state.window.append(x * 3)
    return x


def store_on_a_nested_object(state, x):
    state.inner.value = x * 2
    state.inner.items.append(x)
    return x


def replace_a_list(state, x):
    state.log = [*state.log[-1:], x]
    return x


def swap_buffers(state, x):
    state.front, state.back = state.back, state.front
    state.front[0] = x * 2
    return state.front[0] + 0 * state.back[0]


@pytest.mark.parametrize(
    "body",
    [
        store_in_a_dictionary,
        take_out_of_a_dictionary,
        reorder_a_dictionary,
        update_a_dictionary,
        set_attributes,
        delete_an_attribute,
        toggle,
        set_a_flag,
        use_a_deque,
        use_a_long_deque,
        store_on_a_nested_object,
        replace_a_list,
        swap_buffers,
    ],
)
def test_other_places(body):
    state = state_of(
        cache={},
        window=collections.deque(maxlen=3),
        inner=types.SimpleNamespace(items=[]),
        log=[],
        front=[tg.zeros((), dtype=tg.float64)],
        back=[tg.ones((), dtype=tg.float64)],
    )
    compiled = as_eager(body, state, VALUES * 2)
    traces = compiled.statistics.traces
    assert traces <= 6
    for value in VALUES * 2:
        compiled(tg.tensor(value, dtype=tg.float64))
    assert compiled.statistics.traces == traces


def test_a_set_of_tensors():
    seen = set()

    @tg.compile
    def f(x):
        seen.add(x * 2)
        return x

    for value in (1.0, 2.0, 3.0):
        f(tg.tensor(value))
    assert sorted(x.item() for x in seen) == [2, 4, 6]
    assert f.statistics.traces == 1


def test_a_set_that_is_read():
    kinds = set()

    @tg.compile
    def f(x):
        kind = "positive" if x > 0 else "negative"
        if kind in kinds:
            return x * 2
        kinds.add(kind)
        return x

    found = [f(tg.tensor(value)).item() for value in (1.0, 2.0, -1.0, -2.0, 3.0)]
    assert found == [1, 4, -1, -4, 6]
    assert kinds == {"positive", "negative"}


class Slotted:
    __slots__ = ("value",)
    count = None

    def __init__(self):
        self.value = None


class Guarded:
    """An object whose attribute is a property."""

    def __init__(self):
        self._value = None
        self.sets = 0

    @property
    def value(self):
        return self._value

    @value.setter
    def value(self, new):
        self._value = new * 10


@pytest.mark.parametrize("kind", [Slotted, Guarded])
def test_slots_and_properties(kind):
    target = kind()

    @tg.compile
    def f(x):
        target.value = x * 2
        return x

    factor = 2 if kind is Slotted else 20
    for value in (1.0, 2.0, 3.0):
        f(tg.tensor(value))
        assert target.value.item() == factor * value
    assert f.statistics.traces == 1


class Shared:
    latest = None


def helper(x):
    helper.latest = x * 3
    return x


def on_classes_functions_and_modules(x):
    global made
    made = x * 5
    Shared.latest = x * 2
    return helper(x)


def test_attributes_of_classes_and_functions_and_new_globals():
    compiled = tg.compile(on_classes_functions_and_modules)
    assert "made" not in globals()
    for value in (1.0, 2.0, 3.0):
        compiled(tg.tensor(value))
        assert Shared.latest.item() == 2 * value
        assert helper.latest.item() == 3 * value
        assert made.item() == 5 * value
    assert compiled.statistics.traces <= 2


# ------------------------------------------------------------------------------------- arguments


@dataclasses.dataclass
class Body:
    position: tg.Tensor
    mass: float
    steps: int = 0
    history: list = dataclasses.field(default_factory=list)


def move(body, x):
    body.position = body.position + x / body.mass
    body.steps += 1
    body.history.append(body.position)
    return body


def test_a_dataclass_argument_is_changed_as_in_eager_code():
    compiled = tg.compile(move)
    one = Body(tg.zeros((), dtype=tg.float64), 2.0)
    two = copy.deepcopy(one)
    for value in VALUES[:4]:
        x = tg.tensor(value, dtype=tg.float64)
        assert compiled(one, x) is one
        move(two, x)
        assert plain(one) == plain(two)
        assert type(one.steps) is int
        assert type(one.mass) is float


def change_arguments(numbers, table, x, *rest, **named):
    numbers[0] += 1
    numbers.append(x * 2)
    table["count"] = table.get("count", 0) + 1
    table["last"] = x
    rest[0].append(x)
    named["out"]["x"] = x * 3
    return x


def test_containers_among_the_arguments():
    compiled = tg.compile(change_arguments)

    def fresh():
        return [1, 2.5], {"count": 3}, [], {}

    found, expected = fresh(), fresh()
    for value in (1.0, 2.0, 3.0):
        x = tg.tensor(value, dtype=tg.float64)
        for call, (numbers, table, rest, out) in ((compiled, found), (change_arguments, expected)):
            call(numbers, table, x, rest, out=out)
        assert plain(found) == plain(expected)


def only_appends(log, x):
    log.append(x * 2)
    return x + 1


def test_a_list_argument_that_is_only_appended_to_may_have_any_length():
    compiled = tg.compile(only_appends)
    log: list = []
    for value in VALUES:
        compiled(log, tg.tensor(value))
    assert [x.item() for x in log] == [2 * value for value in VALUES]
    compiled([1, "a", None], tg.tensor(1.0))
    compiled(log=log, x=tg.tensor(8.0))
    assert log[-1].item() == 16
    assert compiled.statistics.traces == 1


def test_a_returned_container_is_the_callers_own():
    cache = {"h": tg.ones(1)}
    state = [tg.ones(1)]

    @tg.compile
    def f(given, x):
        cache["h"] = x * 2
        given[0] = given[0] + x
        return cache, given, [given[0], cache]

    for value in (1.0, 2.0):
        first, second, (third, fourth) = f(state, tg.full((1,), value))
        assert first is cache
        assert fourth is cache
        assert second is state
        assert third is state[0]
        assert cache["h"].item() == 2 * value


# -------------------------------------------------------------------------- what is announced only


def announced(function, *calls):
    """The texts and lines of the warnings of some calls."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for arguments in calls:
            function(*arguments)
    assert all(item.category is SideEffectWarning for item in caught)
    assert all(item.filename == __file__ for item in caught)
    return [(str(item.message), item.lineno) for item in caught]


def line_of(function, text):
    """The number of the line of `function` that holds `text`."""
    import inspect

    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line)


CALLS = [(tg.tensor(1.0),), (tg.tensor(-2.0),), (tg.ones(2, 2).sum(),), (tg.ones(1),)]


def test_a_counter_in_a_dictionary():
    counts = {"calls": 0}

    @tg.compile
    def f(x):
        y = x * 2
        counts["calls"] += 1
        return -y if x.sum() > 0 else y

    ((text, line),) = announced(f, *CALLS)
    assert "counts['calls']: 0 -> 1" in text
    assert 'counts["calls"] += 1' in text
    assert "make it a tensor" in text
    assert line == line_of(f.__wrapped__, 'counts["calls"] += 1')


def test_a_counter_on_an_object_and_one_in_a_variable():
    state = state_of(steps=0, values=[0.5, 1])
    total = 0

    @tg.compile
    def f(x):
        nonlocal total
        total += 1
        state.steps += 1
        state.values[1] += 2
        state.kept = x * 2
        return x * total

    texts = announced(f, *CALLS)
    assert sorted(line for _, line in texts) == sorted(
        line_of(f.__wrapped__, text)
        for text in ("total += 1", "state.steps += 1", "state.values[1] += 2")
    )
    assert state.kept.tolist() == [2]


def test_a_number_that_is_stored_and_never_read_is_stored_at_every_call():
    state = state_of(size=3)

    @tg.compile
    def f(x):
        state.size = 5
        return x

    assert announced(f, *CALLS) == []
    state.size = 4
    f(tg.ones(1))
    assert state.size == 5


def test_a_tensor_as_counter_is_the_cure():
    state = state_of(steps=tg.zeros((), dtype=tg.int64))

    @tg.compile
    def f(x):
        state.steps = state.steps + 1
        return x * state.steps

    for calls in (1, 2, 3):
        assert f(tg.ones(())).item() == calls
        assert state.steps.item() == calls
    assert f.statistics.traces == 1


# --------------------------------------------------------------------------------- failed calls


def test_an_exception_leaves_containers_as_they_were():
    state = state_of(log=[], cache={"a": 1})
    fail = [True]

    @tg.compile
    def f(x):
        state.log.append(x * 2)
        state.cache["h"] = x
        state.extra = x
        if fail[0]:
            raise KeyError("no")
        return x

    for _ in range(2):
        with pytest.raises(KeyError, match="no"):
            f(tg.ones(1))
        assert plain(state) == {"log": [], "cache": {"a": 1}}
    fail[0] = False
    f(tg.ones(1))
    assert plain(state.log) == [("tensor", [2.0])]


def test_a_trace_made_twice_for_one_call_stores_once():
    log = []
    count = [0]

    # The write reaches memory that both arguments share: the function is traced once more.
    @tg.compile
    def f(x, y):
        count[0] += 1
        log.append(x * 2)
        x.add_(1)
        return y * 2

    x = tg.zeros(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SideEffectWarning)
        for _ in range(3):
            f(x, x[:1])
    assert [item.tolist() for item in log] == [[0, 0], [2, 2], [4, 4]]
    assert count == [1]


def test_looking_into_a_function_changes_nothing():
    log = []
    f = tg.compile(lambda x: log.append(x * 2))
    f.ir(tg.ones(1))
    assert log == []
