"""`tg.checkpoint`: the same values and gradients, and nothing saved but arguments."""

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.codegen.legalize import legalize
from tracegrad.codegen.memory_plan import plan
from tracegrad.codegen.schedule import schedule
from tracegrad.errors import GradError, TraceError
from tracegrad.ir.parser import parse
from tracegrad.ir.printer import text
from tracegrad.ir.recomputation import without_checkpoints
from tracegrad.ir.structure import equal
from tracegrad.runtime.executor import buffers_of, launch_of


def layer(x, w):
    return tg.tanh(tg.tanh(x @ w) * 2.0) @ w


def chained(x, w, inside):
    for _ in range(3):
        x = inside(x, w)
    return (x * x).sum()


def plain(x, w):
    return chained(x, w, layer)


def checkpointed(x, w):
    return chained(x, w, tg.checkpoint(layer))


def nested(x, w):
    pair = tg.checkpoint(lambda x, w: tg.checkpoint(layer)(tg.checkpoint(layer)(x, w), w))
    return (tg.checkpoint(layer)(pair(x, w), w) ** 2).sum()


def captured(x, w):
    @tg.checkpoint
    def inside(x):
        return layer(x, w)

    return (inside(inside(inside(x))) ** 2).sum()


def branching(x, w):
    @tg.checkpoint
    def inside(x, w):
        return layer(x, w) if x.sum() > -1e9 else x

    return chained(x, w, inside)


def looping(x, w):
    def body(i, x):
        return tg.checkpoint(layer)(x, w)

    return (tg.fori_loop(0, 3, body, x) ** 2).sum()


def around_a_loop(x, w):
    whole = tg.checkpoint(lambda x, w: tg.fori_loop(0, 3, lambda i, y: layer(y, w), x))
    return (whole(x, w) ** 2).sum()


FORMS = [checkpointed, nested, captured, branching, looping, around_a_loop]


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    return random.normal(size=(5, 4)), random.normal(size=(4, 4)) / 2


def gradients(function, arrays):
    x, w = (tg.tensor(a, requires_grad=True) for a in arrays)
    value = function(x, w)
    value.backward()
    return [value.item(), x.grad.numpy(), w.grad.numpy()]


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("function", FORMS)
def test_values_and_gradients_in_eager_code(function, arrays):
    assert_close(gradients(function, arrays), gradients(plain, arrays))


@pytest.mark.parametrize("function", FORMS)
def test_values_and_gradients_of_compiled_code(interpreted, function, arrays):
    expected = gradients(plain, arrays)
    compiled = tg.compile(function)
    for _ in range(2):
        assert_close(gradients(compiled, arrays), expected)
    both = tg.compile(tg.value_and_grad(function, argnums=(0, 1)))
    value, (gx, gw) = both(*map(tg.tensor, arrays))
    assert_close([value.item(), gx.numpy(), gw.numpy()], expected)


def test_the_machine_code(arrays):
    x, w = map(tg.tensor, arrays)
    both = tg.compile(tg.value_and_grad(checkpointed, argnums=(0, 1)))
    value, (gx, gw) = both(x, w)
    assert "after(" in both.ir()
    assert_close([value.item(), gx.numpy(), gw.numpy()], gradients(plain, arrays))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("function", [checkpointed, nested])
def test_higher_derivatives_and_rows(interpreted, function, compiled, arrays):
    x, w = map(tg.tensor, arrays)
    v = tg.ones(5, 4, dtype=tg.float64)

    def derivatives(f):
        def of_rows(x, w):
            return tg.vmap(tg.grad(lambda row, w: f(row[None], w)), in_axes=(0, None))(x, w)

        def curvature(x, w):
            return tg.grad(lambda x: (tg.grad(f)(x, w) * v).sum())(x)

        def forward(x, w):
            return tg.jvp(lambda x: f(x, w), (x,), (v,))[1]

        return [tg.compile(g) if compiled else g for g in (of_rows, curvature, forward)]

    for found, expected in zip(derivatives(function), derivatives(plain), strict=True):
        assert_close([found(x, w).numpy()], [expected(x, w).numpy()])


# --------------------------------------------------------------------------------- what is saved


def program_of(function, arrays):
    compiled = tg.compile(function)
    compiled(*(tg.tensor(a, requires_grad=True) for a in arrays))
    return compiled.specialisations[0].tree.root.program


