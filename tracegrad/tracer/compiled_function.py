"""A compiled function: traced for new arguments, and replayed for known ones."""

from __future__ import annotations

import functools
import threading
import time
import types
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from tracegrad.config import config
from tracegrad.errors import TraceLimitWarning
from tracegrad.log import log
from tracegrad.tracer import call, program, promotion, ranges, scalars
from tracegrad.tracer.access import Path
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.code_reading import adding_parameters
from tracegrad.tracer.history import Event, describe, explain_miss
from tracegrad.tracer.inputs import AliasesMatter
from tracegrad.tracer.inspection import Inspection
from tracegrad.tracer.loop_records import SiteKey
from tracegrad.tracer.native_calls import NativeCalls, to_front
from tracegrad.tracer.range_names import counting
from tracegrad.tracer.rolling import RollFailedError
from tracegrad.tracer.signature import Binder, key_of, leaf_key
from tracegrad.tracer.specialisation import Specialisation, arrays
from tracegrad.tracer.state import state
from tracegrad.tracer.statistics import Statistics
from tracegrad.tracer.stores import CallLeaves
from tracegrad.tracer.structure import Description, Static, flatten, leaf_names, statics
from tracegrad.tracer.tensor import Tensor
from tracegrad.tracer.tracing import record
from tracegrad.tracer.tree import Path as TracePath
from tracegrad.tracer.tree import Run, UnknownOutcomeError, go_on, run

if TYPE_CHECKING:
    from tracegrad.runtime.entry import Entry
    from tracegrad.tracer.known_calls import Known

Key = tuple[Hashable, ...]

# Hits of one specialisation before its calls are taken natively.
PATIENCE = 4
# Calls that Python had to end before what is native is made anew.
REVISION = 64

# A larger whole number is no input, but a part of the key.
_BEYOND_INT64 = 2**63

scalars.attach()
ranges.attach()


