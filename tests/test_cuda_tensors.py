"""Tensors on a device, here numba-cuda's simulator: where they are, eager and compiled code."""

from __future__ import annotations

import copy
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tests import body_programs, control_programs
from tests.programs import PROGRAMS
from tests.test_programs import call, leaves, rebuilt
from tracegrad.runtime.cuda import availability

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from tracegrad.runtime.cuda import simulator

ROOT = Path(__file__).resolve().parent.parent


def t(values: Any, **options: Any) -> tg.Tensor:
    return tg.tensor(values, dtype=tg.float64, device="cuda", **options)


# ------------------------------------------------------------------------------- where tensors are


def test_tensors_move() -> None:
    x = tg.tensor([1.0, 2.0])
    y = x.cuda()
    assert y.device == tg.device("cuda", 0)
    assert (y.is_cuda, x.is_cuda) == (True, False)
    assert (y.get_device(), x.get_device()) == (0, -1)
    assert y.cuda() is y
    assert y.to("cuda:0") is y
    assert y.cpu().tolist() == [1.0, 2.0]
    assert y.to(x).device.type == "cpu"
    assert x.to(y).is_cuda
    assert x.to("cuda", tg.float64).dtype is tg.float64
    assert repr(y) == "tensor([1., 2.], device='cuda:0')"
    y[0] = 5.0
    assert (y.tolist(), x.tolist()) == ([5.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: tg.zeros(2, 3, **o),
        lambda **o: tg.full((2,), 7.0, **o),
        lambda **o: tg.arange(5, **o),
        lambda **o: tg.eye(3, **o),
        lambda **o: tg.as_tensor(np.ones(3), **o),
        lambda **o: tg.tensor([[1, 2], [3, 4]], **o),
    ],
)
def test_creation_on_a_device(make: Callable[..., tg.Tensor]) -> None:
    found = make(device="cuda")
    assert found.is_cuda
    np.testing.assert_array_equal(found.cpu().numpy(), make().numpy())


def test_the_same_random_numbers_on_all_devices() -> None:
    tg.manual_seed(3)
    here = tg.randn(4)
    tg.manual_seed(3)
    there = tg.randn(4, device="cuda")
    assert there.is_cuda
    assert there.tolist() == here.tolist()


def test_copies_stay_where_they_are() -> None:
    x = t([1.0, 2.0], requires_grad=True)
    for made in (tg.tensor(x.detach()), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.clone()):
        assert made.is_cuda
        assert made.tolist() == [1.0, 2.0]
    assert tg.tensor([x[0].detach(), 3.0]).tolist() == [1.0, 3.0]


class Foreign:
    """An array of another library."""

    def __init__(self, **face: Any) -> None:
        self.__face = face

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__face


