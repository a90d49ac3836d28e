"""The recorded values of tensors: what a tensor is in the trace, now and in the body at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tracegrad.ir.graph import Literal, Node, reachable
from tracegrad.ir.op import CONSTANT, OPS, Op
from tracegrad.ir.types import TensorType
from tracegrad.tracer.access import Path
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.device import cpu, moved
from tracegrad.tracer.inputs import Binding, InputTable, Memory, parent_of, storage_of
from tracegrad.tracer.location import user_location
from tracegrad.tracer.recording import Ref, Segment, Steps, TraceInput, Value
from tracegrad.tracer.scopes import escaped
from tracegrad.tracer.views import freeze, replay

if TYPE_CHECKING:
    from tracegrad.tracer.tensor import Tensor

# Ops whose value another call, or another iteration of a loop, may change.
_VARYING = frozenset({"input", "carried"})


class ValueTable(InputTable):
    """Knows the value of each tensor that a trace has met, and puts it where recording is.

    scope   the function, or the body of a loop or branch, that is being recorded.
    """

    def __init__(
        self,
        arguments: Sequence[tuple[Path, str, Tensor]],
        survey: Survey,
        known: Sequence[TraceInput],
        aliases: bool,
    ) -> None:
        super().__init__(arguments, survey, known, aliases)
        self.scope = self.outermost

    @property
    def segments(self) -> list[Segment]:
        """The segments of the function, or of the body that is being traced."""
        return self.scope.segments

    @property
    def in_body(self) -> bool:
        """Whether the body of a loop or a branch is being traced: it may never run."""
        return self.scope.outer is not None

    def value_of(self, tensor: Tensor) -> Value:
        """The recorded value of a tensor as it is now; an unknown tensor becomes an input.

        In a body it is the body's own: what was there before becomes an operand of the body.
        """
        return self._local(tensor, self._recorded(tensor))

    def _local(self, tensor: Tensor, value: Value) -> Value:
        scope = self.scope
        if value.scope is scope:
            return value
        known = scope.known.get(id(value))
        if known is not None:
            return known
        if value.constant:
            assert value.node is not None
            found = self._constant(value.node.params["value"])
        else:
            if value.scope.closed:
                raise escaped(value.scope)
            name = self._name_of(value)
            found = scope.operand(tensor, value, name)
        scope.known[id(value)] = found
        scope.kept.append(value)
        return found

    def _recorded(self, tensor: Tensor) -> Value:
        """The value of a tensor, perhaps of a scope around this one."""
        found = self._bound(tensor)
        if found is not None:
            return found
        if tensor._literal is not None:
            value = self._constant(Literal(moved(tensor._values, cpu)))
            self._bind_new(tensor, value)
            return value
        memory = self._memory_of(tensor)
        source: Tensor | None = tensor
        steps: Steps = ()
        while source is not None:
            known = self._bound(source)
            if known is None and memory.root is source:
                known = self._standing(memory)
            if known is not None:
                if not steps:
                    tensor._trace = Binding(self, known, memory.version)
                    return known
                return self._derive(tensor, self._local(source, known), steps, memory)
            source, lead = parent_of(source)
            steps = freeze(lead) + steps
        number = self._input_number(tensor)
        root = self.inputs[number].tensor
        if root is tensor:
            bound = self._bound(tensor)
            assert bound is not None
            return bound
        return self._recorded(tensor)

    def memory_of(self, tensor: Tensor) -> Memory:
        """What is known of the memory of a tensor."""
        return self._memory_of(tensor)

    def is_holder(self, tensor: Tensor, ref: Ref) -> bool:
        """Whether the recording has this very tensor for what is at a place."""
        return self.scope.holders.get(ref) is tensor

    def can_use(self, *tensors: Tensor) -> bool:
        """Whether all of these are part of the recording still, and may be used where it stands."""
        for tensor in tensors:
            if tensor._literal is not None:
                continue
            value = self._bound(tensor)
            memory = self.memories.get(id(storage_of(tensor)))
            if value is None and memory is not None:
                value = memory.value
            if value is None or value.scope.closed or not self._stands(value):
                return False
        return True

    def _bound(self, tensor: Tensor) -> Value | None:
        binding = tensor._trace
        if binding is None or binding.recorder is not self:
            return None
        memory = self.memories.get(id(storage_of(tensor)))
        if memory is None or memory.version != binding.version:
            return None
        value: Value = binding.value
        if value.scope.closed and not memory.created:
            # Derived in a body that is complete.
            return None
        return value if self._stands(value) else None

    def _stands(self, value: Value) -> bool:
        """Whether a value is part of the recording still: loops that are rolled go back in it."""
        if value.scope.rolling is None or value.position < 0 or value.segment < 0:
            return True
        segments = value.scope.segments
        if value.segment >= len(segments):
            return False
        nodes = segments[value.segment].builder.nodes
        return value.position < len(nodes) and nodes[value.position] is value.node

    def _standing(self, memory: Memory) -> Value | None:
        """The value of a memory. RollFailedError if a rolled loop has done away with it."""
        value = memory.value
        if value is None or self._stands(value):
            return value
        assert value.scope.rolling is not None and value.node is not None
        if not value.constant:
            raise value.scope.rolling.stale(value)
        memory.value = self._constant(value.node.params["value"])
        return memory.value

    def _derive(self, tensor: Tensor, value: Value, steps: Steps, memory: Memory) -> Value:
        """The value of a view, from that of the tensor that it shows."""
        builder = self.segments[-1].builder
        builder.loc = user_location()
        base = self._use(value)
        with builder:
            node = replay(base, steps)
        value = self._value(node, value.differentiable)
        tensor._trace = Binding(self, value, memory.version)
        self._hold(tensor, value)
        return value

    def _memory_of(self, tensor: Tensor) -> Memory:
        memory = self.memories.get(id(storage_of(tensor)))
        if memory is None:
            self._input_number(tensor)
            memory = self.memories[id(storage_of(tensor))]
        return memory

    def _is_own(self, tensor: Tensor) -> bool:
        """Whether the trace made this tensor."""
        memory = self.memories.get(id(storage_of(tensor)))
        return memory is not None and memory.created

    def _made(self, tensor: Tensor) -> bool:
        """Whether the trace made this tensor object, perhaps on memory of an input."""
        if self._is_own(tensor):
            return True
        return parent_of(tensor)[0] is not None and not self.is_outside(tensor)

    def _bind_new(self, tensor: Tensor, value: Value) -> None:
        memory = Memory(tensor._storage, tensor, value)
        self.memories[id(tensor._storage)] = memory
        tensor._trace = Binding(self, value, 0)
        self._kept.append(tensor)
        self._hold(tensor, value)

    def _hold(self, tensor: Tensor, value: Value) -> None:
        """Remember a tensor that has a value of the function or of a body."""
        if value.scope.rolling is not None:
            value.scope.holders[value.ref] = tensor

    def _value(self, node: Node, differentiable: bool) -> Value:
        segment = self.segments[-1]
        position = self._position(segment, node)
        if position < 0:
            # An operation can come down to one of its operands.
            return segment.sources[-1 - position]
        return Value(len(self.segments) - 1, position, node, node.type, differentiable, self.scope)

    def _position(self, segment: Segment, node: Node) -> int:
        """Where `node` stands among the segment's nodes; -1 - i for its input i."""
        positions = segment.positions
        for i in range(len(positions), len(segment.builder.nodes)):
            positions[id(segment.builder.nodes[i])] = i
        found = positions.get(id(node))
        return -1 - segment.builder.inputs.index(node) if found is None else found

    def _append(
        self, op: Op, nodes: Sequence[Node], params: dict[str, Any], type: TensorType | None = None
    ) -> Node:
        return self.segments[-1].builder.append(op, nodes, params, user_location(), type)

    def _cut(self, node: Node) -> Node:
        """The value without its gradient."""
        if not node.dtype.is_floating_point or node.op.name in ("detach", "constant"):
            return node
        return self._append(OPS["detach"], [node], {})

    def _operand(self, tensor: Tensor, value: Value) -> Node:
        self._hold(tensor, value)
        node = self._use(value)
        return self._cut(node) if value.differentiable and not tensor.requires_grad else node

    def _use(self, value: Value) -> Node:
        """The node of a value in the current segment, imported if it was computed before."""
        if value.segment == len(self.segments) - 1:
            assert value.node is not None
            return value.node
        segment = self.segments[-1]
        if value.constant:
            assert value.node is not None
            return self._emit_constant(value.node.params["value"])
        found = segment.imports.get(value.ref)
        if found is None:
            name = self._name_of(value)
            loc = value.node.loc if value.node is not None else None
            found = segment.builder.input(value.type, name, loc)
            segment.imports[value.ref] = found
            segment.sources.append(value)
        return found

    def _name_of(self, value: Value) -> str | None:
        """What an input is called; None for a value that is computed."""
        if value.segment >= 0:
            return None
        if value.scope is self.outermost:
            return self.inputs[value.position].name
        return value.scope.inputs[value.position].name

    def _constant(self, literal: Literal) -> Value:
        node = self._emit_constant(literal)
        value = self._value(node, False)
        value.constant = node.op is CONSTANT
        return value

    def _emit_constant(self, literal: Literal) -> Node:
        array = literal.array
        if array.size > 1 and bool((array == array.flat[0]).all()):
            scalar = self._append(CONSTANT, (), {"value": Literal(array.flat[0])})
            return self._append(OPS["broadcast_to"], [scalar], {"shape": array.shape})
        return self._append(CONSTANT, (), {"value": literal})

    def _is_constant(self, value: Value) -> bool:
        """Whether a value depends on nothing that another call could change."""
        if value.node is None:
            return False
        needed = reachable([value.node])
        return all(node.op.name not in _VARYING and node.op.pure for node in needed)
