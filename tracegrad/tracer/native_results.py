"""What a known call returns, as steps for native code: tensors, containers, a node on the tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from tracegrad.runtime import entry as native
from tracegrad.runtime.entry import Block, Entry, Wrapper, slot_offset
from tracegrad.runtime.executor import Executable
from tracegrad.runtime.random import default_generator
from tracegrad.tracer import tape
from tracegrad.tracer.call_backward import CompiledFunctionBackward, saving_now
from tracegrad.tracer.location import user_place
from tracegrad.tracer.recording import Ref
from tracegrad.tracer.storage import Storage
from tracegrad.tracer.structure import Description, Leaf, Static
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.tree import Path, Tree, is_simple

Array = np.ndarray[Any, Any]
Steps = list[tuple[int, Any]]

_TENSOR = ("_array", "_storage", "_base", "_alias", "_grad_fn", "_requires_grad", "_output_nr")
_NODE = (
    "output_types",
    "sequence",
    "hooks",
    "prehooks",
    "tensor_hooks",
    "retained",
    "tree",
    "path",
    "saving",
    "inputs",
    "_ends",
    "_edges",
    "saved",
    "versions",
)


@cache
def wrapper() -> Wrapper:
    """How native code knows a tensor."""
    names = ("_array", "_storage", "_base", "_alias", "_grad_fn", "_requires_grad")
    return Wrapper(Tensor, *(slot_offset(Tensor, name) for name in names))


class _Stack:
    """Steps, and how many things are on the stack after them."""

    def __init__(self) -> None:
        self.steps: Steps = []
        self.height = 0

    def push(self, step: int, value: Any) -> int:
        """One thing more; where it is."""
        self.steps.append((step, value))
        self.height += 1
        return self.height - 1

    def objects(self, *values: Any) -> None:
        """Objects that stay."""
        for value in values:
            self.push(native.OBJECT, value)

    def gather(self, step: int, start: int) -> int:
        """All from `start` on becomes one thing."""
        self.steps.append((step, start))
        self.height = start + 1
        return start

    def record(self, kind: type, slots: Sequence[str]) -> int:
        """An object of what is last on the stack."""
        self.steps.append((native.RECORD, (kind, slots)))
        self.height -= len(slots) - 1
        return self.height - 1

    def attribute(self, name: str) -> None:
        """An attribute of the last thing instead of it."""
        self.steps.append((native.ATTRIBUTE, name))

    def set(self, name: str) -> None:
        """The last thing becomes an attribute of the one before."""
        self.steps.append((native.SET, name))
        self.height -= 1

    def pop(self) -> None:
        """The last thing goes."""
        self.steps.append((native.POP, 0))
        self.height -= 1

    def tensor(
        self, ref: Ref, storage: int | None = None, node: int | None = None, nr: int = 0
    ) -> None:
        """A tensor around a value, on the tape if there is a node."""
        self.push(native.VALUE, ref)
        if storage is None:
            self.push(native.CALL, Storage)
        else:
            self.push(native.COPY, storage)
        self.objects(None, None)
        if node is None:
            self.objects(None, False)
        else:
            self.push(native.COPY, node)
            self.objects(True)
        self.objects(nr)
        self.record(Tensor, _TENSOR)

    def structure(self, item: Description, tensors: Sequence[Callable[[], None]]) -> bool:
        """The containers around tensors; whether native code can make them."""
        left = iter(tensors)

        def add(item: Description) -> bool:
            if isinstance(item, Leaf):
                next(left)()
                return True
            if isinstance(item, Static):
                self.objects(None)
                return item.value is None
            if item.type not in (tuple, list):
                return False
            start = self.height
            fits = all(add(inside) for inside in item.items)
            self.gather(native.LIST if item.type is list else native.TUPLE, start)
            return fits

        # A bare None would be no answer.
        return not isinstance(item, Static) and add(item)


def add_result(
    block: Block, tree: Tree, path: Path, at: Callable[[Ref], Ref], registers: Sequence[int]
) -> None:
    """Say how the result of a path that ends with a block is put together, and what the call
    changes; nothing where Python has to do it.

    `at` says where a value is by its reference, `registers` where the inputs are.
    """
    stack = _Stack()
    if not path.differentiable:
        fits = _effects(stack, tree, path, at, registers)
        made = _results(stack, path, at, registers) if fits else None
        if made is None:
            return
    elif path.has_more:
        return
    else:
        results = saving_now(tree, path).results
        assert results is not None
        storages = [
            stack.push(native.CALL, Storage) if watched else None for *_, watched in results
        ]
        node = _node(stack, tree, path, at, registers, storages)
        made = [
            partial(stack.tensor, at(ref), storage, node if number >= 0 else None, max(number, 0))
            for (ref, number, _), storage in zip(results, storages, strict=True)
        ]
    if not stack.structure(path.end.structure, made):
        return
    if stack.height > 1:
        stack.gather(native.LAST, 0)
    block.result = stack.steps
    if path.differentiable:
        block.leaves = [registers[i] for i in path.differentiable_inputs]
    block.written = [(-1, write.input) for write in path.end.writes]


def _results(
    stack: _Stack, path: Path, at: Callable[[Ref], Ref], registers: Sequence[int]
) -> list[Callable[[], Any]] | None:
    """How each result off the tape is made; None if that is not so simple."""
    made: list[Callable[[], Any]] = []
    for result, ref in zip(path.end.results, path.refs, strict=True):
        if result.kind == "input" and not result.leaf:
            made.append(partial(stack.push, native.REGISTER, registers[ref[1]]))
        elif is_simple(result, ref):
            made.append(partial(stack.tensor, at(ref)))
        else:
            return None
    return made


def _effects(
    stack: _Stack, tree: Tree, path: Path, at: Callable[[Ref], Ref], registers: Sequence[int]
) -> bool:
    """What a call changes, as `call.commit` does it; whether native code can do it all."""
    end = path.end
    if (
        end.stores
        or end.gradients
        or end.flags
        or end.drawn.chosen is not None
        or path.drawn_ref is not None
    ):
        return False
    for write, ref in zip(end.writes, path.write_refs, strict=True):
        # A result that is an input is written before anybody sees it.
        if write.differentiable or ref[0] < 0 or tree.layouts[write.input] is not None:
            return False
    for grad_write, grad_ref in zip(end.grad_writes, path.grad_refs, strict=True):
        if grad_write.same_as is not None or grad_write.copied:
            return False
        if grad_ref is not None and grad_ref[0] < 0:
            return False
    place = stack.push(native.CALL, user_place) if end.writes else 0
    for write, ref in zip(end.writes, path.write_refs, strict=True):
        nbytes = tree.inputs[write.input].type.nbytes
        stack.steps.append((native.WRITE, (at(ref), (-1, write.input), nbytes)))
        if tree.inputs[write.input].kind == "array":
            continue
        stack.push(native.REGISTER, registers[write.input])
        stack.attribute("_storage")
        stack.steps.append((native.INCREMENT, "version"))
        stack.objects(f"the compiled function {tree.name}")
        stack.set("written_by")
        stack.push(native.COPY, place)
        stack.set("written_at")
        stack.pop()
    for grad_write, grad_ref in zip(end.grad_writes, path.grad_refs, strict=True):
        stack.push(native.REGISTER, registers[grad_write.input])
        if grad_ref is None:
            stack.objects(None)
        else:
            stack.tensor(at(grad_ref))
        stack.set("_grad")
        stack.pop()
    if end.drawn.count:
        stack.push(native.CALL, partial(default_generator.advance, end.drawn.count))
        stack.pop()
    return True


def _node(
    stack: _Stack,
    tree: Tree,
    path: Path,
    at: Callable[[Ref], Ref],
    registers: Sequence[int],
    storages: Sequence[int | None],
) -> int:
    """The node on the tape: as `CompiledFunctionBackward.__init__` makes it."""
    saving = saving_now(tree, path)
    stack.objects(path.output_types)
    stack.push(native.NEXT, tape._sequence)
    stack.objects(None, None, None, None, tree, path, saving)
    start = stack.height
    for register in registers:
        stack.push(native.REGISTER, register)
    stack.gather(native.TUPLE, start)
    start = stack.height
    for i in path.differentiable_inputs:
        stack.push(native.REGISTER, registers[i])
    stack.gather(native.LIST, start)
    stack.objects(None)
    start = stack.height
    for depth, occurrence, _, places in saving.segments:
        inside = stack.height
        for computed, i in places:
            ref = (depth, i) if computed else occurrence.sources[i]
            if ref[0] < 0 and tree.inputs[ref[1]].kind not in ("tensor", "array"):
                # A number: the array that native code makes of it has another in the next call.
                stack.push(native.REGISTER, registers[ref[1]])
            else:
                stack.push(native.VALUE, at(ref))
        stack.gather(native.LIST, inside)
    stack.gather(native.LIST, start)
    start = stack.height
    for i in saving.read:
        if tree.inputs[i].kind == "tensor":
            inside = stack.push(native.REGISTER, registers[i])
            stack.attribute("_storage")
            stack.push(native.COPY, inside)
            stack.attribute("version")
            stack.objects(i)
            stack.gather(native.TUPLE, inside)
    for storage in storages:
        if storage is not None:
            inside = stack.push(native.COPY, storage)
            stack.objects(0, -1)
            stack.gather(native.TUPLE, inside)
    stack.gather(native.LIST, start)
    return stack.record(CompiledFunctionBackward, _NODE)


def function_of(executable: Executable, arrays: Sequence[Any]) -> Entry | None:
    """A program as a native function from arrays like these to a tuple of tensors, which returns
    None for others; None if it cannot be one.
    """
    entry = Entry(wrapper())
    for i, (value, node) in enumerate(zip(arrays, executable.graph.inputs, strict=True)):
        register = entry.argument(i)
        if type(value) is np.ndarray:
            entry.array(register, value, i)
        elif not entry.number(register, type(value), node.dtype.numpy, i):
            return None
    stack = _Stack()
    for i in range(executable.output_count):
        stack.tensor((0, i))
    stack.gather(native.TUPLE, 0)
    count = len(arrays)
    block = Block(executable, [(-1, i) for i in range(count)], result=stack.steps)
    entry.finish(count, range(count), [block], np.zeros(1, np.int64))
    return entry
