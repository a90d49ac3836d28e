"""Small programs, one for each thing that Python does with values: each takes several paths.

A program is a function and a maker of its arguments. Floating tensors among the arguments need
gradients. The same program runs eagerly and compiled; see test_programs.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import itertools
import math
from collections import defaultdict, deque, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

import tracegrad as tg

Arguments = tuple[Any, ...]


@dataclasses.dataclass
class Program:
    """A function, what makes its arguments out of random numbers, and how often it may be traced.

    smooth  differences measure its derivatives.
    taped   the tape of the eager run leads to them too: it does not where the function writes over
            what backward needs, which compiled code keeps.
    """

    name: str
    function: Callable[..., Any]
    arguments: Callable[[np.random.Generator], Arguments]
    smooth: bool = True
    taped: bool = True


PROGRAMS: list[Program] = []


def program(
    arguments: Callable[[np.random.Generator], Arguments],
    *,
    smooth: bool = True,
    taped: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the table."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        PROGRAMS.append(Program(function.__name__, function, arguments, smooth, taped))
        return function

    return add


# ------------------------------------------------------------------------------------- arguments


def vector(rng: np.random.Generator) -> Arguments:
    return (rng.normal(size=3),)


def scalar(rng: np.random.Generator) -> Arguments:
    return (np.asarray(rng.normal()),)


def vectors(rng: np.random.Generator) -> Arguments:
    return rng.normal(size=3), rng.normal(size=3)


def matrix(rng: np.random.Generator) -> Arguments:
    return (rng.normal(size=(4, 5)),)


def vector_and_count(rng: np.random.Generator) -> Arguments:
    return rng.normal(size=3), int(rng.integers(0, 4))


def small_vector_and_count(rng: np.random.Generator) -> Arguments:
    return rng.normal(size=3) * 0.5, int(rng.integers(0, 4))


def vector_and_two_counts(rng: np.random.Generator) -> Arguments:
    return rng.normal(size=3), int(rng.integers(0, 3)), int(rng.integers(0, 3))


def positive(rng: np.random.Generator) -> Arguments:
    return (rng.uniform(0.5, 2.0, size=3) * 3.0 ** rng.integers(0, 4),)


def vector_and_float(rng: np.random.Generator) -> Arguments:
    return rng.normal(size=3), float(rng.normal())


def choice_of(*choices: Any) -> Callable[[np.random.Generator], Arguments]:
    """A vector, and one of some static values."""
    return lambda rng: (rng.normal(size=3), choices[rng.integers(len(choices))])


# --------------------------------------------------------------------------------------- branches


@program(vector)
def if_else(x):
    if x.sum() > 0:
        return (x**2).sum()
    else:
        return (x**3).sum()


@program(vector)
def nested_branches(x):
    if x[0] > 0:
        if x[1] > 0:
            y = x * 2
        else:
            y = x.exp()
            if x[2] > 0:
                y = y + x
    else:
        y = -x
    return y.sum()


@program(vector)
def elif_chain(x):
    s = x.sum()
    if s > 2:
        return s * 2
    elif s > 0:
        return s**2
    elif s > -1:
        return s.sin()
    return s.cos()


@program(vector)
def early_return(x):
    if x.max() > 1:
        return x * 3, "large"
    y = x * 2
    if y.min() < -1:
        return y * x, "low"
    return y + 1, "else"


@program(vectors)
def conditional_expression(x, y):
    return (x * y).sum() if (x < y).all() else (x / (1 + y**2)).sum() if x[0] > y[0] else x.sum()


@program(vectors)
def and_or_not(x, y):
    if x[0] > 0 and y[0] > 0:
        return (x * y).sum()
    if not (x[1] > 0 or y[1] > 0):
        return (x + y).sum()
    return (x - y).sum() * 2


@program(vector)
def chained_comparison(x):
    if -0.5 < x[0] < 0.5 <= x[1] + 1:
        return x.sum() * 2
    return x.sum() ** 2


@program(vector)
def any_all(x):
    if any(v > 1 for v in x):
        return (x * 2).sum()
    if all(v < 0.5 for v in x):
        return (x * 3).sum()
    return (x**2).sum()


@program(vector)
def builtin_min_max_sum(x):
    return min(x) * 2 + max(x) * 3 + sum(x) + max(x[0], x[1], 0.1) + min([x[2], 0.3])


@program(vector)
def builtin_sorted(x):
    a, b, c = sorted(x, reverse=True)
    return a + 2 * b + 3 * c


@program(vector)
def sorted_with_a_key(x):
    order = sorted(range(3), key=lambda i: -abs(float(x[i])))
    return sum((k + 1) * x[i] for k, i in enumerate(order))


@program(vector)
def abs_and_round(x):
    return abs(x[0]) * 2 + x[1] * round(float(x[2]))


@program(vector)
def walrus(x):
    if (s := x.sum()) > 0:
        return s * 2
    if (m := x.max()) < 0.5 and (n := x.min()) > -2:
        return m * n
    return s + m


@program(vectors)
def branch_on_one_value_twice(x, y):
    condition = x.sum() > y.sum()
    z = x if condition else y
    z = z * 2
    return (z + x if condition else z * y).sum()


@program(vector)
def values_from_before_a_branch(x):
    early = x.exp()
    late = early * x
    if late.sum() > 1:
        return (late * early).sum()
    return (early + x).sum()


@program(choice_of("double", "square", None, b"raw"))
def string_argument(x, kind):
    if kind == "double":
        return (x * 2).sum()
    if kind is None:
        return x.sum()
    return (x**2).sum() if isinstance(kind, str) else x.prod()


class Mode(enum.Enum):
    ADD = 1
    MULTIPLY = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


@program(choice_of(*Mode, *Level))
def enum_argument(x, mode):
    if mode is Mode.ADD:
        return (x + 1).sum()
    if mode == Mode.MULTIPLY:
        return (x * 4).sum()
    return (x ** int(mode)).sum()


@program(choice_of("a", 2, 3.5, (1, 2), [4, 5, 6], {"k": 2}))
def match_statement(x, case):
    match case:
        case "a":
            return x.sum()
        case int() | float():
            return (x * case).sum()
        case (first, second):
            return (x * first).sum() + second
        case [first, *rest]:
            return (x * first).sum() + len(rest)
        case {"k": value}:
            return (x * value).sum()
    return x.prod()


@program(vector)
def match_on_a_computed_value(x):
    match int((x > 0).sum()):
        case 0:
            return x.sum()
        case 1 | 2 as count:
            return (x * count).sum()
        case _:
            return (x**2).sum()


@program(vector)
def integer_value(x):
    n = int(abs(x[0]) * 2)
    return (x ** (n + 1)).sum() / (n + 1)


@program(scalar)
def float_value(x):
    step = float(x.detach()) > 0
    y = x * 2
    return y.sin() if step else y.cos()


@program(vector)
def item_value(x):
    k = (x > 0).sum().item()
    return (x * k).sum() + [x[0], x[1], x[2], x.sum()][k]


@program(vector_and_count)
def integer_as_index(x, n):
    table = [x.sum(), x.prod(), (x**2).sum(), x[0]]
    return table[n] * 2


# ------------------------------------------------------------------------------------------ loops


@program(vector_and_count)
def for_over_range(x, n):
    for i in range(n):
        x = x * 1.5 + i
    return x.sum()


@program(vector)
def for_over_constant_range(x):
    for i in range(5):
        x = (x * 0.5).sin() + i
    return x.sum()


@program(positive)
def while_loop(x):
    y = x
    while y.sum() < 100:
        y = y * 2
    return (y * x).sum()


@program(positive)
def while_true_with_break(x):
    n = 0
    while True:
        if x.max() > 50:
            break
        x = x * 1.7 + 0.1
        n += 1
    return x.sum() * n


@program(positive)
def while_with_continue(x):
    total = x.sum() * 0
    k = 0
    while k < 6:
        k += 1
        if x[k % 3] > 2:
            continue
        total = total + x[k % 3] * k
    return total


@program(positive)
def while_with_else(x):
    k = 0
    while k < 4:
        x = x * 1.3
        if x.sum() > 20:
            break
        k += 1
    else:
        x = x * 10
    return x.sum()


@program(matrix)
def for_with_break_and_else(x):
    for row in x:
        if row.sum() > 1.5:
            y = row * 2
            break
    else:
        y = x[0]
    return (y**2).sum()


@program(matrix)
def for_over_rows_with_continue(x):
    total = 0.0
    for i, row in enumerate(x):
        if row[0] < 0:
            continue
        total = total + row.sum() * (i + 1)
    return x.mean() + total


@program(vector_and_two_counts)
def nested_for_loops(x, n, m):
    for i in range(n):
        for j in range(m):
            x = x * 1.1 + (i - j)
        x = x.sin()
    return x.sum()


@program(positive)
def nested_while_loops(x):
    rounds = 0
    while x.sum() < 60 and rounds < 8:
        y = x
        while y.max() < 5:
            y = y * 2
        x = x + y
        rounds += 1
    return (x**2).sum()


@program(positive)
def branch_in_a_loop(x):
    total = x.sum() * 0
    for _ in range(4):
        if x[0] > 5:
            x = x / 2
            total = total + x.sum()
        else:
            x = x * 1.5
            total = total + x[1] ** 2
    return total


@program(positive)
def loop_in_a_branch(x):
    if x.sum() > 10:
        for _ in range(3):
            x = x.sqrt() + 1
    else:
        while x.sum() < 10:
            x = x * 2
    return x.sum()


@program(positive)
def return_from_within_two_loops(x):
    for i in range(3):
        y = x
        while y.max() < 20:
            y = y * 2
            if y[i] > 17:
                return y.sum() * (i + 1)
    return x.sum()


@program(vector_and_count)
def loop_with_counter_in_the_condition(x, n):
    i = 0
    while i < n:
        x = x * 2 - i
        i += 1
    return x.sum() + i


@program(positive)
def newton(x):
    y = x
    for _ in range(50):
        step = (y * y - x) / (2 * y)
        y = y - step
        if step.abs().max() < 1e-10:
            break
    return y.sum()


@program(scalar)
def collatz(x):
    n = int(abs(x.detach()) * 10) + 1
    steps = 0
    while n != 1 and steps < 30:
        x = x * 1.01 if n % 2 else x + 0.1
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return x * steps


@program(vector_and_float)
def euler_steps(x, rate):
    t = 0.0
    while t < 1.0:
        x = x + 0.25 * (x * rate - x**3 * 0.1)
        t += 0.25
    return x.sum()


@program(vectors)
def zip_reversed_enumerate(x, y):
    total = 0.0
    for i, (a, b) in enumerate(zip(x, reversed(list(y)), strict=True)):
        if a > b:
            total = total + a * i
        else:
            total = total + b * (i + 1)
    return total + x.sum() * 0


@program(small_vector_and_count)
def recurrence_of_two(x, n):
    a, b = x, x * 2
    for _ in range(n + 1):
        a, b = b, a + 0.5 * b
    return (a * b).sum()


@program(vector_and_count)
def range_with_step(x, n):
    for i in range(2 * n, -1, -2):
        x = x + x.sin() * i
    return x.sum()


@program(vector_and_count)
def itertools_product(x, n):
    for i, j in itertools.product(range(n), range(2)):
        x = x * 0.9 + i * j
    return x.sum()


# --------------------------------------------------------------------- functions and comprehensions


@program(vector)
def list_comprehension(x):
    parts = [v * 2 if v > 0 else -v for v in x]
    return sum(p * (i + 1) for i, p in enumerate(parts))


@program(vector)
def filtered_comprehensions(x):
    kept = [v for v in x if v > 0]
    table = {i: v * i for i, v in enumerate(x) if v < 0.5}
    counts = {i % 2 for i, v in enumerate(x) if v > -0.5}
    return sum(kept, x.sum()) + sum(table.values()) * len(counts)


@program(vector)
def generator_function(x):
    def running(values):
        total = values[0] * 0
        for v in values:
            if v > 1.5:
                return
            total = total + v
            yield total

    return sum(running(x), x[0] * 0)


@program(vector)
def generator_with_send_and_yield_from(x):
    def inner():
        got = yield x[0]
        yield got * 2 if got > 0 else got * 3

    def outer():
        yield from inner()

    source = outer()
    first = next(source)
    return source.send(first + x[1]) + first


def factorial_like(x, n):
    if n == 0 or x.sum() > 30:
        return x
    return factorial_like(x * 1.5 + n, n - 1)


@program(vector_and_count)
def recursion(x, n):
    return factorial_like(x, int(n)).sum()


def halves(x):
    if x.abs().max() < 1:
        return x
    return halves(x / 2) * 3


@program(positive)
def recursion_on_a_tensor_value(x):
    return halves(x).sum()


@program(vector)
def closure_with_nonlocal(x):
    total = x.sum() * 0

    def add(v):
        nonlocal total
        if v > 0:
            total = total + v

    for v in x:
        add(v)
    return total


@program(vectors)
def lambdas_and_functions_as_values(x, y):
    functions = [lambda v: v * 2, lambda v: v.sin(), tg.exp]
    chosen = functions[int((x > y).sum()) % 3]
    return functools.reduce(lambda a, f: f(a) * 0.5, functions, chosen(x)).sum() + y.sum()


@program(vector)
def star_arguments(x):
    def weighted(*values, scale=1.0, **named):
        total = sum(values)
        if total > 0:
            total = total * scale
        return total + sum(v * len(k) for k, v in named.items())

    return weighted(*x, scale=3.0, a=x[0], bb=x[1])


@program(vector)
def unpacking(x):
    first, *rest = x
    a, (b, c) = first, rest
    a, b = (b, a) if a > b else (a, b)
    return a + 2 * b + 3 * c


def power(x, n=2, *, offset=1.0):
    return (x**n).sum() + offset if x[0] > 0 else x.sum() * offset


@program(vector)
def defaults_and_partial(x):
    cube = functools.partial(power, n=3)
    return power(x) + cube(x, offset=2.0)


@program(vector)
def map_filter_zip(x):
    doubled = list(map(abs, x))
    kept = list(filter(lambda v: v > 0, doubled))
    return sum(a * b for a, b in zip(kept, doubled, strict=False)) + x.sum()


@program(vector)
def decorated_helper(x):
    @functools.wraps(power)
    def doubled(*args, **kwargs):
        result = power(*args, **kwargs)
        return result * 2 if result > 1 else result

    return doubled(x)


inner_compiled = tg.compile(lambda x: x * 2 if x.sum() > 0 else x.sin())


@program(vectors)
def compiled_within_compiled(x, y):
    return (inner_compiled(x) * inner_compiled(y)).sum()


# ------------------------------------------------------------------------------------- exceptions


@program(vector)
def try_except(x):
    try:
        if x.sum() > 0.5:
            raise ValueError("large")
        y = x * 2
    except ValueError:
        y = x.sin()
    return y.sum()


@program(vector)
def try_except_else_finally(x):
    y = x
    try:
        y = y * 2
        assert y[0] > 0, "negative"
    except AssertionError as error:
        y = y * len(str(error))
    else:
        y = y + 1
    finally:
        y = y * 3
    return y.sum()


@program(vector)
def exception_out_of_a_helper(x):
    def strict(v):
        if v < -0.5:
            raise KeyError("low")
        return v * 2

    total = x.sum() * 0
    for v in x:
        try:
            total = total + strict(v)
        except KeyError:
            break
    return total


@program(vector)
def return_in_finally(x):
    def f(v):
        try:
            if v > 0:
                return v * 2
            v = v * 3
        finally:
            v = v * 100
        return v

    return sum(f(v) for v in x)


@program(vector, smooth=False)
def with_blocks(x):
    with contextlib.suppress(ZeroDivisionError):
        if x[0] > 0:
            x = x * 2
            raise ZeroDivisionError
        x = x * 3
    with tg.no_grad():
        scale = x.abs().max() + 1
    return (x / scale).sum()


class Doubling:
    """A context manager of the user's."""

    def __init__(self, x):
        self.x = x

    def __enter__(self):
        return self.x * 2

    def __exit__(self, kind, error, trace):
        return kind is ArithmeticError


