"""Steps with a template of their own on CUDA: products of matrices, scans, sorts, positions."""

from __future__ import annotations

import math

from tracegrad.codegen.affine import View
from tracegrad.codegen.cuda import BLOCK, HEADER, DeviceLaunch
from tracegrad.codegen.formula import REGISTER
from tracegrad.codegen.steps import Buffer, Call
from tracegrad.codegen.text import Slot
from tracegrad.ir.types import DType, int64

_SCANS = {"cumsum": ("+", 0), "cumprod": ("*", 1)}


class _Arguments:
    """The arguments of a kernel whose text is a template."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.types: list[str] = []
        self.words: list[Slot] = []

    def pointer(self, name: str, what: View | Buffer) -> None:
        """A pointer to a view's first element, or to a buffer's."""
        buffer = what.buffer if isinstance(what, View) else what
        self.names.append(name)
        self.types.append(f"*{buffer.dtype.short}")
        self.words.append(("view" if isinstance(what, View) else "buffer", what))

    def integers(self, **values: int) -> None:
        """Numbers by their names."""
        for name, value in values.items():
            self.names.append(name)
            self.types.append("i64")
            self.words.append(("int", value))

    def launch(self, body: str, rows: int, inner: int, along_rows: bool = False) -> DeviceLaunch:
        """The launch of a kernel of this body."""
        source = HEADER.format(", ".join(self.names)) + body
        return DeviceLaunch(source, tuple(self.types), self.words, rows, inner, along_rows)


def emit_call(call: Call) -> list[DeviceLaunch]:
    """The launches of a call, which run one after the other."""
    name = call.node.op.name
    if name == "matmul":
        return [_product(call)]
    if name == "nonzero":
        return [_positions(call)]
    return [_scan(call)] if name in _SCANS else _sort(call)


# ----------------------------------------------------------------------------- products of matrices

# Each block computes a square of the result from squares of the operands that its threads have
# brought to shared memory.
_PRODUCT = """\
    side = cuda.blockDim.x
    x = i64(cuda.threadIdx.x)
    y = i64(cuda.threadIdx.y)
    left = cuda.shared.array({block}, kind_{register})
    right = cuda.shared.array({block}, kind_{register})
    across = quotient_wide(n + side - 1, side)
    down = quotient_wide(m + side - 1, side)
    at = i64(cuda.blockIdx.x)
    while at < batch * across * down:
        column = remains_wide(at, across) * side + x
        rest = quotient_wide(at, across)
        row = remains_wide(rest, down) * side + y
        rest = quotient_wide(rest, down)
        of_a = i64(0)
        of_b = i64(0)
        of_c = i64(0)
{batch}\
        total = {register}(0)
        start = i64(0)
        while start < k:
            held = {register}(0)
            if row < m and start + x < k:
                held = read_{a}(a, of_a + row * a_rows + (start + x) * a_columns)
            left[y * side + x] = held
            held = {register}(0)
            if column < n and start + y < k:
                held = read_{b}(b, of_b + (start + y) * b_rows + column * b_columns)
            right[y * side + x] = held
            cuda.syncthreads()
            i = 0
            while i < side:
                total = {register}(total + left[y * side + i] * right[i * side + x])
                i += 1
            cuda.syncthreads()
            start += side
        if row < m and column < n:
            place = of_c + row * c_rows + column * c_columns
            {store}
        at += cuda.gridDim.x
"""

_BATCH_AXIS = """\
        of_a += remains_wide(rest, size{i}) * a_step{i}
        of_b += remains_wide(rest, size{i}) * b_step{i}
        of_c += remains_wide(rest, size{i}) * c_step{i}
        rest = quotient_wide(rest, size{i})
