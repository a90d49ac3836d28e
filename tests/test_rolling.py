"""Plain Python loops in compiled functions: they become loop nodes, and mean what they say."""

from __future__ import annotations

import dataclasses
import functools
import math
import types

import numpy as np
import pytest

import tracegrad as tg
from tests.rolling_programs import program

TRIPS = [10, 0, 3, 1000, 1, 2, 10, 0, 57, 1]


def tensor(values, grad=True):
    return tg.tensor(np.asarray(values, np.float64), requires_grad=grad)


def leaves(value):
    """The tensors and numbers in a result, in order."""
    if isinstance(value, dict):
        return [x for item in value.values() for x in leaves(item)]
    if isinstance(value, list | tuple):
        return [x for item in value for x in leaves(item)]
    return [value]


def run(function, arguments):
    """The results of a call and the gradients of its tensors."""
    taken = [
        tensor(x._array.copy(), x.requires_grad) if isinstance(x, tg.Tensor) else x
        for x in arguments
    ]
    results = leaves(function(*taken))
    ends = [x for x in results if isinstance(x, tg.Tensor) and x.requires_grad]
    if ends:
        sum((x * x).sum() for x in ends).backward()
    gradients = [x.grad for x in taken if isinstance(x, tg.Tensor)]
    contents = [x.detach() for x in taken if isinstance(x, tg.Tensor)]
    return results, gradients, contents


def same(a, b):
    if isinstance(b, tg.Tensor):
        assert isinstance(a, tg.Tensor)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-12)
    elif isinstance(b, float):
        assert type(a) is float
        assert a == pytest.approx(b, rel=1e-12)
    else:
        assert type(a) is type(b)
        assert a == b


def check(function, calls, *, traces=None, rolled=True, settled=5):
    """Compiled, eager and gradients agree on all calls; after `settled` of them nothing is traced
    or compiled. Returns the compiled function.
    """
    compiled = tg.compile(function)
    for number, arguments in enumerate(calls):
        if number == settled:
            before = compiled.statistics.traces, compiled.statistics.compilations
        before_draws = tg.get_rng_state()
        wanted = run(function, arguments)
        after_draws = tg.get_rng_state()
        tg.set_rng_state(before_draws)
        found = run(compiled, arguments)
        assert tg.get_rng_state().tolist() == after_draws.tolist()
        assert len(found[0]) == len(wanted[0])
        for a, b in zip(found[0], wanted[0], strict=True):
            same(a, b)
        for a, b in zip(found[1], wanted[1], strict=True):
            if b is None:
                assert a is None or not a.numpy().any()
            else:
                same(a, b)
        for a, b in zip(found[2], wanted[2], strict=True):
            same(a, b)
    if traces is not None:
        assert compiled.statistics.traces == traces
    if rolled:
        assert "while_loop(" in compiled.ir()
        if len(calls) > settled:
            after = compiled.statistics.traces, compiled.statistics.compilations
            assert after[0] == before[0]
    else:
        assert "while_loop(" not in compiled.ir()
    return compiled


X = tensor(np.linspace(0.1, 1.0, 5))


# ------------------------------------------------------------------ one loop


def shrink(x, tolerance):
    k = 0
    while (x * x).sum() > tolerance:
        x = x * 0.9
        k += 1
    return x, k


def test_while_on_a_condition():
    check(shrink, [(X, 10.0 ** -(t / 3)) for t in (3, 20, 0, -9, 1, 60)], traces=1)


def test_trip_counts_up_to_2000_are_traced_at_most_five_times():
    def count(x, n):
        k = 0
        while k < n:
            x = x * 0.999 + 0.001 * (x * 0.5)
            k += 1
        return x, k

    rng = np.random.default_rng(0)
    check(count, [(X, int(n)) for n in rng.integers(1, 2000, 20)], traces=1)


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_first_call_may_have_few_iterations(first):
    def count(x, n):
        k = 0
        while k < n:
            x = x.sin() + x
            k += 1
        return x, k

    calls = [(X, n) for n in [first, 0, 1, 7, 2, 30, 5, 0, 1]]
    found = check(count, calls)
    assert found.statistics.traces <= 4


