"""Tiles of a matrix product: a few rows times a few columns, held in vector registers.

BLAS takes longer to start than a small product takes to compute. A tile adds up
`a[i, :] @ b[:, j]` for its rows and columns with one multiply-add for each vector of columns, so
the rows of `b` have to be contiguous; `a` may have any strides.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils
from numba.core import types as numba_types

from tracegrad.codegen.primitives.buffers import Pointer

# Numba's decorators and type constructors carry no usable types.
intrinsic: Any = extending.intrinsic
types: Any = numba_types

__all__ = [
    "tile_f32_1x16",
    "tile_f32_1x64",
    "tile_f32_1xless",
    "tile_f32_4x16",
    "tile_f32_4x64",
    "tile_f32_4xless",
    "tile_f64_1x32",
    "tile_f64_1x8",
    "tile_f64_1xless",
    "tile_f64_4x32",
    "tile_f64_4x8",
    "tile_f64_4xless",
]

_INDEX = ir.IntType(64)
_ALIGN = ir.IntType(32)
# Elements in the widest vector.
_WIDEST = {"f32": 16, "f64": 8}
_FLAGS = ("contract",)


class _Tile:
    """Emits one tile: the sum over the inner size, then the store.

    Where `count` is given, only so many lanes of the one vector are columns.
    """

    def __init__(self, builder: Any, code: str, rows: int, vectors: int, count: Any) -> None:
        self.builder = builder
        self.element = ir.FloatType() if code == "f32" else ir.DoubleType()
        self.code = code
        self.bytes = 4 if code == "f32" else 8
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
        builder.cbranch(builder.icmp_signed("<", following, inner), body, end)
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


def _tile(code: str, rows: int, vectors: int, masked: bool = False) -> Any:
    """Make `tile_<code>_<rows>x<columns>(a, row_a, column_a, b, ldb, c, ldc, k, alpha, adds, n)`.

    `n` is the number of columns where that is less than a vector has lanes.
    """
    integer, real = types.int64, types.float64

    def define(
        typing: Any,
        a: Any,
        row_a: Any,
        column_a: Any,
        b: Any,
        ldb: Any,
        c: Any,
        ldc: Any,
        k: Any,
        alpha: Any,
        adds: Any,
        n: Any,
    ) -> Any:
        if not all(isinstance(x, Pointer) and x.code == code for x in (a, b, c)):
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            count = arguments[10] if masked else None
            tile = _Tile(builder, code, rows, vectors, count)
            tile.emit(arguments[:7], *arguments[7:10])
            return context.get_dummy_value()

        taken = (a, integer, integer, b, integer, c, integer, integer, real, integer, integer)
        return types.void(*taken), generate

    columns = "less" if masked else str(vectors * _WIDEST[code])
    define.__name__ = f"tile_{code}_{rows}x{columns}"
    define.__doc__ = f"{rows} rows times some columns of a product of {code} matrices."
    return intrinsic(define)


tile_f32_4x64 = _tile("f32", 4, 4)
tile_f32_4x16 = _tile("f32", 4, 1)
tile_f32_4xless = _tile("f32", 4, 1, masked=True)
tile_f32_1x64 = _tile("f32", 1, 4)
tile_f32_1x16 = _tile("f32", 1, 1)
tile_f32_1xless = _tile("f32", 1, 1, masked=True)
tile_f64_4x32 = _tile("f64", 4, 4)
tile_f64_4x8 = _tile("f64", 4, 1)
tile_f64_4xless = _tile("f64", 4, 1, masked=True)
tile_f64_1x32 = _tile("f64", 1, 4)
tile_f64_1x8 = _tile("f64", 1, 1)
tile_f64_1xless = _tile("f64", 1, 1, masked=True)
