"""The calls that the op table says tests should make, as types and arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import tracegrad.ir.ops  # noqa: F401  (registers every op)
from tracegrad.ir.graph import Builder, Graph
from tracegrad.ir.op import OPS, Array, Domain, Op, Sample
from tracegrad.ir.types import DType, bool_, type_of


@dataclass(frozen=True)
class Call:
    """One call of one op on arrays of one dtype."""

    op: Op
    params: dict[str, Any]
    dtype: DType
    arrays: tuple[Array, ...]

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, a.shape)) or "()" for a in self.arrays)
        params = ",".join(f"{k}={v}" for k, v in self.params.items())
        return f"{self.op.name}-{self.dtype.short}-{shapes}-{params}".replace(" ", "")

    def graph(self) -> Graph:
        """A graph with nothing but this call, its arrays as inputs."""
        with Builder(self.op.name) as builder:
            inputs = [builder.input(type_of(a)) for a in self.arrays]
            return builder.finish([builder.append(self.op, inputs, self.params)])


def draw(rng: np.random.Generator, domain: Domain, shape: tuple[int, ...], dtype: DType) -> Array:
    """Uniform values of `domain`, away from what it avoids."""
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape), bool)
    if dtype.kind in "iu":
        low = int(np.ceil(max(domain.low, 0) if dtype.kind == "u" else domain.low))
        high = max(int(np.floor(domain.high)), low)
        values = rng.integers(low, high + 1, shape)
        for point in domain.avoid:
            values = np.where(values == point, high, values)
        return np.asarray(values, dtype.numpy)
    values = rng.uniform(domain.low, domain.high, shape)
    for point in domain.avoid:
        near = np.abs(values - point) < domain.margin
        values = np.where(near, point + np.where(values < point, -1, 1) * domain.margin, values)
    return np.asarray(values, dtype.numpy)


def arrays_of(op: Op, sample: Sample, dtype: DType, rng: np.random.Generator) -> tuple[Array, ...]:
    """Inputs for one sample."""
    if sample.make is not None:
        return tuple(map(np.asarray, sample.make(rng, dtype)))
    domains = sample.domains or (Domain(),) * len(sample.shapes)
    condition = op.name == "where"
    return tuple(
        draw(rng, domain, shape, bool_ if condition and i == 0 else dtype)
        for i, (domain, shape) in enumerate(zip(domains, sample.shapes, strict=True))
    )


def calls(dtype: DType) -> Iterator[Call]:
    """Every sample of every op that takes `dtype`."""
    for op in OPS.values():
        if dtype not in (op.sample_dtypes or ()):
            continue
        for i, sample in enumerate(op.samples):
            rng = np.random.default_rng(i)
            yield Call(op, sample.params, dtype, arrays_of(op, sample, dtype, rng))
