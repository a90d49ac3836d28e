"""Matrix multiplication: one kernel for each float type, around BLAS and tiles.

C = alpha * op(A) op(B) + beta * C for a batch of row-major matrices, where op is the matrix or its
transpose. BLAS is column-major and sees a row-major matrix as its transpose, so it is asked for
C' = op(B)' op(A)'. A vector operand goes to `gemv`; a small product is computed in tiles held in
vector registers, and a very small one by plain loops, since BLAS takes longer to start.

The kernel's extent is the number of products in the batch. The addresses of the BLAS routines are
words of the table, supplied by `runtime`, so that cached machine code holds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracegrad.codegen.table import real_bits

# Products with at most this many multiplications are done by the plain loops: 14 ns instead of 60
# for 2 x 2, equal at about 5 x 5.
SMALL_PRODUCT = 64

# Products of at most so many multiplications, whose right operand has at most so many elements, are
# done in tiles: beyond, BLAS gains by packing its operands.
TILED_PRODUCT = 1 << 21
TILED_OPERAND = 1 << 16

_BLAS, _LOOPS, _TILES = 0, 1, 2

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Matrix:
    """A stored operand: buffer slot, whether it is used transposed, elements between its rows.

    `rows_apart` is the leading dimension of the matrix as stored. Elements of a row are adjacent.
    """

    slot: int
    transposed: bool = False
    rows_apart: int | None = None


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """One axis of the batch: its size and the elements from one A, B, C to the next (0: shared)."""

    size: int
    stride_a: int
    stride_b: int
    stride_c: int


def gemm_table(
    addresses: tuple[int, int],
    a: Matrix,
    b: Matrix,
    c: Matrix,
    m: int,
    n: int,
    k: int,
    batch: Sequence[BatchAxis] = (),
    alpha: float = 1.0,
    beta: float = 0.0,
) -> list[int]:
    """The table of a launch; its extent is the product of the batch sizes (1 without axes).

    `addresses` are those of `?gemm` and `?gemv`. C is m x n, op(A) m x k, op(B) k x n.

    Raises:
        ValueError: C is transposed, or a size is beyond what BLAS can express.
    """
    if c.transposed:
        raise ValueError("the result of a matrix product is stored as it is, not transposed")
    if not all(0 <= size <= _INT32_MAX for size in (m, n, k)):
        raise ValueError(f"matrix sizes beyond 32 bits: {(m, n, k)}")
    # BLAS wants leading dimensions of at least the row length, and at least 1, even where unused.
    lda = max(1, a.rows_apart or 0, m if a.transposed else k)
    ldb = max(1, b.rows_apart or 0, k if b.transposed else n)
    ldc = max(1, c.rows_apart or 0, n)
    way = _way(m, n, k, b.transposed, beta)
    words = [*addresses, a.slot, b.slot, c.slot, m, n, k, int(a.transposed), int(b.transposed)]
    words += [lda, ldb, ldc, real_bits(alpha), real_bits(beta), way, len(batch)]
    for axis in batch:
        words += [axis.size, axis.stride_a, axis.stride_b, axis.stride_c]
    return words


def _way(m: int, n: int, k: int, transposed_b: bool, beta: float) -> int:
    """Whether a product goes to BLAS, to the plain loops, or to tiles."""
    if m * n * k <= SMALL_PRODUCT:
        return _LOOPS
    fits = m * n * k <= TILED_PRODUCT and n * k <= TILED_OPERAND
    return _TILES if fits and n > 1 and not transposed_b and beta in (0.0, 1.0) else _BLAS


def gemm_source(code: str) -> str:
    """The source of the kernel for element type "f32" or "f64"."""
    return _SOURCE.replace("REAL", code)


_SOURCE = '''\
"""C = alpha * op(A) op(B) + beta * C for a batch of row-major matrices."""

from tracegrad.codegen.primitives import (
    REAL,
    advance,
    gemm,
    gemv,
    load_output,
    plain_product,
    pointer_REAL,
    real,
    store,
    tiled_product,
    word,
)


def kernel(pointers, table, start, stop):
    gemm_address = word(table, 0)
    gemv_address = word(table, 1)
    first_a = pointer_REAL(pointers, word(table, 2))
    first_b = pointer_REAL(pointers, word(table, 3))
    first_c = pointer_REAL(pointers, word(table, 4))
    m = word(table, 5)
    n = word(table, 6)
    k = word(table, 7)
    transposed_a = word(table, 8)
    transposed_b = word(table, 9)
    lda = word(table, 10)
    ldb = word(table, 11)
    ldc = word(table, 12)
    alpha = real(table, 13)
    beta = real(table, 14)
    way = word(table, 15)
    axes = word(table, 16)
    for item in range(start, stop):
        offset_a = 0
        offset_b = 0
        offset_c = 0
        rest = item
        for axis in range(axes - 1, -1, -1):
            at = table + 8 * (17 + 4 * axis)
            size = word(at, 0)
            position = rest % size
            rest = rest // size
            offset_a += position * word(at, 1)
            offset_b += position * word(at, 2)
            offset_c += position * word(at, 3)
        a = advance(first_a, offset_a)
        b = advance(first_b, offset_b)
        c = advance(first_c, offset_c)
        row_a = 1 if transposed_a else lda
        column_a = lda if transposed_a else 1
        if way == 2:
            adds = 0 if beta == 0.0 else 1
            tiled_product(a, row_a, column_a, b, ldb, c, ldc, m, n, k, alpha, adds)
            continue
        row_b = 1 if transposed_b else ldb
        column_b = ldb if transposed_b else 1
        if way == 1:
            plain_product(
                a, row_a, column_a, b, row_b, column_b, c, ldc, m, n, k, alpha, beta
            )
            continue
        if n != 1 and m != 1:
            gemm(
                gemm_address, transposed_b, transposed_a,
                n, m, k, alpha, b, ldb, a, lda, beta, c, ldc,
            )
            continue
        # What C starts from: beta = 0 means that its contents, which may be NaN, do not count,
        # and not every BLAS goes by that.
        step_c = ldc if n == 1 else 1
        for i in range(m * n):
            kept = load_output(c, i * step_c)
            store(c, i * step_c, REAL(0.0) if beta == 0.0 else REAL(beta) * kept)
        if n == 1:
            rows = m if transposed_a else k
            columns = k if transposed_a else m
            gemv(
                gemv_address, 1 - transposed_a, rows, columns,
                alpha, a, lda, b, row_b, 1.0, c, step_c,
            )
        else:
            rows = k if transposed_b else n
            columns = n if transposed_b else k
            gemv(
                gemv_address, transposed_b, rows, columns,
                alpha, b, ldb, a, column_a, 1.0, c, step_c,
            )
'''