@pytest.mark.parametrize("form", [functools.partial, tg.vmap, tg.checkpoint])
def test_loop_in_what_a_transform_wraps(form):
    def power(x):
        y = x
        for _ in range(50):
            y = tg.tanh(y * x)
        return y.sum()

    g = tg.compile(tg.grad(lambda x: form(power)(x).sum()))
    h = tg.compile(tg.grad(form(power))) if form is not tg.vmap else g
    x = tg.rand(2, 3)
    for compiled in (g, h):
        assert np.allclose(compiled(x), tg.grad(lambda x: power(x))(x))
        assert "while_loop" in compiled.ir()


def test_for_over_range():
    def poly(x, n):
        for i in range(n):
            x = x * 0.5 + i
        return x

    check(poly, [(X, n) for n in TRIPS], traces=1)


def test_range_with_start_and_step():
    def steps(x, a, b):
        for i in range(a, b, 3):
            x = x * 0.9 + i
        for i in range(b, a, -2):
            x = x * 0.9 - i
        return x

    check(
        steps,
        [(X, a, a + n) for a, n in [(0, 30), (5, 1), (-7, 2), (4, 0), (1, -5), (2, 40)]],
        traces=1,
    )


def test_static_range():
    def static(x):
        for i in range(50):
            x = (x + i * 0.01).sin()
        return x

    found = check(static, [(X,), (X,)], traces=1)
    assert found.ir().count("sin(") == 1


def test_rows_of_a_tensor():
    def network(w, sequence):
        h = w[0] * 0
        for x in sequence:
            h = (w @ h + x).tanh()
        return h, sum(row.sum() for row in sequence)

    w = tensor(0.3 * np.random.default_rng(0).normal(size=(5, 5)))
    rows = tensor(np.random.default_rng(1).normal(size=(20, 5)))
    check(network, [(w, rows)] * 2, traces=1)


def test_rows_that_are_changed():
    def scale(rows):
        rows = rows * 1
        for i, row in enumerate(rows):
            row *= i
        for row in rows:
            if row[0] > 1:
                row += 1
                break
            rows = rows * 1.01
        return rows

    rows = tensor(np.random.default_rng(1).normal(size=(20, 5)))
    check(scale, [(rows,)] * 2, rolled=False)


def test_short_static_range_stays_as_it_is():
    def static(x):
        for i in range(3):
            x = (x + i).sin()
        return x

    check(static, [(X,)], rolled=False)


def test_loop_variable_after_the_loop():
    def last(x, n):
        i = -1
        for i in range(n):  # noqa: B007
            x = x * 0.9
        return x, i

    check(last, [(X, n) for n in TRIPS])


def test_loop_variable_that_is_only_set_by_the_loop():
    def last(x, n):
        for i in range(n):  # noqa: B007
            x = x * 0.9
        return x * i, i

    check(last, [(X, n) for n in (10, 3, 1, 2, 100, 5, 7)])


def test_else_of_a_loop():
    def found(x, n):
        for i in range(n):  # noqa: B007
            x = x * 1.1
            if x.sum() > 10:
                break
        else:
            return x * 100, -1
        return x, i

    check(found, [(X, n) for n in (3, 50, 30, 0, 7, 60, 1, 14)], settled=5)


def test_while_true_and_break():
    def settle(x, tolerance):
        k = 0
        while True:
            y = x.cos()
            k += 1
            if (y - x).abs().max() < tolerance:
                break
            x = y
        return y, k

    check(settle, [(X, 10.0**-t) for t in (6, 1, 0, 9, 3, 12, 2)], traces=1)


def test_return_from_within():
    def search(x, bound):
        for i in range(1000):
            x = x * 1.2
            if x.sum() > bound:
                return x, i
        return x * 0, -1

    check(search, [(X, b) for b in (5.0, 100.0, 0.0, 1e99, 7.0, 1e3, 1e98)])


