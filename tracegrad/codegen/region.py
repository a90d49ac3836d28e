"""Control flow as one native function: loops and branches as Numba source, kernels printed in line.

What is too large for that, or has a routine of its own such as a matrix product, stays a kernel of
its own, which the function calls by address.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

from tracegrad.codegen.affine import View
from tracegrad.codegen.blocks import exchanged, loops_within
from tracegrad.codegen.cpu import KernelPrinter
from tracegrad.codegen.inlining import inlined
from tracegrad.codegen.lowering import lower
from tracegrad.codegen.steps import (
    Block,
    Branch,
    Buffer,
    Call,
    Depth,
    Frames,
    Kernel,
    Loop,
    Region,
    Row,
    Step,
)
from tracegrad.codegen.text import Launch, Slot, Text

LaunchOf = Callable[[Step, Block], Launch]

# Words of a called step before its own table.
_DESCRIPTION = 5
# Frames that a stack of unknown length begins with.
_FRAMES = 16
# Bytes before the first frame; the first word is the number of frames.
_HEADER = 64
# The word of an arena that holds the address of its stack.
_ROOT = 4
# Initials of variables, apart from those of words of the table.
_HINTS = {"register": "x", "row": "q", "stack": "z"}
_UNWRITTEN = frozenset({"input", "constant"})


def emit_region(region: Region, launch_of: LaunchOf, grain: int) -> Launch:
    """The source and words of a region. `launch_of` gives the launches of steps that are called;
    `grain` is the least work of one thread there.
    """
    return _RegionPrinter(region, launch_of, grain).run()


class _RegionText(Text):
    """The function's text: registers are variables, and addresses may move."""

    def __init__(self, slots: set[Buffer]) -> None:
        super().__init__(set())
        self.slots = slots
        self.names: dict[Buffer, str] = {}
        self.read_only: set[Buffer] = set()
        self.sizes: dict[Hashable, str] = {}
        self.cells: dict[Buffer, Buffer] = {}

    def name(self, buffer: Buffer) -> str:
        """The variable of a register, a stack, or the address of a buffer."""
        if buffer.kind in _HINTS:
            if buffer not in self.names:
                self.names[buffer] = f"{_HINTS[buffer.kind]}{len(self.names)}"
                if buffer.kind == "stack":
                    self.head.append(f"{self.names[buffer]} = 0")
                elif buffer in self.slots:
                    self.head.append(f"{self.names[buffer]} = slot_{buffer.dtype.short}()")
            return self.names[buffer]
        return self.pointer(buffer)

    def pointer(self, buffer: Buffer) -> str:
        if buffer.kind == "row":
            return self.name(buffer)
        name = self.pointers.get(buffer)
        if name is None:
            position = self.word("buffer", buffer)
            name = self.pointers[buffer] = f"p{position}"
            short = buffer.dtype.short
            self.head.append(f"{name} = pointer_{short}(pointers, word(table, {position}))")
        return name

    def size(self, value: int, hint: str, of: Hashable) -> str:
        key = hint, of
        if key not in self.sizes:
            self.sizes[key] = self.integer(value, hint)
        return self.sizes[key]

    def register(self, buffer: Buffer) -> str | None:
        if buffer.kind != "register":
            return None
        name = self.name(buffer)
        return f"load_output({name}, 0)" if buffer in self.slots else name

    def value(self, buffer: Buffer) -> str:
        """What a register or a stack holds, or the address of a buffer."""
        return self.register(buffer) or self.name(buffer)

    def assign(self, buffer: Buffer, value: str) -> str | None:
        if buffer.kind != "register":
            return None
        name = self.name(buffer)
        if buffer in self.slots:
            return f"store({name}, 0, {buffer.dtype.short}({value}))"
        return f"{name} = {value}"

    def is_written(self, buffer: Buffer) -> bool:
        return buffer.kind not in _UNWRITTEN and buffer not in self.read_only

    def cell(self, register: Buffer) -> str:
        """The address of memory where a called kernel finds or leaves a register's value."""
        if register not in self.cells:
            self.cells[register] = Buffer("temporary", register.dtype, 1)
        return self.pointer(self.cells[register])

    def arena(self, buffer: Buffer) -> str:
        """The address of an arena."""
        name = self.pointers.get(buffer)
        if name is None:
            position = self.word("buffer", buffer)
            name = self.pointers[buffer] = f"h{position}"
            self.head.append(f"{name} = word(pointers, word(table, {position}))")
        return name


