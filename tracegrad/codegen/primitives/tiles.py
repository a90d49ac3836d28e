"""Small matrix products without BLAS, which takes longer to start than they take to compute.

A tile is a few rows times a few columns, held in vector registers. It adds up `a[i, :] @ b[:, j]`
with one multiply-add for each vector of columns, so the rows of `b` have to be contiguous; `a` may
have any strides. The smallest products are plain loops over any strides.

The loops are emitted here and not written in the kernel, because every program with a product
compiles them, and Numba takes far longer to type a statement than LLVM to compile it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils
from numba.core import types as numba_types

from tracegrad.codegen.primitives.buffers import Pointer
from tracegrad.codegen.primitives.interleaving import keep_loop

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic
types: Any = numba_types

__all__ = ["plain_product", "tiled_product"]

_INDEX = ir.IntType(64)
_ALIGN = ir.IntType(32)
_ELEMENT = {"f32": ir.FloatType(), "f64": ir.DoubleType()}
_BYTES = {"f32": 4, "f64": 8}
# Elements in the widest vector.
_WIDEST = {"f32": 16, "f64": 8}
# The rows of a tile, and the vectors of columns of a wide one: their sums fill half the registers.
_ROWS = 4
_GROUP = 4
_FLAGS = ("contract",)


class _Tile:
    """Emits one tile: the sum over the inner size, then the store.

    Where `count` is given, only so many lanes of the one vector are columns.
    """

    def __init__(self, builder: Any, code: str, rows: int, vectors: int, count: Any) -> None:
        self.builder = builder
        self.element = _ELEMENT[code]
        self.code = code
        self.bytes = _BYTES[code]
        self.width = _WIDEST[code]
        self.vector = ir.VectorType(self.element, self.width)
        self.zero = ir.Constant(self.vector, [0.0] * self.width)
        self.rows = range(rows)
        self.vectors = range(vectors)
        self.mask = None if count is None else self.lanes_below(count)

    def lanes_below(self, count: Any) -> Any:
        """A mask of the first `count` lanes."""
        numbers = ir.Constant(ir.VectorType(_INDEX, self.width), list(range(self.width)))
        return self.builder.icmp_signed("<", numbers, self.spread(count, _INDEX))

    def spread(self, value: Any, kind: Any) -> Any:
        """A vector with `value` in each lane."""
        vector = ir.VectorType(kind, self.width)
        first = ir.Constant(ir.IntType(32), 0)
        one = self.builder.insert_element(ir.Constant(vector, ir.Undefined), value, first)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.width), None)
        return self.builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)

    def address(self, pointer: Any, index: Any, kind: Any) -> Any:
        typed = self.builder.bitcast(pointer, self.element.as_pointer())
        return self.builder.bitcast(self.builder.gep(typed, [index]), kind.as_pointer())

    def load(self, place: Any) -> Any:
        """The vector at an address."""
        if self.mask is None:
            return self.builder.load(place, align=self.bytes)
        kind = ir.FunctionType(self.vector, [place.type, _ALIGN, self.mask.type, self.vector])
        function = self.masked("load", kind)
        align = ir.Constant(_ALIGN, self.bytes)
        return self.builder.call(function, [place, align, self.mask, self.zero])

    def store(self, value: Any, place: Any) -> None:
        """Put a vector at an address."""
        if self.mask is None:
            self.builder.store(value, place, align=self.bytes)
            return
        taken = [self.vector, place.type, _ALIGN, self.mask.type]
        function = self.masked("store", ir.FunctionType(ir.VoidType(), taken))
        align = ir.Constant(_ALIGN, self.bytes)
        self.builder.call(function, [value, place, align, self.mask])

    def masked(self, what: str, kind: Any) -> Any:
        name = f"llvm.masked.{what}.v{self.width}{self.code}.p0"
        return cgutils.get_or_insert_function(self.builder.module, kind, name)  # type: ignore[no-untyped-call]

    def emit(self, operands: Any, inner: Any, alpha: Any, adds: Any) -> None:
        """Emit the loop over the inner size and the stores."""
        builder, number = self.builder, ir.Constant
        a, row_a, column_a, b, ldb, c, ldc = operands
        entry = builder.block
        body = builder.append_basic_block("tile.body")
        end = builder.append_basic_block("tile.end")
        builder.cbranch(builder.icmp_signed(">", inner, number(_INDEX, 0)), body, end)
        builder.position_at_end(body)
        p = builder.phi(_INDEX)
        sums = [[builder.phi(self.vector) for _ in self.vectors] for _ in self.rows]
        row_of_b = builder.mul(p, ldb)
        starts = [builder.add(row_of_b, number(_INDEX, v * self.width)) for v in self.vectors]
        right = [self.load(self.address(b, start, self.vector)) for start in starts]
        column = builder.mul(p, column_a)
        totals: list[list[Any]] = []
        for i, row in zip(self.rows, sums, strict=True):
            at = builder.add(builder.mul(number(_INDEX, i), row_a), column)
            value = builder.load(self.address(a, at, self.element), align=self.bytes)
            left = self.spread(value, self.element)
            products = [builder.fmul(left, x, flags=_FLAGS) for x in right]
            pairs = zip(row, products, strict=True)
            totals.append([builder.fadd(x, y, flags=_FLAGS) for x, y in pairs])
        following = builder.add(p, number(_INDEX, 1))
        p.add_incoming(number(_INDEX, 0), entry)
        p.add_incoming(following, body)
        back = builder.cbranch(builder.icmp_signed("<", following, inner), body, end)
        keep_loop(back)
        builder.position_at_end(end)
        for old_row, new_row in zip(sums, totals, strict=True):
            for v, (old, new) in enumerate(zip(old_row, new_row, strict=True)):
                total = builder.phi(self.vector)
                for phi in (old, total):
                    phi.add_incoming(self.zero, entry)
                    phi.add_incoming(new, body)
                new_row[v] = total
        self.finish(c, ldc, totals, alpha, adds)

    def finish(self, c: Any, ldc: Any, totals: Any, alpha: Any, adds: Any) -> None:
        """Store `alpha * totals`, or add it to what is there."""
        builder = self.builder
        scale = builder.fptrunc(alpha, self.element) if self.bytes == 4 else alpha
        factor = self.spread(scale, self.element)
        kept = builder.icmp_signed("!=", adds, ir.Constant(_INDEX, 0))
        places, values = [], []
        for i, row in enumerate(totals):
            start = builder.mul(ir.Constant(_INDEX, i), ldc)
            for v, total in enumerate(row):
                at = builder.add(start, ir.Constant(_INDEX, v * self.width))
                places.append(self.address(c, at, self.vector))
                values.append(builder.fmul(total, factor))
        with builder.if_else(kept) as (then, otherwise):
            with then:
                for value, place in zip(values, places, strict=True):
                    self.store(builder.fadd(self.load(place), value), place)
            with otherwise:
                for value, place in zip(values, places, strict=True):
                    self.store(value, place)


@contextmanager
def _walk(builder: Any, start: Any, stop: Any, step: int) -> Iterator[Any]:
    """A loop; the context gives its index."""
    entry = builder.block
    head, body, end = (builder.append_basic_block(f"walk.{x}") for x in ("head", "body", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_INDEX)
    builder.cbranch(builder.icmp_signed("<", index, stop), body, end)
    builder.position_at_end(body)
    yield index
    index.add_incoming(start, entry)
    index.add_incoming(builder.add(index, ir.Constant(_INDEX, step)), builder.block)
    keep_loop(builder.branch(head))
    builder.position_at_end(end)


def _emit_tiles(builder: Any, code: str, arguments: Any) -> None:
    """Tiles of four rows, then of one, each over whole groups of vectors, vectors, and the rest."""
    a, row_a, column_a, b, ldb, c, ldc, m, n, k, alpha, adds = arguments
    width = _WIDEST[code]
    zero = ir.Constant(_INDEX, 0)

    def below(size: Any, multiple: int) -> Any:
        return builder.and_(size, ir.Constant(_INDEX, -multiple))

    def moved(pointer: Any, elements: Any) -> Any:
        typed = builder.bitcast(pointer, _ELEMENT[code].as_pointer())
        return builder.bitcast(builder.gep(typed, [elements]), pointer.type)

    def tile(rows: int, vectors: int, i: Any, j: Any, count: Any = None) -> None:
        place = moved(c, builder.add(builder.mul(i, ldc), j))
        row = moved(a, builder.mul(i, row_a))
        emitted = _Tile(builder, code, rows, vectors, count)
        emitted.emit((row, row_a, column_a, moved(b, j), ldb, place, ldc), k, alpha, adds)

    grouped, whole = below(n, _GROUP * width), below(n, width)
    by_four = below(m, _ROWS)
    for rows, start, stop in ((_ROWS, zero, by_four), (1, by_four, m)):
        with _walk(builder, start, stop, rows) as i:
            with _walk(builder, zero, grouped, _GROUP * width) as j:
                tile(rows, _GROUP, i, j)
            with _walk(builder, grouped, whole, width) as j:
                tile(rows, 1, i, j)
            with builder.if_then(builder.icmp_signed("<", whole, n)):
                tile(rows, 1, i, whole, builder.sub(n, whole))


@intrinsic
def tiled_product(
    typing: Any,
    a: Any,
    row_a: Any,
    column_a: Any,
    b: Any,
    ldb: Any,
    c: Any,
    ldc: Any,
    m: Any,
    n: Any,
    k: Any,
    alpha: Any,
    adds: Any,
) -> Any:
    """C = alpha * A B, or C += alpha * A B, in tiles.

    `row_a` and `column_a` are the elements from one row or column of A to the next; the rows of B
    and C are contiguous, `ldb` and `ldc` apart.
    """
    if not all(isinstance(x, Pointer) and x.code in _WIDEST for x in (a, b, c)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit_tiles(builder, a.code, arguments)
        return context.get_dummy_value()

    whole = types.int64
    strides = (a, whole, whole, b, whole, c, whole)
    return types.void(*strides, whole, whole, whole, types.float64, whole), generate


@intrinsic
def plain_product(
    typing: Any,
    a: Any,
    row_a: Any,
    column_a: Any,
    b: Any,
    row_b: Any,
    column_b: Any,
    c: Any,
    ldc: Any,
    m: Any,
    n: Any,
    k: Any,
    alpha: Any,
    beta: Any,
) -> Any:
    """C = alpha * A B + beta * C by plain loops; what C holds does not count if beta is 0."""
    if not all(isinstance(x, Pointer) and x.code in _WIDEST for x in (a, b, c)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit_loops(builder, a.code, arguments)
        return context.get_dummy_value()

    whole, real = types.int64, types.float64
    strides = (a, whole, whole, b, whole, whole, c, whole)
    return types.void(*strides, whole, whole, whole, real, real), generate


def _emit_loops(builder: Any, code: str, arguments: Any) -> None:
    """The three loops. Nothing in them is worth a vector: that would only make the code large."""
    a, row_a, column_a, b, row_b, column_b, c, ldc, m, n, k, alpha, beta = arguments
    element, size = _ELEMENT[code], _BYTES[code]
    zero, nothing = ir.Constant(_INDEX, 0), ir.Constant(element, 0.0)
    if code == "f32":
        alpha, beta = builder.fptrunc(alpha, element), builder.fptrunc(beta, element)

    def place(pointer: Any, i: Any, row: Any, j: Any, column: Any) -> Any:
        typed = builder.bitcast(pointer, element.as_pointer())
        return builder.gep(typed, [builder.add(builder.mul(i, row), builder.mul(j, column))])

    starts_anew = builder.fcmp_ordered("==", beta, nothing)
    total = cgutils.alloca_once(builder, element)  # type: ignore[no-untyped-call]
    with _walk(builder, zero, m, 1) as i, _walk(builder, zero, n, 1) as j:
        builder.store(nothing, total)
        with _walk(builder, zero, k, 1) as p:
            left = builder.load(place(a, i, row_a, p, column_a), align=size)
            right = builder.load(place(b, p, row_b, j, column_b), align=size)
            product = builder.fmul(left, right, flags=_FLAGS)
            builder.store(builder.fadd(builder.load(total), product, flags=_FLAGS), total)
        target = place(c, i, ldc, j, ir.Constant(_INDEX, 1))
        result = builder.fmul(alpha, builder.load(total))
        kept = builder.fmul(beta, builder.load(target, align=size))
        value = builder.select(starts_anew, result, builder.fadd(result, kept))
        builder.store(value, target, align=size)