@program(vector)
def own_context_manager(x):
    with Doubling(x) as y:
        if y.sum() > 0:
            raise ArithmeticError
        y = y * 5
    return y.sum()


# -------------------------------------------------------------------------------- data and objects


@dataclasses.dataclass
class State:
    position: Any
    velocity: Any
    steps: int = 0

    @property
    def energy(self):
        return (self.velocity**2).sum() + self.position.sum()

    def moved(self, dt):
        if self.energy > 1:
            return dataclasses.replace(self, position=self.position + dt * self.velocity)
        return State(self.position, self.velocity * 2, self.steps + 1)


@program(vectors)
def dataclasses_and_methods(x, v):
    state = State(x, v)
    for _ in range(3):
        state = state.moved(0.5)
    return state


Pair = namedtuple("Pair", "left right")


@program(
    lambda rng: (Pair(rng.normal(size=2), [rng.normal(size=2), {"k": np.asarray(rng.normal())}]),)
)
def nested_containers(tree):
    left, (middle, rest) = tree
    if rest["k"] > 0:
        return {"sum": left + middle, "k": [rest["k"], left[0]]}
    return Pair(left * rest["k"], (middle,))


class Polynomial:
    """An object with operators, indexing and a call."""

    def __init__(self, coefficients):
        self.coefficients = coefficients

    def __call__(self, x):
        value = 0.0
        for c in self.coefficients:
            value = value * x + c
        return value

    def __add__(self, other):
        pairs = zip(self.coefficients, other.coefficients, strict=True)
        return Polynomial([a + b for a, b in pairs])

    def __getitem__(self, i):
        return self.coefficients[i]

    def __len__(self):
        return len(self.coefficients)

    def __bool__(self):
        return bool(self[0] > 0)