"""
# The side of a tile on a device.
SIDE = math.isqrt(BLOCK)


def _product(call: Call) -> DeviceLaunch:
    """A product of matrices."""
    a, b = call.operands
    target = call.target
    m, k = a.shape[-2:]
    n = b.shape[-1]
    lead = call.node.shape[:-2]
    batch = math.prod(lead)
    arguments = _Arguments()
    for name, view in (("a", a), ("b", b), ("c", target)):
        arguments.pointer(name, view)
    arguments.integers(m=m, n=n, k=k, batch=batch)
    for name, view in (("a", a), ("b", b), ("c", target)):
        rows, columns = view.strides[-2:]
        arguments.integers(**{f"{name}_rows": rows, f"{name}_columns": columns})
    text = ""
    axes = [axis for axis, size in enumerate(lead) if size != 1]
    for i, axis in enumerate(reversed(axes)):
        arguments.integers(**{f"size{i}": lead[axis]})
        for name, view in (("a", a), ("b", b), ("c", target)):
            own = axis - (len(lead) - (len(view.shape) - 2))
            step = 0 if own < 0 or view.shape[own] == 1 else view.strides[own]
            arguments.integers(**{f"{name}_step{i}": step})
        text += _BATCH_AXIS.format(i=i)
    code = call.node.dtype.short
    value = f"load_{code}(c, place) + total" if call.accumulate else "total"
    body = _PRODUCT.format(
        block=BLOCK,
        register=REGISTER[call.node.dtype.name],
        a=a.buffer.dtype.short,
        b=b.buffer.dtype.short,
        batch=text,
        store=f"store_{code}(c, place, {value})",
    )
    tiles = batch * -(-m // SIDE) * -(-n // SIDE)
    return arguments.launch(body, tiles * SIDE, -1)


# --------------------------------------------------------------------------- lines along one axis

# The parts of a lane take a piece of its line, each adds up what is before its own element in steps
# that double, and the last has what the next piece begins with.
_SCAN = """\
    lane = cuda.threadIdx.x
    lanes = cuda.blockDim.x
    part = cuda.threadIdx.y
    parts = cuda.blockDim.y
    held = cuda.shared.array({block}, kind_{register})
    first = cuda.blockIdx.x * lanes
    while first < lines:
        mine = first + lane < lines
        line = min(first + lane, lines - 1)
        base = quotient_wide(line, inner) * length * inner + remains_wide(line, inner)
        before = {register}({identity})
        start = i64(0)
        while start < length:
            i = start + part
            value = {register}({identity})
            if i < length:
                value = read_{source}(source, base + i * inner)
            held[part * lanes + lane] = value
            cuda.syncthreads()
            reach = 1
            while reach < parts:
                other = {register}({identity})
                if part >= reach:
                    other = held[(part - reach) * lanes + lane]
                cuda.syncthreads()
                value = {register}(other {operator} value)
                held[part * lanes + lane] = value
                cuda.syncthreads()
                reach *= 2
            if mine and i < length:
                store_{target}(target, base + i * inner, {register}(before {operator} value))
            before = {register}(before {operator} held[(parts - 1) * lanes + lane])
            cuda.syncthreads()
            start += parts
        first += cuda.gridDim.x * lanes
"""


def _lines(call: Call) -> tuple[int, int, int]:
    """How many lines there are along the axis of a call, their length, and the elements between
    those of one.
    """
    shape = call.node.inputs[0].shape
    axis = call.node.params["axis"]
    length = shape[axis] if shape else 1
    inner = math.prod(shape[axis + 1 :])
    return math.prod(shape[:axis]) * inner, length, inner


def _scan(call: Call) -> DeviceLaunch:
    """Sums or products of all elements up to each."""
    node = call.node
    operator, identity = _SCANS[node.op.name]
    lines, length, inner = _lines(call)
    arguments = _Arguments()
    arguments.pointer("source", call.operands[0])
    arguments.pointer("target", call.target)
    arguments.integers(lines=lines, length=length, inner=inner)
    body = _SCAN.format(
        block=BLOCK,
        register=REGISTER[node.dtype.name],
        identity=identity,
        operator=operator,
        source=node.inputs[0].dtype.short,
        target=node.dtype.short,
    )
    return arguments.launch(body, lines, length, along_rows=inner > 1)


# Sorted runs are merged in pairs: each element goes as far behind its own place in its run as the
# other run has elements before it. Of equal elements, those of the left run come first. NaN counts
# as the largest.
_MERGE = """\
    at = cuda.grid(1)
    while at < lines * length:
        line = quotient_wide(at, length)
        i = remains_wide(at, length)
        base = quotient_wide(line, inner) * length * inner + remains_wide(line, inner)
        value = read_{code}(source, base + i * inner)
        run = quotient_wide(i, width)
        left = run & 1 == 0
        low = min((run + 1) * width, length) if left else (run - 1) * width
        begin = low
        high = min(low + width, length)
        while low < high:
            middle = (low + high) // 2
            other = read_{code}(source, base + middle * inner)
            if left:
                earlier = {other_before}
            else:
                earlier = ({value_before}) == False
            if earlier:
                low = middle + 1
            else:
                high = middle
        pair = run // 2 * 2 * width
        place = base + (pair + i - run * width + low - begin) * inner
{stores}\
        at += cuda.gridsize(1)
