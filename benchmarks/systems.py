"""The systems that are compared, and how a process is made ready for one."""

import importlib
import importlib.metadata
import importlib.util
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

THREADS = 2


@dataclass(frozen=True)
class System:
    """One column of the table. `key` is the field of `Workload` with its implementation, `threads`
    how many its libraries may use.
    """

    key: str
    title: str
    module: str
    threads: int = THREADS

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
    """Variables for all workers: where disk caches start empty, and no GPU.

    JAX keeps compiled programs only if it is told where, and by default only those that took long.
    """
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": os.path.join(cache, "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(cache, "torch"),
        "TRACEGRAD_CACHE_DIR": os.path.join(cache, "tracegrad"),
    }


@contextmanager
def empty_caches() -> Iterator[str]:
    """While this lasts, processes that are started find caches on disk of no earlier run.

    Gives the folder that they are in.
    """
    with tempfile.TemporaryDirectory(prefix="tracegrad-bench-") as folder:
        os.environ.update(environment(folder))
        yield folder


def threads(system: System) -> dict[str, str]:
    """Variables for the worker of a system: as many threads for every library as it may use."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    return {f"{name}_NUM_THREADS": str(system.threads) for name in names}


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


def forget(system: System) -> None:
    """Drop what the process has compiled, so that each workload is timed as in one of its own.

    torch.compile counts what was compiled of one function, which here is PyTorch's own wrapper of
    whatever is differentiated: after eight workloads it would run all others eagerly, and it takes
    sizes for variable that differ from one to the next.
    """
    if system.key == "torch_compile":
        import torch

        torch.compiler.reset()


def allow_precision(key: str, arrays: Iterable[np.ndarray]) -> None:
    """Let the system compute in the precision of these arrays: JAX has a switch for float64, with
    which off it rounds to float32, and on it indexes by int64.
    """
    if key == "jax":
        import jax

        jax.config.update("jax_enable_x64", any(array.dtype == np.float64 for array in arrays))


def as_numpy(result: Any) -> list[np.ndarray]:
    """Copies of the results of any of the systems, however nested."""
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in as_numpy(part)]
    if hasattr(result, "detach"):
        result = result.detach().numpy()
    return [np.array(result)]