@program(vectors)
def objects_with_operators(x, y):
    p = Polynomial(list(x)) + Polynomial(list(y))
    return p(0.5) * len(p) if p else p(-1.0)


@program(vector)
def dictionaries_and_default_dict(x):
    groups = defaultdict(list)
    for v in x:
        groups["positive" if v > 0 else "negative"].append(v)
    return {name: sum(values) * len(values) for name, values in sorted(groups.items())}


@program(vector_and_count)
def lists_as_stacks(x, n):
    stack = [x]
    for i in range(n):
        stack.append(stack[-1] * 2 if stack[-1].sum() > 0 else x + i)
    total = x * 0
    while stack:
        total = total + stack.pop() * (len(stack) + 1)
    return total.sum()


@program(vector_and_count)
def deque_as_window(x, n):
    window = deque(maxlen=2)
    for i in range(n + 1):
        window.append(x * i)
    return sum(w.sum() for w in window) + x.sum() * 0


@program(vector)
def strings_and_formats(x):
    label = f"{int((x > 0).sum())}-{'up' if x[0] > 0 else 'down'}"
    return x.sum() * len(label), label


@program(vector)
def class_defined_inside(x):
    class Scale:
        factor = 2 if x[0] > 0 else 3

        @classmethod
        def apply(cls, v):
            return v * cls.factor

        @staticmethod
        def shift(v):
            return v + 1

    return Scale.shift(Scale.apply(x)).sum()


