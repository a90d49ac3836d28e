"""Random programs of views, in-place operations and backward: the same values and gradients as
PyTorch's.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tracegrad as tg

SHAPES = ((3,), (2, 3), (3, 2), (2, 1, 3), (4,))


@dataclass
class Step:
    """One statement of a program: its kind, and numbers that choose operands and parameters."""

    kind: str
    a: int
    b: int
    c: int
    d: int


KINDS = (
    "unary",
    "binary",
    "scalar",
    "slice",
    "select",
    "reshape",
    "transpose",
    "unsqueeze",
    "squeeze",
    "expand",
    "inplace_unary",
    "inplace_binary",
    "inplace_scalar",
    "copy",
    "zero",
    "fill",
    "setitem",
    "set_mask",
    "detach",
    "clone",
    "gather",
)

WRITES = (
    "inplace_unary",
    "inplace_binary",
    "inplace_scalar",
    "copy",
    "zero",
    "fill",
    "setitem",
    "set_mask",
)

numbers = st.integers(0, 11)
steps = st.builds(Step, st.sampled_from(KINDS), numbers, numbers, numbers, numbers)

UNARY = ("sin", "exp", "tanh", "neg", "square", "sigmoid")
BINARY = ("add", "sub", "mul")


def target(step, tensors):
    """The number of the first operand: rather a late tensor than an early one: chains grow."""
    return -1 - step.a % len(tensors)


def perform(module, tensors, step):
    """Run one step on the list of live tensors of `module`; new tensors are appended."""
    x = tensors[target(step, tensors)]
    y = tensors[step.b % len(tensors)]
    kind = step.kind
    if kind == "unary":
        tensors.append(getattr(module, UNARY[step.c % len(UNARY)])(x))
    elif kind == "binary":
        tensors.append(getattr(module, BINARY[step.c % 3])(x, y))
    elif kind == "scalar":
        tensors.append([x * 0.5, 2 - x, x + 1][step.c % 3])
    elif kind == "slice":
        tensors.append(x[step.c % 2 :: 1 + step.d % 2])
    elif kind == "select":
        tensors.append(x[step.c % max(x.shape[0], 1)])
    elif kind == "reshape":
        tensors.append(x.reshape(-1) if step.c % 2 else x.reshape(1, -1))
    elif kind == "transpose":
        tensors.append(x.transpose(0, -1))
    elif kind == "unsqueeze":
        tensors.append(x.unsqueeze(step.c % (x.ndim + 1)))
    elif kind == "squeeze":
        tensors.append(x.squeeze())
    elif kind == "expand":
        tensors.append(x.unsqueeze(0).expand(2, *x.shape))
    elif kind == "inplace_unary":
        getattr(x, UNARY[step.c % len(UNARY)] + "_")()
    elif kind == "inplace_binary":
        getattr(x, BINARY[step.c % 3] + "_")(y)
    elif kind == "inplace_scalar":
        x.mul_(0.5) if step.c % 2 else x.add_(1)
    elif kind == "copy":
        x.copy_(y)
    elif kind == "zero":
        x.zero_()
    elif kind == "fill":
        x.fill_(0.25)
    elif kind == "setitem":
        x[step.c % max(x.shape[0], 1)] = y if step.d % 2 else y.sum()
    elif kind == "set_mask":
        x[x.detach() > 0] = 0.5
    elif kind == "detach":
        tensors.append(x.detach())
    elif kind == "clone":
        tensors.append(x.clone())
    elif kind == "gather":
        index = np.array([step.c % max(x.shape[0], 1), -1, step.d % max(x.shape[0], 1)])
        tensors.append(x[module.from_numpy(index)])


def leaves(module):
    rng = np.random.default_rng(0)
    return [
        module.tensor(rng.uniform(-1, 1, shape), requires_grad=i != 4, dtype=module.float64)
        for i, shape in enumerate(SHAPES)
    ]


def attempt(module, tensors, step):
    """Whether the step was possible."""
    try:
        perform(module, tensors, step)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return False
    return True


def gradients(module, tensors, variables, seed):
    """The gradients of a weighted sum of all tensors that have one; the error's kind if there is
    one.
    """
    rng = np.random.default_rng(seed)
    total = 0
    for x in tensors:
        weight = module.tensor(rng.uniform(-1, 1, tuple(x.shape)), dtype=module.float64)
        total = total + (x * weight).sum()
    if not total.requires_grad:
        return None
    total.backward()
    return [
        v.grad.detach().numpy() if v.is_leaf and v.grad is not None else None for v in variables
    ]


def name_of(node):
    return None if node is None else node.name().split(" ")[0]


@settings(max_examples=400, deadline=None, report_multiple_bugs=False)
@given(st.lists(steps, min_size=1, max_size=9), st.booleans())
def test_random_programs(program, start_from_copies):
    theirs, ours = leaves(torch), leaves(tg)
    their_leaves, our_leaves = list(theirs), list(ours)
    if start_from_copies:
        theirs, ours = [x * 1 for x in theirs], [x * 1 for x in ours]
    for step in program:
        if step.kind in WRITES and 0 in theirs[target(step, theirs)].stride():
            # PyTorch lets some operations write to a repeated element, others not.
            continue
        if attempt(torch, theirs, step):
            assert attempt(tg, ours, step), f"{step} runs in PyTorch only"
        else:
            # A step that failed there may be possible here, but must then be left out.
            continue
        for x, y in zip(theirs, ours, strict=True):
            assert tuple(x.shape) == tuple(y.shape)
            np.testing.assert_allclose(y.detach().numpy(), x.detach().numpy(), rtol=1e-12)
            assert x.requires_grad == y.requires_grad
            assert x.is_leaf == y.is_leaf
            assert x._version == y._version or x.is_leaf
    try:
        expected = gradients(torch, theirs, their_leaves, len(program))
    except RuntimeError:
        # PyTorch refuses some saved tensors that were changed in place, which here are copies.
        return
    actual = gradients(tg, ours, our_leaves, len(program))
    assert (expected is None) == (actual is None)
    for x, y in zip(expected or [], actual or [], strict=True):
        if x is None:
            assert y is None or not y.any()
        elif y is None:
            assert not x.any()
        else:
            np.testing.assert_allclose(y, x, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None, report_multiple_bugs=False)
@given(st.lists(steps, min_size=2, max_size=9))
def test_random_programs_compiled(program):
    """The same programs as one compiled function with their gradients, beside eager code, which is
    beside PyTorch above.
    """
    possible = []
    tensors = [x * 1 for x in leaves(tg)]
    for step in program:
        if attempt(tg, tensors, step):
            possible.append(step)

    def run(variables):
        tensors = [x * 1 for x in variables]
        for step in possible:
            perform(tg, tensors, step)
        total = sum((x * (i + 1)).sum() for i, x in enumerate(tensors))
        wanted = [x for x in variables if x.requires_grad]
        found = tg.autograd.grad(total, wanted, allow_unused=True)
        return [x.detach() for x in tensors], list(found)

    variables = leaves(tg)
    compiled = tg.compile(run)
    try:
        expected_values, expected = run(variables)
    except RuntimeError as error:
        # What backward needs was changed in place.
        with pytest.raises(type(error)):
            compiled(variables)
        return
    for _ in range(2):
        values, found = compiled(variables)
        for x, y in zip([*values, *found], [*expected_values, *expected], strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-9, atol=1e-11)


def random_index(draw, shape):
    """An index of a tensor of `shape`, as a tuple of what NumPy allows."""
    parts = []
    axis = 0
    lead = draw(st.sampled_from([(2,), (3,), (2, 3)]))
    while axis < len(shape) and draw(st.integers(0, 5)):
        size = shape[axis]
        kind = draw(st.sampled_from(["int", "slice", "none", "array", "list", "mask", "dots"]))
        if kind == "none":
            parts.append(None)
        elif kind == "dots" and not any(part is Ellipsis for part in parts):
            parts.append(Ellipsis)
            axis = len(shape)
        elif kind == "int":
            parts.append(draw(st.integers(-size, size - 1)))
            axis += 1
        elif kind == "slice":
            bound = st.one_of(st.none(), st.integers(-size - 1, size + 1))
            step = st.one_of(st.none(), st.integers(1, 3))
            parts.append(slice(draw(bound), draw(bound), draw(step)))
            axis += 1
        elif kind == "mask":
            parts.append(np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size))))
            axis += 1
        else:
            flat = st.integers(-size, size - 1)
            count = math.prod(lead) if kind == "array" else lead[-1]
            values = draw(st.lists(flat, min_size=count, max_size=count))
            parts.append(np.array(values).reshape(lead) if kind == "array" else values)
            axis += 1
    return tuple(parts)


@st.composite
def indexings(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    return shape, random_index(draw, shape), draw(st.integers(0, 3))


def tensors_in(index, module):
    return tuple(
        module.from_numpy(part) if isinstance(part, np.ndarray) else part for part in index
    )


def outcome(function):
    try:
        return function(), None
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        return None, error


@settings(max_examples=400, deadline=None)
@given(indexings())
def test_indexing(case):
    shape, index, trailing = case
    values = np.random.default_rng(0).uniform(size=shape)
    x = torch.tensor(values, requires_grad=True)
    y = tg.tensor(values, requires_grad=True)
    r, their_error = outcome(lambda: x[tensors_in(index, torch)])
    s, our_error = outcome(lambda: y[tensors_in(index, tg)])
    assert (their_error is None) == (our_error is None), (their_error, our_error)
    if r is None:
        return
    np.testing.assert_array_equal(r.detach().numpy(), s.detach().numpy())
    weight = np.random.default_rng(1).uniform(size=tuple(r.shape))
    r.backward(torch.tensor(weight))
    s.backward(tg.tensor(weight))
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-12)
    value = np.random.default_rng(2).uniform(size=tuple(r.shape)[trailing:])
    v = torch.tensor(value, requires_grad=True, dtype=torch.float64)
    w = tg.tensor(value, requires_grad=True, dtype=tg.float64)
    x.grad = y.grad = None
    x2, y2 = x * 2, y * 2
    x2[tensors_in(index, torch)] = v
    y2[tensors_in(index, tg)] = w
    np.testing.assert_array_equal(x2.detach().numpy(), y2.detach().numpy())
    weight = np.random.default_rng(3).uniform(size=shape)
    x2.backward(torch.tensor(weight))
    y2.backward(tg.tensor(weight))
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(v.grad.numpy(), w.grad.numpy(), rtol=1e-12)


FLOATS = ("float16", "float32", "float64")
DTYPES = (*FLOATS, "int8", "uint8", "int16", "int32", "int64", "bool")


def one_space(text):
    """The notes behind the numbers on one line: our dtype names are longer, so lines break
    elsewhere.
    """
    import re

    text = text.replace("tracegrad.", "torch.")
    return re.sub(r",\s+(dtype|grad_fn|requires_grad)=", r", \1=", text)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 5, 12, 30]), max_size=4),
    st.sampled_from(DTYPES),
    st.integers(-9, 9),
    st.sampled_from(["plain", "whole", "special"]),
    st.sampled_from([None, 0.0, math.inf, -math.inf, math.nan, 1e-6]),
    st.booleans(),
    st.integers(0, 99),
)
def test_printing(shape, dtype, exponent, style, special, tracked, seed):
    if math.prod(shape) > 20000:
        return
    rng = np.random.default_rng(seed)
    values = np.asarray(rng.normal(size=shape) * 10.0**exponent)
    if style == "whole":
        values = np.round(values)
    if style == "special" and special is not None:
        values = np.where(rng.random(shape) < 0.2, special, values)
    with np.errstate(all="ignore"):
        array = (values > 0) if dtype == "bool" else values.astype(dtype)
    tracked = tracked and dtype in FLOATS
    x = torch.tensor(array, requires_grad=tracked)
    y = tg.tensor(array, requires_grad=tracked)
    assert one_space(repr(x)) == one_space(repr(y))
    if tracked:
        assert one_space(repr(x * 1)) == one_space(repr(y * 1))


def test_printing_of_long_tensors():
    for size in (1000, 1001, 5000):
        for array in (np.arange(size), np.linspace(0, 1, size)):
            assert repr(torch.tensor(array)) == repr(tg.tensor(array)).replace("tracegrad", "torch")
    array = np.arange(2000.0).reshape(20, 10, 10).astype(np.float32)
    assert repr(torch.tensor(array)) == repr(tg.tensor(array))


@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", DTYPES)
def test_promotion(left, right):
    def result(module):
        a = module.ones(2, dtype=getattr(module, left))
        b = module.ones(2, dtype=getattr(module, right))
        zero = module.ones((), dtype=getattr(module, right))
        found = [a + b, a + zero, zero + a, a * 1, a * 1.5, a * True, a > b]
        return [str(x.dtype).split(".")[1] for x in found]

    assert result(torch) == result(tg)


def node_names(x):
    """The names of all tape nodes behind `x`."""
    found = []
    work = [x.grad_fn]
    while work:
        node = work.pop()
        if node is not None:
            found.append(node.name().split("::")[-1])
            work.extend(following for following, _ in node.next_functions)
    return found


PROGRAMS = {
    "arithmetic": lambda m, x, y: (x * y + x) / y - x**2,
    "in place": lambda m, x, y: (x * 1).mul_(y).add_(x),
    "functions": lambda m, x, y: m.exp(m.sin(x)) + m.log(y) + m.sqrt(y) + m.tanh(x),
    "reductions": lambda m, x, y: x.sum() + y.mean() + (x * y).sum(dim=0).mean(),
    "select": lambda m, x, y: (x * 1).reshape(4, 1).transpose(0, 1).unsqueeze(0).squeeze(0),
    "copy": lambda m, x, y: (x * 1).clone().copy_(y),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_node_names(name):
    def names(module):
        x = module.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        y = module.tensor([[0.5, 2.5], [1.5, 1.0]], requires_grad=True)
        return set(node_names(PROGRAMS[name](module, x, y)))

    assert names(tg) == names(torch)
