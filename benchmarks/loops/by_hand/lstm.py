"""Long short-term memory.

What does not depend on the state is taken out of the loop: the products with the inputs, and those
that make the gradients of the weights, are one large product each.
"""

import math

import numpy as np
from numba import njit


@njit
def _sigmoid(x):
    # Of one dtype throughout: a literal 1.0 would make float32 a float64.
    return 1 / (1 + math.exp(-x))


@njit
def _run(w_input, w_state, bias, sequence):
    """All states and cells, the first ones zero, and the four gates of each step."""
    steps, batch, features = sequence.shape
    units = bias.size // 4
    dtype = bias.dtype
    gates = np.dot(sequence.reshape(steps * batch, features), w_input).reshape(
        steps, batch, 4 * units
    )
    states = np.empty((steps + 1, batch, units), dtype=dtype)
    cells = np.empty((steps + 1, batch, units), dtype=dtype)
    states[0] = 0
    cells[0] = 0
    kept = np.empty((batch, 4 * units), dtype=dtype)
    for t in range(steps):
        np.dot(states[t], w_state, kept)
        for i in range(batch):
            gate = gates[t, i]
            for j in range(3 * units):
                gate[j] = _sigmoid(gate[j] + kept[i, j] + bias[j])
            for j in range(3 * units, 4 * units):
                gate[j] = math.tanh(gate[j] + kept[i, j] + bias[j])
            for j in range(units):
                cell = gate[units + j] * cells[t, i, j] + gate[j] * gate[3 * units + j]
                cells[t + 1, i, j] = cell
                states[t + 1, i, j] = gate[2 * units + j] * math.tanh(cell)
    return states, cells, gates


@njit
def _mean_square(states):
    total = 0.0
    for value in states.flat:
        total += value * value
    return total / states.size


@njit
def _loss(w_input, w_state, bias, sequence):
    states, _, _ = _run(w_input, w_state, bias, sequence)
    return _mean_square(states[1:])


@njit
def _gradient(w_input, w_state, bias, sequence):
    steps, batch, features = sequence.shape
    units = bias.size // 4
    dtype = bias.dtype
    states, cells, gates = _run(w_input, w_state, bias, sequence)
    scale = dtype.type(2.0 / (steps * batch * units))
    g_state = np.zeros((batch, units), dtype=dtype)
    g_cell = np.zeros((batch, units), dtype=dtype)
    g_gates = np.empty((steps, batch, 4 * units), dtype=dtype)
    by_bias = np.zeros(4 * units, dtype=dtype)
    transposed = w_state.T
    for t in range(steps - 1, -1, -1):
        for i in range(batch):
            gate = gates[t, i]
            g = g_gates[t, i]
            for j in range(units):
                admit = gate[j]
                forget = gate[units + j]
                show = gate[2 * units + j]
                new = gate[3 * units + j]
                shown = math.tanh(cells[t + 1, i, j])
                g_shown = g_state[i, j] + scale * states[t + 1, i, j]
                g_cell_here = g_cell[i, j] + g_shown * show * (1 - shown * shown)
                g[j] = g_cell_here * new * admit * (1 - admit)
                g[units + j] = g_cell_here * cells[t, i, j] * forget * (1 - forget)
                g[2 * units + j] = g_shown * shown * show * (1 - show)
                g[3 * units + j] = g_cell_here * admit * (1 - new * new)
                g_cell[i, j] = g_cell_here * forget
            for j in range(4 * units):
                by_bias[j] += g[j]
        np.dot(g_gates[t], transposed, g_state)
    rows = g_gates.reshape(steps * batch, 4 * units)
    by_input = np.dot(sequence.reshape(steps * batch, features).T, rows)
    by_state = np.dot(states[:steps].reshape(steps * batch, units).T, rows)
    return _mean_square(states[1:]), by_input, by_state, by_bias


def forward(w_input, w_state, bias, sequence):
    """The loss."""
    return bias.dtype.type(_loss(w_input, w_state, bias, sequence))


def gradient(w_input, w_state, bias, sequence):
    """The loss and its gradients by both weights and the bias. Keeps states, cells and gates."""
    value, *gradients = _gradient(w_input, w_state, bias, sequence)
    return bias.dtype.type(value), *gradients