@program(vector)
def math_functions_of_values(x):
    n = math.floor(float(x[0]))
    return x.sum() * math.cos(n) + math.copysign(1.0, x[1].item())


# ---------------------------------------------------------------------- shapes that depend on data


@program(vector)
def boolean_mask(x):
    return (x[x > 0] ** 2).sum() + x.sum()


@program(vector)
def nonzero(x):
    places = (x > 0).nonzero()
    return x[places[:, 0]].sum() * places.shape[0] + x.sum()


@program(lambda rng: (rng.normal(size=5), rng.integers(0, 3, size=5)))
def unique(x, labels):
    total = x.sum() * 0
    for label in tg.unique(labels):
        total = total + x[labels == label].mean() ** 2
    return total


@program(matrix)
def loop_over_a_data_dependent_number_of_rows(x):
    rows = x[x[:, 0] > 0]
    total = x.mean()
    for i in range(rows.shape[0]):
        total = total + rows[i].prod() * (i + 1)
    return total


@program(vector_and_count)
def slices_of_dynamic_length(x, n):
    return x[:n].sum() * 2 + x[n:].sum() * 3 + x[-1:].sum()


@program(vector)
def mask_that_may_be_empty(x):
    kept = x[x > 1]
    if len(kept) == 0:
        return x.sum()
    return kept.max() * len(kept)


