"""Random numbers: counter-based, so that a stream depends on nothing but its seed and offset.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1,
2, 3", 2011). Every op takes `seed` and `offset`, both i64[()], and makes a tensor of `shape`.
Element i, counted in row-major order, is made of the four 32-bit words w0 .. w3 that Philox gives
for

    key      (low 32 bits of seed, high 32 bits of seed)
    counter  (low 32 bits of offset + i, high 32 bits of offset + i, 0, 0)

with the sum in wrapping 64-bit arithmetic. Let low = w1 * 2**32 + w0 and high = w3 * 2**32 + w2.
Then, with `>>` on unsigned numbers,

    random_bits          int64      the 64 bits of `low` as a signed number
    uniform in [0, 1)    float64    (low >> 11) * 2**-53
                         float32    (w0 >> 8) * 2**-24
                         float16    (w0 >> 21) * 2**-11
    normal (Box-Muller)  float64    sqrt(-2 * log(1 - u)) * cos(2 pi * v), where u and v are the
                                    float64 uniforms of `low` and `high`
                         float32    the same in float32, from the float32 uniforms of w0 and w1
                         float16    the float32 value, rounded

So the same element has the same bits in every shape, on every target, in every order of evaluation;
normals agree to the rounding of `log` and `cos`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.errors import DtypeError
from tracegrad.ir.families import Shape, floating, general
from tracegrad.ir.op import NONDIFFERENTIABLE, Array, Op, Sample
from tracegrad.ir.types import DType, TensorType, float32, float64, int64

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
# Elements at a time: all words of one piece stay in cache.
_PIECE = 1 << 13


def philox(seed: int, counters: Array) -> tuple[Array, Array, Array, Array]:
    """The words w0 .. w3, each below 2**32 in a uint64 array, for uint64 `counters`."""
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    x0, x1 = counters & _MASK, counters >> _HALF
    x2 = x3 = np.zeros_like(counters)
    first, second = map(np.uint64, MULTIPLIERS)
    for _ in range(ROUNDS):
        a = x0 * first
        b = x2 * second
        x0 = (b >> _HALF) ^ x1 ^ np.uint64(key[0])
        x1 = b & _MASK
        x2 = (a >> _HALF) ^ x3 ^ np.uint64(key[1])
        x3 = a & _MASK
        key = [(k + step) & 0xFFFFFFFF for k, step in zip(key, WEYL, strict=True)]
    return x0, x1, x2, x3


def _uniform(low: Array, dtype: DType) -> Array:
    """A number in [0, 1) from 64 random bits, of which float32 and float16 use the lower 32."""
    if dtype is float64:
        return (low >> np.uint64(11)).astype(np.float64) * 2.0**-53
    word = low & _MASK
    if dtype is float32:
        return (word >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
    return ((word >> np.uint64(21)).astype(np.float32) * np.float32(2.0**-11)).astype(np.float16)


def _normal(w: tuple[Array, Array, Array, Array], dtype: DType) -> Array:
    if dtype is float64:
        u = _uniform(w[1] << _HALF | w[0], dtype)
        v = _uniform(w[3] << _HALF | w[2], dtype)
    else:
        u, v = _uniform(w[0], float32), _uniform(w[1], float32)
    one = u.dtype.type(1)
    turn = u.dtype.type(2 * math.pi)
    value: Array = np.sqrt(-2 * np.log(one - u)) * np.cos(turn * v)
    return value.astype(dtype.numpy)


def _draw(name: str, words: tuple[Array, Array, Array, Array], dtype: DType) -> Array:
    if name == "normal":
        return _normal(words, dtype)
    low = words[1] << _HALF | words[0]
    return low.view(np.int64) if name == "random_bits" else _uniform(low, dtype)


def _generator(name: str, dtypes: tuple[DType, ...]) -> Op:
    def infer(seed: TensorType, offset: TensorType, *, shape: Shape, dtype: DType) -> TensorType:
        if seed != TensorType(int64, ()) or offset != seed:
            raise DtypeError(f"{name}: seed and offset are int64 scalars")
        if dtype not in dtypes:
            raise DtypeError(f"{name}: takes {', '.join(t.name for t in dtypes)}, not {dtype.name}")
        return TensorType(dtype, shape)

    def evaluate(seed: Array, offset: Array, *, shape: Shape, dtype: DType) -> Any:
        size = math.prod(shape)
        result = np.empty(size, dtype.numpy)
        first = np.uint64(int(offset) & 0xFFFFFFFFFFFFFFFF)
        for start in range(0, size, _PIECE):
            stop = min(start + _PIECE, size)
            counters = np.arange(start, stop, dtype=np.uint64) + first
            result[start:stop] = _draw(name, philox(int(seed), counters), dtype)
        return result.reshape(shape)

    def make(rng: np.random.Generator, dtype: DType) -> list[Array]:
        return [np.asarray(rng.integers(-(2**62), 2**62)) for _ in range(2)]

    samples = [
        Sample(((), ()), {"shape": shape, "dtype": dtype}, None, make)
        for dtype in dtypes
        for shape in ((3, 4), (), (0, 2), (33,))
    ]
    return general(
        name,
        family="random",
        infer=infer,
        evaluate=evaluate,
        vjp=NONDIFFERENTIABLE,
        arity=2,
        samples=samples,
        sample_dtypes=(int64,),
    )


uniform = _generator("uniform", floating)
normal = _generator("normal", floating)
random_bits = _generator("random_bits", (int64,))
