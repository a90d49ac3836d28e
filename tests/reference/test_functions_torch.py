"""The named functions against PyTorch's: values, dtypes, shapes, tape nodes, and two derivatives.

A case is an expression that means the same in both systems: `t` is the module, `F` its functional
namespace, the other names are tensors.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import tracegrad as tg

Array = np.ndarray[Any, Any]

_rng = np.random.default_rng(5)


def _uniform(low: float, high: float, *shape: int) -> Array:
    return _rng.uniform(low, high, shape)


# x, y: in (0.1, 0.9); a, b: of both signs, away from 0; p: above 1.
INPUTS: dict[str, Array] = {
    "x": _uniform(0.1, 0.9, 3, 4),
    "y": _uniform(0.1, 0.9, 3, 4),
    "a": _uniform(0.2, 2.0, 3, 4) * _rng.choice([-1.0, 1.0], (3, 4)),
    "b": _uniform(0.2, 2.0, 3, 4) * _rng.choice([-1.0, 1.0], (3, 4)),
    "p": _uniform(1.2, 3.0, 3, 4),
    "m": _uniform(-1, 1, 4, 5),
    "q": _uniform(-1, 1, 4, 4),
    "v": _uniform(-1, 1, 4),
    "w": _uniform(-1, 1, 3),
    "u": _uniform(0.5, 1.5, 4),
    "c": _uniform(-1, 1, 2, 3, 4),
    "d": _uniform(-1, 1, 2, 4, 3),
    "h": _uniform(-1, 1, 2, 6, 4),
    "s": np.array(0.7),
    "e": np.zeros((0, 3)),
    "z": np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0], [1.5, 2.0, -1.0]]),
    "i": _rng.integers(-5, 6, (3, 4)),
    "j": _rng.integers(1, 5, (3, 4)),
    "at": np.array([2, 0, 2]),
    "rows": np.array([[0, 2, 1, 0], [1, 1, 0, 2]]),
    "labels": np.array([1, 3, 0]),
    "grid": _rng.integers(0, 3, (2, 4)),
    "k": _rng.random((3, 4)) > 0.5,
    # Weights, by which PyTorch does not differentiate.
    "n": _uniform(0.5, 1.5, 4),
    "g": _uniform(0.5, 1.5, 3, 4),
}
CONSTANTS = ("n", "g")

ELEMENTWISE = """
t.exp(a); t.exp2(a); t.expm1(a); t.log(x); t.log2(x); t.log10(x); t.log1p(x); t.sqrt(x)
t.rsqrt(x); t.sin(a); t.cos(a); t.tan(x); t.asin(x); t.acos(x); t.atan(a); t.sinh(a); t.cosh(a)
t.tanh(a); t.asinh(a); t.acosh(p); t.atanh(x); t.arcsin(x); t.arccos(x); t.arctan(a); t.erf(a)
t.erfc(a); t.sigmoid(a); t.reciprocal(a); t.abs(a); t.absolute(a); t.neg(a); t.negative(a)
t.sign(a); t.sgn(a); t.floor(a); t.ceil(a); t.trunc(a); t.fix(a); t.round(a); t.square(a)
t.relu(a); t.positive(a); t.exp(i); t.sin(i); t.sqrt(j); t.sigmoid(i); t.abs(i); t.neg(i)
t.sign(i); t.floor(i); t.round(i); t.square(i); t.relu(i); t.exp(k); t.reciprocal(j); t.log(s)
t.exp(e); t.sign(k); t.square(k); t.add(a, b); t.add(a, b, alpha=2.5); t.add(a, 2); t.sub(a, b)
t.sub(a, b, alpha=3); a - 1; 1 - a; t.subtract(a, b); t.mul(a, b); t.multiply(a, b); a * 2; 2 * a
t.div(a, b); t.divide(a, b); a / 2; 2 / a; t.true_divide(a, b); t.div(i, j); t.rsub(a, 2)
t.rsub(a, b, alpha=2); t.div(a, b, rounding_mode="trunc"); t.div(a, b, rounding_mode="floor")
t.div(i, j, rounding_mode="trunc"); t.div(i, j, rounding_mode="floor"); i // j; i % j
t.floor_divide(i, j); t.remainder(a, p); t.remainder(i, j); a % 0.7; 3 % p; t.fmod(a, p)
t.fmod(a, 0.7); t.fmod(i, j); t.pow(x, a); x ** a; a ** 2; a ** 3; x ** 0.5; x ** -1; x ** 2.5
2 ** a; 2.5 ** i; i ** 2; i ** j; a ** 1; a ** 0; t.pow(2, a); t.pow(x, i); t.atan2(a, b)
t.arctan2(a, b); t.hypot(a, b); t.logaddexp(a, b); t.xlogy(a, x); t.xlogy(z, z * z + 1)
t.maximum(a, b); t.minimum(a, b); t.maximum(a, a); t.minimum(a, a * 1); t.fmax(a, b); t.fmin(a, b)
t.maximum(i, j); t.clamp(a, -0.5, 0.5); t.clamp(a, min=0.3); t.clamp(a, max=0.3); t.clip(a, 0, 1)
t.clamp(a, x, p); t.clamp(a, min=x); t.clamp(a, max=x); t.clamp(i, 0, 3); t.clamp(i, 0.5)
t.clamp_min(a, 0.1); t.clamp_max(a, 0.1); t.clamp(z, 0, 2); t.clamp(z, 2, 1); t.where(k, a, b)
t.where(k, a, 0.0); t.where(k, 1, a); t.where(a > 0, a, a * 2); a.masked_fill(k, 7.0)
a.masked_fill(k, s); t.masked_fill(a, k, 0); t.lerp(a, b, 0.3); t.lerp(a, b, x)
t.addcmul(a, b, x); t.addcmul(a, b, x, value=0.5); t.addcdiv(a, b, x); t.addcdiv(a, b, x, value=2)
t.frac(a); t.round(a, decimals=1); t.logit(x); t.logit(x, 0.2); t.nan_to_num(a); t.deg2rad(a)
t.rad2deg(a); t.abs(z); t.relu(z); t.sign(z); a + v; a * v; w.reshape(3, 1) * a; c * a; s * a
a * s; e + 1; e * e; c - v
"""

COMPARISON = """
t.eq(a, b); t.ne(a, a); t.lt(a, b); t.le(a, a); t.gt(a, 0.5); t.ge(i, j); t.greater(a, b)
t.less(a, b); t.not_equal(i, 2); t.greater_equal(a, b); t.less_equal(i, 0.5); a == b; i != j
a < 1; t.bitwise_and(i, j); t.bitwise_or(i, 3); t.bitwise_xor(i, j); t.bitwise_not(i); ~k; k & k
k | ~k; k ^ k; t.bitwise_left_shift(j, 2); t.bitwise_right_shift(i, 1); j << 1; i >> 1
t.logical_and(i, j); t.logical_or(a, i); t.logical_xor(k, i); t.logical_not(i); t.logical_not(a)
t.isnan(a); t.isinf(z / 0); t.isfinite(z / 0); t.isnan(i); t.isinf(i); t.isfinite(i)
t.isposinf(z / 0); t.isneginf(-z / 0); t.signbit(a); t.isclose(a, a + 1e-9); t.isclose(i, j)
t.isclose(z / 0, z / 0); t.isclose(z / z, z / z, equal_nan=True)
"""

REDUCTIONS = """
a.sum(); a.sum(0); a.sum(dim=1, keepdim=True); c.sum((0, 2)); c.sum(dim=(-1,)); t.sum(i); t.sum(k)
i.sum(1); a.sum(dtype=t.float32); s.sum(); s.sum(0); e.sum(); e.sum(0); e.sum(1)
t.sum(c, (0, 1, 2), keepdim=True); a.mean(); a.mean(0); c.mean((0, 2), keepdim=True)
i.mean(dtype=t.float64); s.mean(0); a.mean(dim=-1); a.prod(); a.prod(0); a.prod(1, keepdim=True)
z.prod(); z.prod(1); z.prod(0); i.prod(); e.prod(); e.prod(0); a.amax(); a.amax(0); c.amax((0, 2))
z.amax(1); z.amax(); a.amin(1, keepdim=True); c.amin(); z.amin(0); a.max(); i.max(); a.max(0)[0]
a.max(1, keepdim=True)[0]; a.max(0)[1]; z.max(1)[0]; z.max(); t.max(a, b); a.min(); a.min(1)[0]
a.min(1)[1]; t.min(a, b); s.max(0)[0]; s.max(0)[1]; z.min(0)[0]; i.max(1).values; a.argmax()
a.argmax(0); a.argmax(1, keepdim=True); a.argmin(); a.argmin(0); z.argmax(1); s.argmax(); k.any()
k.all(); k.any(0); k.all(1, keepdim=True); i.any(); i.all(1); a.all(); e.any(); e.all(); e.all(0)
k.any((0, 1)); t.count_nonzero(z); t.count_nonzero(z, 1); a.var(); a.var(0)
c.var((0, 2), keepdim=True); a.var(unbiased=False); a.var(0, unbiased=False); a.var(False)
a.var(dim=1, correction=2); a.std(); a.std(0); a.std(1, correction=0); c.std((1, 2))
t.var_mean(a, 1)[1]; t.std_mean(a)[0]; a.norm(); a.norm(dim=0); a.norm(1); a.norm(3, dim=1)
a.norm(float("inf")); a.norm(-float("inf"), 0); a.norm(0); a.norm(0.5, 1); a.norm("fro")
c.norm(dim=(1, 2), keepdim=True); a.norm(p=2, dim=1); s.norm(); e.norm(); e.norm(dim=1)
t.norm(a, 2, 1); (a * 0).norm(); (a * 0).norm(dim=1); (a * 0).norm(3); (z * z).norm(1)
t.linalg.norm(a); t.linalg.norm(a, 1); t.linalg.norm(a, float("inf")); t.linalg.norm(v, 3)
t.linalg.norm(a, "fro", keepdim=True); t.linalg.norm(c, 2, 1); t.linalg.vector_norm(a, 3, (0, 1))
t.linalg.matrix_norm(c, -1); t.linalg.matrix_norm(c, -float("inf"), keepdim=True); a.logsumexp(0)
t.logsumexp(c, (0, 2), keepdim=True); s.logsumexp(0); a.logsumexp(dim=1); a.softmax(0)
t.softmax(a, -1); a.log_softmax(1); F.softmax(c, dim=1); F.log_softmax(c, 2); s.softmax(0)
F.softmin(a, 1); a.softmax(1, dtype=t.float32); e.softmax(1); a.cumsum(0); a.cumsum(-1)
i.cumsum(1); k.cumsum(0); s.cumsum(0); e.cumsum(0); a.cumprod(1); z.cumprod(0); i.cumprod(1)
t.nansum(z / z); t.nansum(a, 0); t.nanmean(z / z, 1); t.aminmax(a)[0]; t.aminmax(a, dim=1)[1]
t.dist(a, b); t.dist(a, b, 1)
"""

CONTRACTION = """
a @ m; a @ v; w @ a; v @ v; c @ d; c @ m; a @ d; c @ v; w @ c; w @ c[0]; t.matmul(c, d); c @ q
v @ d; i @ i.t(); e @ t.zeros(3, 2, dtype=t.float64); t.zeros(2, 0, dtype=t.float64) @ e
t.dot(v, u); t.mm(a, m); t.mv(a, v); t.bmm(c, d); t.outer(v, w); t.ger(v, w); t.inner(a, b)
t.inner(v, u); t.addmm(m[0], a, m); t.addmm(a[:, :1], a, m, beta=0.5, alpha=2)
t.baddbmm(c[:, :, :3], c, d); t.addmv(w, a, v); F.linear(a, m.t()); F.linear(a, m.t(), m[0])
F.linear(c, m.t(), m[0]); F.linear(v, m.t(), m[0]); F.linear(v, m.t()); t.tensordot(a, m, 1)
t.tensordot(c, d, dims=([1, 2], [2, 1])); t.tensordot(c, a, ([1, 2], [0, 1]))
t.tensordot(v, w, 0); t.tensordot(c, d, dims=([0], [0])); t.einsum("ij,jk->ik", a, m)
t.einsum("ij,jk", a, m); t.einsum("ij->ji", a); t.einsum("ij->", a); t.einsum("ij->i", a)
t.einsum("ii->i", q); t.einsum("ii", q); t.einsum("iij->j", q.reshape(4, 4, 1) * v)
t.einsum("ij,ij->ij", a, b); t.einsum("i,j->ij", v, w); t.einsum("i,i", v, u)
t.einsum("bij,bjk->bik", c, d); t.einsum("...ij,...jk->...ik", c, d)
t.einsum("...ij,jk->...ik", c, m); t.einsum("i...,i...->...", a, b)
t.einsum("bij,bjk,kl->bil", c, d, c[0]); t.einsum("ij,kj,il->kl", a, b, x)
t.einsum("ijk->kij", c); t.einsum("...->...", c); t.einsum("b...j->j...", c)
t.einsum("ij,j->", a, v); t.einsum("ab,cd->abcd", a, m); t.einsum("bij,bij->b", c, c)
t.einsum("ij,jk,kl,lm->im", a, q, q, m); t.einsum("ijk,ijl->kl", c, c)
t.einsum(" i j , j k -> i k ", a, m); t.einsum("bi,bj,bk->ijk", a, b, x)
t.einsum("...ii->...i", q * v.reshape(4, 1, 1)); t.einsum("Ab,bC->CA", a, m); t.trace(q)
t.kron(a, m); t.kron(v, w); t.linalg.cross(c[:, :, :3], c[:, :, 1:])
t.linalg.cross(a[:, :3], b[:, 1:], dim=0); t.cdist(a, b); t.linalg.multi_dot([a, q, m])
"""

MOVEMENT = """
t.cat([a, b]); t.cat([a, b], 1); t.cat((a, b, x), dim=-1); t.concat([a, b]); t.concatenate([a, b])
t.cat([i, a]); t.cat([a]); t.stack([a, b]); t.stack([a, b], 1); t.stack([a, b], -1)
t.stack([s, s]); t.hstack([a, b]); t.hstack([v, w]); t.vstack([a, b]); t.vstack([v, u])
t.dstack([a, b]); t.column_stack([w, a]); t.cat([e, e]); t.atleast_1d(s); t.atleast_2d(v)
t.atleast_3d(v); t.split(a, 2)[1]; t.split(a, [1, 2])[1]; a.split(3, 1)[1]; a.chunk(2)[0]
a.chunk(3, 1)[1]; t.tensor_split(a, 3, 1)[2]; t.tensor_split(a, [1, 3], 1)[1]; c.unbind()[1]
a.unbind(1)[2]; a.flip(0); t.flip(a, [0, 1]); t.fliplr(a); t.flipud(a); a.flip(-1); a.roll(1)
a.roll(1, 0); t.roll(a, (1, -2), (0, 1)); a.roll(-7); a.repeat(2, 1); a.repeat(2, 3, 1)
t.tile(a, (2,)); a.tile(2, 2); v.repeat(3); a.repeat_interleave(2, 1); t.repeat_interleave(a, 3)
t.meshgrid(v, w, indexing="ij")[0]; t.meshgrid(v, w, indexing="xy")[1]; t.diff(a)
t.diff(a, dim=0); t.diff(a, 2); t.broadcast_tensors(a, v)[1]; a.squeeze(); a.unsqueeze(1)
a.permute(1, 0); a.transpose(0, 1); a.T; a.t(); c.mT; c.movedim(0, 2); a.view(-1); a.reshape(2, 6)
a.T.reshape(-1); a.flatten(); c.flatten(1); a.expand(2, 3, 4); a.narrow(1, 1, 2); a.select(1, 2)
c.swapaxes(0, 2); a.unflatten(1, (2, 2)); t.ravel(a); a.broadcast_to((2, 3, 4)); a.tril()
a.triu(); a.tril(1); a.triu(-1); c.tril(); t.triu(c, 1); a.diagonal(); c.diagonal(0, 1, 2)
a.diagonal(1); a.diagonal(-1); t.diag(v); t.diag(v, 1); t.diag(q); t.diag(a, -1); t.diag_embed(a)
t.diag_embed(v, -1); t.diag_embed(a, 0, 0, 2); t.tril_indices(3, 4); t.triu_indices(3, 3, 1)
t.vander(v); t.vander(v, 3, True); F.pad(a, (1, 2)); F.pad(a, (1, 2, 3, 0)); F.pad(a, (0, -1))
F.pad(a, (-1, 2), value=3.0); F.pad(c, (1, 1), mode="reflect"); F.pad(c, (2, 1), mode="replicate")
F.pad(c, (1, 2), mode="circular")
"""

INDEXING = """
t.index_select(a, 0, at); t.index_select(a, 1, at); c.index_select(2, at); t.gather(a, 0, rows)
t.gather(a, 1, rows[:, :2]); a.gather(1, at.reshape(3, 1)); t.take_along_dim(a, rows, 0)
t.take_along_dim(a, a.argsort(1), 1); t.take(a, at); a.scatter(0, rows, b)
a.scatter(1, at.reshape(3, 1), 5.0); t.scatter(a, 1, at.reshape(3, 1), b)
a.scatter_add(0, rows, b); t.scatter_add(a, 1, grid, b); a.index_add(0, at, b)
a.index_add(1, at, b[:, :3], alpha=2); a.index_copy(0, at[:2], b[:2]); a.index_fill(0, at, 3.0)
a.masked_select(k); t.masked_select(a, v > 0); a.masked_scatter(k, b); t.nonzero(z)
t.nonzero(k, as_tuple=True)[1]; t.argwhere(z); t.where(k)[0]; a.sort()[0]; a.sort()[1]
a.sort(0, descending=True)[0]; t.sort(z, dim=1, stable=True)[1]; z.sort(0, True)[0]
t.argsort(a, 1); t.argsort(a, descending=True); t.msort(a); a.topk(2)[0]; a.topk(2)[1]
a.topk(2, 0, largest=False)[0]; a.kthvalue(2)[0]; a.kthvalue(2, 0, True)[1]; a.median()
a.median(1)[0]; c.median(1)[1]; s.sort()[0]; t.sort(a, dim=0).values; F.one_hot(labels, 5)
F.one_hot(labels); F.embedding(rows, m); F.embedding(rows, m, padding_idx=1)
"""

FUNCTIONAL = """
F.relu(a); F.relu6(p * 3); F.leaky_relu(a); F.leaky_relu(a, 0.2); F.elu(a); F.elu(a, 1.5)
F.selu(a); F.celu(a, 0.7); F.gelu(a); F.gelu(a, approximate="tanh"); F.silu(a); F.mish(a)
F.softplus(a); F.softplus(a, 2.0); F.logsigmoid(a); F.softsign(a); F.hardtanh(a)
F.hardtanh(a, -0.5, 0.7); F.hardsigmoid(a * 2); F.hardswish(a * 2); F.softshrink(a)
F.hardshrink(a, 0.9); F.threshold(a, 0.3, 2.0); F.tanhshrink(a); F.glu(a); F.glu(c, 2)
F.sigmoid(a); F.tanh(a); F.prelu(a, u); F.prelu(a, u[:1]); F.layer_norm(a, (4,))
F.layer_norm(c, (3, 4)); F.layer_norm(a, (4,), u, v); F.layer_norm(a, [4], u); F.rms_norm(a, (4,))
F.rms_norm(a, (4,), u, 1e-3); F.group_norm(h, 3); F.group_norm(h, 2, h[0, :, 0], h[1, :, 0])
F.normalize(a); F.normalize(a, 1, 0); F.batch_norm(a, None, None, training=True)
F.batch_norm(c, None, None, w, w, True); F.batch_norm(a, n, n + 1); F.cosine_similarity(a, b)
F.cosine_similarity(a, v, dim=1); F.dropout(a, 0.5, False)
F.scaled_dot_product_attention(c, c, c); F.scaled_dot_product_attention(c, c, c, is_causal=True)
F.pairwise_distance(a, b)
"""

LOSSES = """
F.mse_loss(a, b); F.mse_loss(a, b, reduction="sum"); F.mse_loss(a, b, reduction="none")
F.l1_loss(a, b); F.l1_loss(a, b, reduction="sum"); F.l1_loss(a, b, reduction="none")
F.smooth_l1_loss(a, b); F.smooth_l1_loss(a, b, beta=0.3, reduction="sum"); F.huber_loss(a, b)
F.huber_loss(a, b, delta=0.4, reduction="none"); F.kl_div(x.log(), y)
F.kl_div(x.log(), y, reduction="batchmean")
F.kl_div(x.log(), y.log(), log_target=True, reduction="sum"); F.binary_cross_entropy(x, y)
F.binary_cross_entropy(x, y, g, reduction="sum"); F.binary_cross_entropy_with_logits(a, y)
F.binary_cross_entropy_with_logits(a, y, g, reduction="none")
F.binary_cross_entropy_with_logits(a, y, pos_weight=n); F.nll_loss(a.log_softmax(1), labels)
F.nll_loss(a, labels, n); F.nll_loss(a, labels, reduction="none")
F.nll_loss(a, labels, n, ignore_index=3, reduction="sum"); F.nll_loss(c, grid)
F.nll_loss(v, labels[0]); F.cross_entropy(a, labels); F.cross_entropy(a, labels, n)
F.cross_entropy(a, labels, ignore_index=1); F.cross_entropy(a, labels, label_smoothing=0.1)
F.cross_entropy(a, labels, n, label_smoothing=0.2)
F.cross_entropy(a, labels, n, ignore_index=1, reduction="none", label_smoothing=0.2)
F.cross_entropy(a, y); F.cross_entropy(a, y, u, reduction="sum")
F.cross_entropy(a, y, label_smoothing=0.1, reduction="none"); F.cross_entropy(c, grid)
F.cross_entropy(v, labels[1]); F.poisson_nll_loss(a, y); F.poisson_nll_loss(p, y, log_input=False)
F.gaussian_nll_loss(a, b, p); F.gaussian_nll_loss(a, b, p, full=True)
F.hinge_embedding_loss(a, a.sign()); F.cosine_embedding_loss(a, b, w.sign(), margin=-1.0)
"""

GROUPS = {
    "elementwise": ELEMENTWISE,
    "comparison": COMPARISON,
    "reductions": REDUCTIONS,
    "contraction": CONTRACTION,
    "movement": MOVEMENT,
    "indexing": INDEXING,
    "functional": FUNCTIONAL,
    "losses": LOSSES,
}
CASES = [
    expression.strip()
    for text in GROUPS.values()
    for line in text.strip().splitlines()
    for expression in line.split(";")
    if expression.strip()
]


def strided(array: Array) -> Array:
    """The same values with gaps between them in memory, axes in reverse order."""
    spread = np.zeros(tuple(2 * size for size in array.T.shape), array.dtype)
    view = spread[(slice(None, None, 2),) * array.ndim + (...,)]
    view[...] = array.T
    return view.T


def names_in(expression: str) -> list[str]:
    code = compile(expression, expression, "eval")
    return [name for name in INPUTS if name in code.co_names]


def evaluate(module: Any, expression: str, arrays: dict[str, Array]) -> tuple[Any, dict[str, Any]]:
    """The value of a case, and its floating inputs as leaves that require grad."""
    tensors = {}
    leaves = {}
    for name, array in arrays.items():
        tensor = module.from_numpy(array)
        if array.dtype.kind == "f" and name not in CONSTANTS:
            leaves[name] = tensor.requires_grad_()
        tensors[name] = tensor
    scope = {"t": module, "F": module.nn.functional, **tensors}
    return eval(compile(expression, expression, "eval"), scope), leaves


def to_numpy(x: Any) -> Array:
    return np.asarray(x.detach().numpy(force=True))


def assert_equal(mine: Any, theirs: Any, what: str, tolerance: float = 1e-7) -> None:
    assert str(mine.dtype).split(".")[-1] == str(theirs.dtype).split(".")[-1], what
    assert tuple(mine.shape) == tuple(theirs.shape), what
    if "float32" in what:
        tolerance = 1e-5
    np.testing.assert_allclose(
        to_numpy(mine), to_numpy(theirs), rtol=tolerance, atol=tolerance, err_msg=what
    )


def assert_same_slope(mine: Any, theirs: Any, like: Array, what: str) -> None:
    """Equal gradients, where none is zero, and where PyTorch has NaN ours may be safe."""
    zero = np.zeros(like.shape)
    wanted = zero if theirs is None else to_numpy(theirs)
    found = zero if mine is None else to_numpy(mine)
    tolerance = 1e-5 if "float32" in what else 1e-7
    sure = ~np.isnan(wanted)
    np.testing.assert_allclose(
        found[sure], wanted[sure], rtol=tolerance, atol=tolerance, err_msg=what
    )


def gradients(module: Any, value: Any, leaves: list[Any], cotangent: Array) -> list[Any] | None:
    """The gradients of a value, differentiable once more; None where PyTorch has no such."""
    try:
        return list(
            module.autograd.grad(
                value,
                leaves,
                module.from_numpy(cotangent),
                create_graph=True,
                allow_unused=True,
            )
        )
    except RuntimeError:
        if module is torch:
            return None
        raise


def random_like(value: Any, seed: int) -> Array:
    draw = np.random.default_rng(seed).normal(size=tuple(value.shape))
    return np.asarray(draw, str(value.dtype).split(".")[-1])


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("expression", CASES)
def test_case(expression: str, layout: str) -> None:
    names = names_in(expression)
    arrays = {name: INPUTS[name].copy() for name in names}
    if layout == "strided":
        if ".view(" in expression:
            pytest.skip("a view needs its own strides")
        arrays = {name: strided(array) for name, array in arrays.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, their_leaves = evaluate(torch, expression, arrays)
    mine, my_leaves = evaluate(tg, expression, arrays)
    assert_equal(mine, theirs, expression)
    assert mine.requires_grad == theirs.requires_grad or "//" in expression, expression
    if not theirs.requires_grad:
        return
    assert_derivatives(mine, my_leaves, theirs, their_leaves, expression)


def assert_derivatives(
    mine: Any, my_leaves: dict[str, Any], theirs: Any, their_leaves: dict[str, Any], what: str
) -> None:
    cotangent = random_like(theirs, 1)
    first = gradients(torch, theirs, list(their_leaves.values()), cotangent)
    if first is None:
        return
    found = gradients(tg, mine, list(my_leaves.values()), cotangent)
    assert found is not None
    pairs = []
    for name, got, wanted in zip(their_leaves, found, first, strict=True):
        assert_same_slope(got, wanted, INPUTS[name], f"{what}: gradient of {name}")
        if got is not None and wanted is not None and wanted.requires_grad:
            assert got.dtype.name == str(wanted.dtype).split(".")[-1], what
            pairs.append((got, wanted))
    for i, (got, wanted) in enumerate(pairs):
        cotangent = random_like(wanted, 2 + i)
        second = gradients(torch, wanted, list(their_leaves.values()), cotangent)
        if second is None or not any(g is not None for g in second):
            continue
        if not got.requires_grad:
            assert not any(g is not None and to_numpy(g).any() for g in second), what
            continue
        again = gradients(tg, got, list(my_leaves.values()), cotangent)
        assert again is not None
        for name, x, y in zip(their_leaves, again, second, strict=True):
            label = f"{what}: second derivative {i} by {name}"
            assert_same_slope(x, y, INPUTS[name], label)


NODE_NAMES = """
a + b; a - b; 1 - a; a * b; a / b; a % 2; a ** 2; a ** b; 2 ** a; -a; t.exp(a); t.log1p(x)
t.sqrt(x); t.square(a); t.relu(a); t.sigmoid(a); t.maximum(a, b); t.clamp(a, 0, 1)
t.clamp(a, x, p); t.where(k, a, b); a.masked_fill(k, 0); a.sum(); a.sum(0); a.mean(); a.mean(0)
a.prod(); a.prod(0); a.amax(); a.max(); a.max(0)[0]; a.min(); a.var(); a.std(); a.norm()
a.logsumexp(0); a.cumsum(0); a.softmax(0); a.log_softmax(0); a @ m; a @ v; v @ v; t.bmm(c, d)
t.dot(v, v); t.mv(a, v); t.addmm(m[0], a, m); t.cat([a, b]); t.stack([a, b]); a.flip(0)
a.roll(1, 0); a.tril(); a.diagonal(); a.repeat(2, 1); a.index_select(0, at); t.gather(a, 0, rows)
a.scatter_add(0, rows, b); a.masked_select(k); a.sort()[0]; a.topk(2)[0]; t.lerp(a, b, 0.3)
t.addcmul(a, b, x); a.float(); a.clone(); F.mse_loss(a, b); F.cross_entropy(a, labels)
F.nll_loss(a, labels); F.gelu(a); F.silu(a); F.leaky_relu(a); F.elu(a); F.softplus(a)
F.logsigmoid(a); F.layer_norm(a, (4,)); F.smooth_l1_loss(a, b); F.huber_loss(a, b)
F.binary_cross_entropy_with_logits(a, y); F.linear(a, m.t(), m[0]); F.embedding(rows, m)
F.pad(a, (1, 1)); F.hardtanh(a); t.hypot(a, b); t.atan2(a, b); t.erf(a); t.reciprocal(a); t.abs(a)
t.split(a, 2)[0]; a.expand(2, 3, 4)
"""


@pytest.mark.parametrize(
    "expression",
    [e.strip() for line in NODE_NAMES.strip().splitlines() for e in line.split(";")],
)
def test_name_of_the_tape_node(expression: str) -> None:
    arrays = {name: INPUTS[name] for name in names_in(expression)}
    mine, _ = evaluate(tg, expression, arrays)
    theirs, _ = evaluate(torch, expression, arrays)
    assert mine.grad_fn.name() == type(theirs.grad_fn).__name__


DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
BINARY = ("add", "mul", "div", "pow", "eq", "lt", "sub", "floor_divide", "remainder", "maximum")
SCALARS = (True, 2, 2.5)


def operand(module: Any, dtype: str, kind: str) -> Any:
    values = np.array([1, 3, 2]) if kind == "tensor" else np.array(2)
    return module.from_numpy(values.astype(dtype))


def outcome(module: Any, name: str, a: Any, b: Any) -> Any:
    """A function's result, or the word that it refused."""
    try:
        return getattr(module, name)(a, b)
    except (RuntimeError, TypeError):
        return "refused"