# ---------------------------------------------------------------------------------------- in place


@program(matrix)
def write_elements(x):
    y = tg.zeros(4, 5, dtype=tg.float64)
    for i in range(4):
        for j in range(5):
            if (i + j) % 2:
                y[i, j] = x[i, j] * (i + 1)
    return (y * x).sum()


@program(matrix)
def add_to_slices(x):
    y = x * 1
    y[1:-1] += x[:2] * 2
    y[:, 0] *= 3
    y[..., -1] -= x[..., 0]
    return (y**2).sum()


@program(matrix)
def write_on_a_branch(x):
    y = x.clone()
    if x.sum() > 0:
        y[0] = x[1] * 2
    else:
        y[:, 1] = x[:, 0].sin()
    y += x
    return (y**2).sum()


@program(matrix)
def sequential_stencil(x):
    u = x.clone()
    for _ in range(2):
        for i in range(1, 3):
            for j in range(1, 4):
                u[i, j] = 0.25 * (u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1])
    return (u**2).sum()


@program(matrix)
def heat_equation(x):
    u = x[0] * 1
    for _ in range(4):
        u[1:-1] += 0.1 * (u[2:] - 2 * u[1:-1] + u[:-2])
    return (u**3).sum()


@program(vector)
def prefix_sums_in_place(x):
    y = x.clone()
    for i in range(1, len(y)):
        y[i] += y[i - 1]
        if y[i] < 0:
            y[i] = y[i] * 0.5
    return (y**2).sum()


