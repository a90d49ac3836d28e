"""Two loops that run side by side become one where they carry the same, and so do two choices."""

import numpy as np
import pytest

import tracegrad  # noqa: F401 - registers the ops
from tracegrad.ir.graph import Builder
from tracegrad.ir.interpret import interpret
from tracegrad.ir.merging import merge_control
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import INDEX, cond, item, while_loop
from tracegrad.ir.types import TensorType, float64
from tracegrad.ir.verifier import verify

SCALAR = TensorType(float64, ())
ROWS = TensorType(float64, (3,))


def loop_of(x, w, xs, *, extra=0, factor=None, rows=False, saves=False, limit=3, slices=True):
    """A loop that carries `c * w + s` and, with `extra`, a counter that starts there."""
    with Builder("body") as body:
        body.input(INDEX, "position")
        c = body.input(SCALAR, "c")
        n = [body.input(SCALAR, "n")] if extra else []
        inside = body.input(SCALAR, "w")
        s = body.input(SCALAR, "s")
        new = c * inside + s if slices else c * inside
        if factor is not None:
            new = new * factor
        made = [body.constant(True), new, *(k + extra for k in n)]
        made += [c * s] if rows else []
        made += [new * inside] if saves else []
        graph = body.finish(made)
    builder = Builder.current()
    carry = [x, *([builder.constant(0.0)] if extra else [])]
    return while_loop(
        builder.constant(np.int64(limit)),
        builder.constant(True),
        *carry,
        w,
        xs,
        body=graph,
        carries=len(carry),
        slices=1,
        frames=0,
        stacked=int(rows),
        length=3,
        saves=(1,) if saves else (),
        reverse=False,
    )


