"""What a user sees when something is wrong: PyTorch's message, the user's line, and tensors as they
were.
"""

from pathlib import Path

import pytest

import tracegrad as tg

HERE = Path(__file__).name


def leaf(*values):
    return tg.tensor(values, requires_grad=True)


def wrong_shapes():
    return tg.ones(2, 3) + tg.ones(4)


def wrong_matmul():
    return tg.ones(64, 784) @ tg.ones(10, 784)


def wrong_dim():
    return tg.ones(2, 3).sum(dim=2)


def wrong_transpose():
    return tg.ones(2, 3).transpose(0, 5)


def wrong_reshape():
    return tg.ones(2, 3).reshape(4, -1)


def wrong_view():
    return tg.ones(2, 3).T.view(6)


def wrong_expand():
    return tg.ones(2).expand(3)


def not_a_scalar():
    (leaf(1.0, 2.0) * 2).backward()


def nothing_to_do():
    tg.ones(1).backward()


def wrong_gradient_shape():
    (leaf(1.0, 2.0) * 2).backward(tg.ones(3))


def freed_graph():
    x = leaf(1.0)
    y = (x * x).sum()
    y.backward()
    y.backward()


def written_leaf():
    leaf(1.0).add_(1)


def written_leaf_view():
    leaf(1.0)[0] = 2


def float_into_integers():
    tg.ones(2, dtype=tg.int32).add_(0.5)


def numpy_of_a_leaf():
    leaf(1.0).numpy()


def written_no_grad_view():
    x = leaf(1.0, 2.0) * 1
    with tg.no_grad():
        y = x[0]
    y.mul_(2)


def grad_of_wrong_shape():
    leaf(1.0).grad = tg.ones(2)


def grad_of_wrong_dtype():
    leaf(1.0).grad = tg.ones(1, dtype=tg.float64)


def unknown_device():
    tg.zeros(1, device="cuda:7")


def ragged_rows():
    tg.tensor([[1, 2], [3]])


CASES = [
    (wrong_shapes, RuntimeError, "sizes 3 and 4 differ"),
    (wrong_matmul, RuntimeError, "784"),
    (wrong_dim, IndexError, r"expected to be in range of \[-2, 1\], but got 2"),
    (wrong_transpose, IndexError, "Dimension out of range"),
    (wrong_reshape, RuntimeError, r"shape '\[4, -1\]' is invalid for input of size 6"),
    (wrong_view, RuntimeError, r"Use \.reshape"),
    (wrong_expand, RuntimeError, r"expanded size of the tensor \(3\) must match"),
    (not_a_scalar, RuntimeError, "grad can be implicitly created only for scalar outputs"),
    (nothing_to_do, RuntimeError, "element 0 of tensors does not require grad"),
    (wrong_gradient_shape, RuntimeError, r"Mismatch in shape: grad_output\[0\]"),
    (freed_graph, RuntimeError, "Trying to backward through the graph a second time"),
    (written_leaf, RuntimeError, "a leaf Variable that requires grad"),
    (written_leaf_view, RuntimeError, "a view of a leaf Variable that requires grad"),
    (float_into_integers, TypeError, "can't be cast to the desired output type"),
    (numpy_of_a_leaf, RuntimeError, "Can't call numpy"),
    (written_no_grad_view, RuntimeError, "A view was created in no_grad mode"),
    (grad_of_wrong_shape, RuntimeError, "assigned grad has data of a different size"),
    (grad_of_wrong_dtype, RuntimeError, "assigned grad has data of a different type"),
    (unknown_device, RuntimeError, "device 'cuda:7' is not available"),
    (ragged_rows, ValueError, "expected sequence of length 2 at dim 1"),
]


@pytest.mark.parametrize(
    ("case", "kind", "message"), CASES, ids=lambda x: getattr(x, "__name__", "")
)
def test_error(case, kind, message):
    with pytest.raises(kind, match=message) as caught:
        case()
    assert isinstance(caught.value, tg.errors.TracegradError)
    text = str(caught.value)
    # The line in this file, with its source, once.
    assert text.count(f", at {HERE}:") == 1, text
    first = case.__code__.co_firstlineno
    line = int(text.split(f", at {HERE}:")[1].split(":")[0])
    assert first < line < first + 8


def test_the_source_line_is_shown():
    with pytest.raises(RuntimeError, match=r"return tg\.ones"):
        wrong_shapes()


def test_a_failed_call_leaves_tensors_alone():
    x = tg.tensor([1.0, 2.0])
    for attempt in (
        lambda: x.add_(tg.ones(3)),
        lambda: x.copy_(tg.ones(3)),
        lambda: tg.add(x, tg.ones(3), out=x),
    ):
        with pytest.raises(RuntimeError):
            attempt()
        assert x.tolist() == [1, 2]
        assert x._version == 0


def test_a_failed_backward_restores_the_mode():
    x = leaf(1.0)
    y = x * 2
    y.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        y.sum().backward()
    assert tg.is_grad_enabled()


def test_hooks_that_change_the_shape_are_refused():
    x = leaf(1.0, 2.0)
    x.register_hook(lambda g: g.sum())
    with pytest.raises(RuntimeError, match="hook has changed the size"):
        (x * 2).sum().backward()


def test_a_device_that_is_not_there_names_the_user_line():
    x = tg.ones(2)
    for call in (
        lambda: x.to("cuda:7"),
        lambda: tg.zeros(2, device="cuda:7"),
        lambda: tg.device("tpu"),
    ):
        with pytest.raises(tg.errors.DeviceError, match=r", at test_errors\.py:\d+: ") as caught:
            call()
        assert isinstance(caught.value, RuntimeError)