def assigned_again(step: Step) -> set[Buffer]:
    """The registers that get a value in more than one place.

    They are slots of memory, which LLVM turns into registers quickly, while Numba's own analysis of
    variables takes time that grows with their number times the size of the function.
    """
    found = {target for target, _ in exchanged(step) if target.kind == "register"}
    for loop in loops_within(step):
        found.add(loop.done)
    return found


def results_of(step: Kernel | Call) -> set[Buffer]:
    """The buffers that a step writes."""
    if isinstance(step, Call):
        return {step.target.buffer}
    return {root.target.buffer for root in step.roots if not root.private}


class _RegionPrinter:
    def __init__(self, region: Region, launch_of: LaunchOf, grain: int) -> None:
        self.region = region
        self.launch_of = launch_of
        self.grain = grain
        self.text = _RegionText(assigned_again(region.step))
        self.kernels = 0
        self.temporaries = 0
        self.threads = False

    def run(self) -> Launch:
        text, region = self.text, self.region
        for home in region.homes:
            if home.fill is not None:
                self.kernel(home.fill, region.exit, 0)
            text.line(0, f"{text.name(home.variable)} = {text.pointer(home.start)}")
        for stack, handle, is_read in region.stacks:
            arena = text.arena(handle)
            if is_read:
                text.line(0, f"{text.name(stack)} = read_word({arena}, {_ROOT})")
            else:
                text.line(0, f"arena_reset({arena})")
        reset = len(text.body)
        self.step(region.step, region.exit, 0)
        if region.scratch in text.pointers:
            text.body.insert(reset, f"arena_reset({text.arena(region.scratch)})")
        for home in region.homes:
            if home.settle is not None and 0 not in home.settle.domain:
                moved, there = text.name(home.variable), text.pointer(home.end)
                text.line(0, f"if address_of({moved}) != address_of({there}):")
                self.kernel(home.settle, region.exit, 1)
        self.block(region.exit, 0)
        for stack, handle, is_read in region.stacks:
            if not is_read:
                text.line(0, f"store_word({text.arena(handle)}, {_ROOT}, {text.name(stack)})")
        text.body = inlined(text.head, text.body)
        return Launch(text.source, text.words, 1, 1, self.threads)

    # ------------------------------------------------------------------ steps

    def block(self, block: Block, depth: int) -> None:
        """The steps of a block, and the exchange at its end."""
        self.text.line(depth, "pass")
        for step in block.steps:
            self.step(step, block, depth)
        self.exchange(block, depth)

    def exchange(self, block: Block, depth: int) -> None:
        targets = {target for target, _ in block.exchange}
        held = []
        for target, source in block.exchange:
            value = self.text.value(source)
            # A variable that is overwritten before it is read is kept aside.
            if source in targets:
                self.temporaries += 1
                kept = f"t{self.temporaries}"
                self.text.line(depth, f"{kept} = {value}")
                value = kept
            held.append((target, value))
        for target, value in held:
            assignment = self.text.assign(target, value)
            self.text.line(depth, assignment or f"{self.text.name(target)} = {value}")

    def step(self, step: Step, block: Block, depth: int) -> None:
        if isinstance(step, Kernel):
            if math.prod(step.domain) >= 2 * self.grain:
                self.call(step, block, depth)
            else:
                self.kernel(step, block, depth)
        elif isinstance(step, Loop):
            self.loop(step, depth)
        elif isinstance(step, Branch):
            self.branch(step, depth)
        elif isinstance(step, Depth):
            self.text.line(
                depth, self.set(step.register, f"depth_of({self.text.name(step.stack)})")
            )
        else:
            assert isinstance(step, Call)
            self.call(step, block, depth)

    def kernel(self, kernel: Kernel, block: Block, depth: int) -> None:
        if not kernel.roots or (0 in kernel.domain and kernel.axes is None):
            return
        self.kernels += 1
        prefix = f"k{self.kernels}"
        lowered = lower(kernel, block.places, block.known, prefix, block.apart, inline=True)
        KernelPrinter(lowered, self.text, depth, inline=True, prefix=prefix).print()

    def call(self, step: Kernel | Call, block: Block, depth: int) -> None:
        """Call a step that is a kernel of its own; it finds addresses that may move in slots, and
        registers in memory.
        """
        text = self.text
        launch = self.launch_of(step, block)
        grain = launch.grain(self.grain)
        self.threads |= launch.extent // grain > 1
        at = text.word("kernel", launch.source)
        text.word("int", at + _DESCRIPTION)
        text.word("int", launch.extent)
        text.word("int", -grain if launch.blas else grain)
        text.word("control", None)
        # The called kernel's own table, in one piece.
        words: list[Slot] = []
        moving: list[tuple[int, View | Buffer]] = []
        for position, (kind, x) in enumerate(launch.words):
            buffer = x.buffer if kind == "view" else x
            if kind in ("buffer", "view") and buffer.kind not in _UNWRITTEN:
                moving.append((at + _DESCRIPTION + position, x))
                words.append(("slot", None))
            else:
                words.append((kind, x))
        text.words += words
        made = results_of(step)
        for position, x in moving:
            buffer = x.buffer if isinstance(x, View) else x
            shift = ""
            if isinstance(x, View) and x.offset:
                shift = f" + {text.integer(x.offset * buffer.dtype.itemsize, 'o')}"
            pointer = text.cell(buffer) if buffer.kind == "register" else text.pointer(buffer)
            if buffer.kind == "register" and buffer not in made:
                text.line(depth, f"store({pointer}, 0, {text.value(buffer)})")
            slot = f"word(table, {position})"
            text.line(depth, f"store_word(pointers, {slot}, address_of({pointer}){shift})")
        text.line(depth, f"run_step(pointers, table, {at})")
        for buffer in made:
            if buffer.kind == "register":
                text.line(depth, self.set(buffer, f"load_output({text.cell(buffer)}, 0)"))

    # ------------------------------------------------------------------ loops

    def set(self, register: Buffer, value: str) -> str:
        """The statement that sets a register."""
        statement = self.text.assign(register, value)
        assert statement is not None
        return statement

    def loop(self, loop: Loop, depth: int) -> None:
        text = self.text
        self.block(loop.entry, depth)
        limit, go = text.value(loop.limit), text.value(loop.go)
        done, at = text.value(loop.done), text.value(loop.at)
        text.line(depth, self.set(loop.done, "0"))
        capacities = [self.open_stack(loop, frames, depth) for frames in loop.saved]
        condition = f"{done} < {limit}" if loop.bounded else f"{go} and {done} < {limit}"
        text.line(depth, f"while {condition}:")
        inside = depth + 1
        position = f"{limit} - 1 - {done}" if loop.reverse else done
        text.line(inside, self.set(loop.at, position))
        for row in loop.rows:
            self.row(row, at, inside)
        for frames in loop.read:
            self.frame(frames, at, inside, reads=True)
        for frames, capacity in zip(loop.saved, capacities, strict=True):
            if capacity is not None:
                self.grow(frames, capacity, at, inside)
            self.frame(frames, at, inside, reads=False)
        arena = ""
        if loop.scratch is not None:
            arena = text.arena(loop.scratch)
            self.temporaries += 1
            chunk, taken = f"t{self.temporaries}c", f"t{self.temporaries}n"
            text.line(inside, f"{chunk} = read_word({arena}, 0)")
            text.line(inside, f"{taken} = read_word({arena}, 1)")
        for step in loop.body.steps:
            self.step(step, loop.body, inside)
        for frames in loop.saved:
            for buffer, offset in frames.slots:
                if buffer.kind == "stack":
                    stack, place = self.slot(frames, at, offset)
                    text.line(inside, f"store_word({stack} + {place}, 0, {text.name(buffer)})")
        if arena:
            text.line(inside, f"arena_release({arena}, {chunk}, {taken})")
        self.exchange(loop.body, inside)
        text.line(inside, self.set(loop.done, f"{done} + 1"))
        for frames in loop.saved:
            held = f"max({limit}, 0)" if loop.reverse else done
            text.line(depth, f"store_word({text.name(frames.stack)}, 0, {held})")

    def row(self, row: Row, at: str, depth: int) -> None:
        """Set the address of a row."""
        text = self.text
        if not text.is_written(row.whole.buffer):
            text.read_only.add(row.buffer)
        offset = f"{at} * {text.integer(row.whole.strides[0], 's')}"
        if row.whole.offset:
            offset += f" + {text.integer(row.whole.offset, 'o')}"
        whole = text.pointer(row.whole.buffer)
        text.line(depth, f"{text.name(row.buffer)} = advance({whole}, {offset})")

    def open_stack(self, loop: Loop, frames: Frames, depth: int) -> str | None:
        """Take memory for a stack; the variable of its capacity where that may have to grow."""
        text = self.text
        assert frames.arena is not None
        arena, stack = text.arena(frames.arena), text.name(frames.stack)
        size = self.part(frames, frames.size, "n")
        limit = text.value(loop.limit)
        if loop.bounded or loop.reverse:
            taken = f"{_HEADER} + max({limit}, 0) * {size}"
            text.line(depth, f"{stack} = arena_allocate({arena}, {taken})")
            return None
        self.temporaries += 1
        capacity = f"t{self.temporaries}"
        text.line(depth, f"{capacity} = min({limit}, {_FRAMES})")
        taken = f"{_HEADER} + max({capacity}, 0) * {size}"
        text.line(depth, f"{stack} = arena_allocate({arena}, {taken})")
        return capacity

    def grow(self, frames: Frames, capacity: str, at: str, depth: int) -> None:
        """Make room for one more frame."""
        text = self.text
        assert frames.arena is not None
        arena, stack = text.arena(frames.arena), text.name(frames.stack)
        size = self.part(frames, frames.size, "n")
        text.line(depth, f"if {at} >= {capacity}:")
        held, wanted = (f"{_HEADER} + {n} * {size}" for n in (capacity, f"2 * {capacity}"))
        text.line(depth + 1, f"{stack} = arena_grow({arena}, {stack}, {held}, {wanted})")
        text.line(depth + 1, f"{capacity} = 2 * {capacity}")

    def slot(self, frames: Frames, at: str, offset: int) -> tuple[str, str]:
        """The address of a stack, and where a slot of the frame at a position is from there."""
        size = self.part(frames, frames.size, "n")
        place = f"{_HEADER} + {at} * {size}"
        if offset:
            place += f" + {self.part(frames, offset, 'o')}"
        return self.text.name(frames.stack), place

    def part(self, frames: Frames, value: int, hint: str) -> str:
        """A number of bytes of a frame. Where frames hold no arrays it is part of the structure,
        and LLVM sees that frame follows frame.
        """
        arrays = any(buffer.size > 1 for buffer, _ in frames.slots)
        return self.text.integer(value, hint) if arrays else str(value)

    def frame(self, frames: Frames, at: str, depth: int, reads: bool) -> None:
        """Set the addresses of what is in a frame."""
        text = self.text
        for buffer, offset in frames.slots:
            stack, place = self.slot(frames, at, offset)
            if buffer.kind == "stack":
                if reads:
                    text.line(depth, f"{text.name(buffer)} = read_word({stack} + {place}, 0)")
            else:
                pointer = f"at_{buffer.dtype.short}({stack}, {place})"
                text.line(depth, f"{text.name(buffer)} = {pointer}")

    # --------------------------------------------------------------- branches

    def branch(self, branch: Branch, depth: int) -> None:
        self.block(branch.entry, depth)
        index = self.text.value(branch.index)
        last = len(branch.blocks) - 1
        for i, block in enumerate(branch.blocks):
            inside = depth + 1
            if last == 0:
                inside = depth
            elif i == 0:
                self.text.line(depth, f"if {index} <= 0:")
            elif i == last:
                self.text.line(depth, "else:")
            else:
                self.text.line(depth, f"elif {index} == {i}:")
            self.block(block, inside)
