"""CUDA kernels are machine code of GPUs that this machine does not have to have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("cuda.bindings", reason="numba-cuda is not installed")


def made(what: str) -> list[dict[str, Any]]:
    """What `tests.cuda_code` says, in a process without the simulator."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    command = [sys.executable, "-m", "tests.cuda_code", what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def families() -> list[dict[str, Any]]:
    return made("families")


def test_each_family_is_machine_code_without_spills(families: list[dict[str, Any]]) -> None:
    assert {tuple(x["capability"]) for x in families} == {(8, 0), (9, 0)}
    for x in families:
        what = x["name"], x["capability"], x["report"]
        assert x["bytes"] > 1000, what
        assert "0 bytes spill stores, 0 bytes spill loads" in x["report"], what
        registers = int(re.search(r"Used (\d+) registers", x["report"])[1])  # type: ignore[index]
        # Eight blocks of 256 threads share the 65,536 registers of a multiprocessor: 32 each; two
        # blocks are enough where each thread does much.
        assert registers <= 128, what


def ptx_of(families: list[dict[str, Any]], name: str) -> str:
    """The text of all kernels of a family."""
    found = [x["ptx"] for x in families if x["name"] == name and x["capability"] == [9, 0]]
    return "\n".join(found)


def test_memory_is_known_to_be_global_and_read_once(families: list[dict[str, Any]]) -> None:
    text = ptx_of(families, "map")
    assert "ld.global.nc.f32" in text
    assert "st.global.f32" in text
    # No 64-bit division for positions below 2**31.
    assert "div.u32" in text or "rem.u32" in text
    assert "div.s64" not in text


def test_parts_of_a_row_exchange_registers(families: list[dict[str, Any]]) -> None:
    text = ptx_of(families, "rows")
    assert "shfl.sync.down" in text
    assert "bar.sync" in text
    assert "st.shared.f32" in text


def test_sums_that_meet_are_atomic(families: list[dict[str, Any]]) -> None:
    assert re.search(r"(atom|red)\.global\.add\.f32", ptx_of(families, "scatter"))


def test_functions_are_those_of_the_device(families: list[dict[str, Any]]) -> None:
    # tanh is code within the kernel, not a call of anything.
    assert "call" not in ptx_of(families, "map")


def test_every_op_is_ptx() -> None:
    found = made("ops")
    assert not [x for x in found if "error" in x]
    assert len(found) > 300
    for x in found:
        # Nothing is left to a library that no device has.
        assert ".extern .func" not in x["ptx"], x["name"]
