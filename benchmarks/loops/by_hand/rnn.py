"""A recurrent network with tanh.

What does not depend on the state is taken out of the loop: the products with the inputs, and those
that make the gradients of the weights, are one large product each.
"""

import math

import numpy as np
from numba import njit


@njit
def _run(w_input, w_state, bias, sequence):
    """All states, the first one zero: (steps + 1, batch, units)."""
    steps, batch, _ = sequence.shape
    units = bias.size
    driven = np.dot(sequence.reshape(steps * batch, -1), w_input).reshape(steps, batch, units)
    states = np.empty((steps + 1, batch, units), dtype=bias.dtype)
    states[0] = 0
    kept = np.empty((batch, units), dtype=bias.dtype)
    for t in range(steps):
        np.dot(states[t], w_state, kept)
        for i in range(batch):
            for j in range(units):
                states[t + 1, i, j] = math.tanh(driven[t, i, j] + kept[i, j] + bias[j])
    return states


@njit
def _mean_square(states):
    total = 0.0
    for value in states.flat:
        total += value * value
    return total / states.size


@njit
def _gradient(w_input, w_state, bias, sequence):
    steps, batch, features = sequence.shape
    units = bias.size
    states = _run(w_input, w_state, bias, sequence)
    scale = bias.dtype.type(2.0 / (steps * batch * units))
    g_state = np.zeros((batch, units), dtype=bias.dtype)
    g_sums = np.empty((steps, batch, units), dtype=bias.dtype)
    by_bias = np.zeros(units, dtype=bias.dtype)
    transposed = w_state.T
    for t in range(steps - 1, -1, -1):
        for i in range(batch):
            for j in range(units):
                state = states[t + 1, i, j]
                g = (g_state[i, j] + scale * state) * (1 - state * state)
                g_sums[t, i, j] = g
                by_bias[j] += g
        np.dot(g_sums[t], transposed, g_state)
    rows = g_sums.reshape(steps * batch, units)
    by_input = np.dot(sequence.reshape(steps * batch, features).T, rows)
    by_state = np.dot(states[:steps].reshape(steps * batch, units).T, rows)
    return _mean_square(states[1:]), by_input, by_state, by_bias


def forward(w_input, w_state, bias, sequence):
    """The loss."""
    return bias.dtype.type(_loss(w_input, w_state, bias, sequence))


@njit
def _loss(w_input, w_state, bias, sequence):
    return _mean_square(_run(w_input, w_state, bias, sequence)[1:])


def gradient(w_input, w_state, bias, sequence):
    """The loss and its gradients by both weights and the bias. Keeps the states."""
    value, *gradients = _gradient(w_input, w_state, bias, sequence)
    return bias.dtype.type(value), *gradients