def test_two_conditions():
    def both(x, tolerance, most):
        k = 0
        while (x * x).sum() > tolerance and k < most:
            x = x * 0.8
            k += 1
        return x, k

    check(both, [(X, 1e-9, 100), (X, 1e-9, 5), (X, 99.0, 3), (X, 1.0, 0), (X, 1e-3, 50)], traces=2)


def test_branch_in_the_body():
    def branchy(x, n):
        for _ in range(n):
            if x.sum() > 2:
                x = x * 0.5
            else:
                x = x * 1.7
        return x

    check(branchy, [(X, n) for n in TRIPS])


def test_branches_that_appear_late():
    def late(x, n):
        hits = 0
        for i in range(n):
            if i % 7 == 5:
                x = x + 1.0
                hits += 1
            elif x.sum() > 6:
                x = x * 0.3
            else:
                x = x * 1.1
        return x, hits

    check(late, [(X, n) for n in [3, 0, 100, 5, 6, 40, 1, 200]], settled=6)


def test_continue():
    def skip(x, n):
        k = 0
        while k < n:
            k += 1
            if k % 2 == 0:
                continue
            x = x * 0.9 + k
        return x

    check(skip, [(X, n) for n in TRIPS])


def test_float_counter():
    def clock(x, end, dt):
        t = 0.0
        while t < end:
            x = x + dt * (t - x)
            t += dt
        return x, t

    check(clock, [(X, e, 0.01) for e in (1.0, 0.5, 0.0, 3.0, 0.005, 0.02, 2.0)])


def test_number_that_becomes_a_tensor():
    def total(x, n):
        s = 0
        for i in range(n):
            s = s + x[0] * i
        return s + x

    check(total, [(X, n) for n in TRIPS])


def test_none_that_becomes_a_tensor():
    def momentum(x, n):
        v = None
        for _ in range(n):
            g = 2 * x
            v = g if v is None else 0.9 * v + g
            x = x - 0.01 * v
        return x

    check(momentum, [(X, n) for n in TRIPS])


def test_condition_that_becomes_a_tensor():
    def flag(x, tolerance):
        done = False
        while not done:
            x = x * 0.5
            done = x.sum() < tolerance
        return x

    check(flag, [(X, 10.0**-t) for t in (3, 0, 9, -3, 2, 5)])


def test_flag_that_ends_the_loop():
    def flag(x, tolerance):
        converged = False
        k = 0
        while not converged:
            y = x.cos()
            if (y - x).abs().max() < tolerance:
                converged = True
            x = y
            k += 1
        return x, k

    check(flag, [(X, 10.0**-t) for t in (6, 1, 0, 9, 3, 12, 2)])


def test_two_variables_that_begin_as_one():
    def fibonacci(x, n):
        a = b = x
        for _ in range(n):
            a, b = b, (a + b) * 0.6
        return a, b

    check(fibonacci, [(X, n) for n in TRIPS])


def test_heron():
    def root(x):
        y = x
        e = 1.0
        while e > 1e-10:
            z = 0.5 * (y + x / y)
            e = (z - y).abs().max()
            y = z
        return y

    check(root, [(X + c,) for c in (1, 2, 50, 1000, 3, 4, 5)])


# -------------------------------------------------------------------- nested


def test_nested_counting_loops():
    def nested(x, n):
        s = x.sum() * 0
        for i in range(n):
            for j in range(n):
                s = s + (i - j) * x.mean() * 0.1
            x = x * 0.99
        return s, x

    check(nested, [(X, n) for n in (10, 3, 0, 1, 2, 20, 5)])


def test_triangle():
    def triangle(x, n):
        s = x * 0
        for i in range(n):
            for j in range(i, n):
                s = s + x * (i + 2 * j) * 0.01
        return s

    check(triangle, [(X, n) for n in (10, 3, 0, 1, 2, 20, 5)])


def test_inner_loops_of_few_iterations():
    def few(x, n):
        k = 0
        s = x * 0
        while k < n:
            for j in range(k % 4):
                s = s + x * j
            k += 1
        return s

    check(few, [(X, n) for n in (10, 3, 0, 1, 2, 20, 5)])