@program(positive)
def in_place_in_a_while_loop(x):
    y = x.clone()
    while y.sum() < 100:
        y *= 2
        y[0] += 1
    return (y * x).sum()


@program(lambda rng: (rng.normal(size=5), rng.permutation(5)[:3]))
def write_at_indices(x, places):
    y = x * 2
    y[places] = x[:3] * 0.5
    y[x > 0] = 0.25
    return (y**2).sum()


@program(vector)
def views_see_writes(x):
    y = x * 1
    head = y[:2]
    head *= 2
    if y.sum() > 0:
        head += 1
        y[2] = head.sum()
    return (y * x).sum()


@program(lambda rng: (rng.normal(size=4), int(rng.integers(0, 4))), taped=False)
def write_at_a_dynamic_place(x, i):
    y = x.clone()
    y[i] = y[i] ** 2
    return (y * tg.arange(4.0)).sum()


@program(lambda rng: ((lambda a: a @ a.T + 4 * np.eye(4))(rng.normal(size=(4, 4))),), taped=False)
def cholesky_as_loops(a):
    lower = tg.zeros(4, 4, dtype=tg.float64)
    for i in range(4):
        for j in range(i + 1):
            s = a[i, j]
            for k in range(j):
                s = s - lower[i, k] * lower[j, k]
            lower[i, j] = s.sqrt() if i == j else s / lower[j, j]
    return (lower**2).sum() + lower.sum()


@program(lambda rng: (rng.uniform(1, 10, size=(5, 5)),))
def floyd_warshall(d):
    d = d.clone()
    for k in range(5):
        d = tg.minimum(d, d[:, k : k + 1] + d[k : k + 1, :])
    return d.sum()


@program(vector)
def bubble_sort(x):
    y = x.clone()
    for i in range(2):
        for j in range(2 - i):
            if y[j] > y[j + 1]:
                low, high = y[j + 1].clone(), y[j].clone()
                y[j] = low
                y[j + 1] = high
    return (y * tg.arange(1.0, 4.0)).sum()


# ---------------------------------------------------------------------------------- small programs


@program(lambda rng: (np.asarray(rng.uniform(0, 2)), np.asarray(rng.normal())))
def bouncing_ball(height, speed):
    bounces = 0
    for _ in range(12):
        speed = speed - 0.981
        height = height + 0.1 * speed
        if height < 0:
            height = -height
            speed = -0.8 * speed
            bounces += 1
    return height + speed * bounces


