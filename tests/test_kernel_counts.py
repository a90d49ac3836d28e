"""How many kernels programs have, and how often they walk over their large arrays."""

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.codegen.explanation import explain
from tracegrad.codegen.legalize import legalize
from tracegrad.codegen.schedule import schedule
from tracegrad.runtime.executor import launch_of

F = tg.nn.functional
ROWS, COLUMNS = 256, 512


def kernels_of(graph):
    """What each step of a program does. Nothing is compiled for that."""
    planned = schedule(legalize(graph), [None] * len(graph.inputs))
    return [explain(step, planned, launch_of(step, planned)) for step in planned.steps]


def programs_of(function, *arguments):
    """What the kernels do of the forward and the backward program of a function."""
    compiled = tg.compile(function)
    compiled(*arguments)
    (occurrence,) = compiled.specialisations[0].tree.walk()
    program = occurrence.program
    forward = kernels_of(program.forward_graph)
    if program.backward_graph is None:
        return forward, []
    return forward, kernels_of(program.masked_backward(program.all_given))


def passes(kernels, array):
    """The kernels that read or write as much as an array holds."""
    large = array.detach().numpy().nbytes
    return [x for x in kernels if max(x.read_bytes, x.written_bytes) >= large]


def normalise_classify(x, weight, bias, labels):
    return F.cross_entropy(F.layer_norm(x, (COLUMNS,), weight, bias), labels)


def normalised(requires_grad):
    x = tg.rand(ROWS, COLUMNS, requires_grad=requires_grad)
    weight, bias = (tg.rand(COLUMNS, requires_grad=requires_grad) for _ in range(2))
    return x, weight, bias, tg.tensor(np.arange(ROWS))


def test_layer_norm_and_cross_entropy_make_three_passes(interpreted):
    arguments = normalised(True)
    forward, backward = programs_of(normalise_classify, *arguments)
    assert len(passes(forward, arguments[0])) == 1
    assert len(passes(backward, arguments[0])) <= 2
    # Besides, one kernel adds up the losses of the rows.
    assert len(forward) + len(backward) <= 4
    # The forward reads x once, and saves numbers of each row only.
    assert sum(x.written_bytes for x in forward) < 64 * ROWS


def test_layer_norm_and_cross_entropy_in_one_program(interpreted):
    step = tg.value_and_grad(normalise_classify, argnums=(0, 1, 2))
    arguments = normalised(False)
    kernels, _ = programs_of(step, *arguments)
    assert len(passes(kernels, arguments[0])) <= 3


def mlp(x, w1, b1, w2, b2, labels):
    return F.cross_entropy(tg.relu(x @ w1 + b1) @ w2 + b2, labels)


def attention(q, k, v):
    weights = tg.softmax(q @ k.transpose(-1, -2) / 4.0, dim=-1)
    return (weights @ v).sum()


def regression(w, b, x, y):
    return 0.5 * ((x @ w + b - y) ** 2).sum()


def chain(x):
    return ((((x * 0.5 + 1.0) * x + 0.25) * x + 2.0) * x + 3.0).mean()


def tensors(*shapes):
    return [tg.rand(*shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(
    ("function", "arguments", "forward", "backward"),
    [
        (regression, lambda: tensors((3, 1), (1, 1), (32, 3), (32, 1)), 2, 3),
        (
            mlp,
            lambda: [
                *tensors((32, 64), (64, 32), (32,), (32, 10), (10,)),
                tg.tensor(np.arange(32) % 10),
            ],
            5,
            7,
        ),
        (attention, lambda: tensors((4, 16, 8), (4, 16, 8), (4, 16, 8)), 4, 7),
        (chain, lambda: tensors((1 << 18,)), 2, 1),
        (lambda x: tg.softmax(x, dim=1), lambda: tensors((64, 32)), 1, 1),
        (lambda x: tg.tanh(tg.exp(tg.sin(x))), lambda: tensors((64, 32)), 1, 1),
    ],
)
def test_kernels_of_programs(interpreted, function, arguments, forward, backward):
    first, second = programs_of(function, *arguments())
    assert len(first) <= forward
    assert len(second) <= backward


@pytest.mark.parametrize(
    ("function", "read", "written"),
    [
        (lambda x: x.sum(0), 600_000, 2_000),
        (lambda x: x.T + 1.0, 600_000, 600_000),
        # Half of the rows; and rows that are read twice count once.
        (lambda x: x[::2] * 2.0, 300_000, 300_000),
        (lambda x: x[1:] - x[:-1], 600_000, 598_000),
        (lambda x: x - x[:, :1], 600_000, 600_000),
        (lambda x: tg.cumsum(x, 0), 600_000, 600_000),
    ],
)
def test_bytes_of_kernels(interpreted, function, read, written):
    (kernel,), _ = programs_of(function, tg.rand(300, 500))
    assert (kernel.read_bytes, kernel.written_bytes) == (read, written)


def test_a_kernel_says_what_it_fuses(interpreted):
    (kernel,), _ = programs_of(lambda x: tg.exp(x - x.amax(1, keepdim=True)).sum(1), tg.rand(9, 7))
    assert kernel.ops == ("amax", "sub", "exp", "sum")
    assert kernel.passes == 2
    assert kernel.text == "amax sub exp sum over 9x7, reducing 7 in 2 passes"


def test_the_chain_reads_its_input_and_writes_its_gradient(interpreted):
    (x,) = tensors((1 << 20,))
    kernels, _ = programs_of(tg.value_and_grad(chain), x.detach())
    moved = sum(k.read_bytes + k.written_bytes for k in kernels)
    # Both in one pass; what is added up in stages is small.
    assert moved <= 2.01 * x.detach().numpy().nbytes


def sources_of(function, *arguments):
    """The kernels, each once, of a program of value and gradients."""
    compiled = tg.compile(tg.value_and_grad(function))
    compiled(*arguments)
    (occurrence,) = compiled.specialisations[0].tree.walk()
    graph = occurrence.program.forward_graph
    planned = schedule(legalize(graph), [None] * len(graph.inputs))
    return {launch_of(step, planned).source for step in planned.steps}


def residual_layers(parameters, x):
    for w, b in parameters:
        x = tg.tanh(x @ w + b) + x
    return x.sum()


def test_many_equal_layers_have_the_kernels_of_few(interpreted):
    few, many = (
        sources_of(residual_layers, [tensors((8, 8), (8,)) for _ in range(n)], tg.rand(4, 8))
        for n in (2, 48)
    )
    assert len(many) <= 2 * len(few)


def test_many_unrolled_steps_have_the_kernels_of_few(interpreted):
    def steps(x, w):
        for _ in rounds:
            x = tg.tanh(x * w + x)
        return x.sum()

    counts = []
    for n in (50, 200):
        rounds = [None] * n
        counts.append(sources_of(steps, tg.rand(9), tg.rand(9)))
    few, many = counts
    assert len(many) <= len(few)