def test_only_arguments_are_saved(interpreted, arrays):
    program = program_of(checkpointed, arrays)
    saved = [
        (program.forward_graph.inputs if s.kind == "input" else program.forward_graph.outputs)[
            s.index
        ]
        for s in program.saved
    ]
    # x, w, what the second and the third layer are given, and the argument of the square.
    assert [x.op.name for x in saved] == ["input", "input", "matmul", "matmul", "matmul"]
    names = [x.op.name for x in program.backward_graph.nodes]
    # One product of each layer is computed again, for tanh; its result nobody needs.
    assert names.count("tanh") == 6
    assert names.count("matmul") == 3 + 4 * 3
    assert len(program_of(plain, arrays).saved) > len(saved)


def scratch_of(graph):
    planned = schedule(legalize(graph), [None] * len(graph.inputs))
    return plan([buffers_of(launch_of(step, planned)) for step in planned.steps])[1]


def test_a_program_of_forward_and_backward_holds_less(interpreted):
    def loss(x, w, inside):
        def several(x, w):
            for _ in range(4):
                x = tg.tanh(x @ w)
            return x

        several = tg.checkpoint(several) if inside else several
        for _ in range(5):
            x = several(x, w)
        return (x * x).sum()

    x, w = tg.rand(32, 32), tg.rand(32, 32)
    held = []
    for inside in (False, True):
        both = tg.compile(tg.value_and_grad(loss), roll=False)
        both(x, w, inside)
        held.append(scratch_of(both.specialisations[0].tree.root.program.forward_graph))
    assert held[0] > 20 * 4 * 32 * 32
    assert held[1] < 12 * 4 * 32 * 32


def test_a_rolled_loop_saves_what_it_carries(interpreted, arrays):
    def deep(inside):
        def loss(x, w):
            for _ in range(20):
                x = inside(x, w)
            return (x * x).sum()

        return loss

    expected = gradients(deep(layer), arrays)
    saved = []
    for inside in (layer, tg.checkpoint(layer)):
        compiled = tg.compile(deep(inside))
        assert_close(gradients(compiled, arrays), expected)
        program = compiled.specialisations[0].tree.root.program
        (loop,) = (x for x in program.forward_graph.nodes if x.op.name == "while_loop")
        assert not loop.params["saves"]
        saved.append(loop.params["stacked"])
    assert saved[1] == 1 < saved[0]


def test_a_budget_of_nothing_saves_the_inputs(interpreted, arrays):
    compiled = tg.compile(plain, memory_budget=0)
    assert_close(gradients(compiled, arrays), gradients(plain, arrays))
    program = compiled.specialisations[0].tree.root.program
    assert {s.kind for s in program.saved} == {"input"}


def test_the_tape_has_one_node(arrays):
    x, w = (tg.tensor(a, requires_grad=True) for a in arrays)
    y = tg.checkpoint(layer)(x, w)
    assert y.grad_fn.name() == "CheckpointBackward"
    ends = [node.name() for node, _ in y.grad_fn.next_functions]
    assert ends == ["AccumulateGrad", "AccumulateGrad"]
    with tg.no_grad():
        assert tg.checkpoint(layer)(x, w).grad_fn is None


def test_the_node_in_the_graph(interpreted, arrays):
    compiled = tg.compile(checkpointed)
    compiled(*map(tg.tensor, arrays))
    graph = compiled.specialisations[0].tree.root.program.graph
    assert [x.op.name for x in graph.nodes].count("checkpoint") == 3
    assert equal(parse(text(graph)), graph)
    assert "checkpoint" not in [x.op.name for x in without_checkpoints(graph).nodes]


# ----------------------------------------------------------------------------- random numbers


@pytest.mark.parametrize("compiled", [False, True])
def test_the_same_random_numbers_again(interpreted, compiled):
    def f(x):
        y = tg.checkpoint(lambda x: tg.sin(x) * tg.rand(4, dtype=tg.float64))(x)
        return y.sum(), y

    function = tg.compile(f) if compiled else f
    x = tg.tensor([0.5, 1.0, 1.5, 2.0], dtype=tg.float64, requires_grad=True)
    for _ in range(2):
        tg.manual_seed(3)
        x.grad = None
        total, y = function(x)
        drawn = y.detach().numpy() / np.sin(x.detach().numpy())
        total.backward()
        np.testing.assert_allclose(x.grad.numpy(), np.cos(x.detach().numpy()) * drawn)
        following = tg.rand(2).tolist()
        tg.manual_seed(3)
        assert tg.rand(4, dtype=tg.float64).numpy() == pytest.approx(drawn)
        assert tg.rand(2).tolist() == following


# ------------------------------------------------------------------------ arguments and results


def test_containers_and_other_results():
    @tg.checkpoint
    def f(pair, *, scale, label):
        a, b = pair["a"], pair["b"]
        return {"product": a * b * scale, "same": a, "label": label, "count": (a > 0).sum()}

    a, b = (tg.tensor([1.0, -2.0], requires_grad=True) for _ in range(2))
    found = f({"a": a, "b": b}, scale=3.0, label="x")
    assert found["label"] == "x"
    assert found["same"] is a
    assert int(found["count"]) == 1
    found["product"].sum().backward()
    assert a.grad.tolist() == b.grad.tolist() == [3.0, -6.0]