def test_while_in_for():
    def collatz(x, n):
        steps = 0
        for i in range(1, n):
            m = i
            while m > 1:
                m = m // 2 if m % 2 == 0 else 3 * m + 1
                steps += 1
                x = x * 0.999
        return x, steps

    check(collatz, [(X, n) for n in (5, 8, 2, 0, 12, 1, 3, 10)], settled=6)


def test_loop_in_a_for_over_a_list():
    def rows(x, tolerances):
        out = []
        for tolerance in tolerances:
            k = 0
            y = x
            while (y * y).sum() > tolerance and k < 50:
                y = y * 0.7
                k += 1
            out.append((y, k))
        return out

    check(rows, [(X, [0.1, 1e-5, 9.0]), (X, [1e-99, 3.0, 0.2])])


# --------------------------------------------------------- state of many kinds


def test_list_dictionary_and_tuple():
    def containers(x, n):
        state = {"a": x, "b": [x * 2, (x + 1, 0)]}
        for _ in range(n):
            a = state["a"]
            low, (high, k) = state["b"]
            state["a"] = a * 0.9 + low * 0.1
            state["b"][0] = low - a * 0.05
            state["b"][1] = (high * 0.99, k + 1)
        return state["a"], state["b"][0], state["b"][1]

    check(containers, [(X, n) for n in TRIPS])


@dataclasses.dataclass(frozen=True)
class Point:
    position: tg.Tensor
    speed: tg.Tensor


def test_dataclass():
    def move(x, n):
        p = Point(x, x * 0)
        for _ in range(n):
            v = p.speed - 0.01 * p.position
            p = Point(p.position + 0.01 * v, v)
        return p.position, p.speed

    check(move, [(X, n) for n in TRIPS])


class Ball:
    def __init__(self, x):
        self.x = x
        self.v = x * 0
        self.bounces = 0

    def step(self, dt):
        self.v = self.v - 9.81 * dt
        self.x = self.x + dt * self.v


def test_attributes_of_an_object():
    def fall(x, n):
        ball = Ball(x)
        for _ in range(n):
            ball.step(0.01)
        return ball.x, ball.v

    check(fall, [(X, n) for n in TRIPS])


def test_object_with_a_branch():
    def bounce(x, n):
        ball = Ball(x[0])
        for _ in range(n):
            ball.step(0.01)
            if ball.x < 0:
                ball.v = ball.v.abs() * 0.9
                ball.bounces += 1
        return ball.x, ball.v, ball.bounces

    check(bounce, [(X, n) for n in (5, 300, 0, 700, 1, 2, 60)])


def test_closure_over_a_variable():
    def outer(x, n):
        total = x * 0

        def add(y):
            nonlocal total
            total = total + y

        for i in range(n):
            add(x * i)
        return total

    check(outer, [(X, n) for n in TRIPS])


def test_namespace():
    def space(x, n):
        s = types.SimpleNamespace(x=x, k=0)
        while s.k < n:
            s.x = s.x * 0.9
            s.k += 1
        return s.x, s.k

    check(space, [(X, n) for n in TRIPS])


# -------------------------------------------------------------------- in place


def test_recurrence_in_place():
    def recur(x):
        y = x * 1
        for i in range(1, 40):
            y[i] = y[i - 1] * 0.5 + y[i]
        return y

    check(recur, [(tensor(np.linspace(0, 1, 40)),)] * 2)


def test_in_place_on_a_view():
    def heat(x, n):
        u = x.clone()
        for _ in range(n):
            u[1:-1] += 0.1 * (u[2:] - 2 * u[1:-1] + u[:-2])
        return u

    check(heat, [(tensor(np.linspace(0, 1, 9) ** 2), n) for n in TRIPS])


def test_in_place_on_an_argument():
    def decay(x, n):
        for _ in range(n):
            x *= 0.9
        return x.sum()

    check(decay, [(tensor(np.ones(4), False), n) for n in TRIPS])


def test_augmented_assignment_of_a_local():
    def grow(x, n):
        y = x * 2
        for _ in range(n):
            y += x * 0.1
            y *= 0.99
        return y

    check(grow, [(X, n) for n in TRIPS])