@program(lambda rng: (np.asarray(rng.uniform(1, 3)), np.asarray(rng.uniform(0.5, 1))))
def bisection(target, high):
    low = high * 0
    high = high + 3
    for _ in range(12):
        middle = (low + high) / 2
        if middle**3 > target:
            high = middle
        else:
            low = middle
    return low + high - (low**3 - target) / (3 * low**2 + 1)


@program(lambda rng: (rng.normal(size=2), int(rng.integers(5, 12))))
def lotka_volterra(state, steps):
    u, v = state.exp()
    for _ in range(steps):
        u, v = u + 0.05 * u * (1 - v), v + 0.05 * v * (u - 1)
    return u + v


@program(lambda rng: (rng.normal(size=(int(rng.integers(0, 4)), 2)), rng.normal(size=(2, 2))))
def recurrent_network(xs, w):
    h = tg.zeros(2, dtype=tg.float64)
    outputs = []
    for x in xs:
        h = (h @ w + x).tanh()
        outputs.append(h)
    return tg.stack(outputs).sum() if outputs else w.sum()


# --------------------------------------------------------------------------------- explicit forms


@program(vectors)
def explicit_cond(x, y):
    z = tg.cond(x.sum() > y.sum(), lambda a, b: a * b, lambda a, b: a.sin() - b, x, y)
    return tg.cond(z[0] > 0, lambda a: a * 2, lambda a: -a, z).sum()


@program(vector)
def explicit_switch(x):
    chosen = (x > 0).sum()
    return tg.switch(chosen, [tg.sin, tg.exp, lambda v: v * 3, lambda v: v**2], x).sum()


@program(positive)
def explicit_while_loop(x):
    def goes_on(carry):
        value, _ = carry
        return value.sum() < 50

    def step(carry):
        value, count = carry
        return value * 1.7 + 0.1, count + 1

    value, count = tg.while_loop(goes_on, step, (x, 0))
    return (value * x).sum(), count


@program(vector_and_count)
def explicit_fori_loop(x, n):
    return tg.fori_loop(0, n, lambda i, v: v * 0.9 + v.sin() * i, x).sum()


@program(lambda rng: (rng.normal(size=(int(rng.integers(1, 5)), 2)), rng.normal(size=2)))
def explicit_scan(xs, start):
    def step(carry, x):
        new = {"h": (carry["h"] * x).tanh() + x}
        return new, new["h"].sum()

    carry, rows = tg.scan(step, {"h": start}, xs)
    back, _ = tg.scan(step, carry, xs, reverse=True)
    return carry["h"].sum() + (rows**2).sum() + back["h"].prod()


@program(matrix)
def explicit_map(x):
    return tg.map(lambda row: row.sum().sin() * row[0], x).sum()


@program(vector)
def explicit_associative_scan(x):
    sums = tg.associative_scan(lambda a, b: a + b, x)
    products = tg.associative_scan(lambda a, b: a * b, x + 2, reverse=True)
    return (sums * products).sum()


@program(lambda rng: (rng.normal(size=4), int(rng.integers(0, 3))))
def functional_updates(x, i):
    y = x.at[i].set(x[3] * 2)
    y = y.at[i + 1].add(y[0].sin())
    y = y.at[1:3].multiply(0.5)
    return (y**2).sum()


@program(lambda rng: (rng.normal(size=4), int(rng.integers(0, 4))))
def updates_in_an_explicit_loop(x, n):
    def step(i, y):
        return y.at[i].add(y[i - 1] * 0.5)

    return (tg.fori_loop(1, n + 1, step, x) ** 2).sum()


@program(positive)
def explicit_loop_within_a_python_branch(x):
    if x.sum() > 9:
        x = tg.fori_loop(0, 3, lambda i, v: v.sqrt() + i, x)
    for _ in range(2):
        x = tg.cond(x.max() > 4, lambda v: v / 2, lambda v: v * 1.5, x)
    return x.sum()


@program(positive)
def nested_explicit_loops(x):
    def outer(i, v):
        def goes_on(w):
            return w.max() < 6

        return tg.while_loop(goes_on, lambda w: w * 1.4 + 0.1, v) * 0.5 + i

    return tg.fori_loop(0, 3, outer, x).sum()
