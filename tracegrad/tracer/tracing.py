"""One trace: a function runs under a recorder, what it did becomes a path, and is undone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracegrad.errors import TraceError
from tracegrad.tracer import access, late_hooks
from tracegrad.tracer.captures import Survey
from tracegrad.tracer.debugging import Message
from tracegrad.tracer.inputs import StartAnew, parent_of, storage_of
from tracegrad.tracer.loop_records import KnownLoops, SiteKey
from tracegrad.tracer.recorder import Recorder
from tracegrad.tracer.recording import (
    End,
    Flag,
    GradWrite,
    Ref,
    Result,
    Steps,
    Trace,
    TraceInput,
    Write,
)
from tracegrad.tracer.rolling import Rolling
from tracegrad.tracer.state import state
from tracegrad.tracer.stores import Places, Reached, Store, take_apart
from tracegrad.tracer.structure import statics, substitute
from tracegrad.tracer.tape import Node, OpNode, accumulator, mark
from tracegrad.tracer.tensor import Tensor, wrap
from tracegrad.tracer.views import freeze


def record(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: Sequence[Any],
    names: Sequence[str],
    survey: Survey,
    kept: Collection[int],
    known: Sequence[TraceInput] = (),
    aliases: bool = False,
    script: Sequence[Hashable] = (),
    loops: KnownLoops | None = None,
    disabled: dict[SiteKey, str] | None = None,
) -> tuple[Trace, Recorder]:
    """Run `function` once and take back everything that it did to tensors.

    `names`: of each leaf. `kept`: positions of arguments that are left alone, as the object of a
    method is. Whatever the function raises comes out, with every tensor as it was.
    AliasesMatter: it has to be recorded again with `aliases=True`. RollFailedError: again, with one
    loop more among those `disabled`. Loops are rolled if there are `loops`, those known so far.
    """
    stand_ins = [stand_in(leaf) for leaf in leaves]
    arguments = [
        (access.of_argument(i, names[i]), kind, tensor)
        for i, (kind, tensor) in enumerate(stand_ins)
    ]
    remaining = iter([tensor for _, tensor in stand_ins])

    args = tuple(
        value if i in kept else substitute(value, lambda leaf: next(remaining))
        for i, value in enumerate(args)
    )
    kwargs = dict.fromkeys(kwargs) | {
        name: substitute(kwargs[name], lambda leaf: next(remaining)) for name in sorted(kwargs)
    }
    recorder = Recorder(arguments, survey, known, aliases=aliases, script=script)
    places = Places(survey, args, kwargs, leaves, kept)
    if loops is not None:
        recorder.outermost.rolling = Rolling(recorder, places, loops, disabled or {})
    starts_anew = done = False
    before = state.grad_enabled
    since = mark()
    state.record_by(recorder)
    state.deferrals = recorder.deferrals
    try:
        result = function(*args, **kwargs)
        if recorder.rolling is not None:
            recorder.rolling.finish()
        end = _end(recorder, result, [tensor for _, tensor in stand_ins], places, since)
        survey.forget(places.overwritten)
        end.drawn = recorder.draws.end()
        done = True
    except StartAnew:
        # The function will run once more for this call.
        starts_anew = True
        raise
    except Exception:
        for message in recorder.messages:
            message.print_now()
        raise
    finally:
        state.deferrals = None
        state.record_by(None)
        state.set_grad(before)
        if recorder.rolling is not None:
            recorder.rolling.release()
        places.restore(everything=starts_anew)
        recorder.undo.revert()
        late_hooks.take_back(recorder, since)
        recorder.draws.restore()
        if not done:
            recorder.close()
    trace = Trace(
        recorder.inputs, recorder.segments, recorder.outcomes, end, recorder.writes_inputs
    )
    return trace, recorder


def stand_in(leaf: Any) -> tuple[str, Tensor]:
    """What the function gets for a dynamic leaf, and its kind."""
    if isinstance(leaf, Tensor):
        return "tensor", leaf
    if isinstance(leaf, np.ndarray | np.generic):
        return "array", wrap(np.asarray(leaf))
    kind = "float" if type(leaf) is float else "int"
    tensor = wrap(np.asarray(leaf, np.float64 if kind == "float" else np.int64))
    tensor._weak = True
    return kind, tensor


def _end(
    recorder: Recorder, returned: Any, stand_ins: Sequence[Tensor], places: Places, since: int
) -> End:
    found: list[Any] = []
    structure = take_apart(returned, found, places.known)
    for value in statics(structure):
        if isinstance(value, Iterator):
            raise TraceError(
                f"a compiled function returned a {type(value).__name__}, which can be read only "
                "once: return a list of it"
            )
    stores: list[Store | Message] = [*places.stores(), *recorder.messages]
    stored = [leaf for store in stores for leaf in store.take_apart(places.known)]
    count = len(found)
    gradients = _gradients(recorder, found, stored)
    found += [gradient for _, gradient in gradients] + stored
    if recorder.registrations:
        reached = [*found, *(item.tensor for item in recorder.inputs)]
        open_ends = [x for x in reached if isinstance(x, Tensor) and not is_freed(x)]
        late_hooks.refuse(open_ends, recorder, since)
    results = []
    seen: dict[int, int] = {}
    memory: dict[tuple[Ref, int], int] = {}
    # Equal values are computed once, but tensors that had memory of their own get it.
    owners: dict[Ref, int] = {}
    for i, leaf in enumerate(found):
        result = _result(recorder, leaf, stand_ins)
        twin = seen.setdefault(id(leaf), i)
        if isinstance(leaf, Tensor) and twin == i and result.kind == "value":
            storage = id(storage_of(leaf))
            first = memory.setdefault((result.ref, storage), i)
            twin = -1 - first if first != i else i
            if owners.setdefault(result.ref, storage) != storage:
                result = replace(result, copied=True)
        if twin != i:
            result = replace(result, twin=twin)
        results.append(result)
    _refuse_open_leaves(found, results)
    writes = []
    for item in recorder.memories.values():
        if item.version and not item.created:
            assert item.value is not None
            number = item.inputs[0]
            root = recorder.inputs[number].tensor
            if item.value.ref != (-1, number):
                tracked = item.value.differentiable and root.grad_fn is not None
                writes.append(Write(number, item.value.ref, tracked))
    writes += _exchanged(recorder)
    return End(
        structure,
        tuple(results),
        tuple(writes),
        _grad_writes(recorder, owners),
        _flags(recorder),
        tuple(stores),
        tuple((i, count + k) for k, (i, _) in enumerate(gradients)),
        runs_again=recorder.runs_again,
    )


def _gradients(
    recorder: Recorder, returned: Sequence[Any], stored: Sequence[Any]
) -> list[tuple[int, Tensor]]:
    """The `.grad` of tensors that the function made, by number of the result.

    The gradients come between what is returned and what is stored.
    """
    own: dict[int, tuple[int, Tensor]] = {}
    for i, value in enumerate((*returned, *stored)):
        if isinstance(value, Tensor) and value._grad is not None and not recorder.is_input(value):
            own.setdefault(id(value), (i, value._grad))
    shift = len(own)
    return [(i if i < len(returned) else i + shift, gradient) for i, gradient in own.values()]


def _refuse_open_leaves(found: Sequence[Any], results: Sequence[Result]) -> None:
    """TraceError for a leaf that is returned together with what is computed from it: outside of the
    function no tape leads from one to the other.
    """
    leaves = {
        accumulator(value): value
        for value, result in zip(found, results, strict=True)
        if result.leaf
    }
    if not leaves:
        return
    ends = [x for x in found if isinstance(x, Tensor) and x.grad_fn is not None and not is_freed(x)]
    if any(node in leaves for node in late_hooks.leading_to(ends)):
        raise TraceError(
            "a compiled function returned a leaf that it made by requires_grad_(), and a result "
            "that was computed from it: backward after the call could not reach the leaf. Run "
            "backward inside of the function, or make the leaf outside and pass it as an argument"
        )


def _result(recorder: Recorder, leaf: Any, stand_ins: Sequence[Tensor]) -> Result:
    if isinstance(leaf, Reached):
        return Result("reached", (-1, -1), constant=leaf.path)
    if not isinstance(leaf, Tensor):
        for tensor in stand_ins:
            if isinstance(leaf, np.ndarray) and tensor._array is leaf:
                return Result("input", (-1, recorder.number_of(tensor)))
        return Result("constant", (-1, -1), constant=leaf)
    if recorder.is_input(leaf):
        number = recorder.number_of(leaf)
        # Made from a captured array within: a tensor on its memory, not the array.
        kind = recorder.inputs[number].kind
        made = kind == "array" and not any(leaf is tensor for tensor in stand_ins)
        return Result("view" if made else "input", (-1, number))
    memory = recorder.memories.get(id(storage_of(leaf)))
    if memory is None or not memory.created:
        shared = _shared(recorder, leaf)
        if shared is not None:
            return shared
    value = recorder.value_of(leaf)
    asks = leaf.requires_grad and leaf.is_leaf
    differentiable = leaf.requires_grad and value.differentiable and not asks
    freed = leaf.requires_grad and is_freed(leaf)
    return Result(
        "value",
        value.ref,
        differentiable=differentiable and not freed,
        weak=leaf._weak,
        freed=freed,
        leaf=asks,
    )


def _shared(recorder: Recorder, leaf: Tensor) -> Result | None:
    """A result that shares memory with an input is made again from that input."""
    steps: Steps = ()
    source: Tensor | None = leaf
    while source is not None:
        if recorder.is_input(source):
            number = recorder.number_of(source)
            asks = leaf.requires_grad and leaf.is_leaf
            detached = asks or (not leaf.requires_grad and (source.requires_grad or not steps))
            return Result("view", (-1, number), steps=steps, detached=detached, leaf=asks)
        source, lead = parent_of(source)
        steps = freeze(lead) + steps
    return None


def _exchanged(recorder: Recorder) -> list[Write]:
    """Inputs that took other memory (`t.data = new`): on replay theirs is written."""
    found = []
    for number, item in enumerate(recorder.inputs):
        if item.kind != "tensor":
            continue
        before = recorder.undo.before(item.tensor)["_array"]
        now = item.tensor._array
        if now is before:
            continue
        if (now.shape, now.dtype) != (before.shape, before.dtype):
            raise TraceError(
                f"a compiled function set .data of {item.path} to another shape or dtype: "
                f"{list(before.shape)} {before.dtype} to {list(now.shape)} {now.dtype}. Do that "
                "outside of it"
            )
        found.append(Write(number, recorder.value_of(item.tensor).ref, False))
    return found


def is_freed(tensor: Tensor) -> bool:
    """Whether backward came through the tape of `tensor` and freed it."""
    work: list[Node | None] = [tensor.grad_fn]
    seen: set[Node] = set()
    while work:
        node = work.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, OpNode) and node.saved is None:
            return True
        work.extend(following for following, _ in node.edges)
    return False


def _grad_writes(recorder: Recorder, owners: dict[Ref, int]) -> tuple[GradWrite, ...]:
    found = []
    for number, tensor in recorder.grad_written.items():
        gradient = tensor._grad
        if gradient is recorder.undo.before(tensor).get("_grad"):
            continue
        if gradient is None:
            found.append(GradWrite(number, None))
        elif recorder.is_input(gradient):
            found.append(GradWrite(number, None, recorder.number_of(gradient)))
        else:
            ref = recorder.value_of(gradient).ref
            storage = id(storage_of(gradient))
            copied = owners.setdefault(ref, storage) != storage
            found.append(GradWrite(number, ref, copied=copied))
    return tuple(found)


def _flags(recorder: Recorder) -> tuple[Flag, ...]:
    found = []
    for number, item in enumerate(recorder.inputs):
        if item.kind != "tensor" or item.tensor.grad_fn is not None:
            continue
        before = recorder.undo.before(item.tensor).get("_requires_grad", False)
        if item.tensor._requires_grad != before:
            found.append(Flag(number, item.tensor._requires_grad))
    return tuple(found)