def test_sweep():
    def sweep(u, n):
        u = u.clone()
        for _ in range(n):
            for i in range(1, 9):
                for j in range(1, 9):
                    u[i, j] = 0.25 * (u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1])
        return u

    grid = tensor(np.random.default_rng(1).normal(size=(10, 10)))
    check(sweep, [(grid, n) for n in (1, 0, 3, 2)])


def test_index_out_of_bounds():
    def over(x, n):
        s = x.sum() * 0
        for i in range(n):
            s = s + x[i]
        return s

    compiled = check(over, [(X, n) for n in (5, 3, 0, 1)], traces=1)
    with pytest.raises(IndexError, match="index 5 is out of bounds for dimension 0 with size 5"):
        compiled(X, 7)


# -------------------------------------------------------------- helpers, methods


def helper(x, n):
    for i in range(n):
        x = x * 0.9 + i
    return x


def test_helper():
    def uses(x, n):
        return helper(x, n) + helper(x * 2, n + 1)

    check(uses, [(X, n) for n in TRIPS], traces=1)


def far_from_done(x, tolerance):
    return bool((x * x).sum() > tolerance)


def test_helper_that_asks():
    def shrinking(x, tolerance):
        while far_from_done(x, tolerance):
            x = x * 0.9
        return x

    check(shrinking, [(X, 10.0**-t) for t in (1, 5, 0, -3, 2, 9)])


class Model:
    def __init__(self):
        self.w = tensor(0.3 * np.eye(5))

    def roll(self, x, n):
        for _ in range(n):
            x = (self.w @ x).tanh() + x
        return x


def test_method():
    model = Model()

    def forward(x, n):
        return model.roll(x, n)

    check(forward, [(X, n) for n in TRIPS], traces=1)


def test_inner_loop_with_two_ways_out():
    def ways(x, n):
        c = 0
        for i in range(n):
            for j in range(20):
                x = x * 1.01
                c += 1
                if x.sum() > 4 or j > i:
                    break
            x = x * 0.95
        return x, c

    check(ways, [(X, n) for n in (4, 0, 1, 19, 2, 30)])


def test_euclid():
    def euclid(x, a, b):
        while b:
            a, b = b, a % b
            x = x * 0.9
        return x, a

    check(euclid, [(X, a, b) for a, b in [(12, 18), (7, 3), (0, 5), (5, 0), (270, 192)]], traces=1)


def test_flag_and_text_as_state():
    def states(x, n):
        up = True
        mode = "a"
        for _ in range(n):
            x = x * 1.1 if up else x * 0.9
            x = x + (0.1 if mode == "a" else 0.2)
            up = not up
            mode = "b" if mode == "a" else "a"
        return x

    check(states, [(X, n) for n in (4, 0, 1, 19)], rolled=False)


def test_object_of_a_closure():
    state = types.SimpleNamespace(t=None)

    def through(x, n):
        state.t = x
        for _ in range(n):
            state.t = state.t * 0.9
            x = x + state.t
        return x

    check(through, [(X, n) for n in (4, 0, 1, 19)])


STATE = types.SimpleNamespace(t=None, n=0)


def test_object_that_only_a_global_leads_to():
    def through(x, n):
        STATE.t = x
        for _ in range(n):
            STATE.t = STATE.t * 0.9
            x = x + STATE.t
        return x

    check(through, [(X, n) for n in (4, 0, 1, 19)], rolled=False)


def test_number_that_only_a_global_leads_to():
    def through(x, n):
        STATE.n = 0
        for _ in range(n):
            STATE.n += 1
            x = x * 0.9 + STATE.n
        return x

    check(through, [(X, n) for n in (4, 0, 1, 19)], rolled=False)


def test_builtins_that_ask_more_than_once():
    def conditions(x, n):
        k = 0
        while all([x.sum() > 0.001, k < n, x.mean() > 0.0001]):
            x = x * 0.8
            k += 1
        return x, k

    check(conditions, [(X, n) for n in (4, 0, 1, 19)], rolled=False)


