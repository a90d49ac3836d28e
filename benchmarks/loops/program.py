"""What one program with a loop is: inputs, and the same mathematics written in four ways."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.systems import System
from benchmarks.workload import Arrays, Call

Function = Callable[..., Any]

# Arguments of one call: arrays, those of dimension 0 for scalars, and ints for numbers of steps.
Arguments = tuple[Any, ...]

PLAIN = System("plain", "plain loop", "tracegrad")
EXPLICIT = System("explicit", "explicit form", "tracegrad")
JAX = System("jax", "JAX", "jax")
# One thread: products of this size in a loop are slower on two, many times so on a busy machine.
NUMBA = System("numba", "Numba by hand", "numba", threads=1)
OURS = (PLAIN, EXPLICIT)
PEERS = (NUMBA, JAX)
SYSTEMS = (*OURS, *PEERS)

PARTS = ("forward", "gradient")


@dataclass(frozen=True)
class Program:
    """One row of the tables: a scalar loss that is computed in a loop.

    `sizes`          what sets the length of the loop: a small one, and the one that is timed
    `inputs`         the argument tuples of the calls that make one unit of work, for a size
    `parameters`     positions of the arguments that the gradient is taken of
    `plain`          the loss on tensors, as a plain Python loop
    `explicit`       the loss on tensors, by `tg.scan`, `tg.fori_loop` or `tg.while_loop`
    `jax`            makes the loss for JAX; called in JAX's process only
    `by_hand`        finds the module with `forward` and `gradient` in Numba, likewise
    `forward_mode`   whether JAX refuses reverse mode here and has to go forward
    """

    name: str
    about: str
    sizes: tuple[int, int]
    inputs: Callable[[np.random.Generator, int], Sequence[Arguments]]
    parameters: tuple[int, ...]
    plain: Function
    explicit: Function
    jax: Callable[[], Function]
    by_hand: Callable[[], ModuleType]
    forward_mode: bool = False

    def functions(self, key: str) -> dict[str, Function]:
        """The compiled loss, and its value and gradient, of the system with this key."""
        if key == JAX.key:
            return self._jax_functions()
        if key == NUMBA.key:
            module = self.by_hand()
            return {"forward": module.forward, "gradient": module.gradient}
        import tracegrad as tg

        loss = self.plain if key == PLAIN.key else self.explicit
        return {
            "forward": tg.compile(loss),
            "gradient": tg.compile(tg.value_and_grad(loss, argnums=self.parameters)),
        }

    def _jax_functions(self) -> dict[str, Function]:
        import jax

        # Without it JAX rounds every float64 to float32.
        jax.config.update("jax_enable_x64", True)
        loss = self.jax()
        # Numbers of steps are static: JAX has reverse mode only where it knows them.
        arguments = self.inputs(np.random.default_rng(0), self.sizes[0])[0]
        steps = [place for place, value in enumerate(arguments) if isinstance(value, int)]
        if self.forward_mode:

            def loss_twice(*args: Any) -> Any:
                value = loss(*args)
                return value, value

            tangents = jax.jacfwd(loss_twice, self.parameters, has_aux=True)

            def gradient(*args: Any) -> Any:
                gradients, value = tangents(*args)
                return value, gradients
        else:
            gradient = jax.value_and_grad(loss, self.parameters)
        compiled = functools.partial(jax.jit, static_argnums=steps)
        return {"forward": compiled(loss), "gradient": compiled(gradient)}

    def call(self, key: str, part: str, function: Function, arguments: Sequence[Arguments]) -> Call:
        """One unit of work: `function` on each of `arguments`, complete when it returns."""
        ready = [tuple(convert(key, value) for value in each) for each in arguments]
        if key == JAX.key:
            from jax import block_until_ready

            if len(ready) == 1:
                (only,) = ready
                return lambda: block_until_ready(function(*only))
            return lambda: block_until_ready([function(*each) for each in ready])
        if len(ready) == 1:
            (only,) = ready
            return lambda: function(*only)
        return lambda: [function(*each) for each in ready]


def convert(key: str, value: Any) -> Any:
    """An argument as a user of the system would hold it."""
    if isinstance(value, int):
        return value
    if key == NUMBA.key:
        # A scalar of Numba is a Python float.
        return value.item() if value.ndim == 0 else value
    if key == JAX.key:
        from jax import numpy

        return numpy.asarray(value)
    import tracegrad as tg

    return tg.from_numpy(value)


def scalar(value: float) -> np.ndarray:
    """A float64 array of dimension 0."""
    return np.array(value, dtype=np.float64)


@functools.cache
def functions_of(key: str, name: str) -> dict[str, Function]:
    """The functions of a program, made once: a second size meets what the first one left."""
    return find_program(name).functions(key)


def find_program(name: str) -> Program:
    """The program of this name."""
    from benchmarks.loops.programs import PROGRAMS

    return next(program for program in PROGRAMS if program.name == name)


def find(key: str, name: str, part: str, size: int) -> tuple[Callable[[Arrays], Call], Arrays]:
    """How a worker makes the call of a program: see `Worker.prepare`."""
    program = find_program(name)
    arguments = program.inputs(np.random.default_rng(0), size)

    def make(arrays: Arrays) -> Call:
        return program.call(key, part, functions_of(key, name)[part], arguments)

    return make, {}
