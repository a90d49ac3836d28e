"""The ways through a function given to a loop, a branch or `vmap` as one graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracegrad.errors import TraceError
from tracegrad.ir.graph import Builder, Graph, Node, reachable
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import FLAG
from tracegrad.ir.types import DType, TensorType
from tracegrad.tracer.body_paths import Way, parting, path_of
from tracegrad.tracer.bounds import Limits, Requirement, any_outside, remember
from tracegrad.tracer.carries import Tree, common_dtypes
from tracegrad.tracer.loop_bodies import Assembly, BodyScope
from tracegrad.tracer.loop_paths import Check, Junction, LoopRef, Path, joined
from tracegrad.tracer.scopes import ScopeInput
from tracegrad.tracer.tensor import Tensor, wrap


@dataclass(eq=False)
class Body:
    """A function of tensors, traced.

    inputs    the nodes of its arguments.
    found     the nodes of all else that it reads, by key, and what that is.
    outputs   the nodes of its results, which are the leaves of `trees` at the end.
    fault     the node of a flag, true where one of `requirements` does not hold; None if it has
              none, or if each of them is looked at by itself.
    operands  the tensors from around that it reads, each with its node.
    drawn     how many random numbers a run draws.
    """

    nodes: tuple[Node, ...]
    inputs: list[Node]
    found: dict[Hashable, tuple[Node, ScopeInput]]
    outputs: list[Node]
    trees: list[Tree]
    requirements: list[Requirement]
    fault: Node | None
    operands: list[tuple[Node, Tensor]] = field(default_factory=list)
    drawn: int = 0

    def graph(self, name: str, inputs: Sequence[Node], outputs: Sequence[Node]) -> Graph:
        """The body as a graph, its inputs and outputs in the order of the op that runs it."""
        live = reachable((*outputs, *(node for node in self.nodes if not node.op.pure)))
        made = Graph(
            name, tuple(inputs), tuple(node for node in self.nodes if node in live), tuple(outputs)
        )
        if self.requirements:
            remember(made, self.requirements)
        return made


def body_of(ways: Sequence[Way], arguments: int, *, carries_fault: bool, by_one: bool) -> Body:
    """What all ways do. The first inputs of each are its `arguments`.

    With `carries_fault` the fault is that of all runs: then the last of the inputs is its value
    before. With `by_one` there is no fault: each requirement has a value of its own.
    """
    if len(ways) == 1 and len(ways[0].scope.segments) == 1:
        return _single(ways[0], arguments, carries_fault=carries_fault, by_one=by_one)
    trees, types = _agreed(ways)
    paths = [path_of(way) for way in ways]
    roots = joined(paths)
    assert roots is not None
    (root,) = roots.values()
    given = ways[0].scope.inputs[:arguments]
    known = {item.key: item for item in ways[0].scope.inputs}
    raised = {id(path): way.raised for path, way in zip(paths, ways, strict=True)}
    kind = _ByOne if by_one else _WithFault
    assembly = kind(ways[0].scope.form, root, given, known, types, paths, raised, carries_fault)
    return assembly.body(trees)


def _single(way: Way, arguments: int, *, carries_fault: bool, by_one: bool) -> Body:
    scope = way.scope
    (segment,) = scope.segments
    builder = segment.builder
    nodes = dict(zip([x.position for x in segment.sources], builder.inputs, strict=True))
    assert way.returned is not None
    outputs = [nodes[x.position] if x.node is None else x.node for x in way.returned.values]
    inputs = [nodes.pop(i) for i in range(arguments)]
    requirements = list(segment.requirements)
    fault = None
    if requirements and not by_one:
        flags = [_at(builder, item.position) for item in requirements]
        if carries_fault:
            earlier = builder.input(FLAG, "fault")
            inputs.append(earlier)
            flags.insert(0, earlier)
        with builder:
            fault = any_outside(flags)
    found = {scope.inputs[i].key: (node, scope.inputs[i]) for i, node in nodes.items()}
    trees = way.returned.trees
    return Body(tuple(builder.nodes), inputs, found, outputs, trees, requirements, fault)


def _at(builder: Builder, position: int) -> Node:
    return builder.nodes[position] if position >= 0 else builder.inputs[-1 - position]


_ASTRAY = "a function given to {} went a way that was not traced; use tg.while_loop for its loops"


class _Ways(Assembly):
    """
    given     what is passed to the body; `known` is all that it may read, by key.
    types     of the results.
    raised    the exception that a path ends with, by the path's identity.
    common    the results that all paths return as they are before the first condition, by number.
    """

    def __init__(
        self,
        form: str,
        root: Junction,
        given: Sequence[ScopeInput],
        known: dict[Hashable, ScopeInput],
        types: Sequence[TensorType],
        paths: Sequence[Path],
        raised: dict[int, Limits | None],
        carries_fault: bool,
    ) -> None:
        super().__init__("body")
        self.root = root
        self.inputs_known = known
        self.raised = raised
        self.errors = [error for error in raised.values() if error is not None]
        self.astray = Limits(0, 0, "", exception=TraceError(_ASTRAY.format(form)))
        if _has_gap(root):
            self.errors.append(self.astray)
        self.common = _common(paths)
        self.parted = [i for i in range(len(types)) if i not in self.common]
        self.types = [types[i] for i in self.parted]
        self.found: dict[Hashable, tuple[Node, ScopeInput]] = {}
        self.inputs = [self._import(item) for item in given]

    def _import(self, item: ScopeInput) -> Node:
        node = self.top.builder.input(item.type, item.name)
        self.top.known["outer", item.key] = node
        return node

    def import_outer(self, ref: LoopRef) -> None:
        """Make a value from around, or a random number, an input of the body."""
        item = self.inputs_known[ref[1]]
        self.found[ref[1]] = self._import(item), item

    def missing(self, scope: BodyScope, fault: LoopRef) -> list[Node]:
        """All ways are known."""
        raise AssertionError("a way through a body was not traced")

    def never(self, scope: BodyScope, fault: LoopRef) -> list[Node]:
        """An error, should anything come there."""
        return self.failing(scope, self.astray)

    def zeros(self, scope: BodyScope) -> list[Node]:
        """Results that nobody will see."""
        made = [np.zeros(type.shape, type.dtype.numpy) for type in self.types]
        return [scope.builder.constant(array) for array in made]

    @abstractmethod
    def failing(self, scope: BodyScope, wrong: Limits) -> list[Node]:
        """The outputs where nothing is right."""

    def results(self, scope: BodyScope, path: Path) -> list[Node]:
        """What a path returns, in the types of all."""
        found = [scope.node(path.results[i]) for i in self.parted]
        with scope.builder:
            return [
                x if x.dtype is type.dtype else OPS["cast"](x, dtype=type.dtype)
                for x, type in zip(found, self.types, strict=True)
            ]

    def outputs(self, made: Sequence[Node]) -> list[Node]:
        """The results in their order, of which `made` are those that the paths do not share."""
        self.path.append(self.root)
        found = {i: self.top.node(ref) for i, ref in self.common.items()}
        self.path.pop()
        found |= zip(self.parted, made, strict=True)
        return [found[i] for i in range(len(found))]

    def always(self, scope: BodyScope) -> Node:
        """A flag that is set, and no other node."""
        with scope.builder:
            return OPS["logical_not"](scope.builder.constant(np.False_))


class _WithFault(_Ways):
    """One flag says whether anything went wrong."""

    def __init__(
        self,
        form: str,
        root: Junction,
        given: Sequence[ScopeInput],
        known: dict[Hashable, ScopeInput],
        types: Sequence[TensorType],
        paths: Sequence[Path],
        raised: dict[int, Limits | None],
        carries_fault: bool,
    ) -> None:
        super().__init__(form, root, given, known, types, paths, raised, carries_fault)
        self.has_fault = bool(self.errors or _checks_in(root))
        builder = self.top.builder
        if self.has_fault and carries_fault:
            self.inputs.append(builder.input(FLAG, "fault"))
            self.top.known["fault", 0] = self.inputs[-1]
        elif self.has_fault:
            self.top.known["fault", 0] = builder.constant(np.False_)

    def end(self, scope: BodyScope, path: Path, fault: LoopRef) -> list[Node]:
        """The results, then the fault."""
        raised = self.raised[id(path)]
        if raised is not None:
            return self.failing(scope, raised)
        made = self.results(scope, path)
        return [*made, scope.node(fault)] if self.has_fault else made

    def failing(self, scope: BodyScope, wrong: Limits) -> list[Node]:
        """Zeros, and the fault."""
        flag = self.always(scope)
        scope.requirements.append(Requirement(0, flag, wrong, None))
        return [*self.zeros(scope), flag]

    def body(self, trees: list[Tree]) -> Body:
        """All ways."""
        made = self.emit(self.top, self.root, ("fault", 0))
        fault = made.pop() if self.has_fault else None
        outputs = self.outputs(made)
        nodes, required = tuple(self.top.builder.nodes), self.top.requirements
        return Body(nodes, self.inputs, self.found, outputs, trees, required, fault)


class _ByOne(_Ways):
    """Each requirement on a way that not all take has a flag of its own."""

    def check(self, scope: BodyScope, checks: Sequence[Check], fault: LoopRef) -> LoopRef:
        """The flags are computed where the path ends."""
        return fault

    def end(self, scope: BodyScope, path: Path, fault: LoopRef) -> list[Node]:
        """The results, then the flags."""
        raised = self.raised[id(path)]
        if raised is not None:
            return self.failing(scope, raised)
        made = self.results(scope, path)
        mine = {id(check) for junction in self.path for check in junction.piece.checks}
        for check in _checks_below(self.root):
            right = scope.builder.constant(np.False_)
            made.append(scope.node(check.flag) if id(check) in mine else right)
        return made + [scope.builder.constant(np.False_) for _ in self.errors]

    def failing(self, scope: BodyScope, wrong: Limits) -> list[Node]:
        """Zeros, and one flag that is set."""
        right = scope.builder.constant(np.False_)
        made = [*self.zeros(scope), *(right for _ in _checks_below(self.root))]
        return made + [self.always(scope) if x is wrong else right for x in self.errors]

    def body(self, trees: list[Tree]) -> Body:
        """All ways."""
        made = self.emit(self.top, self.root, ("fault", 0))
        outputs = self.outputs(made[: len(self.types)])
        flags = iter(made[len(self.types) :])
        self.path.append(self.root)
        required = [
            Requirement(0, self.top.node(check.value), check.limits, check.place)
            for check in self.root.piece.checks
        ]
        for check in _checks_below(self.root):
            message = check.limits.message.format("of some element")
            limits = check.limits._replace(low=0, high=0, message=message, spared=None)
            required.append(Requirement(0, next(flags), limits, check.place))
        required += [Requirement(0, next(flags), error, None) for error in self.errors]
        self.path.pop()
        nodes = tuple(self.top.builder.nodes)
        return Body(nodes, self.inputs, self.found, outputs, trees, required, None)


def _has_gap(junction: Junction) -> bool:
    """Whether some end of a loop on the way is one that no path takes."""
    ways = junction.ways
    if None not in ways and junction.end is None and len(ways) < junction.piece.choices:
        return True
    return any(map(_has_gap, ways.values()))


def _common(paths: Sequence[Path]) -> dict[int, LoopRef]:
    """The results that all paths share and that are there before the paths part, by number."""
    returning = [path.results for path in paths if path.results]
    found = {}
    for i, refs in enumerate(zip(*returning, strict=True)):
        first = refs[0]
        if all(ref == first for ref in refs) and (first[0] != "node" or first[1] == 0):
            found[i] = first
    return found


def _checks_in(junction: Junction) -> list[Check]:
    return [*junction.piece.checks, *_checks_below(junction)]


def _checks_below(junction: Junction) -> list[Check]:
    return [check for below in junction.ways.values() for check in _checks_in(below)]


# ------------------------------------------------------------------------- results that agree


def _agreed(ways: Sequence[Way]) -> tuple[list[Tree], list[TensorType]]:
    """What is returned whichever way is taken. The errors of ways that differ."""
    form = ways[0].scope.form
    returning = [way for way in ways if way.returned is not None]
    returned = [way.returned for way in returning if way.returned is not None]
    first = returned[0]
    count = sum(len(tree.leaves) for tree in first.trees)
    lead = len(first.values) - count

    trees = []
    dtypes: list[DType] = [value.type.dtype for value in first.values[:lead]]
    at = lead
    for number, tree in enumerate(first.trees):

        def where(i: int, leaf: int | None, other: int, at: int = at) -> str:
            loc, holds = parting(returning[i], returning[other])
            text = f"where the condition at {loc} {'holds' if holds else 'does not hold'}"
            made = None if leaf is None else returning[i].locs[at + leaf]
            return text if made is None else f"{text} (computed at {made})"

        alike = [x.trees[number] for x in returned]
        wanted = common_dtypes(form, alike, where)
        trees.append(_joined_tree(alike, wanted))
        dtypes += wanted
        at += len(tree.leaves)
    types = []
    for i, dtype in enumerate(dtypes):
        found = {x.values[i].type.dtype for x in returned}
        dtype = found.pop() if len(found) == 1 else dtype
        types.append(TensorType(dtype, first.values[i].type.shape))
    return trees, types


def _joined_tree(alike: Sequence[Tree], dtypes: Sequence[DType]) -> Tree:
    """What trees have in common: leaves with the types of all of them."""
    first = alike[0]
    leaves = [
        x if x.dtype is dtype else wrap(np.zeros(x.shape, dtype.numpy))
        for x, dtype in zip(first.leaves, dtypes, strict=True)
    ]
    weak = [all(tree.weak[k] for tree in alike) for k in range(len(leaves))]
    return Tree(first.structure, leaves, list(leaves), weak)
