"""Philox4x32-10 for kernels: the words of one element, and the numbers made of them.

The recipe is that of `tracegrad.ir.ops.random`, which says what each dtype takes from the words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from tracegrad.codegen.primitives.circular import cos
from tracegrad.codegen.primitives.logarithms import log
from tracegrad.codegen.primitives.vectormath import sqrt

__all__ = [
    "philox_normal_f16",
    "philox_normal_f32",
    "philox_normal_f64",
    "philox_random_bits_i64",
    "philox_uniform_f16",
    "philox_uniform_f32",
    "philox_uniform_f64",
]

_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@register_jitable
def _words(seed: Any, offset: Any, position: Any) -> Any:
    key0 = np.uint64(seed) & _MASK
    key1 = np.uint64(seed) >> _HALF
    counter = np.uint64(offset) + np.uint64(position)
    x0 = counter & _MASK
    x1 = counter >> _HALF
    x2 = np.uint64(0)
    x3 = np.uint64(0)
    for _ in range(10):
        a = x0 * _M0
        b = x2 * _M1
        x0 = (b >> _HALF) ^ x1 ^ key0
        x1 = b & _MASK
        x2 = (a >> _HALF) ^ x3 ^ key1
        x3 = a & _MASK
        key0 = (key0 + _W0) & _MASK
        key1 = (key1 + _W1) & _MASK
    return x0, x1, x2, x3


@register_jitable
def _unit_f64(low: Any, high: Any) -> Any:
    return np.float64((high << _HALF | low) >> np.uint64(11)) * np.float64(2.0**-53)


@register_jitable
def _unit_f32(word: Any) -> Any:
    return np.float32(word >> np.uint64(8)) * np.float32(2.0**-24)


@register_jitable
def philox_random_bits_i64(seed: Any, offset: Any, position: Any) -> Any:
    """64 random bits as a signed number."""
    w0, w1, _, _ = _words(seed, offset, position)
    return np.int64(w1 << _HALF | w0)


@register_jitable
def philox_uniform_f64(seed: Any, offset: Any, position: Any) -> Any:
    """A number in [0, 1) on a grid of 2**-53."""
    w0, w1, _, _ = _words(seed, offset, position)
    return _unit_f64(w0, w1)


@register_jitable
def philox_uniform_f32(seed: Any, offset: Any, position: Any) -> Any:
    """A number in [0, 1) on a grid of 2**-24."""
    w0, _, _, _ = _words(seed, offset, position)
    return _unit_f32(w0)


@register_jitable
def philox_uniform_f16(seed: Any, offset: Any, position: Any) -> Any:
    """A number in [0, 1) on a grid of 2**-11, in a float32 register."""
    w0, _, _, _ = _words(seed, offset, position)
    return np.float32(w0 >> np.uint64(21)) * np.float32(2.0**-11)


@register_jitable
def philox_normal_f64(seed: Any, offset: Any, position: Any) -> Any:
    """A normal number by Box and Muller."""
    w0, w1, w2, w3 = _words(seed, offset, position)
    u = _unit_f64(w0, w1)
    v = _unit_f64(w2, w3)
    return sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * v)


@register_jitable
def philox_normal_f32(seed: Any, offset: Any, position: Any) -> Any:
    """A normal number by Box and Muller, in float32."""
    w0, w1, _, _ = _words(seed, offset, position)
    u = _unit_f32(w0)
    v = _unit_f32(w1)
    radius = sqrt(np.float32(-2.0) * log(np.float32(1.0) - u))
    return radius * cos(np.float32(6.283185307179586) * v)


philox_normal_f16 = philox_normal_f32
