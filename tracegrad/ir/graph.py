"""The IR in one place: a node, a graph, and the builder that value-numbers as it appends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tracegrad.errors import GraphError
from tracegrad.ir.params import frozen_params
from tracegrad.ir.types import BY_NUMPY, DType, TensorType, Type

if TYPE_CHECKING:
    from tracegrad.ir.op import Op


class Loc(NamedTuple):
    """Where in the user's program a node came from."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"


class Literal:
    """A constant array as a hashable parameter: equal when dtype, shape and bits are equal."""

    __slots__ = ("_hash", "_key", "array")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        # Own, read-only memory: a node is immutable, whatever the user does to the source array.
        self.array = np.array(array, order="C")
        self.array.flags.writeable = False
        self._key = (self.array.dtype.str, self.array.shape, self.array.tobytes())
        # Every pass looks its nodes up by their parameters.
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_scalar(self) -> bool:
        return self.array.ndim == 0

    def __repr__(self) -> str:
        return repr(self.array.tolist())


def _operator(name: str, *, reflected: bool = False) -> Callable[..., Node]:
    def method(self: Node, other: Any) -> Node:
        from tracegrad.ir.op import OPS

        return OPS[name](other, self) if reflected else OPS[name](self, other)

    return method


class Node:
    """One typed value in SSA form: `op(*inputs, **params)`. Immutable, compared by identity.

    A node also has Python's arithmetic, so that gradient rules read like formulas; each operator
    appends to the builder that is current (see `Builder`).

    left_alone  bits of the rules that are known to change nothing here, see `passes.LocalRule`.
    """

    __slots__ = ("_frozen", "inputs", "left_alone", "loc", "op", "params", "type")

    def __init__(
        self,
        op: Op,
        inputs: tuple[Node, ...],
        params: Mapping[str, Any],
        type: TensorType,
        loc: Loc | None,
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.params = params
        self.type = type
        self.loc = loc
        self.left_alone = 0
        self._frozen: Hashable = None

    @property
    def frozen_params(self) -> Hashable:
        """The parameters as a key, worked out once."""
        if self._frozen is None:
            self._frozen = frozen_params(self.params)
        return self._frozen

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"<{self.op.name}: {self.type}>"

    __add__ = _operator("add")
    __radd__ = _operator("add", reflected=True)
    __sub__ = _operator("sub")
    __rsub__ = _operator("sub", reflected=True)
    __mul__ = _operator("mul")
    __rmul__ = _operator("mul", reflected=True)
    __truediv__ = _operator("div")
    __rtruediv__ = _operator("div", reflected=True)
    __pow__ = _operator("pow")
    __lt__ = _operator("lt")
    __le__ = _operator("le")
    __gt__ = _operator("gt")
    __ge__ = _operator("ge")
    __and__ = _operator("bitwise_and")
    __or__ = _operator("bitwise_or")

    def __neg__(self) -> Node:
        from tracegrad.ir.op import OPS

        return OPS["neg"](self)

    def __invert__(self) -> Node:
        from tracegrad.ir.op import OPS

        return OPS["logical_not" if self.dtype.kind == "b" else "bitwise_not"](self)


@dataclass(frozen=True, eq=False)
class Graph:
    """A function in SSA form.

    `inputs` are `input` nodes in call order; `nodes` are all other nodes in an order where each
    comes after its inputs; `outputs` may repeat nodes and may be inputs. `origin` says for which
    pass or purpose the graph was made, and is printed as a comment.
    """

    name: str
    inputs: tuple[Node, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]
    origin: str = ""

    @cached_property
    def key(self) -> Hashable:
        """Equal for graphs that compute the same thing in the same way: see `ir.structure`."""
        from tracegrad.ir.structure import structural_key

        return structural_key(self)

    @cached_property
    def ops(self) -> frozenset[Op]:
        """The ops of the nodes: many a pass looks for one kind alone."""
        return frozenset([node.op for node in self.nodes])

    def __str__(self) -> str:
        from tracegrad.ir.printer import text

        return text(self)


class Builder:
    """Appends nodes, gives each its type, and never makes the same pure node twice.

    Used as a context manager it is the current builder of this thread: ops called on nodes append
    to it.
    """

    _stack = threading.local()

    def __init__(self, name: str = "forward") -> None:
        self.name = name
        self.inputs: list[Node] = []
        self.nodes: list[Node] = []
        self.loc: Loc | None = None
        self._numbers: dict[Any, Node] = {}
        # The names of so many inputs, each with how often it was wanted.
        self._named = 0
        self._names: dict[str, int] = {}

    def __enter__(self) -> Builder:
        stack: list[Builder] = self._stack.__dict__.setdefault("builders", [])
        stack.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.builders.pop()

    @classmethod
    def current(cls) -> Builder:
        """The innermost builder that this thread has entered; GraphError if there is none."""
        stack: list[Builder] = cls._stack.__dict__.get("builders", [])
        if not stack:
            raise GraphError("an op was called on a node outside of `with Builder():`")
        return stack[-1]

    def input(self, type: Type, name: str | None = None, loc: Loc | None = None) -> Node:
        """A new graph input. Names are made unique."""
        from tracegrad.ir.op import INPUT

        for node in self.inputs[self._named :]:
            self._names.setdefault(node.params["name"], 1)
        self._named = len(self.inputs)
        name = base = name or f"x{len(self.inputs)}"
        while name in self._names:
            self._names[base] += 1
            name = f"{base}_{self._names[base]}"
        # A node's type is that of a tensor but for what control flow makes.
        node = Node(INPUT, (), {"name": name}, cast(TensorType, type), loc)
        self.inputs.append(node)
        return node

    def constant(self, value: Any, dtype: DType | None = None, loc: Loc | None = None) -> Node:
        """A constant: a Python scalar or an array; `dtype` defaults to the array's own."""
        from tracegrad.ir.op import CONSTANT

        array = np.asarray(value, None if dtype is None else dtype.numpy)
        literal = Literal(array)
        return self.append(CONSTANT, (), {"value": literal}, loc)

    def append(
        self,
        op: Op,
        inputs: Sequence[Node],
        params: Mapping[str, Any],
        loc: Loc | None = None,
        type: TensorType | None = None,
    ) -> Node:
        """The node `op(*inputs, **params)`: an equal one that exists already, or a new one. `type`
        is given where it has been inferred before.
        """
        return self._append(op, tuple(inputs), params, frozen_params(params), type, loc)

    def _append(
        self,
        op: Op,
        inputs: tuple[Node, ...],
        params: Mapping[str, Any],
        frozen: Hashable,
        type: TensorType | None,
        loc: Loc | None,
    ) -> Node:
        """`append` with the parameters as a key, and the type where it is known."""
        key = (op, inputs, frozen)
        found = self._numbers.get(key)
        if found is not None:
            return found
        if type is None:
            type = op.infer(*(node.type for node in inputs), **params)
        node = Node(op, inputs, params, type, loc or self.loc)
        node._frozen = frozen
        if op.pure:
            self._numbers[key] = node
        self.nodes.append(node)
        return node

    def adopt(self, node: Node, inputs: Sequence[Node]) -> Node:
        """A copy of another graph's node on this builder's `inputs`, keeping its line."""
        inputs = tuple(inputs)
        # Of the same types it has the same type itself, and need not be checked again.
        same = [x.type for x in inputs] == [x.type for x in node.inputs]
        type = node.type if same else None
        return self._append(node.op, inputs, node.params, node.frozen_params, type, node.loc)

    def keep(self, node: Node) -> Node:
        """The node itself, or the equal one that exists; its inputs must be this builder's own.

        For passes: a node that a pass leaves alone needs no copy and no type inference.
        """
        key = (node.op, node.inputs, node.frozen_params)
        found = self._numbers.setdefault(key, node) if node.op.pure else node
        if found is node:
            self.nodes.append(node)
        return found

    def truncate(self, nodes: int, inputs: int) -> None:
        """Take out all but the first `nodes` nodes and the first `inputs` inputs."""
        del self.nodes[nodes:]
        del self.inputs[inputs:]
        self._named = 0
        self._names.clear()
        self._numbers = {
            (node.op, node.inputs, node.frozen_params): node for node in self.nodes if node.op.pure
        }

    def start_anew(self) -> None:
        """What is appended from now on is no node that is there already."""
        self._numbers.clear()

    def finish(self, outputs: Sequence[Node], origin: str = "") -> Graph:
        """The graph of everything that `outputs` need, in the order of appending."""
        outputs = tuple(outputs)
        # What is done for its effect is kept, with all that it needs.
        live = reachable((*outputs, *(node for node in self.nodes if not node.op.pure)))
        nodes = tuple(node for node in self.nodes if node in live)
        return Graph(self.name, tuple(self.inputs), nodes, outputs, origin)


def reachable(roots: Sequence[Node]) -> set[Node]:
    """Every node that the roots depend on, themselves included. Linear, without recursion."""
    seen: set[Node] = set()
    work = list(roots)
    while work:
        node = work.pop()
        if node not in seen:
            seen.add(node)
            work.extend(node.inputs)
    return seen


def inline(builder: Builder, graph: Graph, arguments: Sequence[Node]) -> tuple[Node, ...]:
    """Append a copy of `graph` applied to `arguments`; the copies of its outputs."""
    if len(arguments) != len(graph.inputs):
        raise GraphError(f"{graph.name} takes {len(graph.inputs)} inputs, not {len(arguments)}")
    new: dict[Node, Node] = dict(zip(graph.inputs, arguments, strict=True))
    for node in graph.nodes:
        new[node] = builder.adopt(node, [new[x] for x in node.inputs])
    return tuple(new[x] for x in graph.outputs)


def scalar_value(node: Node) -> Any:
    """The Python value of a 0-d constant node; None for any other node."""
    literal = node.params.get("value") if node.op.name == "constant" else None
    return literal.array.item() if literal is not None and literal.is_scalar else None


def dtype_of(array: np.ndarray[Any, Any]) -> DType:
    """The DType of a NumPy array's elements."""
    return BY_NUMPY[array.dtype]
