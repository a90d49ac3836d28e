"""Matrix multiplication: one kernel for each float type, around BLAS.

C = alpha * op(A) op(B) + beta * C for a batch of row-major matrices, where op is the matrix or its
transpose. BLAS is column-major and sees a row-major matrix as its transpose, so it is asked for
C' = op(B)' op(A)'. A vector operand goes to `gemv`; a very small product to plain loops, since BLAS
takes longer to start than to compute it.

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
    small = m * n * k <= SMALL_PRODUCT
    words = [*addresses, a.slot, b.slot, c.slot, m, n, k, int(a.transposed), int(b.transposed)]
    words += [lda, ldb, ldc, real_bits(alpha), real_bits(beta), int(small), len(batch)]
    for axis in batch:
        words += [axis.size, axis.stride_a, axis.stride_b, axis.stride_c]
    return words


def gemm_source(code: str) -> str:
    """The source of the kernel for element type "f32" or "f64"."""
    return _SOURCE.replace("REAL", code)


_SOURCE = '''\
"""C = alpha * op(A) op(B) + beta * C for a batch of row-major matrices, by BLAS."""

from tracegrad.codegen.primitives import (
    REAL,
    advance,
    gemm,
    gemv,
    load,
    load_output,
    pointer_REAL,
    real,
    store,
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
    small = word(table, 15)
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
        if small == 0 and n != 1 and m != 1:
            gemm(
                gemm_address, transposed_b, transposed_a,
                n, m, k, alpha, b, ldb, a, lda, beta, c, ldc,
            )
            continue
        # What C starts from: beta = 0 means that its contents, which may be NaN, do not count.
        if beta == 0.0:
            for i in range(m):
                for j in range(n):
                    store(c, i * ldc + j, REAL(0.0))
        elif beta != 1.0:
            for i in range(m):
                for j in range(n):
                    store(c, i * ldc + j, REAL(beta) * load_output(c, i * ldc + j))
        if small == 0 and k > 0:
            if n == 1:
                step_b = 1 if transposed_b != 0 else ldb
                if transposed_a != 0:
                    gemv(gemv_address, 0, m, k, alpha, a, lda, b, step_b, 1.0, c, ldc)
                else:
                    gemv(gemv_address, 1, k, m, alpha, a, lda, b, step_b, 1.0, c, ldc)
            else:
                step_a = lda if transposed_a != 0 else 1
                if transposed_b != 0:
                    gemv(gemv_address, 1, k, n, alpha, b, ldb, a, step_a, 1.0, c, 1)
                else:
                    gemv(gemv_address, 0, n, k, alpha, b, ldb, a, step_a, 1.0, c, 1)
            continue
        row_a = 1 if transposed_a != 0 else lda
        column_a = lda if transposed_a != 0 else 1
        row_b = 1 if transposed_b != 0 else ldb
        column_b = ldb if transposed_b != 0 else 1
        for i in range(m):
            for j in range(n):
                total = REAL(0.0)
                for p in range(k):
                    total += load(a, i * row_a + p * column_a) * load(b, p * row_b + j * column_b)
                store(c, i * ldc + j, load_output(c, i * ldc + j) + REAL(alpha) * total)
'''