def test_a_view_and_a_result_twice():
    @tg.checkpoint
    def f(x):
        y = tg.exp(x)
        return y[1:], y, y, x.T

    x = tg.tensor([[0.5, 1.0], [1.5, 2.0]], requires_grad=True)
    part, y, again, turned = f(x)
    assert again is y
    (part.sum() + y.sum() + again.sum() + turned.sum()).backward()
    expected = np.exp(x.detach().numpy()) * [[2.0, 2.0], [3.0, 3.0]] + 1.0
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6)
    with tg.no_grad():
        turned.zero_()
    assert x[0, 0] == 0.5


def test_a_compiled_function_inside(interpreted, arrays):
    inner = tg.compile(layer)
    assert_close(
        gradients(lambda x, w: chained(x, w, tg.checkpoint(inner)), arrays),
        gradients(plain, arrays),
    )
    assert inner.statistics.traces == 1


def test_gradients_of_what_is_captured_deep_in_the_tape(arrays):
    x, w = (tg.tensor(a, requires_grad=True) for a in arrays)
    scaled = w * 2.0
    (tg.checkpoint(lambda x: layer(x, scaled))(x * 3.0)).sum().backward()
    found = [x.grad.numpy(), w.grad.numpy()]
    x, w = (tg.tensor(a, requires_grad=True) for a in arrays)
    layer(x * 3.0, w * 2.0).sum().backward()
    assert_close(found, [x.grad.numpy(), w.grad.numpy()])


# ------------------------------------------------------------------------------------- mistakes


def test_backward_twice(arrays):
    x, w = (tg.tensor(a, requires_grad=True) for a in arrays)
    y = tg.checkpoint(layer)(x, w).sum()
    y.backward(retain_graph=True)
    first = x.grad.numpy().copy()
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * first)
    with pytest.raises(GradError, match="second time"):
        y.backward()


def test_an_argument_changed_inside(interpreted):
    def f(x):
        return tg.checkpoint(lambda x: x.mul_(2.0) + 1.0)(x * 1.0)

    def g(x):
        y = x * 1.0
        tg.checkpoint(lambda y: y.mul_(2.0) + 1.0)(y)
        return y

    x = tg.ones(3, requires_grad=True)
    with pytest.raises(GradError, match="changes an argument in place"):
        f(x)
    y = (x * 1.0).detach()
    with pytest.raises(GradError, match=r"test_checkpoint\.py"):
        tg.checkpoint(lambda y: y.mul_(2.0) + x)(y)
    assert y.tolist() == [1, 1, 1]
    with pytest.raises(TraceError, match="changes a tensor in place that it did not make"):
        tg.compile(g)(x)
    # Its own tensors it may change.
    z = tg.checkpoint(lambda x: (x * 3.0).add_(1.0))(x)
    z.sum().backward()
    assert x.grad.tolist() == [3, 3, 3]


def test_an_argument_changed_afterwards():
    x = tg.ones(3, requires_grad=True)
    y = x * 1.0
    z = tg.checkpoint(tg.exp)(y)
    y.add_(1.0)
    with pytest.raises(GradError, match=r"tg\.checkpoint at test_checkpoint\.py:\d+"):
        z.sum().backward()
    w = tg.ones(3, requires_grad=True)
    z = tg.checkpoint(lambda x: tg.exp(x * w))(x)
    with tg.no_grad():
        w.add_(1.0)
    with pytest.raises(GradError, match="modified by an inplace operation"):
        z.sum().backward()


def test_a_function_that_does_something_else_the_second_time():
    x = tg.ones(3, requires_grad=True)
    results = [lambda x: x * 2.0, lambda x: (x, x * 2.0)]
    z = tg.checkpoint(lambda x: results.pop(0)(x))(x)
    with pytest.raises(GradError, match="did something else"):
        z.sum().backward()


def test_a_number_and_a_condition_inside(interpreted):
    @tg.compile
    def f(x):
        def inside(x):
            y = tg.exp(x) * float(x.sum())
            return y if y[0] > 0 else -y

        return tg.checkpoint(inside)(x).sum()

    for sign in (1.0, -1.0, 1.0):
        x = tg.tensor([sign, 2 * sign], requires_grad=True)
        f(x).backward()
        np.testing.assert_allclose(x.grad.numpy(), np.exp(x.detach().numpy()) * 3.0, rtol=1e-6)
    assert f.statistics.traces == 2
