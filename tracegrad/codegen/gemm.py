"""Matrix multiplication: one kernel for each float type, around BLAS and tiles.

C = alpha * op(A) op(B) + beta * C for a batch of row-major matrices, where op is the matrix or its
transpose. BLAS is column-major and sees a row-major matrix as its transpose, so it is asked for
C' = op(B)' op(A)'. A vector operand goes to `gemv`; a small product is computed in tiles held in
vector registers, and a very small one by plain loops, since BLAS takes longer to start.

The kernel's extent is the number of strips in all products of the batch: so many rows of C, or
columns where C has more of these. Threads share the strips, and each calls BLAS for its own, while
BLAS's own threads are off: two pools of threads would wait for each other's processors. The
addresses of the BLAS routines are words of the table, supplied by `runtime`, so that cached machine
code holds none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from tracegrad.codegen.processor import cpu_name
from tracegrad.codegen.table import real_bits

# Products with at most this many multiplications are done by the plain loops: 14 ns instead of 60
# for 2 x 2, equal at about 5 x 5.
SMALL_PRODUCT = 64

# Products of at most so many multiplications, whose right operand has at most so many elements, are
# done in tiles: beyond, BLAS gains by packing its operands.
TILED_PRODUCT = 1 << 21
TILED_OPERAND = 1 << 16
# On these processors only the bytes of the right operand count, or of as many of its rows as are
# multiplied at once, which have to stay in the second cache: tiles do 115 of the 118 billion
# floating-point operations a second that a thread of Zen 4 is capable of in float32, and OpenBLAS,
# with its kernels for another processor, 95. On Intel's OpenBLAS has its own, and gains beyond a
# smaller size: with tiles up to here a recurrent network takes 0.69 of the time, attention 0.95.
TILED_BYTES = {"znver4": 1 << 20, "emeraldrapids": 1 << 18, "sapphirerapids": 1 << 18}
# So many products are added up in one go, as in BLAS: in one sum of thousands errors would grow.
TILED_ROWS = 512

# A strip has at least so many multiplications: less is not worth a thread. OpenBLAS starts its own
# threads from the same size on.
STRIP_PRODUCT = 1 << 18
# Its rows or columns are a multiple of these: BLAS computes a few rows slowly, and a whole tile of
# float32 is 64 columns wide.
_STRIP_ROWS = 16
_STRIP_COLUMNS = 64
# So many multiplications of a product of matrices cost as much as one element of a simple loop.
# With a vector each multiplication needs an element of its own.
_REUSE = 4

_BLAS, _LOOPS, _TILES = 0, 1, 2

_INT32_MAX = 2**31 - 1


class Matrix(NamedTuple):
    """A stored operand: buffer slot, whether it is used transposed, elements between its rows.

    `rows_apart` is the leading dimension of the matrix as stored. Elements of a row are adjacent.
    """

    slot: int
    transposed: bool = False
    rows_apart: int | None = None


class BatchAxis(NamedTuple):
    """One axis of the batch: its size and the elements from one A, B, C to the next (0: shared)."""

    size: int
    stride_a: int
    stride_b: int
    stride_c: int


@dataclass(frozen=True, slots=True)
class Strips:
    """How one product is cut: into `count` strips of `size` rows of C, or columns with
    `by_columns`; the last one may be smaller. `work`: the elements of a simple loop that cost as
    much as a strip.
    """

    by_columns: bool
    size: int
    count: int
    work: int


def strips_of(m: int, n: int, k: int) -> Strips:
    """The strips of a product of m x k with k x n."""
    by_columns = n > m
    whole, other = (n, m) if by_columns else (m, n)
    reuse = min(_REUSE, max(other, 1))
    each = max(other * k, 1)
    multiple = _STRIP_COLUMNS if by_columns else _STRIP_ROWS
    size = -(-STRIP_PRODUCT * reuse // (_REUSE * each * multiple)) * multiple
    size = max(min(size, whole), 1)
    return Strips(by_columns, size, -(-whole // size), size * each // reuse)


def gemm_extent(m: int, n: int, k: int, batch: Sequence[BatchAxis] = ()) -> int:
    """How many strips a launch has."""
    return strips_of(m, n, k).count * math.prod(axis.size for axis in batch)


def calls_blas(table: Sequence[int]) -> bool:
    """Whether a launch with this table calls BLAS."""
    return table[15] == _BLAS


def gemm_table(
    code: str,
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
    """The table of a launch on matrices of "f32" or "f64", whose extent is `gemm_extent`.

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
    way = _way(code, m, n, k, b.transposed, beta)
    words = [*addresses, a.slot, b.slot, c.slot, m, n, k, int(a.transposed), int(b.transposed)]
    strips = strips_of(m, n, k)
    words += [lda, ldb, ldc, real_bits(alpha), real_bits(beta), way]
    words += [int(strips.by_columns), strips.size, strips.count, len(batch)]
    for axis in batch:
        words += [axis.size, axis.stride_a, axis.stride_b, axis.stride_c]
    return words