def assert_same_outcome(name: str, mine: Any, theirs: Any, what: str) -> None:
    assert isinstance(mine, str) == isinstance(theirs, str), f"{what}: {mine} and {theirs}"
    if not isinstance(mine, str):
        assert str(mine.dtype).split(".")[-1] == str(theirs.dtype).split(".")[-1], what
        np.testing.assert_allclose(to_numpy(mine), to_numpy(theirs), rtol=1e-3, err_msg=what)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("first", DTYPES)
def test_promotion_of_dtypes(name: str, first: str) -> None:
    for second in DTYPES:
        for kinds in (("tensor", "tensor"), ("tensor", "0-d"), ("0-d", "tensor"), ("0-d", "0-d")):
            results = [
                outcome(m, name, operand(m, first, kinds[0]), operand(m, second, kinds[1]))
                for m in (tg, torch)
            ]
            assert_same_outcome(name, *results, f"{name}({first} {kinds[0]}, {second} {kinds[1]})")
    # PyTorch's maximum takes no scalar, ours does.
    for scalar in () if name == "maximum" else SCALARS:
        for kind in ("tensor", "0-d"):
            results = [outcome(m, name, operand(m, first, kind), scalar) for m in (tg, torch)]
            assert_same_outcome(name, *results, f"{name}({first} {kind}, {scalar!r})")


def test_extremes_are_named_tuples() -> None:
    values, indices = tg.from_numpy(INPUTS["a"]).max(dim=1)
    both = tg.from_numpy(INPUTS["a"]).max(dim=1)
    assert both.values.tolist() == values.tolist()
    assert both.indices.tolist() == indices.tolist()
