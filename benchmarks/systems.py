"""The systems that are compared, and how a process is made ready for one."""

import importlib
import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

THREADS = 2


@dataclass(frozen=True)
class System:
    """One column of the table. `key` is the field of `Workload` with its implementation."""

    key: str
    title: str
    module: str

    @property
    def installed(self) -> bool:
        """Whether its module can be found."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """The version of the installed distribution."""
        try:
            return importlib.metadata.version(self.module)
        except importlib.metadata.PackageNotFoundError:
            return "not installed, run from its source"


OURS = System("tracegrad", "tracegrad", "tracegrad")
PEERS = (
    System("torch_eager", "PyTorch eager", "torch"),
    System("torch_compile", "torch.compile", "torch"),
    System("jax", "JAX", "jax"),
)
SYSTEMS = (OURS, *PEERS)


def environment(cache: str) -> dict[str, str]:
    """Variables for a worker: two threads for every library, and a disk cache that starts empty."""
    threads = str(THREADS)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "NUMBA_NUM_THREADS": threads,
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(cache, "torch"),
        "TRACEGRAD_CACHE_DIR": os.path.join(cache, "tracegrad"),
    }


def confine_to_threads() -> None:
    """Keep this process on two processors: JAX has no setting, but counts those it may run on."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:THREADS])


def load(system: System) -> None:
    """Import what a system needs, as its user would at the top of a program."""
    module = importlib.import_module(system.module)
    if system.module == "torch":
        module.set_num_threads(THREADS)


def as_numpy(result: Any) -> np.ndarray:
    """A copy of a result of any of the systems."""
    if hasattr(result, "detach"):
        result = result.detach().numpy()
    return np.array(result)
