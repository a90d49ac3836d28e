"""Kernels that other processes compile: the same code, and never a reason to fail."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tracegrad.config import config
from tracegrad.errors import CompilationError
from tracegrad.runtime import compilers, kernels
from tracegrad.runtime.program import Buffer, Program, Step

HEAD = "from tracegrad.codegen.primitives import *\n\n\n"
# Enough work to be worth a process.
MUCH = 100.0


def source(constant):
    return HEAD + (
        "def kernel(pointers, table, start, stop):\n"
        "    o = output_f32(pointers, 0, 0)\n"
        "    for i in range(start, stop):\n"
        f"        store(o, i, f32({constant}))\n"
    )


def announce(constants):
    kernels.announce(
        [(source(x), "kernel", kernels.KERNEL_SIGNATURE) for x in constants], besides=MUCH
    )


def result(constant):
    out = np.zeros(1, np.float32)
    Program([Buffer(0)], [Step(kernels.compile_kernel(source(constant)), [], 1)], 1).run(out)
    return out[0]


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ended(process):
    return process.poll() is not None


@pytest.fixture
def process(tmp_path):
    """One process that compiles, and an empty cache."""
    result(0.25)  # the interpreter of programs is compiled outside of it
    compilers.end_all()
    with config.override(cache_dir=tmp_path, compile_processes=1):
        kernels._kernels.pop((source(1000.5), "kernel"), None)
        announce([1000.5])
        (made,) = compilers._processes
        assert result(1000.5) == 1000.5
        yield made
    compilers.end_all()


def test_another_process_compiles_from_the_back(process):
    constants = [1001.0, 1002.0, 1003.0]
    before = kernels.statistics.elsewhere
    announce(constants)
    wait_for(lambda: all(job.done.is_set() for job in compilers._jobs.values()))
    assert [result(x) for x in constants] == constants
    assert kernels.statistics.elsewhere == before + 3
    assert not compilers._jobs


def test_an_answer_that_is_longer_than_a_pipe_holds(process):
    stores = "".join(f"    store(o, {i}, sin(load(o, {i}) * f32({i}.5)))\n" for i in range(300))
    long = HEAD + (
        "def kernel(pointers, table, start, stop):\n    o = output_f32(pointers, 0, 0)\n" + stores
    )
    before = kernels.statistics.elsewhere
    kernels.announce([(long, "kernel", kernels.KERNEL_SIGNATURE)], besides=MUCH)
    wait_for(lambda: all(job.done.is_set() for job in compilers._jobs.values()))
    (job,) = compilers._jobs.values()
    assert job.code is not None
    assert len(job.code.code) > 1 << 16
    assert kernels.compile_kernel(long).address
    assert kernels.statistics.elsewhere == before + 1


def test_what_nobody_has_begun_is_compiled_here(process, monkeypatch):
    before = kernels.statistics.elsewhere
    with compilers._changed:
        announce([1004.0])
        assert result(1004.0) == 1004.0
    assert kernels.statistics.elsewhere == before


def test_a_process_that_dies_costs_nothing_but_time(process):
    process.kill()
    process.wait()
    announce([1005.0, 1006.0])
    assert [result(x) for x in (1005.0, 1006.0)] == [1005.0, 1006.0]
    wait_for(lambda: process not in compilers._processes)
    # The next ones have another process.
    announce([1007.0])
    (other,) = compilers._processes
    assert other is not process
    assert result(1007.0) == 1007.0


def test_an_answer_that_is_none_is_compiled_here(process, monkeypatch):
    def nonsense(file):
        raise compilers.pickle.UnpicklingError

    monkeypatch.setattr(compilers.pickle, "load", nonsense)
    announce([1008.0])
    assert result(1008.0) == 1008.0


def test_a_source_that_does_not_compile_has_its_error(process):
    bad = HEAD + "def kernel(pointers, table, start, stop):\n    no_such_primitive(1)\n"
    kernels.announce([(bad, "kernel", kernels.KERNEL_SIGNATURE)], besides=MUCH)
    wait_for(lambda: all(job.done.is_set() for job in compilers._jobs.values()))
    with pytest.raises(CompilationError, match="does not compile"):
        kernels.compile_kernel(bad)
    # It goes on with others.
    before = kernels.statistics.elsewhere
    announce([1009.0])
    wait_for(lambda: all(job.done.is_set() for job in compilers._jobs.values()))
    assert result(1009.0) == 1009.0
    assert kernels.statistics.elsewhere == before + 1


def test_a_process_without_work_ends(process, monkeypatch):
    monkeypatch.setattr(compilers, "_PATIENCE", 0.01)
    # It waits with the patience that it had until it gets another job.
    announce([1010.0])
    wait_for(lambda: ended(process))
    assert result(1010.0) == 1010.0


def test_little_work_starts_none():
    compilers.end_all()
    with config.override(compile_processes=4):
        kernels.announce([(source(1011.0), "kernel", kernels.KERNEL_SIGNATURE)])
        assert not compilers._processes
        assert not compilers._jobs


@pytest.mark.parametrize("path", ["/opt/editor/bin/editor", "", None])
def test_an_application_is_not_started_again(monkeypatch, path):
    with config.override(compile_processes=4):
        assert compilers._count(MUCH) == 4
        monkeypatch.setattr(sys, "executable", path)
        assert compilers._count(MUCH) == 0


def test_a_system_that_starts_no_process(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no more processes")

    compilers.end_all()
    monkeypatch.setattr(compilers.subprocess, "Popen", refuse)
    with config.override(compile_processes=1):
        announce([1012.0])
        assert result(1012.0) == 1012.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_the_child_of_a_fork_has_none(process):
    child = os.fork()
    if child == 0:
        fine = not compilers._processes and not compilers._jobs
        os._exit(0 if fine and result(1000.5) == 1000.5 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # The parent's goes on.
    before = kernels.statistics.elsewhere
    announce([1013.0])
    wait_for(lambda: all(job.done.is_set() for job in compilers._jobs.values()))
    assert result(1013.0) == 1013.0
    assert kernels.statistics.elsewhere == before + 1


PROGRAM = """
import numpy as np
import tracegrad as tg
from tracegrad.runtime import compilers, kernels

@tg.compile
def loss(w, v, x):
    h = tg.tanh(x @ w)
    return tg.softmax(h @ v, dim=1).log().mean() + (h * h).sum(dim=0).max()

random = np.random.default_rng(0)
w, v, x = (tg.tensor(random.normal(size=s)) for s in ((40, 30), (30, 7), (60, 40)))
w.requires_grad_()
value = loss(w, v, x)
value.backward()
print(value.item().hex(), w.grad.sum().item().hex(), kernels.statistics.elsewhere > 0)
print(*[process.pid for process in compilers._processes])
"""


def run(directory, processes):
    environment = os.environ | {
        "TRACEGRAD_CACHE_DIR": str(directory),
        "TRACEGRAD_COMPILE_PROCESSES": str(processes),
    }
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not done.stderr
    numbers, pids = done.stdout.splitlines()
    return numbers.split(), [int(pid) for pid in pids.split()]


def test_the_same_code_whoever_compiles(tmp_path):
    (value, gradient, elsewhere), pids = run(tmp_path / "two", 2)
    assert elsewhere == "True"
    assert run(tmp_path / "none", 0) == ([value, gradient, "False"], [])
    files = [
        {file.name: file.read_bytes() for file in (tmp_path / name / "kernels").iterdir()}
        for name in ("two", "none")
    ]
    assert files[0] == files[1]
    # They end with the process that started them.
    for pid in pids:
        wait_for(lambda pid=pid: not exists(pid))


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