def _way(code: str, m: int, n: int, k: int, transposed_b: bool, beta: float) -> int:
    """Whether a product goes to BLAS, to the plain loops, or to tiles."""
    if m * n * k <= SMALL_PRODUCT:
        return _LOOPS
    fits = m * n * k <= TILED_PRODUCT and n * k <= TILED_OPERAND
    at_once = n * min(k, TILED_ROWS) * (4 if code == "f32" else 8)
    fits = fits or at_once <= TILED_BYTES.get(cpu_name(), 0)
    return _TILES if fits and n > 1 and not transposed_b and beta in (0.0, 1.0) else _BLAS


@cache
def gemm_source(code: str) -> str:
    """The source of the kernel for element type "f32" or "f64"."""
    return _SOURCE.replace("REAL", code).replace("TILED_ROWS", str(TILED_ROWS))


_SOURCE = '''\
"""C = alpha * op(A) op(B) + beta * C for a batch of row-major matrices."""

from tracegrad.codegen.primitives import (
    advance,
    clear,
    gemm,
    gemv,
    min,
    plain_product,
    pointer_REAL,
    real,
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
    by_columns = word(table, 16)
    strip = word(table, 17)
    strips = word(table, 18)
    axes = word(table, 19)
    row_a = 1 if transposed_a else lda
    column_a = lda if transposed_a else 1
    row_b = 1 if transposed_b else ldb
    column_b = ldb if transposed_b else 1
    at = start
    while at < stop:
        # The strips of one product that lie side by side are one piece.
        item = at // strips
        first = at - item * strips
        last = min(strips, first + stop - at)
        at += last - first
        offset_a = 0
        offset_b = 0
        offset_c = 0
        rows = m
        columns = n
        if by_columns:
            low = first * strip
            columns = min(last * strip, n) - low
            offset_b = low * column_b
            offset_c = low
        else:
            low = first * strip
            rows = min(last * strip, m) - low
            offset_a = low * row_a
            offset_c = low * ldc
        rest = item
        for axis in range(axes - 1, -1, -1):
            words = table + 8 * (20 + 4 * axis)
            size = word(words, 0)
            position = rest % size
            rest = rest // size
            offset_a += position * word(words, 1)
            offset_b += position * word(words, 2)
            offset_c += position * word(words, 3)
        a = advance(first_a, offset_a)
        b = advance(first_b, offset_b)
        c = advance(first_c, offset_c)
        if way == 2:
            adds = 0 if beta == 0.0 else 1
            done = 0
            while done < k or done == 0:
                part = min(k - done, TILED_ROWS)
                left = advance(a, done * column_a)
                right = advance(b, done * ldb)
                tiled_product(
                    left, row_a, column_a, right, ldb, c, ldc, rows, columns, part, alpha, adds
                )
                adds = 1
                done += TILED_ROWS
            continue
        step_c = ldc if columns == 1 else 1
        # For gemv, what C starts from: beta = 0 means that its contents, which may be NaN, do not
        # count, and not every BLAS goes by that.
        # The plain loops, which are inlined, stand here once for both.
        if way == 0 and beta == 0.0 and step_c == 1 and (columns == 1 or rows == 1):
            clear(c, rows * columns)
        elif way == 1 or ((columns == 1 or rows == 1) and beta != 1.0):
            inner = k if way == 1 else 0
            plain_product(
                a, row_a, column_a, b, row_b, column_b, c, ldc, rows, columns, inner, alpha, beta
            )
            if way == 1:
                continue
        if columns != 1 and rows != 1:
            gemm(
                gemm_address, transposed_b, transposed_a,
                columns, rows, k, alpha, b, ldb, a, lda, beta, c, ldc,
            )
            continue
        if columns == 1:
            stored_rows = rows if transposed_a else k
            stored_columns = k if transposed_a else rows
            gemv(
                gemv_address, 1 - transposed_a, stored_rows, stored_columns,
                alpha, a, lda, b, row_b, 1.0, c, step_c,
            )
        else:
            stored_rows = k if transposed_b else columns
            stored_columns = columns if transposed_b else k
            gemv(
                gemv_address, transposed_b, stored_rows, stored_columns,
                alpha, b, ldb, a, column_a, 1.0, c, step_c,
            )
'''
