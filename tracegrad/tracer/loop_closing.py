"""A loop whose iterations were recorded becomes one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.ir.ops.control import while_loop
from tracegrad.tracer.bounds import require_none, watched
from tracegrad.tracer.control import apply_control, control_graph, results_of
from tracegrad.tracer.device import owned
from tracegrad.tracer.dispatch import constant
from tracegrad.tracer.inputs import storage_of
from tracegrad.tracer.loop_bodies import Body, assemble
from tracegrad.tracer.loop_choices import is_list, stacked, stacked_type
from tracegrad.tracer.loop_paths import joined
from tracegrad.tracer.loop_records import Anchor, KnownCarry, LoopRecord, Origin, renamed
from tracegrad.tracer.loop_rows import split
from tracegrad.tracer.loop_state import LAST, Way
from tracegrad.tracer.loop_trials import PATIENCE, LoopVisit
from tracegrad.tracer.loop_visits import (
    Carry,
    MismatchError,
    Visit,
    WidenError,
    as_tensor,
    type_of,
)
from tracegrad.tracer.promotion import cast
from tracegrad.tracer.recording import Value
from tracegrad.tracer.tape import accumulator
from tracegrad.tracer.tensor import Tensor, wrap

# More ways through its body than this make a loop that is not worth compiling.
_MOST_PATHS = 64


class ClosingVisit(LoopVisit):
    """A visit at which the loop may become a node."""

    def try_closing(self, now: Visit) -> int | None:
        """Make one loop of it, if an iteration has just been recorded and fits. As `close`."""
        site = self.site
        if site.trial is None:
            return None
        try:
            path, outer = self.recorded_path(now)
        except WidenError:
            self.widen()
            return None
        except MismatchError as error:
            self.fail(str(error))
            return None
        paths = [*site.paths, path]
        if joined(paths) is None:
            # A loop inside that was too short to be rolled has become a node.
            paths = [path]
            site.failures += 1
            if site.failures >= PATIENCE:
                self.give_up("equal conditions lead to different iterations")
                return None
        if len(paths) > _MOST_PATHS:
            self.give_up(f"more than {_MOST_PATHS} ways lead through its body")
            return None
        site.paths = paths
        site.outer |= outer
        site.trial = None
        return self.close(now)

    def close(self, now: Visit) -> int | None:
        """One loop node for all iterations since the start. What it stopped at: 0 for the end of
        the loop, or the number of the way that no path knows; None if there can be no node.
        """
        site, recorder = self.site, self.recorder
        start = site.start
        assert start is not None
        carries = site.carries
        roots = joined(site.paths)
        assert roots is not None
        types = {place: value.type for place, value in site.outer.items()}
        carry_types = [carry.type for carry in carries]
        body = assemble(roots, carry_types, types, self.first(start), site.growths)
        held: dict[tuple[int, int], Tensor] = {}
        for place in body.outer:
            if is_list(place):
                continue
            tensor = recorder.holder(site.outer[place])
            if tensor is None:
                self.fail("a value from before the loop was overwritten")
                return None
            held[place] = tensor
        self.rolling.drop(site, start.checkpoint)
        consts = [
            held[place] if place in held else stacked(start.state, place) for place in body.outer
        ]
        if not self.keep_record(start):
            recorder.forget_script()
        limit, go = self.bounds(start, body)
        inputs = [limit, go, *(self._init(carry, start) for carry in carries)]
        if body.carries_condition:
            assert start.condition is not None
            inputs.append(start.condition)
        if body.exits:
            inputs.append(constant(np.int64(0)))
        if body.checks:
            inputs.append(constant(np.False_))
        carried = len(inputs) - 2
        params: dict[str, Any] = {
            "body": body.graph,
            "carries": carried,
            "slices": 0,
            "frames": 0,
            "stacked": len(site.growths),
            "length": self.trips(start) if site.growths else None,
            "saves": (),
            "reverse": False,
        }
        inputs += consts
        graph, operands = control_graph(while_loop, inputs, params)
        # In a body nobody can see the values, and the loop may never end with those that are there.
        values = None if recorder.in_body else results_of(graph, operands)
        results = apply_control(while_loop, inputs, params, values=values)
        self.count = results[0]
        stacks = results[1 + carried :]
        results = results[1 : 1 + carried]
        if body.checks:
            require_none(
                results.pop(),
                body.checks,
                lambda: watched(graph, [x._values for x in operands]),
            )
        code = results.pop() if body.exits else None
        self._settle(carries, results)
        self.rolling.note(site, body)
        self.last_condition = results[len(carries)] if body.carries_condition else None
        taken = 0 if code is None else int(recorder.ask(code, "exit", int(code._values)))
        site.is_incomplete = bool(site.growths) and taken != 0
        if not taken:
            self._grow(stacks, results)
        return taken

    def first(self, start: Visit) -> int:
        """The number of the iteration that the loop begins with."""
        return 0

    def bounds(self, start: Visit, body: Body) -> tuple[Tensor, Tensor]:
        """How many iterations there are at most, and whether the first is done."""
        raise AssertionError

    def _init(self, carry: Carry, start: Visit) -> Tensor:
        """What a loop carries into its first iteration."""
        if carry.memory is None:
            value = start.state.at(carry.ways[0])
            tensor = as_tensor(value)
            if tensor._array.dtype != carry.type.dtype.numpy:
                tensor = cast(tensor, carry.type.dtype)
            return tensor
        content = start.checkpoint.contents[carry.memory]
        root = content.memory.root
        assert root is not None
        array = start.checkpoint.arrays.get(carry.memory)
        init = wrap(owned(root._values if array is None else array))
        self.recorder.bind(init, content.value)
        if content.requires_grad:
            init._requires_grad = True
            init._grad_fn = content.grad_fn or accumulator(root)
            init._output_nr = content.output_nr
        return init

    def _settle(self, carries: Sequence[Carry], results: Sequence[Tensor]) -> None:
        """Python finds the results where it left what was carried."""
        changes: dict[Way, Any] = {}
        start = self.site.start
        assert start is not None
        for growth in self.site.growths:
            items, length = start.state.lists[growth.way]
            list.__delitem__(items, slice(length, None))
        for carry, result in zip(carries, results, strict=False):
            if carry.memory is None:
                result._weak = carry.weak
                changes.update(dict.fromkeys(carry.ways, result))
                continue
            root = start.checkpoint.contents[carry.memory].memory.root
            assert root is not None
            was_leaf = root.grad_fn is None
            self.recorder.before_write(root)
            np.copyto(root._array, result._array)
            root._storage.version += 1
            self.recorder.mutate(root, result)
            if not was_leaf:
                root._grad_fn = result._grad_fn
                root._output_nr = result._output_nr
                root._requires_grad = result._requires_grad
        self.change(changes)

    def _grow(self, stacks: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Python finds in its lists what all iterations have appended."""
        site, start = self.site, self.site.start
        assert start is not None
        split_stacks = map(split, site.growths, stacks)
        # What is appended first in each iteration, then what is appended next, ...
        columns = [
            rows[i :: growth.count]
            for growth, rows in zip(site.growths, split_stacks, strict=True)
            for i in range(growth.count)
        ]
        # Elsewhere they would be on the memory of others.
        alone = [row for column in columns for row in column]
        alone += [results[i] for path in site.paths for i in path.shared]
        self.rolling.appended.update((id(x._storage), site) for x in alone)
        changes: dict[Way, Any] = {}
        for i, twin in enumerate(site.paths[0].twins):
            if twin is None:
                continue
            kind, number = twin
            if kind == "row":
                columns[i] = columns[number]
                continue
            ways = site.carries[number].ways
            if kind == "end":
                changes.update(dict.fromkeys(ways, columns[i][-1]))
            elif isinstance(first := start.state.at(ways[0]), Tensor):
                columns[i] = [first, *columns[i][1:]]
        self.change(changes)
        at = 0
        for growth in site.growths:
            items, length = start.state.lists[growth.way]
            if length:
                last = start.state.at((*growth.way, LAST))
                list.__setitem__(items, length - 1, last)
            mine = columns[at : at + growth.count]
            at += growth.count
            list.extend(items, [row for each in zip(*mine, strict=True) for row in each])

    def keep_record(self, start: Visit) -> bool:
        """Let other traces know the loop; whether they did already, as it is."""
        site, rolling = self.site, self.rolling
        carries = []
        for carry in site.carries:
            if carry.memory is not None and carry.anchor is None:
                return False
            carries.append(KnownCarry(carry.ways, carry.type, carry.weak, carry.anchor))
        origins: dict[tuple[int, int], Origin | None] = {
            place: (0, ("outer", place)) if is_list(place) else rolling.origin_of(value)
            for place, value in site.outer.items()
        }
        found = {place: origin for place, origin in origins.items() if origin is not None}
        if len(found) < len(origins):
            return False
        known = rolling.known.records.get(start.key)
        new = LoopRecord(
            tuple(carries), tuple(site.paths), found, start.position, tuple(site.growths)
        )
        rolling.known.records[start.key] = new
        return known is not None and len(known.paths) == len(site.paths) and self.is_known

    def begin_as_known(self, now: Visit) -> int | None:
        """Make the loop node at once, if an earlier trace did here. None if it did not."""
        site, rolling = self.site, self.rolling
        now.key = rolling.key(site)
        record = rolling.known.records.get(now.key)
        if record is None or site.trial is not None:
            return None
        try:
            self._take(record, now)
        except MismatchError:
            self.recorder.forget_script()
            return None
        self.is_known = True
        site.start = site.previous = now
        code = self.close(now)
        if code is None:
            self.recorder.forget_script()
        return code

    def _take(self, record: LoopRecord, now: Visit) -> None:
        """What the record says, in terms of this trace. MismatchError if it does not fit."""
        site, recorder = self.site, self.recorder
        if record.position != now.position:
            raise MismatchError
        if record.growths and self.trips(now) is None:
            raise MismatchError
        if any(growth.way not in now.state.lists for growth in record.growths):
            raise MismatchError
        carries = []
        for carry in record.carries:
            memory = None
            if carry.anchor is not None:
                memory = self._memory_at(carry.anchor, now)
            for way in carry.ways:
                value = now.state.at(way)
                if value is None:
                    raise MismatchError
                type, weak = type_of(value)
                fits = (type, weak) == (carry.type, carry.weak)
                number = not isinstance(value, Tensor)
                if not fits and not (number and not carry.type.shape and not carry.weak):
                    raise MismatchError
            carries.append(Carry(carry.ways, carry.type, carry.weak, memory, carry.anchor))
        names: dict[tuple[int, int], tuple[int, int]] = {}
        outer: dict[tuple[int, int], Value] = {}
        for place, origin in record.origins.items():
            if is_list(place):
                found = stacked_type(now.state, place)
                if found is None:
                    raise MismatchError
                names[place] = place
                outer[place] = Value(-1, -1, None, found, False, recorder.scope)
                continue
            tensor = self.rolling.tensor_of(origin)
            if tensor is None:
                raise MismatchError
            value = recorder.value_of(tensor)
            names[place] = value.ref
            outer[value.ref] = value
        site.carries = carries
        site.growths = list(record.growths)
        site.paths = renamed(record.paths, names)
        site.outer = outer

    def _memory_at(self, anchor: Anchor, now: Visit) -> int:
        kind, place = anchor
        tensor = (
            self.recorder.inputs[place].tensor if kind == "input" else now.state.values.get(place)
        )
        if not isinstance(tensor, Tensor) or id(storage_of(tensor)) not in now.checkpoint.contents:
            raise MismatchError
        return id(storage_of(tensor))
