"""Random tensors. Every draw takes as many counters of the generator as it has elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.errors import ShapeError
from tracegrad.ir import types
from tracegrad.ir.op import OPS
from tracegrad.ir.types import DType
from tracegrad.runtime.random import Generator, default_generator
from tracegrad.tracer.creation import DeviceSpec, shape_from
from tracegrad.tracer.device import available, moved
from tracegrad.tracer.dispatch import apply, constant
from tracegrad.tracer.inplace import assign
from tracegrad.tracer.location import located
from tracegrad.tracer.promotion import cast, get_default_dtype, promote
from tracegrad.tracer.tape import mark
from tracegrad.tracer.tensor import Tensor, wrap

Shape = tuple[int, ...]


def draw(name: str, shape: Shape, dtype: DType, generator: Generator | None = None) -> Tensor:
    """`uniform`, `normal` or `random_bits` of a shape, from the generator's next counters."""
    seed, offset = (generator or default_generator).advance(math.prod(shape))
    counters = [wrap(np.array(value, np.int64)) for value in (seed, offset)]
    for counter in counters:
        # Where the numbers are wanted is where they are.
        counter._constant = True
    return apply(OPS[name], counters, {"shape": shape, "dtype": dtype})


def _finish(value: Tensor, device: DeviceSpec, requires_grad: bool) -> Tensor:
    value._constant = False
    if device is not None:
        # Not an operation: a compiled function draws the numbers where they are wanted.
        value._array = moved(value._array, available(device))
    return value.requires_grad_() if requires_grad else value


def manual_seed(seed: int) -> Generator:
    """Start the default stream of random numbers anew from `seed`."""
    return default_generator.manual_seed(int(seed))


def seed() -> int:
    """Start the default stream from a seed that nobody can guess; returns that seed."""
    default_generator.manual_seed(Generator().seed)
    return default_generator.seed


def initial_seed() -> int:
    """The seed of the default stream."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """Seed and offset of the default stream, as an int64 tensor."""
    return constant(np.array(default_generator.get_state(), np.int64))


def set_rng_state(new_state: Tensor) -> None:
    """Go back to a state that `get_rng_state` gave."""
    first, second = new_state.tolist()
    default_generator.set_state((first, second))


@located
def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    value = draw("uniform", shape_from(size), dtype or get_default_dtype(), generator)
    return _finish(value, device, requires_grad)


@located
def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of mean 0 and variance 1."""
    value = draw("normal", shape_from(size), dtype or get_default_dtype(), generator)
    return _finish(value, device, requires_grad)


@located
def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high), each equally likely: `randint(high, size)` or `randint(low, high,
    size)`.
    """
    if size is None or isinstance(high, (tuple, list)):
        low, high, size = 0, low, high if size is None else size
    if low >= high:
        raise ShapeError(
            f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
        )
    value = _integers(low, high, shape_from((size,)), generator)
    return _finish(cast(value, dtype or types.int64), device, requires_grad)


def _integers(low: int, high: int, shape: Shape, generator: Generator | None) -> Tensor:
    bits = draw("random_bits", shape, types.int64, generator)
    span = constant(np.int64(high - low))
    return apply(OPS["add"], [apply(OPS["remainder"], [bits, span]), constant(np.int64(low))])


@located
def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers 0 .. n - 1 in a random order."""
    keys = draw("uniform", shape_from((n,)), types.float64, generator)
    value = apply(OPS["argsort"], [keys], {"axis": 0, "descending": False})
    return _finish(cast(value, dtype or types.int64), device, requires_grad)


@located
def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Sequence[int] | None = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: DeviceSpec = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of a mean and a standard deviation, which may be tensors; then these give the
    shape.
    """
    given = [x for x in (mean, std) if isinstance(x, Tensor)]
    if size is None:
        shape = np.broadcast_shapes(*(x._array.shape for x in given))
    else:
        shape = shape_from((size,))
    kind = dtype or (given[0].dtype if given else get_default_dtype())
    standard = draw("normal", shape, kind, generator)
    scaled = apply(OPS["mul"], promote(standard, std))
    return _finish(apply(OPS["add"], promote(scaled, mean)), device, requires_grad)


@located
def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that stands in `input`, else 0; of its shape and dtype."""
    uniform = draw("uniform", input._array.shape, input.dtype, generator)
    return cast(apply(OPS["lt"], [uniform, input]), input.dtype)


def rand_like(input: Tensor, *, dtype: DType | None = None, **options: Any) -> Tensor:
    """`rand` of the shape and dtype of `input`, where it is."""
    options.setdefault("device", input.device)
    return rand(input.shape, dtype=dtype or input.dtype, **options)


def randn_like(input: Tensor, *, dtype: DType | None = None, **options: Any) -> Tensor:
    """`randn` of the shape and dtype of `input`, where it is."""
    options.setdefault("device", input.device)
    return randn(input.shape, dtype=dtype or input.dtype, **options)


def randint_like(
    input: Tensor, low: int, high: int | None = None, *, dtype: DType | None = None, **options: Any
) -> Tensor:
    """`randint` of the shape and dtype of `input`, where it is."""
    options.setdefault("device", input.device)
    if high is None:
        low, high = 0, low
    return randint(low, high, input.shape, dtype=dtype or input.dtype, **options)


def _filled(target: Tensor, value: Tensor, name: str, since: int) -> Tensor:
    return assign(target, value, name, since=since, grad_name=f"{name.title().strip('_')}Backward0")


def uniform_(
    self: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill with uniform numbers in [low, high)."""
    since = mark()
    value = draw("uniform", self._array.shape, self.dtype, generator)
    scaled = apply(OPS["mul"], promote(value, high - low))
    return _filled(self, apply(OPS["add"], promote(scaled, low)), "uniform_", since)


def normal_(
    self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill with normal numbers."""
    since = mark()
    value = normal(mean, std, self._array.shape, dtype=self.dtype, generator=generator)
    return _filled(self, value, "normal_", since)


def random_(
    self: Tensor, low: int = 0, high: int | None = None, *, generator: Generator | None = None
) -> Tensor:
    """Fill with integers in [low, high); with one argument in [0, that)."""
    since = mark()
    if high is None:
        low, high = 0, low or 1 << 24 if self.dtype.is_floating_point else low or 127
    value = cast(_integers(low, high, self._array.shape, generator), self.dtype)
    return _filled(self, value, "random_", since)


def bernoulli_(self: Tensor, p: float = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill with 1 with probability `p`, else 0."""
    since = mark()
    uniform = draw("uniform", self._array.shape, types.float64, generator)
    value = cast(apply(OPS["lt"], promote(uniform, p)), self.dtype)
    return _filled(self, value, "bernoulli_", since)


RANDOM_FUNCTIONS = {
    "rand": rand,
    "randn": randn,
    "randint": randint,
    "randperm": randperm,
    "normal": normal,
    "bernoulli": bernoulli,
    "rand_like": rand_like,
    "randn_like": randn_like,
    "randint_like": randint_like,
    "manual_seed": manual_seed,
    "seed": seed,
    "initial_seed": initial_seed,
    "get_rng_state": get_rng_state,
    "set_rng_state": set_rng_state,
}
RANDOM_METHODS = {
    "uniform_": uniform_,
    "normal_": normal_,
    "random_": random_,
    "bernoulli_": bernoulli_,
    "bernoulli": bernoulli,
}