"""


def _before(a: str, b: str, dtype: DType) -> str:
    """Whether `a` comes before `b` in ascending order, and is not equal."""
    if dtype.kind == "b":
        return f"({a} == False) & {b}"
    return f"({a} < {b}) | (({b} != {b}) & ({a} == {a}))" if dtype.kind == "f" else f"{a} < {b}"


def _sort(call: Call) -> list[DeviceLaunch]:
    """The elements of each line in order, or where they were, in passes of doubling runs."""
    node = call.node
    dtype = node.inputs[0].dtype
    lines, length, inner = _lines(call)
    descending = bool(node.params.get("descending", False))
    value_before = _before("value", "other", dtype)
    other_before = _before("other", "value", dtype)
    if descending:
        value_before, other_before = other_before, value_before
    passes = max((length - 1).bit_length(), 1)
    size = lines * length
    positions = node.op.name == "argsort"
    source: View | Buffer = call.operands[0]
    indices: View | Buffer | None = None
    launches = []
    for number in range(passes):
        last = number == passes - 1
        arguments = _Arguments()
        arguments.pointer("source", source)
        stores = ""
        if not (last and positions):
            target = call.target if last else Buffer("temporary", dtype, size)
            arguments.pointer("target", target)
            stores += f"        store_{dtype.short}(target, place, value)\n"
            source = target
        if positions:
            found = "i"
            if indices is not None:
                arguments.pointer("indices", indices)
                found = "read_i64(indices, base + i * inner)"
            indices = call.target if last else Buffer("temporary", int64, size)
            arguments.pointer("positions", indices)
            stores += f"        store_i64(positions, place, {found})\n"
        arguments.integers(lines=lines, length=length, inner=inner, width=1 << number)
        body = _MERGE.format(
            code=dtype.short, value_before=value_before, other_before=other_before, stores=stores
        )
        launches.append(arguments.launch(body, size, 0))
    return launches


# ---------------------------------------------------------------------------------------- positions

# One block goes through the flags, piece by piece.
_POSITIONS = """\
    part = cuda.threadIdx.y
    parts = cuda.blockDim.y
    held = cuda.shared.array({block}, kind_i64)
    found = i64(0)
    start = i64(0)
    while start < size:
        at = start + part
        flag = False
        if at < size:
            flag = read_b1(source, at)
        number = i64(1) if flag else i64(0)
        held[part] = number
        cuda.syncthreads()
        reach = 1
        while reach < parts:
            other = i64(0)
            if part >= reach:
                other = held[part - reach]
            cuda.syncthreads()
            number += other
            held[part] = number
            cuda.syncthreads()
            reach *= 2
        row = found + number - 1
        if flag and row < count:
            rest = at
{axes}\
        found += held[parts - 1]
        cuda.syncthreads()
        start += parts
    at = found * {ndim} + part
    while at < count * {ndim}:
        store_i64(target, at, i64(0))
        at += parts
"""


def _positions(call: Call) -> DeviceLaunch:
    """The positions of elements that are true, in order."""
    shape = call.node.inputs[0].shape
    arguments = _Arguments()
    arguments.pointer("source", call.operands[0])
    arguments.pointer("target", call.target)
    arguments.integers(size=math.prod(shape), count=call.node.shape[0])
    axes = ""
    for axis in reversed(range(len(shape))):
        arguments.integers(**{f"size{axis}": shape[axis]})
        place = f"row * {len(shape)} + {axis}"
        axes += f"            store_i64(target, {place}, remains_wide(rest, size{axis}))\n"
        axes += f"            rest = quotient_wide(rest, size{axis})\n"
    body = _POSITIONS.format(block=BLOCK, ndim=len(shape), axes=axes)
    return arguments.launch(body, 1, math.prod(shape))
