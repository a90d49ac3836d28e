"""Products of matrices and vectors, by NumPy's rules of rank."""

from __future__ import annotations

import math

from tracegrad.errors import DtypeError, ShapeError
from tracegrad.ir.families import broadcast_shapes
from tracegrad.ir.op import OPS
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.arithmetic import mul
from tracegrad.tracer.functions.operands import as_tensor, promote_floating
from tracegrad.tracer.functions.reductions import sum_
from tracegrad.tracer.functions.table import register
from tracegrad.tracer.movement import axes_of
from tracegrad.tracer.promotion import promote
from tracegrad.tracer.tensor import Tensor

Shape = tuple[int, ...]


def reshaped(x: Tensor, shape: Shape, grad_name: str = "ViewBackward0") -> Tensor:
    """`x` in another shape of as many elements; itself if it has that shape."""
    if x._array.shape == shape:
        return x
    return apply(OPS["reshape"], [x], {"shape": shape}, grad_name=grad_name)


def permuted(x: Tensor, axes: Shape) -> Tensor:
    """`x` with its axes in the order `axes`; itself if that is the order they have."""
    return x if axes == tuple(range(x.ndim)) else apply(OPS["transpose"], [x], {"axes": axes})


def _same_dtype(name: str, a: Tensor, b: Tensor) -> None:
    if as_tensor(a, name).dtype is not as_tensor(b, name).dtype:
        raise DtypeError(
            f"{name}: expected both tensors to have the same dtype, but got: "
            f"{a.dtype.name} and {b.dtype.name}"
        )


def _product(a: Tensor, b: Tensor, grad_name: str) -> Tensor:
    return apply(OPS["matmul"], [a, b], grad_name=grad_name)


@register("matmul", out=True, linalg=True)
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product. A vector counts as a row on the left and a column on the right, and that
    axis is dropped; leading axes are batches and broadcast.
    """
    a, b = input, other
    _same_dtype("matmul", a, b)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(
            f"both arguments to matmul need to be at least 1D, but they are {a.ndim}D and {b.ndim}D"
        )
    inner = b._array.shape[-2] if b.ndim > 1 else b._array.shape[0]
    if a._array.shape[-1] != inner:
        raise ShapeError(
            f"matmul: {tuple(a.shape)} @ {tuple(b.shape)}: "
            f"inner sizes {a._array.shape[-1]} and {inner} differ"
        )
    if a.ndim == 2 and b.ndim == 2:
        return _product(a, b, "MmBackward0")
    if a.ndim == 1 and b.ndim == 1:
        return dot(a, b)
    left = reshaped(a, (1, *a._array.shape), "UnsqueezeBackward0") if a.ndim == 1 else a
    right = reshaped(b, (*b._array.shape, 1), "UnsqueezeBackward0") if b.ndim == 1 else b
    if b.ndim == 1:
        y = _product(left, right, "MmBackward0" if a.ndim == 2 else "BmmBackward0")
        name = "MvBackward0" if a.ndim == 2 else "UnsafeViewBackward0"
        return reshaped(y, y._array.shape[:-1], name)
    if a.ndim == 1:
        y = _product(left, right, "MmBackward0" if b.ndim == 2 else "BmmBackward0")
        return reshaped(y, (*y._array.shape[:-2], y._array.shape[-1]), "SqueezeBackward4")
    return _product(left, right, "BmmBackward0")


def _need(name: str, x: Tensor, ndim: int) -> None:
    if as_tensor(x, name).ndim != ndim:
        raise ShapeError(f"{name}: expected a {ndim}-D tensor, but got {x.ndim}-D")


@register(out=True)
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors."""
    _need("dot", input, 1)
    _need("dot", tensor, 1)
    _same_dtype("dot", input, tensor)
    size = input._array.size
    if size != tensor._array.size:
        raise ShapeError(
            f"inconsistent tensor size, expected tensor [{size}] and src [{tensor._array.size}] to "
            f"have the same number of elements, but got {size} and {tensor._array.size} elements "
            "respectively"
        )
    row = reshaped(input, (1, size), "UnsqueezeBackward0")
    column = reshaped(tensor, (size, 1), "UnsqueezeBackward0")
    return reshaped(_product(row, column, "MmBackward0"), (), "DotBackward0")


@register("inner", out=True)
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last axes of both."""
    if input.ndim == 0 or other.ndim == 0:
        return mul(input, other)
    return tensordot(input, other, dims=([-1], [-1]))


@register(out=True)
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector."""
    _need("mv", input, 2)
    _need("mv", vec, 1)
    return matmul(input, vec)


@register(out=True)
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """A matrix times a matrix."""
    _need("mm", input, 2)
    _need("mm", mat2, 2)
    return matmul(input, mat2)


@register(out=True)
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """As many products of matrices as the first axes, which must be equal, count."""
    _need("bmm", input, 3)
    _need("bmm", mat2, 3)
    if input._array.shape[0] != mat2._array.shape[0]:
        raise ShapeError(
            f"bmm: batch sizes {input._array.shape[0]} and {mat2._array.shape[0]} differ"
        )
    return matmul(input, mat2)


@register("outer", "ger", out=True)
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of an element of one vector with one of another."""
    _need("outer", input, 1)
    _need("outer", vec2, 1)
    return mul(reshaped(input, (input._array.size, 1)), vec2)


def _added(name: str, x: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> Tensor:
    _same_dtype(name, a, b)
    _same_dtype(name, x, a)
    params = {"beta": beta, "alpha": alpha}
    return apply(OPS["addmm"], [x, a, b], params, grad_name=f"{name.title()}Backward0")


@register(out=True)
def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2)."""
    _need("addmm", mat1, 2)
    _need("addmm", mat2, 2)
    return _added("addmm", input, mat1, mat2, beta, alpha)