def test_recursion():
    def descend(x, depth):
        if depth == 0:
            for i in range(10):
                x = x * 0.9 + i
            return x
        return descend(x * 0.5, depth - 1) + x

    check(descend, [(X, d) for d in (0, 1, 3)])


def test_compiled_within_compiled():
    inner = tg.compile(helper)

    def uses(x, n):
        return inner(x, n) * 2

    check(uses, [(X, n) for n in TRIPS], traces=1)


# ------------------------------------------------------- what is not rolled, or with care


def test_list_that_grows():
    def collect(x, n):
        out = []
        for _ in range(n):
            x = x * 0.9
            out.append(x.sum())
        return out

    check(collect, [(X, n) for n in (3, 12, 0, 1)], rolled=False)


def test_list_indexed_by_the_counter():
    def layers(x, weights):
        for i in range(len(weights)):
            x = (x * weights[i]).sin()
        return x

    weights = [tensor(np.full(5, 0.1 * i)) for i in range(12)]
    check(layers, [(X, weights)] * 2)


def test_names_made_of_the_counter():
    weights = {f"w{i}": tensor(np.full(5, 0.1 * i)) for i in range(12)}

    def layers(x):
        for i in range(12):
            x = (x * weights[f"w{i}"]).sin() + weights["w" + str(i)]
        return x

    check(layers, [(X,)] * 2, rolled=False)


def test_dictionary_by_the_counter():
    def table(x, n):
        known = {}
        for i in range(12):
            x = x * 0.9
            known[i] = x
        return known[n]

    check(table, [(X, n) for n in (3, 7, 3)], rolled=False)


def test_index_of_a_list_by_a_while_counter():
    def walk(x, items):
        k = 0
        while k < len(items):
            x = x * items[k]
            k += 1
        return x

    items = [tensor(np.full(5, 0.1 * i)) for i in range(12)]
    check(walk, [(X, items)] * 2, rolled=False)


def test_iterator():
    def batches(x, data):
        items = iter(data)
        k = 0
        while k < len(data):
            x = x * next(items)
            k += 1
        return x

    check(batches, [(X, [tensor(np.full(5, 0.1 * i)) for i in range(9)])], rolled=False)


def test_generator():
    def generate(x, n):
        def items(y):
            for i in range(n):
                y = y * 0.9 + i
                yield y

        return sum(items(x))

    check(generate, [(X, n) for n in (3, 10, 1)], rolled=False)


def test_comprehension():
    def comprehend(x, n):
        return sum([x * i for i in range(n)])

    check(comprehend, [(X, n) for n in (3, 10, 1)], rolled=False)


def test_roll_can_be_switched_off():
    compiled = tg.compile(shrink, roll=False)
    for tolerance in (0.1, 0.01):
        same(compiled(X, tolerance)[0], shrink(X, tolerance)[0])
    assert "while_loop(" not in compiled.ir()
    assert compiled.statistics.traces == 2


def test_explain_says_what_was_rolled():
    compiled = tg.compile(shrink)
    compiled(X, 0.1)
    assert "rolled" in compiled.explain()


# ------------------------------------------------------------- blocks and gradients


def test_try_and_with_in_the_body():
    def guarded(x, n):
        for i in range(n):
            try:
                with tg.no_grad():
                    scale = 1 / (1 + x.abs().max())
                x = x * scale + i * 0.01
            finally:
                x = x + 0.001
        return x

    check(guarded, [(X, n) for n in TRIPS])


def test_grad_inside_of_the_body():
    def descend(x, n):
        w = x.detach() * 0
        for _ in range(n):
            g = tg.grad(lambda v: ((v - x.detach()) ** 2).sum())(w)
            w = w - 0.1 * g
        return w

    check(descend, [(X, n) for n in TRIPS])


def test_backward_inside_of_the_body():
    def descend(x, n):
        w = tensor(np.zeros(5))
        for _ in range(n):
            loss = ((w - x) ** 2).sum()
            loss.backward()
            with tg.no_grad():
                w -= 0.1 * w.grad
            w.grad = None
        return w.detach()

    check(descend, [(tensor(X._array, False), n) for n in (3, 10, 1, 2, 0)])


