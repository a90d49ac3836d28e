"""The last graph-to-graph step: what has no kernel of its own is said in ops that have one."""

from __future__ import annotations

from tracegrad.codegen.positions import is_search, searched
from tracegrad.codegen.stages import in_rows, in_stages, is_whole, neighbours
from tracegrad.ir.graph import Builder, Graph, Node, scalar_value
from tracegrad.ir.op import OPS
from tracegrad.ir.ops.control import graphs_of, is_control, with_graphs


def legalize(graph: Graph) -> Graph:
    """`graph` with integer and float16 products as sums, large whole-array reductions in two
    stages, positions of extremes as reductions, and one element of each computed row taken or
    placed by comparing positions.
    """
    rows = neighbours(graph)
    with Builder(graph.name) as builder:
        new: dict[Node, Node] = {}

        def whole(x: Node) -> Node:
            """A value in its own shape."""
            return OPS["reshape"](new[x], shape=x.shape) if x in rows else new[x]

        for node in graph.inputs:
            new[node] = builder.input(node.type, node.params["name"], node.loc)
        for node in graph.nodes:
            builder.loc = node.loc
            if node in rows:
                new[node] = in_rows(node, [new[x] for x in node.inputs], rows[node])
                continue
            inputs = [whole(x) for x in node.inputs]
            if node.op.name == "matmul" and node.dtype.name not in ("float32", "float64"):
                new[node] = product_as_sum(*inputs)
            elif is_search(node):
                new[node] = searched(node, inputs[0])
            elif is_whole(node):
                new[node] = in_stages(node, new[node.inputs[0]])
            elif is_control(node):
                graphs = [legalize(x) for x in graphs_of(node)]
                params = with_graphs(node, graphs)
                new[node] = builder.append(node.op, inputs, params, node.loc)
            elif node.op.name == "gather" and picks_in_rows(inputs[0], inputs[1:]):
                new[node] = picked(inputs[0], inputs[2])
            elif node.op.name == "scatter_add" and adds_to_zero_rows(*inputs):
                new[node] = one_hot(inputs[0].shape, inputs[3], inputs[1])
            else:
                new[node] = builder.adopt(node, inputs)
        return builder.finish([whole(x) for x in graph.outputs], graph.origin)


def product_as_sum(a: Node, b: Node) -> Node:
    """A matrix product for dtypes that BLAS does not know."""
    left = OPS["reshape"](a, shape=(*a.shape, 1))
    right = OPS["reshape"](b, shape=(*b.shape[:-2], 1, *b.shape[-2:]))
    terms = left * right
    return OPS["sum"](terms, axes=(terms.ndim - 2,), keepdims=False)


def picks_in_rows(x: Node, indices: list[Node]) -> bool:
    """Whether a gather takes one element of each row of a computed matrix, as a class's loss does.

    In memory the element is read directly; a computed one would need the whole matrix written
    first.
    """
    source = x
    while source.op.family == "movement" and len(source.inputs) == 1:
        source = source.inputs[0]
    computed = source.op.family == "elementwise"
    return computed and x.ndim == 2 and _one_each_row(x.shape, indices)


def adds_to_zero_rows(base: Node, value: Node, *indices: Node) -> bool:
    """Whether a scatter puts one element into each row of zeros: the gradient of such a gather."""
    empty = base.op.name == "broadcast_to" and scalar_value(base.inputs[0]) == 0
    return empty and base.ndim == 2 and _one_each_row(base.shape, list(indices))


def _one_each_row(shape: tuple[int, ...], indices: list[Node]) -> bool:
    return (
        len(indices) == 2
        and indices[0].op.name == "iota"
        and indices[0].shape == indices[1].shape == shape[:1]
    )


def one_hot(shape: tuple[int, ...], columns: Node, value: Node) -> Node:
    """A matrix of zeros but for `value[i]` at (i, columns[i]): elementwise, so that it fuses."""
    return _where_column(shape, columns, OPS["reshape"](value, shape=(shape[0], 1)))


def picked(x: Node, columns: Node) -> Node:
    """`x[i, columns[i]]` for each row, as the sum of a row in which all else is masked to zero."""
    return OPS["sum"](_where_column(x.shape, columns, x), axes=(1,), keepdims=False)


def _where_column(shape: tuple[int, ...], columns: Node, value: Node) -> Node:
    builder = Builder.current()
    here = builder.append(OPS["iota"], [], {"shape": shape, "axis": 1, "dtype": columns.dtype})
    # An index out of range counts as the nearest one, as everywhere in compiled code.
    inside = OPS["minimum"](OPS["maximum"](columns, 0), shape[1] - 1)
    mine = OPS["eq"](here, OPS["reshape"](inside, shape=(shape[0], 1)))
    return OPS["where"](mine, value, 0)
