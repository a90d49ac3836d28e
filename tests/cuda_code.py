"""Kernels to machine code of GPUs that are not there, in a process without the simulator.

python -m tests.cuda_code families   a line of JSON for each kernel of each family
python -m tests.cuda_code ops        the same for the kernels of all ops, PTX alone
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

os.environ["NUMBA_ENABLE_CUDASIM"] = "0"

from tests.test_cuda_kernels import FAMILIES, launches
from tests.test_ops import BY_OP
from tracegrad.codegen.cuda import DeviceLaunch
from tracegrad.codegen.legalize import legalize
from tracegrad.codegen.schedule import schedule
from tracegrad.ir.passes import expand_composites
from tracegrad.runtime.cuda.executor import launches_of
from tracegrad.runtime.cuda.toolchain import machine_code, ptx

CAPABILITIES = ((8, 0), (9, 0))


def families() -> Iterator[dict[str, object]]:
    for name in FAMILIES:
        for launch in launches(name):
            for capability in CAPABILITIES:
                text = ptx(launch.source, launch.signature, capability)
                made = machine_code(text, capability)
                yield {
                    "name": name,
                    "capability": capability,
                    "ptx": text,
                    "bytes": len(made.code),
                    "report": made.report,
                }


def of_ops() -> Iterator[dict[str, object]]:
    seen: set[str] = set()
    for name, calls in BY_OP.items():
        if not name.endswith(("-float32", "-int64", "-bool")):
            continue
        for call in calls:
            graph = expand_composites(call.graph())
            planned = schedule(legalize(graph), [None] * len(graph.inputs))
            for step in planned.steps:
                for launch in launches_of(step, planned):
                    if launch.source not in seen:
                        seen.add(launch.source)
                        yield made_of(name, launch)


def made_of(name: str, launch: DeviceLaunch) -> dict[str, object]:
    try:
        return {"name": name, "ptx": ptx(launch.source, launch.signature, (9, 0))}
    except Exception as error:
        return {"name": name, "error": f"{type(error).__name__}: {error}", "source": launch.source}


if __name__ == "__main__":
    for found in {"families": families, "ops": of_ops}[sys.argv[1]]():
        print(json.dumps(found))