def test_memory_is_shared_with_other_libraries() -> None:
    x = t([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    for view in (x, x.T, x[:, 1:], x[1], x[0, 1], x[:0]):
        face = view.__cuda_array_interface__
        foreign = Foreign(**face)
        shared = tg.as_tensor(foreign)
        assert shared.is_cuda
        assert shared.tolist() == view.tolist()
        assert shared.data_ptr() == view.data_ptr()
        copied = tg.tensor(foreign)
        assert copied.tolist() == view.tolist()
        assert copied.data_ptr() != view.data_ptr() or not view.numel()
    tg.as_tensor(Foreign(**x.T.__cuda_array_interface__))[0, 1] = 40.0
    assert x.tolist() == [[1.0, 2.0, 3.0], [40.0, 5.0, 6.0]]
    assert not hasattr(tg.zeros(1), "__cuda_array_interface__")
    with pytest.raises(tg.errors.GradError, match="requires grad"):
        _ = t([1.0], requires_grad=True).__cuda_array_interface__
    with pytest.raises(tg.errors.DtypeError, match="complex"):
        tg.as_tensor(Foreign(**{**x.__cuda_array_interface__, "typestr": "<c16"}))


def test_the_owner_of_shared_memory_lives_as_long() -> None:
    x = t([1.0, 2.0])
    foreign = Foreign(**x.__cuda_array_interface__)
    alive = weakref.ref(foreign)
    view = tg.as_tensor(foreign)[1:]
    del foreign
    assert alive() is not None
    assert view.tolist() == [2.0]
    del view
    assert alive() is None


def test_a_description_of_what_runs() -> None:
    x = t([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    f = tg.compile(lambda v: (tg.tanh(v) ** 2).sum())
    f(x).backward()
    assert "on cuda:0" in f.explain()
    assert "on cuda:0" in f.explain(x)
    assert "cuda.grid" in f.source() or "cuda.threadIdx" in f.source()


def test_views_share_memory() -> None:
    x = t([[1.0, 2.0], [3.0, 4.0]])
    x.T[0, 1] = 30.0
    x[:, 1] += 1.0
    assert x.tolist() == [[1.0, 3.0], [30.0, 5.0]]
    assert x.T.contiguous().is_cuda
    assert x.T.reshape(4).tolist() == [1.0, 30.0, 3.0, 5.0]


def test_gradients_go_back_to_where_the_leaf_is() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    (x.cuda() ** 2).sum().backward()
    assert x.grad is not None
    assert not x.grad.is_cuda
    assert x.grad.tolist() == [2.0, 4.0]
    y = t([1.0, 2.0], requires_grad=True)
    (y.cpu() * 3).sum().backward()
    assert y.grad is not None
    assert y.grad.is_cuda
    assert y.grad.tolist() == [3.0, 3.0]


def test_devices_do_not_mix() -> None:
    x, y = t([1.0, 2.0]), tg.tensor([1.0, 2.0], dtype=tg.float64)
    with pytest.raises(RuntimeError, match="all tensors to be on the same device"):
        x + y
    with pytest.raises(tg.errors.DeviceError, match=r"test_cuda_tensors\.py"):
        tg.compile(lambda a, b: a @ b)(x, y)
    # A number of the host goes with all.
    assert (x + y[0]).tolist() == [2.0, 3.0]
    assert x.tolist() == [1.0, 2.0]


def test_numpy_does_not_read_a_device() -> None:
    x = t([1.0, 2.0])
    for attempt in (x.numpy, lambda: np.asarray(x), lambda: np.array(x)):
        with pytest.raises(tg.errors.DeviceError, match=r"Tensor\.cpu\(\)"):
            attempt()
    assert x.cpu().numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("numba-cuda is not installed: pip install 'tracegrad[cuda]'", r"pip install"),
        ("no NVIDIA driver is installed", "driver"),
    ],
)
def test_what_is_missing_is_said(monkeypatch: Any, problem: str, said: str) -> None:
    monkeypatch.setattr(availability, "problem", lambda: problem)
    assert not tg.cuda.is_available()
    assert tg.cuda.device_count() == 0
    for attempt in (lambda: tg.zeros(1).cuda(), lambda: tg.zeros(1, device="cuda")):
        with pytest.raises(tg.errors.DeviceError, match=said):
            attempt()


def test_the_second_device_is_not_there() -> None:
    with pytest.raises(tg.errors.DeviceError, match="no device number 1"):
        tg.zeros(1).to("cuda:1")


# ------------------------------------------------------------------------------- what they compute


def on_device(value: Any) -> Any:
    if isinstance(value, tg.Tensor):
        return value.detach().cuda().requires_grad_(value.requires_grad)
    return rebuilt(value, on_device)


def check(function: Callable[..., Any], arguments: Sequence[Any], *, backward: bool = True) -> None:
    """The same on the device as on the CPU, eagerly and compiled, at the second call too."""
    wanted, gradients = call(function, arguments, backward=backward)
    compiled = tg.compile(function)
    for way in (function, compiled, compiled):
        found, mine = call(way, arguments, backward=backward, place=on_device)
        values = [x.detach().cpu().numpy() for x in leaves(found)]
        expected = [x.detach().numpy() for x in leaves(wanted)]
        assert len(values) == len(expected)
        for a, b in zip([*values, *mine], [*expected, *gradients], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


# They make tensors of the CPU, which go with no others.
OF_THE_CPU = {
    "bubble_sort",
    "recurrent_network",
    "write_at_a_dynamic_place",
    "write_elements",
    "body if_in_map",
    "body if_in_reversed_scan",
    "body vectors",
    "mapped",
    "recurrence",
    "recurrence_backwards",
    "updated",
    "vectors",
}


def check_here(
    name: str, function: Callable[..., Any], arguments: Sequence[Any], **how: Any
) -> None:
    if name not in OF_THE_CPU:
        check(function, arguments, **how)
        return
    for way in (function, tg.compile(function)):
        with pytest.raises(tg.errors.DeviceError, match="all tensors to be on the same device"):
            call(way, arguments, backward=False, place=on_device)


@pytest.mark.parametrize("item", PROGRAMS, ids=lambda item: item.name)
def test_programs(item: Any) -> None:
    arguments = item.arguments(np.random.default_rng(0))
    check_here(item.name, item.function, arguments, backward=item.taped)


CONTROL = {
    **control_programs.PROGRAMS,
    **{f"body {name}": f for name, f in body_programs.PROGRAMS.items()},
}


@pytest.mark.parametrize("name", CONTROL)
def test_control_forms(name: str) -> None:
    check_here(name, CONTROL[name], [np.asarray(0.31), np.asarray(1.27)])


def test_a_training_loop_retraces_nothing() -> None:
    random = np.random.default_rng(0)
    x, y = (t(random.normal(size=shape)) for shape in ((6, 3), (6, 2)))
    w = t(random.normal(size=(3, 2)), requires_grad=True)

    @tg.compile
    def loss(w: Any, x: Any, y: Any) -> Any:
        return ((tg.tanh(x @ w) - y) ** 2).mean()

    values = []
    for _ in range(5):
        value = loss(w, x, y)
        value.backward()
        with tg.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
        values.append(value.item())
    assert values == sorted(values, reverse=True)
    assert loss.statistics.traces == 1


def test_a_steady_call_waits_for_nothing(monkeypatch: Any) -> None:
    random = np.random.default_rng(0)
    w, x, y = (t(random.normal(size=shape)) for shape in ((3, 2), (6, 3), (6, 2)))
    step = tg.compile(tg.value_and_grad(lambda w, x, y: ((tg.tanh(x @ w) - y) ** 2).mean()))
    value, _ = step(w, x, y)
    counts = {"fetched": 0, "copied": 0, "launch": 0}

    def counting(name: str) -> Callable[..., Any]:
        kept = getattr(simulator, name)

        def counted(*args: Any) -> Any:
            counts[name] += 1
            return kept(*args)

        return counted

    for name in counts:
        monkeypatch.setattr(simulator, name, counting(name))
    launches = []
    for _ in range(4):
        counts["launch"] = 0
        again, _ = step(w, x, y)
        launches.append(counts["launch"])
    # Nothing comes to the host and nothing goes there, and each call runs the same few kernels.
    assert (counts["fetched"], counts["copied"]) == (0, 0)
    assert len(set(launches)) == 1
    assert launches[0] <= 4
    assert again.item() == value.item()
    assert counts["fetched"] == 2


def test_a_read_by_the_host_is_the_end() -> None:
    """So that the other tests here would see one."""
    program = (
        "import tracegrad as tg\n"
        "x = tg.tensor([1.0, 2.0], device='cuda')\n"
        "print(x.tolist(), flush=True)\n"
        "x._array.plain()[0] + 1\n"
        "print('read')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["[1.0,", "2.0]"]
    assert done.returncode == -signal.SIGSEGV


def test_a_compiled_function_stays_where_it_is() -> None:
    x = t([1.0, 2.0])
    for move in (lambda v: v.cpu() * 2, lambda v: v.to("cpu")):
        with pytest.raises(tg.errors.TraceError, match="one device"):
            tg.compile(move)(x)
    noisy = tg.compile(lambda v: v + tg.rand_like(v) + v.new_ones(2) + tg.zeros_like(v))
    tg.manual_seed(5)
    here = tg.rand(2, dtype=tg.float64)
    for _ in range(3):
        tg.manual_seed(5)
        found = noisy(x)
        assert found.is_cuda
        assert found.tolist() == [2.0 + here[0].item(), 3.0 + here[1].item()]


def test_transforms() -> None:
    x = t([0.3, 0.7])
    here = x.cpu()

    def f(v: Any) -> Any:
        return (tg.sin(v) * v).sum()

    for transform in (tg.grad(f), tg.hessian(f), tg.compile(tg.hessian(f)), tg.jacfwd(f)):
        found = transform(x)
        assert found.is_cuda
        np.testing.assert_allclose(found.cpu().numpy(), transform(here).numpy(), rtol=1e-12)
    mapped = tg.vmap(lambda v: v * v.sum())(t([[1.0, 2.0], [3.0, 4.0]]))
    assert mapped.tolist() == [[3.0, 6.0], [21.0, 28.0]]


# ----------------------------------------------------------------------------------------- tg.cuda


def test_memory_is_counted() -> None:
    tg.cuda.empty_cache()
    before = tg.cuda.memory_allocated()
    tg.cuda.reset_peak_memory_stats()
    x = tg.zeros(1000, device="cuda")
    assert tg.cuda.memory_allocated() == before + 4000
    view = x[10:]
    del x
    assert tg.cuda.memory_allocated() == before + 4000
    del view
    assert tg.cuda.memory_allocated() == before
    assert tg.cuda.max_memory_allocated() >= before + 4000


def test_the_names_of_pytorch() -> None:
    assert tg.cuda.is_available()
    assert tg.cuda.device_count() == 1
    assert tg.cuda.current_device() == 0
    assert isinstance(tg.cuda.get_device_name(), str)
    tg.cuda.synchronize()


def test_the_command_for_a_gpu_runs() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| linear regression, 32 rows |") >= 1
