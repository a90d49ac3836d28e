"""Single operations on arrays of a device: each is a graph of one op, compiled once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tracegrad.codegen.affine import View, row_major, squeeze
from tracegrad.codegen.cuda import DeviceLaunch, emit
from tracegrad.codegen.lowering import lower
from tracegrad.codegen.steps import Buffer, Kernel, Root
from tracegrad.errors import DtypeError
from tracegrad.ir.graph import Builder, Graph
from tracegrad.ir.op import OPS, Op
from tracegrad.ir.params import frozen_params
from tracegrad.ir.types import BY_NUMPY, TensorType, type_of
from tracegrad.runtime.cuda.arrays import Array, Block, DeviceArray
from tracegrad.runtime.cuda.executor import DeviceExecutable, layout_of
from tracegrad.runtime.cuda.machine import machine

# Ops whose result is a view that NumPy makes without a look at the elements.
VIEWS = frozenset({"transpose", "broadcast_to", "slice", "diagonal", "flip"})

_executables: OrderedDict[Hashable, DeviceExecutable] = OrderedDict()
_KEPT = 4096


def _run(what: Hashable, arrays: Sequence[Any], graph_of: Callable[[], Graph]) -> list[Any]:
    """The outputs of a graph on arrays; compiled once for all calls of equal `what` and layouts."""
    layouts = tuple(layout_of(x) for x in arrays)
    found = _executables.get((what, layouts))
    if found is None:
        found = _executables[what, layouts] = DeviceExecutable(graph_of(), layouts)
        if len(_executables) > _KEPT:
            _executables.popitem(last=False)
    return found(arrays)


def evaluate(op: Op, arrays: Sequence[Array], params: Mapping[str, Any]) -> Any:
    """An op on arrays of the device, with numbers of the host among them; it may give a view."""
    if op.name == "reshape":
        return arrays[0].reshape(params["shape"])
    if op.name in VIEWS:
        return op.evaluate(arrays[0].view(np.ndarray), **params).view(DeviceArray)

    def graph_of() -> Graph:
        with Builder(op.name) as builder:
            inputs = [builder.input(type_of(x)) for x in arrays]
            return builder.finish([builder.append(op, inputs, dict(params))])

    types = tuple((x.dtype, x.shape) for x in arrays)
    return _run((op, frozen_params(params), types), arrays, graph_of)[0]


def run_graph(graph: Graph, arrays: Sequence[Any]) -> list[Any]:
    """A graph, which is kept with what it is compiled to, on arrays as `evaluate` takes them."""
    # The executable keeps the graph, so that its id stays its own.
    return _run(id(graph), arrays, lambda: graph)


def copy(array: Array) -> DeviceArray:
    """The elements in memory of their own, C-contiguous."""

    def graph_of() -> Graph:
        with Builder("copy") as builder:
            return builder.finish([builder.input(type_of(array))])

    made: DeviceArray = _run(("copy", array.dtype, array.shape), [array], graph_of)[0]
    return made


def add(a: Any, b: Any) -> Any:
    """The sum of two arrays of a type."""
    return evaluate(OPS["add"], [a, b], {})


def cast(array: DeviceArray, dtype: np.dtype[Any]) -> DeviceArray:
    """The elements as numbers of another type."""
    made: DeviceArray = evaluate(OPS["cast"], [array], {"dtype": BY_NUMPY[dtype]})
    return made


def write(target: DeviceArray, value: Any) -> None:
    """Put elements, broadcast and cast to those of an array, into its memory."""
    if not isinstance(value, DeviceArray):
        value = to_device(np.asarray(value, target.dtype))
    if value.dtype != target.dtype:
        value = cast(value, target.dtype)
    if np.may_share_memory(value.plain(), target.plain()):
        value = copy(value)
    spread = np.broadcast_to(value.plain(), target.shape).view(DeviceArray)
    kernel, launch = _writer(target.dtype, target.shape, _strides(spread), _strides(target))
    arrays = {"input": spread, "output": target}
    arguments = [
        machine().pointer(arrays[x.kind], target.dtype, 0) if kind == "buffer" else x
        for kind, x in launch.words
    ]
    machine().launch(kernel, launch, arguments)


def _strides(array: Array) -> tuple[int, ...]:
    return tuple(stride // array.itemsize for stride in array.strides)


@lru_cache(_KEPT)
def _writer(
    dtype: np.dtype[Any], shape: tuple[int, ...], read: tuple[int, ...], written: tuple[int, ...]
) -> tuple[Any, DeviceLaunch]:
    """The kernel that copies elements from strides to strides, and its launch."""
    kind = BY_NUMPY[dtype]
    with Builder("write") as builder:
        node = builder.input(TensorType(kind, shape))
    source, target = (
        View(Buffer(name, kind, node.type.size), 0, strides, shape)
        for name, strides in (("input", read), ("output", written))
    )
    kernel = Kernel(squeeze(shape), None, [Root(node, node, target, origin=source)])
    launch = emit(lower(kernel, {node: source}, {}, columns=False), set())
    return machine().kernel(launch), launch


def to_device(array: Any) -> DeviceArray:
    """A copy of an array of the host in the device's memory, C-contiguous."""
    made: DeviceArray = machine().copied(np.asarray(array, order="C"))
    return made


def adopted(owner: Any) -> DeviceArray:
    """An array on the memory of something that has `__cuda_array_interface__`, which it keeps.

    DtypeError for elements of a type that tracegrad does not know.
    """
    face = owner.__cuda_array_interface__
    dtype = np.dtype(face["typestr"])
    if dtype not in BY_NUMPY:
        raise DtypeError(f"a CUDA array has elements of type {dtype}, which no tensor has")
    shape = tuple(face["shape"])
    address, read_only = face["data"]
    strides = face.get("strides") or tuple(x * dtype.itemsize for x in row_major(shape))
    low = sum(min((n - 1) * step, 0) for n, step in zip(shape, strides, strict=True))
    high = sum(max((n - 1) * step, 0) for n, step in zip(shape, strides, strict=True))
    size = 0 if 0 in shape else high + dtype.itemsize - low
    block = Block((address or 0) + (low if size else 0), size)
    # NumPy keeps the block, and the block its owner.
    block.owner = owner
    memory = np.asarray(block)
    array = np.ndarray(shape, dtype, memory, -low if size else 0, strides).view(DeviceArray)
    array.flags.writeable = not read_only
    return array


def to_host(array: DeviceArray) -> Array:
    """A copy in the host's memory, when all that makes it has run."""
    whole = array if array.flags.c_contiguous else copy(array)
    found: Array = machine().fetched(whole)
    return found