@register(out=True)
def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """beta * input + alpha * bmm(batch1, batch2)."""
    _need("baddbmm", batch1, 3)
    _need("baddbmm", batch2, 3)
    return _added("baddbmm", input, batch1, batch2, beta, alpha)


@register(out=True)
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * input + alpha * (mat @ vec)."""
    _need("addmv", mat, 2)
    _need("addmv", vec, 1)
    product = matmul(mat, vec)
    if alpha != 1:
        product = mul(product, alpha)
    if beta == 0:
        return product
    return apply(OPS["add"], promote(input if beta == 1 else mul(input, beta), product))


@register(function=False, method=False, functional=True)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias for a weight of shape (out, in)."""
    _same_dtype("linear", input, weight)
    if weight.ndim == 1:
        y = matmul(input, weight)
        return y if bias is None else apply(OPS["add"], [y, bias])
    if input.ndim == 0 or input._array.shape[-1] != weight._array.shape[-1]:
        raise ShapeError(
            f"linear: input {tuple(input.shape)} and weight {tuple(weight.shape)}: "
            "the last sizes differ"
        )
    flat = input if input.ndim > 1 else reshaped(input, (1, *input._array.shape))
    operands = [flat, weight] if bias is None else [flat, weight, bias]
    name = "MmBackward0" if bias is None else "AddmmBackward0"
    y = apply(OPS["linear"], operands, grad_name=name)
    return y if input.ndim > 1 else reshaped(y, y._array.shape[1:])


@register(method=False)
def tensordot(a: Tensor, b: Tensor, dims: int | tuple[object, object] | list[object] = 2) -> Tensor:
    """Sums of products over the last n axes of `a` and the first n of `b`, or over listed axes."""
    if isinstance(dims, int):
        if dims < 0:
            raise ShapeError(f"tensordot expects dims >= 0, but got dims={dims}")
        first = tuple(range(a.ndim - dims, a.ndim))
        second = tuple(range(dims))
        if dims > min(a.ndim, b.ndim):
            raise ShapeError(f"tensordot: {dims} dims of tensors of {a.ndim} and {b.ndim}")
    else:
        first, second = axes_of(dims[0], a.ndim), axes_of(dims[1], b.ndim)
    sizes = [a._array.shape[i] for i in first]
    if sizes != [b._array.shape[i] for i in second]:
        raise ShapeError(
            f"tensordot: contracted dimensions need to match, but {tuple(a.shape)} has {sizes} in "
            f"dims {first} and {tuple(b.shape)} differs in dims {second}"
        )
    _same_dtype("tensordot", a, b)
    rows = tuple(i for i in range(a.ndim) if i not in first)
    columns = tuple(i for i in range(b.ndim) if i not in second)
    left = tuple(a._array.shape[i] for i in rows)
    right = tuple(b._array.shape[i] for i in columns)
    inner_size = math.prod(sizes)
    matrix_a = reshaped(permuted(a, (*rows, *first)), (math.prod(left), inner_size))
    matrix_b = reshaped(permuted(b, (*second, *columns)), (inner_size, math.prod(right)))
    return reshaped(_product(matrix_a, matrix_b, "MmBackward0"), (*left, *right))


@register("broadcast_tensors", method=False)
def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape."""
    shape = broadcast_shapes(*(x._array.shape for x in tensors), op="broadcast_tensors")
    return tuple(
        x if x._array.shape == shape else apply(OPS["broadcast_to"], [x], {"shape": shape})
        for x in tensors
    )


@register("kron", out=True)
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product."""
    ndim = max(input.ndim, other.ndim)
    left = (1,) * (ndim - input.ndim) + input._array.shape
    right = (1,) * (ndim - other.ndim) + other._array.shape
    a = reshaped(input, tuple(size for n in left for size in (n, 1)))
    b = reshaped(other, tuple(size for n in right for size in (1, n)))
    return reshaped(mul(a, b), tuple(n * m for n, m in zip(left, right, strict=True)))


@register("cross", method=True, linalg=True)
def cross(input: Tensor, other: Tensor, dim: int = -1) -> Tensor:
    """The cross product of vectors of three elements along `dim`."""
    from tracegrad.tracer.functions.joining import roll

    a, b = broadcast_tensors(*promote(input, other))
    (axis,) = axes_of(dim, a.ndim)
    if a._array.shape[axis] != 3:
        raise ShapeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. "
            f"Got {a._array.shape[axis]} and {b._array.shape[axis]}"
        )
    ahead = mul(roll(a, -1, axis), roll(b, -2, axis))
    behind = mul(roll(a, -2, axis), roll(b, -1, axis))
    return apply(OPS["sub"], [ahead, behind], grad_name="LinalgCrossBackward0")


@register("trace")
def trace(input: Tensor) -> Tensor:
    """The sum of the diagonal of a matrix."""
    _need("trace", input, 2)
    params = {"offset": 0, "axis1": 0, "axis2": 1}
    return sum_(apply(OPS["diagonal"], [input], params))


@register("cdist", method=False)
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm of the difference of every row of `x1` and every row of `x2`."""
    a, b = promote_floating(x1, x2)
    shape_a, shape_b = a._array.shape, b._array.shape
    rows = reshaped(a, (*shape_a[:-1], 1, shape_a[-1]))
    others = reshaped(b, (*shape_b[:-2], 1, *shape_b[-2:]))
    distance = apply(OPS["sub"], [rows, others])
    params = {"p": float(p), "axes": (distance.ndim - 1,), "keepdims": False}
    return apply(OPS["norm"], [distance], params, grad_name="CdistBackward0")
