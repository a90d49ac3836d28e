"""Compiled kernels on disk: shared by processes, whole or absent, and never larger than allowed."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tracegrad as tg
from tests.test_compilers import HEAD, source
from tracegrad.config import config
from tracegrad.runtime import kernels, object_files
from tracegrad.runtime.program import Buffer, Program, Step


def result(constant):
    """What the kernel of that constant stores, as another process would find it: from disk, or
    compiled."""
    kernels._kernels.pop((source(constant), "kernel"), None)
    out = np.zeros(1, np.float32)
    Program([Buffer(0)], [Step(kernels.compile_kernel(source(constant)), [], 1)], 1).run(out)
    return out[0]


def counts(constant):
    """How many kernels were compiled and loaded for it, after its result has been checked."""
    before = kernels.statistics.compiled, kernels.statistics.loaded
    assert result(constant) == constant
    return kernels.statistics.compiled - before[0], kernels.statistics.loaded - before[1]


COMPILED, LOADED = (1, 0), (0, 1)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty cache of this test alone."""
    result(0.25)  # whatever the interpreter of programs needs is compiled outside of it
    monkeypatch.setattr(object_files, "_warned", False)
    with config.override(cache_dir=tmp_path):
        yield tmp_path / "kernels"


def test_a_kernel_is_compiled_once_and_then_loaded(directory):
    assert counts(17.0) == COMPILED
    assert counts(17.0) == LOADED
    (file,) = directory.iterdir()
    assert source(17.0).encode() in file.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign"])
def test_a_damaged_file_is_compiled_again(directory, damage):
    """As a crash of the machine or a bad disk would leave it."""
    counts(18.0)
    (file,) = directory.iterdir()
    data = file.read_bytes()
    damaged = {
        "cut": data[:-100],
        "empty": b"",
        "flipped": data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
        "foreign": b"[1, 2]\nnot a kernel",
    }
    file.write_bytes(damaged[damage])
    assert counts(18.0) == COMPILED
    assert counts(18.0) == LOADED


def test_code_that_calls_what_is_not_there_is_compiled_again(directory):
    """LLVM would end the process for such a symbol."""
    counts(19.0)
    (file,) = directory.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"requires": []', b'"requires": ["nobody"]'))
    assert counts(19.0) == COMPILED


def test_another_toolchain_has_other_files(directory, monkeypatch):
    counts(20.0)
    monkeypatch.setattr(kernels, "_toolchain", lambda: "another version of Numba")
    assert counts(20.0) == COMPILED
    assert len(list(directory.iterdir())) == 2


def test_a_crash_while_writing_leaves_no_part_of_a_file(directory, monkeypatch):
    class Crash(BaseException):
        pass

    def replace(*_):
        raise Crash

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Crash):
        result(21.0)
    assert list(directory.iterdir()) == []
    monkeypatch.undo()
    assert counts(21.0) == COMPILED


def test_a_disk_that_is_full_costs_one_warning(directory, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(object_files.tempfile, "mkstemp", full)
    with pytest.warns(RuntimeWarning, match="No space left on device.*TRACEGRAD_CACHE_DIR"):
        assert counts(22.0) == COMPILED
    assert counts(23.0) == COMPILED  # a second warning would be an error of the test


def test_a_directory_that_is_only_readable_is_read(directory, monkeypatch):
    counts(24.0)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(object_files.tempfile, "mkstemp", refuse)
    assert counts(24.0) == LOADED
    with pytest.warns(RuntimeWarning, match="Permission denied"):
        assert counts(25.0) == COMPILED


def test_a_directory_that_cannot_be_made_costs_one_warning(directory, tmp_path):
    obstacle = tmp_path / "file"
    obstacle.write_text("not a directory")
    with config.override(cache_dir=obstacle / "cache"), pytest.warns(RuntimeWarning):
        assert counts(26.0) == COMPILED


def test_above_the_limit_the_files_unused_for_longest_go(directory):
    for constant in (27.0, 28.0, 29.0):
        counts(constant)
    sizes = {file: file.stat().st_size for file in directory.iterdir()}
    for age, constant in enumerate((28.0, 27.0, 29.0)):
        (file,) = (each for each in sizes if source(constant).encode() in each.read_bytes())
        os.utime(file, (1e9 + age, 1e9 + age))
    assert counts(28.0) == LOADED  # used just now
    assert object_files.shrink(sum(sizes.values())) == 0
    assert object_files.shrink(int(max(sizes.values()) * 1.5)) > 0
    assert counts(28.0) == LOADED
    assert counts(27.0) == COMPILED


def test_the_limit_is_kept_while_kernels_are_written(directory, monkeypatch):
    monkeypatch.setattr(object_files, "_writes", 0)
    with config.override(cache_limit=100):
        counts(30.0)
    assert list(directory.iterdir()) == []


def test_files_of_dead_writers_go_and_those_of_living_ones_stay(directory):
    counts(31.0)
    dead, living = directory / "a.tmp", directory / "b.tmp"
    for file in (dead, living):
        file.write_bytes(b"half")
    os.utime(dead, (1e9, 1e9))
    object_files.shrink(sum(x.stat().st_size for x in directory.iterdir()) - 5)
    assert living.exists()
    assert not dead.exists()


def test_clear_cache_removes_all_and_what_is_loaded_still_runs(directory):
    @tg.compile
    def f(x):
        return x * 3 - 0.125

    x = tg.tensor([2.0])
    assert f(x).item() == 5.875
    size = sum(file.stat().st_size for file in directory.iterdir())
    assert tg.clear_cache() == size > 0
    assert list(directory.iterdir()) == []
    assert f(x).item() == 5.875


CHILD = f"""
import sys
import numpy as np
from tracegrad.runtime import kernels
for constant in (1.0, 2.0):
    kernels.compile_kernel({HEAD!r} + f\"\"\"def kernel(pointers, table, start, stop):
    a = pointer_f32(pointers, 0)
    o = output_f32(pointers, 1, 0)
    for i in range(start, stop):
        store(o, i, exp(load(a, i)) + f32({{constant}}))
\"\"\")
print(kernels.statistics.compiled, kernels.statistics.loaded, "numba" in sys.modules)
"""


def start_child(cache_dir):
    environment = {**os.environ, "TRACEGRAD_CACHE_DIR": str(cache_dir)}
    command = [sys.executable, "-c", CHILD]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_processes_share_compiled_kernels(tmp_path):
    """Two compile the same at once, into one directory; a third one needs no compiler at all."""
    for child in [start_child(tmp_path), start_child(tmp_path)]:
        output, _ = child.communicate(timeout=100)
        assert child.returncode == 0
        assert sum(map(int, output.split()[:2])) == 2
    output, _ = start_child(tmp_path).communicate(timeout=100)
    assert output.split() == ["0", "2", "False"]
    assert not list(tmp_path.rglob("*.tmp"))
