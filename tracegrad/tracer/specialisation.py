"""One specialisation: a tree of traces, and the checks that a call has to pass to use it."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from tracegrad.tracer.access import Path as AccessPath
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.code_reading import announce
from tracegrad.tracer.device import contiguous
from tracegrad.tracer.guards import Guard, TensorGuard
from tracegrad.tracer.loop_records import KnownLoops
from tracegrad.tracer.recorder import Recorder
from tracegrad.tracer.recording import Trace
from tracegrad.tracer.signature import TensorKey, key_of, key_of_array
from tracegrad.tracer.statistics import Statistics
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.tree import Tree, has_odd_strides
from tracegrad.tracer.views import freeze, memory_root


class Specialisation:
    """The traces for one signature and one state of what the function captures.

    guards    plain values and functions that have to be the same.
    same      pairs of ways that have to lead to one object, as they did.
    pattern   which inputs share memory, where the function writes into inputs: then
              `watches_pattern`.
    aliases   views among the inputs are represented by their bases.
    announced changes of Python objects that a warning told of, of all specialisations together.
    """

    def __init__(
        self,
        name: str,
        key: tuple[Hashable, ...],
        fields: dict[str, str],
        statistics: Statistics,
        announced: set[AccessPath],
        memory_budget: int | None,
    ) -> None:
        self.key = key
        self.announced = announced
        self.fields = fields
        self.aliases = False
        self.loops = KnownLoops()
        self.tree = Tree(name, statistics, memory_budget)
        self.guards: list[Guard] = []
        self.same: list[tuple[AccessPath, AccessPath]] = []
        # Inputs whose strides are no whole number of elements, as of a field of records.
        self.odd: tuple[int, ...] = ()
        self.last_used = 0
        # Hits since the last trace.
        self.steady = 0
        self._guarded: set[tuple[type, AccessPath]] = set()
        self._captured: list[tuple[int, AccessPath, str, TensorKey | None, bool]] = []
        self._pattern: Hashable = None
        self.watches_pattern = False
        # Inputs are the arguments themselves, in their order, and nothing else has to be looked at.
        self._direct = False

    def add(
        self,
        trace: Trace,
        recorder: Recorder,
        survey: Survey,
        leaves: Sequence[Any],
        *,
        supersedes: bool = False,
    ) -> None:
        """Put a trace into the tree, and what it depends on among the checks.

        `supersedes`: loops are rolled in another way than before, so that paths that do not fit go.
        """
        with self.tree.changing():
            self._add(trace, recorder, survey, leaves, supersedes)

    def _add(
        self,
        trace: Trace,
        recorder: Recorder,
        survey: Survey,
        leaves: Sequence[Any],
        supersedes: bool,
    ) -> None:
        self.steady = 0
        inputs = recorder.inputs
        met = recorder.rolling is not None and recorder.rolling.met_loops
        self.tree.extend(trace, supersedes=met or supersedes)
        taken = [item.tensor._array for item in inputs if isinstance(item.tensor, Tensor)]
        paths = {item.path for item in inputs}
        unread = [
            TensorGuard(path, tensor)
            for path, tensor in survey.named_tensors.items()
            if path not in paths and not any(item.tensor is tensor for item in inputs)
        ]
        for guard in (*survey.guards, *survey.unread(taken), *unread, *recorder.guards):
            if (type(guard), guard.path) not in self._guarded:
                self._guarded.add((type(guard), guard.path))
                self.guards.append(guard)
        self._drop_changed(survey, leaves)
        known = set(self.same)
        self.same.extend(pair for pair in survey.twins if pair not in known)
        for item in inputs:
            other = survey.tensors.get(id(item.tensor))
            if other is not None and other != item.path and (item.path, other) not in known:
                self.same.append((item.path, other))
        self.odd = tuple(
            i
            for i, item in enumerate(inputs)
            if item.kind in ("tensor", "array") and has_odd_strides(item.tensor._array)
        )
        self._captured = []
        for i, item in enumerate(inputs):
            if self.tree.positions[i] is None:
                has_key = item.kind in ("tensor", "array")
                key = key_of_array(item.tensor._array) if has_key else None
                self._captured.append((i, item.path, item.kind, key, item.differentiable))
        end = trace.end
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        repeated = len(set(map(id, tensors))) != len(tensors)
        if trace.writes_inputs or end.writes or end.grad_writes or end.flags or repeated:
            self.watches_pattern = True
        if self.watches_pattern:
            self._pattern = pattern([*leaves, *self.objects(recorder, leaves)], self.aliases)
        self._direct = (
            not self.guards
            and not self.same
            and not self.watches_pattern
            and self.tree.positions == list(range(len(leaves)))
        )

    def _drop_changed(self, survey: Survey, leaves: Sequence[Any]) -> None:
        """Stop guarding the numbers that the function counted up while it was traced, and say so.

        They would never match again, and compiled code does not repeat the change.
        """
        changed = [guard for guard in self.guards if not guard.holds(leaves)]
        self.guards = [guard for guard in self.guards if guard not in changed]
        for guard in changed:
            if guard.path not in self.announced:
                self.announced.add(guard.path)
                announce(self.tree.name, guard.path, guard.difference(leaves), survey.codes)

    def forget_tensors(self) -> None:
        """Do not keep the tensors of the traced call alive."""
        inputs = self.tree.inputs
        self.tree.inputs = [dataclasses.replace(item, tensor=None) for item in inputs]

    def restart(self) -> None:
        """Drop all traces: they will be made again, with other inputs."""
        self.tree = Tree(self.tree.name, self.tree.statistics, self.tree.memory_budget)
        self._captured = []

    def objects(self, recorder: Recorder, leaves: Sequence[Any]) -> list[Any]:
        """The inputs of the call that was just traced: what stood there before it ran."""
        found: list[Any] = []
        for item, position in zip(recorder.inputs, self.tree.positions, strict=True):
            if position is not None:
                found.append(leaves[position])
            elif item.kind == "tensor":
                found.append(item.tensor)
            elif item.kind == "array":
                found.append(item.tensor._array)
            else:
                found.append(item.path.read(leaves))
        return found

    def gather(self, leaves: Sequence[Any]) -> Sequence[Any] | None:
        """The inputs of a call with this signature; None if a check fails."""
        if self._direct:
            return leaves
        for guard in self.guards:
            try:
                # Mostly it is the very object: a look is enough.
                if type(guard) is Guard and guard.read(leaves) is guard.expected:
                    continue
            except Exception:
                # What is not there, or cannot be read, is for the guard to judge.
                pass
            if not guard.holds(leaves):
                return None
        for first, second in self.same:
            if first.get(leaves) is not second.get(leaves):
                return None
        inputs = [None if p is None else leaves[p] for p in self.tree.positions]
        for i, path, kind, key, differentiable in self._captured:
            value = path.get(leaves)
            if kind == "tensor":
                if not isinstance(value, Tensor) or key_of(value) is not key:
                    return None
                if value.requires_grad is not differentiable:
                    return None
            elif kind == "array" and not (
                isinstance(value, np.ndarray) and key_of_array(value) is key
            ):
                return None
            inputs[i] = value
        if self.watches_pattern and pattern([*leaves, *inputs], self.aliases) != self._pattern:
            return None
        return inputs

    def is_at(self, tree: Tree, generation: int) -> bool:
        """Whether what was read of `tree`, at this generation, is what holds now."""
        return self.tree is tree and tree.generation == generation

    def traces(self, inputs: Sequence[Any]) -> bool:
        """Whether the trace of a call with these inputs has the same inputs.

        One tensor in several places is one input of the trace. A call like that can run what was
        traced for several, but not add to it.
        """
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        return self.watches_pattern or len(set(map(id, tensors))) == len(tensors)

    def difference(self, leaves: Sequence[Any]) -> list[str]:
        """What of the checks a call does not pass."""
        found = [g.difference(leaves) for g in self.guards if not g.holds(leaves)]
        for first, second in self.same:
            if first.get(leaves) is not second.get(leaves):
                found.append(f"{first} and {second} were one object and are two")
        for _, path, kind, key, differentiable in self._captured:
            value = path.get(leaves)
            if kind == "tensor":
                if not isinstance(value, Tensor):
                    found.append(f"{path}: tensor -> {type(value).__name__}")
                elif key_of(value) is not key:
                    found.append(f"{path}: {key} -> {key_of(value)}")
                elif value.requires_grad is not differentiable:
                    found.append(f"{path}: requires_grad {differentiable} -> {value.requires_grad}")
            elif kind == "array" and not isinstance(value, np.ndarray):
                found.append(f"{path}: array -> {type(value).__name__}")
            elif kind == "array" and key_of_array(value) is not key:
                found.append(f"{path}: {key} -> {key_of_array(value)}")
        return found or ["which of the arguments share memory"]


def arrays(inputs: Sequence[Any], odd: Sequence[int]) -> list[Any]:
    """What compiled code gets for the inputs of a call; copies of those numbered in `odd`."""
    found = [x._array if isinstance(x, Tensor) else x for x in inputs]
    for i in odd:
        found[i] = contiguous(found[i])
    return found


def pattern(values: Sequence[Any], steps: bool) -> Hashable:
    """Which tensors are the same and which share memory, and of those the views that they are; of
    all others too with `steps`.

    A batch cut out of a data set is a view that shares its memory with no other input: which part
    it shows makes no difference.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    roots = [memory_root(tensor) for tensor in tensors]
    owners: dict[int, int] = {}
    shared: set[int] = set()
    for tensor, (root, _) in zip(tensors, roots, strict=True):
        if owners.setdefault(id(root._storage), id(tensor)) != id(tensor):
            shared.add(id(root._storage))
    identities: dict[int, int] = {}
    storages: dict[int, int] = {}
    found = []
    for tensor, (root, lead) in zip(tensors, roots, strict=True):
        storage = id(root._storage)
        same = identities.setdefault(id(tensor), len(identities))
        number = storages.setdefault(storage, len(storages))
        found.append((same, number, freeze(lead) if steps or storage in shared else ()))
    return tuple(found)