class CompiledFunction(Inspection):
    """A function with its traces. Call it as the function that it was made from."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None,
        max_traces: int,
        roll: bool,
        memory_budget: int | None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self.name = str(name or getattr(function, "__name__", type(function).__name__))
        self.max_traces = max_traces
        self.roll = roll
        self.memory_budget = memory_budget
        self.statistics = Statistics()
        self.events: list[Event] = []
        self.specialisations: list[Specialisation] = []
        self._by_key: dict[Key, list[Specialisation]] = {}
        self._binder = Binder(function)
        self._plain_count = self._binder.count if self._binder.is_plain else -1
        code = getattr(function, "__code__", None)
        self._adding = adding_parameters(code) if code is not None else frozenset()
        self._owner = getattr(function, "__qualname__", "").rpartition(".")[0]
        self._lock = threading.RLock()
        self._native = NativeCalls(self.statistics)
        self._entries = self._native.entries
        self._warned = False
        self._announced: set[Path] = set()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: bound to the instance."""
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> str:
        # As functions are: pickled by name, copied as themselves.
        return str(getattr(self, "__qualname__", self.name))

    def __copy__(self) -> CompiledFunction:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledFunction:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            entries = self._entries[state.mode]
            for entry in entries:
                known = entry.native(*args)
                if known is not None:
                    if entry is not entries[0]:
                        to_front(entries, entry)
                    if type(known) is list and known and known[0] is entry.mark:
                        return self._finish(entry, known, args)
                    return known
        if state.recorder is not None or config.disable:
            # Within another compiled function this one is part of its trace.
            return self.__wrapped__(*args, **kwargs)
        given = -1 if kwargs else len(args)
        if kwargs or len(args) != self._plain_count:
            args, kwargs = self._binder.bind(args, kwargs)
        leaves: Sequence[Any] = args
        parts: list[Hashable] | None = None
        if not kwargs:
            parts = [state.grad_enabled, promotion._default]
            for value in args:
                kind = type(value)
                if kind is Tensor:
                    cached = value._key
                    if cached is not None and cached[0] is value._array:
                        parts.append(cached[1])
                    else:
                        parts.append(key_of(value))
                    # Only a view can require a gradient without knowing it yet.
                    parts.append(
                        value._requires_grad or (value._base is not None and value.requires_grad)
                    )
                elif kind is float:
                    parts.append(float)
                elif kind is int and -_BEYOND_INT64 <= value < _BEYOND_INT64:
                    parts.append(int)
                else:
                    parts = None
                    break
        if parts is not None:
            key: Key = tuple(parts)
        else:
            leaves, key = self._nested_key(args, kwargs)
        self.statistics.counted_calls += 1
        for found in self._by_key.get(key, ()):
            tree = found.tree
            generation = tree.generation
            if generation & 1:
                # Another thread is changing it.
                break
            try:
                inputs = found.gather(leaves)
                if inputs is None:
                    continue
                path, values = run(tree, arrays(inputs, found.odd))
            except UnknownOutcomeError as miss:
                return self._trace_and_finish(key, leaves, args, kwargs, miss.run)
            except Exception:
                if found.is_at(tree, generation):
                    raise
                break
            if not found.is_at(tree, generation):
                break
            if path.end.runs_again:
                return self._run_in_python_too(found, path, leaves, args, kwargs)
            self.statistics.counted_hits += 1
            self._native.used(found, path)
            found.steady += 1
            if found.steady == PATIENCE and given >= 0:
                self._take_natively(found, args, kwargs, given)
            return call.finish(tree, path, values, inputs, leaves)
        return self._trace_and_finish(key, leaves, args, kwargs)

    def _nested_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Key]:
        """Leaves and key of a call whose arguments are not all tensors and numbers."""
        leaves = CallLeaves(args, kwargs)
        described = tuple(self._describe(args, kwargs, leaves).items())
        modes = state.grad_enabled, promotion._default
        return leaves, (modes, described, tuple(map(leaf_key, leaves)))

    def _describe(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any]
    ) -> dict[str, Description]:
        """The description of each argument by name. The object of a method is static."""
        names = self._binder.names
        described: dict[str, Description] = {}
        for i, value in enumerate(args):
            name = names[i] if i < len(names) else f"args[{i - len(names)}]"
            if name in kwargs:
                # A decorator took both; the name is that of a parameter of what it wraps.
                name = f"args[{i}]"
            if i == 0 and self._is_own_object(value):
                described[name] = Static(value, by_identity=True)
            elif self._is_kept(i, value):
                described[name] = Static(type(value))
            else:
                described[name] = flatten(value, leaves)
        for name in sorted(kwargs):
            described[name] = flatten(kwargs[name], leaves)
        return described

    def _is_own_object(self, value: Any) -> bool:
        """Whether `value` is the object whose method this function is."""
        return bool(self._owner) and any(
            kind.__qualname__ == self._owner for kind in type(value).__mro__
        )

    def _is_kept(self, position: int, value: Any) -> bool:
        """Whether an argument is given to the function as it is, and is no part of the signature:
        the object of a method, or a list that is only appended to.
        """
        if position == 0 and self._is_own_object(value):
            return True
        names = self._binder.names
        appended = position < len(names) and names[position] in self._adding
        return appended and type(value) in (list, deque)

    # ------------------------------------------------------------- native calls

    def _take_natively(
        self, found: Specialisation, args: tuple[Any, ...], kwargs: dict[str, Any], given: int
    ) -> None:
        """Take calls like this one, to which `given` arguments were given by position and none by
        keyword, natively from now on, if that can be.
        """
        if any(self._is_kept(i, x) and not self._is_own_object(x) for i, x in enumerate(args)):
            return
        described = list(self._describe(args, kwargs, []).values())
        values = [*args, *(kwargs[name] for name in sorted(kwargs))]
        with self._lock:
            self._native.add(found, values, given, described)

    def _finish(self, entry: Entry, known: list[Any], args: tuple[Any, ...]) -> Any:
        """The rest of a call of which native code has run some segments."""
        owner: Known = entry.owner
        found, number = owner.found, known[1]
        inputs = known[owner.inputs[number] :]
        values = Run(arrays(inputs, ()), owner.generation)
        owner.retell(number, known, values)
        path = owner.paths[number]
        if path is None or owner.ways[number][-1].flags:
            given = len(args)
            args, kwargs = self._binder.bind(args, {})
            tree = found.tree
            try:
                path, values = go_on(tree, values)
            except UnknownOutcomeError as miss:
                return self._leave_native(args, kwargs, miss.run)
            except Exception:
                if found.is_at(tree, owner.generation):
                    raise
                return self._leave_native(args, kwargs, None)
            if not found.is_at(tree, owner.generation):
                return self._leave_native(args, kwargs, None)
            self._native.used(found, path)
            found.steady += 1
            if found.steady == REVISION:
                # By now native code may know more of what Python has just done.
                self._native.forget(found)
                self._take_natively(found, args, kwargs, given)
                found.steady = REVISION
        return call.finish(found.tree, path, values, inputs, inputs)

    def _leave_native(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], before: Run | None
    ) -> Any:
        """The rest of a call that native code has taken for a hit, which it is not."""
        self.statistics.counted_hits -= 1
        leaves: Sequence[Any] = args
        if kwargs or any(type(x) not in (Tensor, float, int) for x in args):
            leaves = self._nested_key(args, kwargs)[0]
        key = self._key(leaves, args, kwargs)
        return self._trace_and_finish(key, leaves, args, kwargs, before)

    # ------------------------------------------------------------------ tracing

    def _trace_and_finish(
        self,
        key: Key,
        leaves: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        before: Run | None = None,
    ) -> Any:
        """A call that is no hit, or was none before another thread had traced its like: only one
        thread at a time is here. `before`: what it has computed already.
        """
        with self._lock:
            traces = self.statistics.traces
            found, inputs = self._known(key, leaves)
            if found is None or inputs is None:
                found, inputs = self._specialise(key, leaves, args, kwargs)
                before = None
            result = self._run_to_the_end(found, inputs, before, leaves, args, kwargs)
            self.statistics.counted_hits += traces == self.statistics.traces
            return result

    def _known(
        self, key: Key, leaves: Sequence[Any]
    ) -> tuple[Specialisation | None, Sequence[Any] | None]:
        """The specialisation for a call and the inputs of the call, if there is one."""
        for found in self._by_key.get(key, ()):
            if found.tree.root is not None:
                inputs = found.gather(leaves)
                if inputs is not None:
                    return found, inputs
        return None, None

    def _run_in_python_too(
        self,
        found: Specialisation,
        path: TracePath,
        leaves: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace a known way once more, for what Python does there: it stops in a debugger."""
        with self._lock:
            described = self._describe(args, kwargs, [])
            script = path.outcomes()
            inputs = self._record(found, "breakpoint", described, leaves, args, kwargs, script)
            return self._run_to_the_end(found, inputs, None, leaves, args, kwargs)

    def _run_to_the_end(
        self,
        found: Specialisation,
        inputs: Sequence[Any],
        before: Run | None,
        leaves: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Compile what is new and run it; once more as long as that leads where no trace went.
        What ran `before` and is known does not run again.

        Compiled code may round differently from the eager run of the trace, so that a condition
        near its threshold comes out differently. What the compiled code finds is what counts.
        """
        found, path, values, inputs = self._run_through(found, inputs, before, leaves, args, kwargs)
        self._native.used(found, path)
        self._limit()
        return call.finish(found.tree, path, values, inputs, leaves)

    def _run_through(
        self,
        found: Specialisation,
        inputs: Sequence[Any],
        before: Run | None,
        leaves: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Specialisation, TracePath, Run, Sequence[Any]]:
        """The path of a call, traced where that is new, and its values; nothing is changed yet."""
        while True:
            compiled, seconds = program.counters.compilations, program.counters.seconds
            try:
                path, values = run(found.tree, arrays(inputs, found.odd), before)
            except UnknownOutcomeError as miss:
                before = miss.run
                found, inputs = self._retrace(found, miss, leaves, args, kwargs)
                continue
            finally:
                self.statistics.compilations += program.counters.compilations - compiled
                self.statistics.compile_seconds += program.counters.seconds - seconds
            return found, path, values, inputs

    def _specialise(
        self, key: Key, leaves: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Specialisation, Sequence[Any]]:
        """A new specialisation for this call, and the inputs of the call."""
        described = self._describe(args, kwargs, [])
        fields = describe(described, leaves)
        reason = explain_miss(self.specialisations, key, fields, leaves)
        found = Specialisation(
            self.name, key, fields, self.statistics, self._announced, self.memory_budget
        )
        inputs = self._record(found, reason, described, leaves, args, kwargs, ())
        self.specialisations.append(found)
        self._by_key.setdefault(key, []).insert(0, found)
        return found, inputs

    def _retrace(
        self,
        found: Specialisation,
        miss: UnknownOutcomeError,
        leaves: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Specialisation, Sequence[Any]]:
        """Trace the way that the compiled code went and did not know; where the trace is, and the
        inputs of the call.
        """
        inputs = found.gather(leaves)
        if inputs is not None and not found.traces(inputs):
            return self._specialise(found.key, leaves, args, kwargs)
        described = self._describe(args, kwargs, [])
        inputs = self._record(found, miss.reason, described, leaves, args, kwargs, miss.outcomes)
        self.statistics.retraces += 1
        return found, inputs

    def _record(
        self,
        found: Specialisation,
        reason: str,
        described: dict[str, Description],
        leaves: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        script: Sequence[Hashable],
    ) -> Sequence[Any]:
        started = time.perf_counter()
        opaque = [value for item in described.values() for value in statics(item)]
        survey = Survey(self.__wrapped__, opaque)
        names = [name for label, item in described.items() for name in leaf_names(item, label)]
        kept = {i for i, value in enumerate(args) if self._is_kept(i, value)}
        attempt = functools.partial(
            record,
            self.__wrapped__,
            args,
            kwargs,
            leaves,
            names,
            survey,
            kept,
        )
        rolls = self.roll and config.roll
        disabled: dict[SiteKey, str] = {}
        with counting(survey.functions) if rolls else nullcontext(), self._budget():
            while True:
                try:
                    trace, recorder = attempt(
                        found.tree.inputs,
                        found.aliases,
                        script,
                        found.loops if rolls else None,
                        disabled,
                    )
                    break
                except AliasesMatter:
                    if found.tree.inputs:
                        # The inputs are to be others: all paths are traced again, as they come.
                        found.restart()
                    found.aliases = True
                    script = ()
                except RollFailedError as failure:
                    disabled[failure.key] = failure.reason
                    # The outcomes are those of another way to trace the function.
                    script = ()
                    found.loops.note(failure.place, failure.reason, failure.for_good)
                    if failure.for_good:
                        found.loops.unrolled[failure.key] = failure.reason
        self._native.forget(found)
        found.add(trace, recorder, survey, leaves, supersedes=bool(disabled))
        inputs = found.objects(recorder, leaves)
        found.forget_tensors()
        recorder.close()
        seconds = time.perf_counter() - started
        self.statistics.traces += 1
        self.statistics.trace_seconds += seconds
        self.events.append(Event(len(self.events) + 1, reason, seconds))
        log("trace", lambda: f"{self.name}: trace {self.statistics.traces}: {reason}")
        return inputs

    @contextmanager
    def _budget(self) -> Iterator[None]:
        """The gradients of loops that are traced within keep to this function's budget."""
        state.memory_budget = self.memory_budget
        try:
            yield
        finally:
            state.memory_budget = None

    def _chosen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Specialisation]:
        if not args and not kwargs:
            return self.specialisations
        args, kwargs = self._binder.bind(args, kwargs)
        leaves = CallLeaves(args, kwargs)
        self._describe(args, kwargs, leaves)
        key = self._key(leaves, args, kwargs)
        with self._lock:
            found, _ = self._known(key, leaves)
            return [found or self._specialise(key, leaves, args, kwargs)[0]]

    def _computed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Specialisation, Run]:
        args, kwargs = self._binder.bind(args, kwargs)
        leaves = CallLeaves(args, kwargs)
        self._describe(args, kwargs, leaves)
        key = self._key(leaves, args, kwargs)
        with self._lock:
            found, inputs = self._known(key, leaves)
            if found is None or inputs is None:
                found, inputs = self._specialise(key, leaves, args, kwargs)
            found, _, values, _ = self._run_through(found, inputs, None, leaves, args, kwargs)
        for occurrence, _ in values.steps:
            # This was no call.
            occurrence.hits -= 1
        return found, values

    def _key(self, leaves: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        """The key of a call, in the one form that it has in `__call__`."""
        plain = all(
            type(x) in (Tensor, float) or (type(x) is int and -_BEYOND_INT64 <= x < _BEYOND_INT64)
            for x in args
        )
        if plain and not kwargs:
            parts: list[Hashable] = [state.grad_enabled, promotion._default]
            for leaf in leaves:
                part = leaf_key(leaf)
                parts.extend(part if isinstance(part, tuple) else (part,))
            return tuple(parts)
        return self._nested_key(args, kwargs)[1]

    # ------------------------------------------------------------------- limit

    def _limit(self) -> None:
        """Past the limit of traces: warn once, and drop what was used longest ago."""
        self._native.settle()
        if sum(len(s.tree.paths) for s in self.specialisations) <= self.max_traces:
            return
        paths = [(path.last_used, s, p) for s in self.specialisations for p, path in s.tree.ends()]
        if not self._warned:
            self._warned = True
            warnings.warn(self.limit_report(), TraceLimitWarning, stacklevel=5)
        _, owner, end = min(paths, key=lambda item: item[0])
        self._native.forget(owner)
        with owner.tree.changing():
            is_left = owner.tree.drop(end)
        if not is_left:
            self.specialisations.remove(owner)
            self._by_key[owner.key].remove(owner)
