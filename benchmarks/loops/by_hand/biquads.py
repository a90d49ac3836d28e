"""15 second-order filters in a row.

The input of a section is the output of the one before, so one history of signals, from the input
to the last output, holds all states.
"""

import numpy as np
from numba import njit


@njit
def forward(coefficients, signal, wanted):
    """The loss."""
    sections = coefficients.shape[0]
    # The last two samples of each signal: input, then the output of each section.
    one_ago = np.zeros(sections + 1)
    two_ago = np.zeros(sections + 1)
    loss = 0.0
    for t in range(signal.size):
        x = signal[t]
        x1 = one_ago[0]
        x2 = two_ago[0]
        two_ago[0] = x1
        one_ago[0] = x
        for k in range(sections):
            y1 = one_ago[k + 1]
            y2 = two_ago[k + 1]
            y = (
                coefficients[k, 0] * x
                + coefficients[k, 1] * x1
                + coefficients[k, 2] * x2
                - coefficients[k, 3] * y1
                - coefficients[k, 4] * y2
            )
            two_ago[k + 1] = y1
            one_ago[k + 1] = y
            x = y
            x1 = y1
            x2 = y2
        loss += (x - wanted[t]) ** 2
    return loss


@njit
def gradient(coefficients, signal, wanted):
    """The loss and its gradient by the coefficients. Keeps all signals."""
    sections = coefficients.shape[0]
    samples = signal.size
    # Two zero samples in front, so that no sample is a special case.
    history = np.zeros((samples + 2, sections + 1))
    loss = 0.0
    for t in range(samples):
        now = history[t + 2]
        one_ago = history[t + 1]
        two_ago = history[t]
        now[0] = signal[t]
        for k in range(sections):
            now[k + 1] = (
                coefficients[k, 0] * now[k]
                + coefficients[k, 1] * one_ago[k]
                + coefficients[k, 2] * two_ago[k]
                - coefficients[k, 3] * one_ago[k + 1]
                - coefficients[k, 4] * two_ago[k + 1]
            )
        loss += (now[sections] - wanted[t]) ** 2

    # What later samples owe to the signals of this one, of the one before and of the next before.
    g_now = np.zeros(sections + 1)
    g_one = np.zeros(sections + 1)
    g_two = np.zeros(sections + 1)
    by_coefficients = np.zeros_like(coefficients)
    for t in range(samples - 1, -1, -1):
        now = history[t + 2]
        one_ago = history[t + 1]
        two_ago = history[t]
        g_now[sections] += 2.0 * (now[sections] - wanted[t])
        for k in range(sections - 1, -1, -1):
            g = g_now[k + 1]
            by_coefficients[k, 0] += g * now[k]
            by_coefficients[k, 1] += g * one_ago[k]
            by_coefficients[k, 2] += g * two_ago[k]
            by_coefficients[k, 3] -= g * one_ago[k + 1]
            by_coefficients[k, 4] -= g * two_ago[k + 1]
            g_now[k] += g * coefficients[k, 0]
            g_one[k] += g * coefficients[k, 1]
            g_two[k] += g * coefficients[k, 2]
            g_one[k + 1] -= g * coefficients[k, 3]
            g_two[k + 1] -= g * coefficients[k, 4]
        g_now, g_one, g_two = g_one, g_two, g_now
        g_two[:] = 0.0
    return loss, by_coefficients
