"""The intermediate representation: types, graphs, ops, passes, differentiation. Pure: graph to
graph.
"""