def merged(build, count):
    with Builder("f") as builder:
        inputs = [builder.input(SCALAR, "x"), builder.input(SCALAR, "w"), builder.input(ROWS, "xs")]
        graph = builder.finish(build(*inputs))
    found = merge_control(graph)
    verify(found)
    arrays = [np.array(0.3), np.array(1.2), np.array([1.0, 2.0, 3.0])]
    for a, b in zip(interpret(found, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sum(node.op in (while_loop, cond) for node in found.nodes) == count
    return found


def test_what_one_makes_more_than_the_other_is_made_by_both():
    def build(x, w, xs):
        plain, more = loop_of(x, w, xs), loop_of(x, w, xs, extra=1, rows=True)
        again = loop_of(x, w, xs, rows=True)
        return [
            item(plain, index=1) + item(more, index=1),
            item(more, index=2),
            item(more, index=3),
            item(again, index=2),
        ]

    merged(build, 1)


def test_stacks_are_kept_apart_from_rows():
    def build(x, w, xs):
        saving, rows = loop_of(x, w, xs, saves=True), loop_of(x, w, xs, rows=True)
        stack = item(saving, index=2)
        return [
            item(rows, index=1),
            item(rows, index=2),
            OPS["depth"](stack),
            item(saving, index=0),
        ]

    merged(build, 1)


@pytest.mark.parametrize("other", [{"factor": 2.0}, {"limit": 2}])
def test_loops_that_differ_stay_two(other):
    def build(x, w, xs):
        return [item(loop_of(x, w, xs), index=1), item(loop_of(x, w, xs, **other), index=1)]

    merged(build, 2)


def nested(x, w, xs, *, saves=False, factor=None):
    """A loop whose body has a loop."""
    with Builder("outer") as body:
        body.input(INDEX, "position")
        c, inside, all_xs = (body.input(type) for type in (SCALAR, SCALAR, ROWS))
        inner = loop_of(c, inside, all_xs, saves=saves, factor=factor)
        made = [body.constant(True), item(inner, index=1)]
        made += [item(inner, index=2)] if saves else []
        graph = body.finish(made)
    builder = Builder.current()
    return while_loop(
        builder.constant(np.int64(2)),
        builder.constant(True),
        x,
        w,
        xs,
        body=graph,
        carries=1,
        slices=0,
        frames=0,
        stacked=0,
        length=None,
        saves=(1,) if saves else (),
        reverse=False,
    )


def test_loops_whose_inner_loops_become_one_become_one():
    def build(x, w, xs):
        plain, saving = nested(x, w, xs), nested(x, w, xs, saves=True)
        return [item(plain, index=1), item(saving, index=1), OPS["depth"](item(saving, index=2))]

    (outer,) = [node for node in merged(build, 1).nodes if node.op is while_loop]
    assert sum(node.op is while_loop for node in outer.params["body"].nodes) == 1


def test_loops_whose_inner_loops_differ_stay_two():
    def build(x, w, xs):
        return [item(nested(x, w, xs), index=1), item(nested(x, w, xs, factor=2.0), index=1)]

    merged(build, 2)


def test_loops_whose_branches_become_one_become_one():
    def choosing(x, w, more):
        with Builder("body") as body:
            body.input(INDEX, "position")
            c, inside = body.input(SCALAR, "c"), body.input(SCALAR, "w")
            index = OPS["cast"](c > inside, dtype=INDEX.dtype)
            halves = [lambda c, w: [c * w, c], lambda c, w: [c - w, w]]
            made = []
            for half in halves:
                with Builder("branch") as branch:
                    operands = [branch.input(SCALAR, "c"), branch.input(SCALAR, "w")]
                    made.append(branch.finish(half(*operands)[: 1 + more]))
            node = cond(index, c, inside, branches=tuple(made))
            results = [item(node, index=i) for i in range(1 + more)]
            graph = body.finish([body.constant(True), *results])
        builder = Builder.current()
        return while_loop(
            builder.constant(np.int64(4)),
            builder.constant(True),
            x,
            w,
            body=graph,
            carries=1,
            slices=0,
            frames=0,
            stacked=0,
            length=None,
            saves=(1,) if more else (),
            reverse=False,
        )

    def build(x, w, xs):
        plain, saving = choosing(x, w, 0), choosing(x, w, 1)
        return [item(plain, index=1), item(saving, index=1), OPS["depth"](item(saving, index=2))]

    merged(build, 1)


def test_a_loop_that_needs_the_other_stays():
    def build(x, w, xs):
        first = item(loop_of(x, w, xs), index=1)
        return [item(loop_of(x, first, xs), index=1)]

    merged(build, 2)


def test_nothing_comes_to_depend_on_more_inputs():
    # As if xs were a cotangent: the first loop has to stay free of it.
    def build(x, w, xs, *, other=True):
        ones = OPS["broadcast_to"](Builder.current().constant(1.0), shape=(3,))
        first = loop_of(x, w, ones, slices=False)
        second = loop_of(x, w, xs if other else ones, slices=False, rows=True)
        return [item(first, index=1), item(second, index=2)]

    merged(lambda x, w, xs: build(x, w, xs, other=False), 1)
    merged(build, 2)


def test_choices():
    def branch(f):
        with Builder("branch") as body:
            x = body.input(SCALAR, "x")
            return body.finish([f(x)])

    def build(x, w, xs):
        index = OPS["cast"](x > 0.2, dtype=INDEX.dtype)
        double, square = branch(lambda x: x + x), branch(lambda x: x * x)
        a = cond(index, x, branches=(double, square))
        b = cond(index, w, branches=(square, double))
        c = cond(OPS["cast"](w > 2.0, dtype=INDEX.dtype), x, branches=(square, double))
        later = cond(index, item(a, index=0), branches=(square, double))
        return [item(node, index=0) for node in (a, b, c, later)]

    merged(build, 4)

    def together(x, w, xs):
        return [*build(x, w, xs)[:1], item(second(x, w), index=0)]

    def second(x, w):
        index = OPS["cast"](x > 0.2, dtype=INDEX.dtype)
        return cond(index, x, branches=(branch(lambda x: x * 3.0), branch(lambda x: -x)))

    merged(together, 1)
