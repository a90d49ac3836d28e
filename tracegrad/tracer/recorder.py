"""Recording: a function runs eagerly, and every operation on tensors is noted in the IR.

The IR is functional and memory is not. So each piece of memory has a current value; an in-place
change gives it a new one, and a view that is read afterwards is derived from it once more.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tracegrad.ir.dependence import dependence
from tracegrad.ir.graph import Builder, Graph, Literal, Node, inline, reachable
from tracegrad.ir.op import CONSTANT, OPS, Op, _NonDifferentiable
from tracegrad.ir.types import TensorType
from tracegrad.runtime.random import default_generator
from tracegrad.tracer import access, outcomes
from tracegrad.tracer.access import Path
from tracegrad.tracer.body_paths import way_on
from tracegrad.tracer.bounds import Limits, Requirement
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.conditions import as_truth
from tracegrad.tracer.deferral import Deferrals, settle
from tracegrad.tracer.device import cpu, moved
from tracegrad.tracer.dispatch import keep_weak
from tracegrad.tracer.draws import Draws
from tracegrad.tracer.guards import Guard as CaptureGuard
from tracegrad.tracer.hooks import Registration
from tracegrad.tracer.inputs import (
    AliasesMatter,
    Binding,
    Memory,
    is_whole,
    storage_of,
)
from tracegrad.tracer.location import user_location, user_place
from tracegrad.tracer.recorded_values import ValueTable
from tracegrad.tracer.recording import Guard, Ref, Segment, TraceInput, Value
from tracegrad.tracer.scopes import (
    Scope,
    ScopeInputs,
    demanded_inside,
    drawn_inside,
    gradient_inside,
    printed_inside,
    written_outside,
)
from tracegrad.tracer.state import state
from tracegrad.tracer.undo import UndoLog
from tracegrad.tracer.views import freeze, memory_root, write_back

if TYPE_CHECKING:
    from tracegrad.tracer.debugging import Message
    from tracegrad.tracer.rolling import Rolling
    from tracegrad.tracer.storage import Storage
    from tracegrad.tracer.tape import Saved
    from tracegrad.tracer.tensor import Tensor


class Recorder(ValueTable):
    """Notes what happens on this thread while one function is traced.

    `script`: the outcomes that the first guards have to have, so that a retrace goes the way that
    the compiled code went. `deferrals`: the operations that nobody has asked for.
    """

    def __init__(
        self,
        arguments: Sequence[tuple[Path, str, Tensor]],
        survey: Survey,
        known: Sequence[TraceInput] = (),
        *,
        aliases: bool,
        script: Sequence[Hashable],
    ) -> None:
        super().__init__(arguments, survey, known, aliases)
        self.guards: list[CaptureGuard] = []
        self.writes_inputs = False
        self.grad_written: dict[int, Tensor] = {}
        self.draws = Draws(self)
        self.deferrals = Deferrals(state.quietly)
        self.registrations: list[Registration] = []
        self.messages: list[Message] = []
        self.runs_again = False
        self.outermost.script = list(script)
        self._grad_read: set[int] = set()
        # What the tape keeps, by memory. In the IR a value stays what it was when it was saved.
        self._saved: dict[int, list[weakref.ref[Saved]]] = {}
        if any(item.kind in ("seed", "offset") for item in known):
            self.draws.enter()

    @property
    def outcomes(self) -> list[Hashable]:
        """The outcomes of the guards between the segments."""
        return self.scope.outcomes

    @property
    def rolling(self) -> Rolling | None:
        """What rolls the loops of the function, or of the body that is being traced."""
        return self.scope.rolling

    @contextmanager
    def body(self, name: str, form: str, inputs: ScopeInputs) -> Iterator[Scope]:
        """What is recorded within goes into a graph of its own: the body of the `form` named."""
        outer = self.scope
        scope = self.scope = Scope(name, outer, form, inputs)
        try:
            yield scope
        finally:
            scope.closed = True
            self.scope = outer

    @contextmanager
    def outside(self, scope: Scope) -> Iterator[None]:
        """What is recorded within goes to where the body `scope` that is being traced stands."""
        assert scope.outer is not None
        self.scope = scope.outer
        try:
            yield
        finally:
            self.scope = scope

    def was_written(self, tensor: Tensor) -> bool:
        """Whether the memory of a tensor that the trace made has changed since."""
        return self._memory_of(tensor).version > 0

    def enter(self, tensor: Tensor, name: str | None, differentiable: bool) -> Value:
        """Make a new tensor an input of the body that is being traced."""
        value = self.scope.input(tensor._type, name, differentiable)
        self._bind_new(tensor, value)
        self._use(value)
        return value

    def value_for(self, node: Node) -> Value:
        """A node of the segment that is being recorded, as a value without a gradient."""
        return self._value(node, False)

    def node_of(self, tensor: Tensor) -> Node:
        """The node of a tensor in the segment that is being recorded."""
        return self._operand(tensor, self.value_of(tensor))

    def result_of(self, tensor: Tensor) -> Value:
        """What a body returns as `tensor`: its value, cut from the tape where that is."""
        value = self.value_of(tensor)
        node = self._use(value)
        if not value.differentiable or tensor.requires_grad:
            return value
        return self._value(self._cut(node), False)

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on nothing that another call could change."""
        return self._is_constant(self._recorded(tensor))

    def close(self) -> None:
        """Forget all tensors, and compute those that escaped: one may keep this object alive."""
        self.memories.clear()
        self._kept.clear()
        self._arguments.clear()
        self.grad_written.clear()
        self.registrations.clear()
        self.outermost.holders.clear()
        if self.outermost.rolling is not None:
            self.outermost.rolling.close()
            # The values of the trace refer to their scope, and the trace is kept.
            self.outermost.rolling = None
        self.undo = UndoLog()
        self.deferrals.finish()

    # ------------------------------------------------------------- protocol

    def record(
        self,
        op: Op,
        inputs: Sequence[Tensor],
        params: dict[str, Any],
        output: Tensor,
        type: TensorType | None = None,
    ) -> None:
        """`output` was computed by `op` from `inputs`; its type, if it is known."""
        if op is CONSTANT:
            self._bind_new(output, self._constant(params["value"]))
            return
        if op.family == "random":
            self._record_draw(op, inputs, params, output)
            return
        values = [self.value_of(x) for x in inputs]
        nodes = [self._operand(x, v) for x, v in zip(inputs, values, strict=True)]
        node = self._append(op, nodes, params, type)
        differentiable = (
            state.grad_enabled
            and node.dtype.is_floating_point
            and not isinstance(op.vjp, _NonDifferentiable)
            and any(
                v.differentiable and x.requires_grad for x, v in zip(inputs, values, strict=True)
            )
        )
        if not differentiable and any(v.differentiable for v in values):
            node = self._cut(node)
        value = self._value(node, differentiable)
        memory = self.memories.get(id(storage_of(output)))
        if memory is not None:
            output._trace = Binding(self, value, memory.version)
            self._hold(output, value)
        else:
            self._bind_new(output, value)
        keep_weak(inputs, output)

    def record_graph(
        self, graph: Graph, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        """`outputs` are those of `graph` on `inputs`."""
        values = [self.value_of(x) for x in inputs]
        nodes = [self._operand(x, v) for x, v in zip(inputs, values, strict=True)]
        flows = state.grad_enabled and any(v.differentiable for v in values)
        needs = [v.differentiable and x.requires_grad for x, v in zip(inputs, values, strict=True)]
        wanted = sum(1 << i for i, need in enumerate(needs) if flows and need)
        builder = self.segments[-1].builder
        builder.loc = user_location()
        made = inline(builder, graph, nodes)
        for node, output, found in zip(made, outputs, dependence(graph), strict=True):
            differentiable = bool(found & wanted)
            if not differentiable and any(v.differentiable for v in values):
                node = self._cut(node)
            self._bind_new(output, self._value(node, differentiable))

    def before_write(self, target: Tensor) -> None:
        """The memory of `target` is about to change: keep a copy of what is not the trace's own."""
        settle()
        self._keep_saved(target._storage)
        memory = self._memory_of(target)
        if self.rolling is not None:
            self.rolling.before_write(memory)
        assert memory.value is not None
        if memory.value.scope is not self.scope and self.in_body:
            raise written_outside(self.scope)
        if not memory.created:
            root, _ = memory_root(target)
            self.undo.keep_memory(root)
            self.undo.keep(target)
            for number in memory.inputs:
                self.undo.keep(self.inputs[number].tensor)

    def saved(self, item: Saved) -> None:
        """A value is kept for backward: should its memory be written, a copy is."""
        self._saved.setdefault(id(item.tensor._storage), []).append(weakref.ref(item))

    def copied(self, source: Tensor, copy: Tensor) -> None:
        """`copy`, which is new, has memory of its own with the value of `source`."""
        self._bind_new(copy, self.value_of(source))

    def _keep_saved(self, storage: Storage) -> None:
        for reference in self._saved.pop(id(storage), ()):
            item = reference()
            if item is None or item.tensor._storage is not storage:
                continue
            if item.version == storage.version:
                item.keep()

    def mutate(self, target: Tensor, value: Tensor) -> None:
        """`value` was written into `target`: its memory has a new value."""
        memory = self._memory_of(target)
        root, steps = memory_root(target)
        if not memory.created:
            self.writes_inputs = True
            if not is_whole(memory.root, root) or len(memory.inputs) != 1:
                raise AliasesMatter
        assert memory.value is not None
        old = memory.value
        new = self.value_of(value)
        tracked = state.grad_enabled and (value.requires_grad or target.requires_grad)
        written = self._use(new)
        if new.differentiable and not (tracked and value.requires_grad):
            written = self._cut(written)
        base = self._use(old)
        frozen = freeze(steps)
        builder = self.segments[-1].builder
        builder.loc = user_location()
        with builder:
            node = write_back(base, written, frozen)
        differentiable = old.differentiable or (tracked and new.differentiable)
        if not tracked and old.differentiable:
            # Autograd knows nothing of this write: the gradient goes to what stood there before.
            node = self._append(OPS["overwrite"], [base, self._cut(node)], {})
        memory.value = self._value(node, differentiable)
        memory.version += 1
        if memory.root is not None:
            memory.root._trace = Binding(self, memory.value, memory.version)
            self._hold(memory.root, memory.value)

    def demand(self, tensor: Tensor, kind: str, value: Any) -> Any:
        """Python asked for a concrete value: end the segment here. The value to go on with."""
        rolling = self.rolling
        if rolling is not None:
            if kind == "bool" or (kind == "item" and tensor._array.dtype.kind == "b"):
                return rolling.condition(tensor, lambda: bool(self.ask(tensor, kind, value)))
            self._check_concrete(tensor, kind)
        return self.ask(tensor, kind, value)

    def spell(self, tensor: Tensor) -> None:
        """A number becomes text: no loop that is being rolled may carry it."""
        if self.rolling is not None:
            self._check_concrete(tensor, "str")

    def _check_concrete(self, tensor: Tensor, kind: str) -> None:
        value = self._recorded(tensor)
        if self.rolling is not None and value.scope is self.scope:
            self.rolling.check_concrete(value, kind)

    def ask(self, tensor: Tensor, kind: str, value: Any) -> Any:
        """As `demand`, where no loop is to be rolled."""
        recorded = self._recorded(tensor)
        if self._is_constant(recorded):
            return value
        scope = self.scope
        if recorded.scope is not scope:
            # A body asks for what was there before it: that is asked outside.
            self.scope = recorded.scope
            try:
                return self.ask(tensor, kind, value)
            finally:
                self.scope = scope
        if self.in_body:
            shared = scope.shared(recorded) if scope.shared is not None else None
            if shared is not None:
                with self.outside(scope):
                    return self.ask(shared, kind, value)
            if kind == "item" and tensor._array.dtype.kind == "b":
                kind = "bool"
            if kind == "bool":
                recorded = self._recorded(as_truth(tensor))
            elif kind != "exit":
                raise demanded_inside(scope, kind)
        key = (scope.numbers.number(recorded, self.segments), kind)
        if key in scope.answered:
            return outcomes.concrete(kind, scope.answered[key], value)
        outcome = outcomes.outcome(kind, value)
        number = len(scope.outcomes)
        if self.in_body:
            outcome = way_on(scope, recorded, kind)
        elif number < len(scope.script):
            outcome = scope.script[number]
        scope.answered[key] = outcome
        self.segments[-1].guard = Guard(recorded.ref, kind, user_location())
        scope.outcomes.append(outcome)
        self.segments.append(Segment(Builder(self.segments[-1].builder.name)))
        return outcomes.concrete(kind, outcome, value)

    def require(self, tensor: Tensor, limits: Limits) -> None:
        """Each element has to lie within limits: compiled code checks it at the segment's end."""
        value = self.value_of(tensor)
        key = (value.ref, limits.low, limits.high, limits.spared)
        required = self.scope.required
        if key in required or (self._is_constant(value) and not self.in_body):
            return
        required.add(key)
        node = self._use(value)
        segment = self.segments[-1]
        segment.builder.loc = user_location()
        with segment.builder:
            flag = limits.outside(node)
        position = self._position(segment, flag)
        segment.requirements.append(Requirement(position, node, limits, user_place()))

    def read_grad(self, tensor: Tensor) -> None:
        """`tensor.grad` was read: what stands there is an input, or its absence a guard."""
        if self._made(tensor):
            return
        number = self._input_number(tensor)
        if number in self._grad_read or number in self.grad_written:
            return
        self._grad_read.add(number)
        path = self.inputs[number].path.attribute("_grad")
        if tensor._grad is None:
            self.guards.append(CaptureGuard(path, None))
        else:
            self._paths.setdefault(id(tensor._grad), path)
            self._input_number(tensor._grad)

    def write_grad(self, tensor: Tensor, old: Tensor | None, new: Tensor | None) -> None:
        """`tensor.grad` was replaced."""
        if not self._made(tensor):
            if self.in_body:
                raise gradient_inside(self.scope)
            number = self._input_number(tensor)
            self.undo.keep(tensor)
            self.grad_written[number] = tensor

    def fresh(self, tensor: Tensor) -> None:
        """`tensor` was made from constants, or is a NumPy array that the function can reach."""
        path = self._array_path(tensor._array)
        if path is not None:
            number = self._by_path.get(path)
            if number is None:
                self._input_number(tensor)
            else:
                # Another tensor on the same array: they see each other's changes.
                first = self.inputs[number].tensor
                tensor._storage = first._storage
                tensor._alias = (first, ())
            return
        self._bind_new(tensor, self._constant(Literal(moved(tensor._values, cpu))))

    def registered(self, registration: Registration) -> None:
        """A hook was set, or a gradient is to be retained."""
        self.registrations.append(registration)

    def later(self, message: Message) -> None:
        """A message is printed when the call is done."""
        if self.in_body:
            raise printed_inside(self.scope)
        self.messages.append(message)

    def run_again(self) -> None:
        """Each call that goes this way runs in Python too: a debugger stops there."""
        self.runs_again = True

    def note(self, tensor: Tensor) -> str | None:
        """`traced=f32[2] by mul at model.py:12`, for a tensor that the trace knows."""
        value = self._bound(tensor)
        if value is None:
            return None
        if value.node is None:
            if value.scope is not self.outermost:
                return f"traced={value.type} in {value.scope.form}"
            return f"traced={value.type} from {self.inputs[value.position].path}"
        place = f" at {value.node.loc}" if value.node.loc is not None else ""
        return f"traced={value.type} by {value.node.op.name}{place}"

    # ------------------------------------------------------------ for rolling loops

    @property
    def size(self) -> tuple[int, int]:
        """Another one as soon as something is recorded."""
        return len(self.segments), len(self.segments[-1].builder.nodes)

    def carry(self, tensor: Tensor, fresh: Tensor, number: int) -> Value:
        """Record `fresh`, a copy of `tensor`, as what a loop carries."""
        value = self.value_of(tensor)
        node = self._append(OPS["carried"], [self._operand(tensor, value)], {"number": number})
        differentiable = value.differentiable and tensor.requires_grad
        made = self._value(node, differentiable)
        self._bind_new(fresh, made)
        return made

    def carry_memory(self, memory: Memory, number: int) -> Value:
        """Record what a memory holds as what a loop carries."""
        value = self._standing(memory)
        assert value is not None
        node = self._append(OPS["carried"], [self._use(value)], {"number": number})
        memory.value = self._value(node, value.differentiable)
        memory.version += 1
        if memory.root is not None:
            memory.root._trace = Binding(self, memory.value, memory.version)
            self._hold(memory.root, memory.value)
        return memory.value

    def bind(self, tensor: Tensor, value: Value) -> None:
        """`tensor`, which is new, has a value that was recorded."""
        self._bind_new(tensor, value)

    def holder(self, value: Value) -> Tensor | None:
        """A tensor that has this value now."""
        return self.tensor_at(value.ref)

    def tensor_at(self, ref: Ref) -> Tensor | None:
        """A tensor that has the value at a place now."""
        scope = self.scope
        found = scope.holders.get(ref)
        if found is None and ref[0] < 0:
            inputs = scope.inputs if self.in_body else self.inputs
            found = inputs[ref[1]].tensor if ref[1] < len(inputs) else None
        if found is None:
            return None
        bound = self._bound(found)
        if bound is None:
            return None
        if bound.scope is not scope:
            return found if ref[0] < 0 and scope.inputs[ref[1]].shows(bound) else None
        return found if bound.ref == ref else None

    def path_of(self, number: int) -> Path | None:
        """The way to an input of the function, or to what an input of a body is; None if there is
        none.
        """
        if self.in_body:
            tensor = self.scope.inputs[number].tensor
            if tensor is None or not self.is_input(tensor):
                return None
            number = self.number_of(tensor)
        return self.inputs[number].path

    def forget_script(self) -> None:
        """From here on the recording is another than those that the outcomes were taken from."""
        del self.scope.script[len(self.outcomes) :]

    def depends_on(self, value: Value, refs: Collection[Ref]) -> bool:
        """Whether a value is computed from one of the values at `refs`."""
        work = [value]
        seen: set[Ref] = set()
        while work:
            value = work.pop()
            if value.ref in refs:
                return True
            if value.ref in seen or value.segment < 0 or value.node is None:
                continue
            seen.add(value.ref)
            segment = self.segments[value.segment]
            imported = dict(zip(segment.builder.inputs, segment.sources, strict=True))
            for node in reachable([value.node]):
                source = imported.get(node)
                if source is not None:
                    work.append(source)
                elif (value.segment, segment.positions.get(id(node), -1)) in refs:
                    return True
        return False

    # ---------------------------------------------------------------- random numbers

    def _record_draw(
        self, op: Op, inputs: Sequence[Tensor], params: dict[str, Any], output: Tensor
    ) -> None:
        """Random numbers are a function of the generator's seed and offset, which are inputs."""
        if self.in_body:
            if self.scope.draw is None:
                raise drawn_inside(self.scope)
            self._bind_new(output, self.scope.draw(op, inputs, params, output))
            return
        counters = self.draws.take(inputs[0], inputs[1], output)
        node = self._append(op, [self.node_of(x) for x in counters], params)
        self._bind_new(output, self._value(node, False))

    def counters(self) -> tuple[Tensor, Tensor]:
        """The seed and the offset of the next draw, as values of the trace."""
        if self.in_body:
            if self.scope.counters is None:
                raise drawn_inside(self.scope)
            return self.scope.counters()
        return self.draws.counters()

    def drawn(self, count: int) -> None:
        """A loop drew `count` random numbers."""
        if self.in_body:
            default_generator.advance(count)
        else:
            self.draws.skip(count)

    def enter_generator(self, kind: str, tensor: Tensor) -> None:
        """Make the "seed" or "offset" that the generator has when the call begins an input."""
        path = access.of_generator(kind)
        number = self._by_path.setdefault(path, len(self.inputs))
        item = TraceInput(path, kind, tensor, tensor._type, kind, False)
        self.inputs[number : number + 1] = [item]
        self._bind_new(tensor, Value(-1, number, None, item.type, False, self.outermost))