def test_exception_in_the_body():
    def careful(x, n):
        for i in range(n):
            x = x * 1.5
            if x.sum() > 100:
                raise ValueError(f"too large after {int(i)}")
        return x

    compiled = check(careful, [(X, n) for n in (3, 5, 0, 1)])
    with pytest.raises(ValueError, match="too large after 8"):
        compiled(X, 50)
    same(compiled(X, 4), careful(X, 4))


def test_second_derivative():
    def power(x, n):
        y = x
        for _ in range(n):
            y = y * x
        return y.sum()

    def second(x, n):
        (g,) = tg.autograd.grad(power(x, n), x, create_graph=True)
        return g

    check(second, [(X, n) for n in (3, 5, 1, 2)])


def test_python_computes_as_before():
    def plain(x, n):
        table = {}
        for i in range(20):
            table[i] = i * i
        s = 0
        for i in range(30):
            s += math.gcd(i, 12)
        return x * s + table[7]

    check(plain, [(X, 3)], rolled=False)


def test_a_loop_with_a_long_body_is_seen_as_one():
    """The head of a long loop is two instructions; what is inside ends with each of its rounds.

    The rounds amplify little, for compiled code has sines of its own, which differ in a last bit.
    """

    def f(s, n):
        for i in range(9):
            t = tg.sin(s * 1.5) + tg.cos(s * 0.25) + tg.sin(s * 0.125) + tg.cos(s * 0.5)
            t = tg.sin(t * 1.5) + tg.cos(t * 0.25) + tg.sin(t * 0.125) + tg.cos(t * 0.5)
            t = tg.sin(t * 1.5) + tg.cos(t * 0.25) + tg.sin(t * 0.125) + tg.cos(t * 0.5)
            for _ in range(i):
                s = tg.sin(t * 0.1 + s * 0.8)
            j = 0
            while j < n and n > 3:
                j += 1
                s = s * 0.9 + t * 0.1
        return s

    compiled = tg.compile(f)
    for n in (1, 5, 2, 7):
        s = tg.tensor(0.3, dtype=tg.float64)
        assert abs(float(compiled(s, n)) - float(f(s, n))) < 1e-12
    assert "while_loop" in compiled.ir()


# ------------------------------------------------------------------ random programs


def outcome(function, n):
    """Results and gradient of a call, or the kind of its error."""
    x = tensor(np.linspace(0.1, 1, 5))
    try:
        results = function(x, n)
    except Exception as error:
        return type(error)
    tensors = [y for y in results if isinstance(y, tg.Tensor)]
    # What overflows has gradients that are infinite or NaN, as it happens to be computed.
    if all((y.abs() < 1e9).all() for y in tensors):
        sum(y.sum() for y in tensors if y.requires_grad).backward()
    return [*results, tensor(np.zeros(5)) if x.grad is None else x.grad]


@pytest.mark.parametrize("start", range(0, 64, 8))
@pytest.mark.parametrize("lists", [False, True], ids=["", "lists"])
def test_random_programs(start, lists, interpreted):
    for seed in range(start, start + 8):
        function, source = program(seed, lists)
        compiled = tg.compile(function)
        for n in (5, 9, 1) if lists else (5, 0, 1, 9, 2, 3, 1, 9):
            before = tg.get_rng_state()
            wanted = outcome(function, n)
            after = tg.get_rng_state()
            tg.set_rng_state(before)
            found = outcome(compiled, n)
            assert isinstance(wanted, type) or tg.get_rng_state().tolist() == after.tolist()
            if isinstance(wanted, type):
                assert found is wanted, (seed, n, source)
                continue
            assert len(found) == len(wanted), (seed, n, source)
            for a, b in zip(found, wanted, strict=True):
                if isinstance(b, tg.Tensor):
                    close = np.allclose(
                        a.detach().numpy(), b.detach().numpy(), 1e-6, 1e-9, equal_nan=True
                    )
                    assert close, (seed, n, source)
                else:
                    assert type(a) is type(b) and a == b, (seed, n, source)
        assert lists or compiled.statistics.traces <= 10
