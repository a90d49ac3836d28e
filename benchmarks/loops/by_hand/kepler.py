"""Kepler's equation by Newton's iteration on a whole array."""

import math

import numpy as np
from numba import njit

TOLERANCE = 1e-10


@njit
def _improve(eccentricity, mean_anomaly, angle, sine, cosine):
    """One iteration in place; the largest step. Leaves sine and cosine of the angle before."""
    largest = 0.0
    for i in range(angle.size):
        sine[i] = math.sin(angle[i])
        cosine[i] = math.cos(angle[i])
        excess = angle[i] - eccentricity * sine[i] - mean_anomaly[i]
        step = excess / (1.0 - eccentricity * cosine[i])
        angle[i] -= step
        largest = max(largest, abs(step))
    return largest


@njit
def forward(eccentricity, mean_anomaly):
    """The loss."""
    angle = mean_anomaly.copy()
    sine = np.empty_like(angle)
    cosine = np.empty_like(angle)
    while _improve(eccentricity, mean_anomaly, angle, sine, cosine) > TOLERANCE:
        pass
    total = 0.0
    for i in range(angle.size):
        total += math.sin(angle[i])
    return total / angle.size


@njit
def gradient(eccentricity, mean_anomaly):
    """The loss and its derivative by the eccentricity. Keeps angles, sines and cosines."""
    n = mean_anomaly.size
    # Newton's iteration doubles its digits: eight are nearly always enough.
    history = np.empty((8, 3, n))
    angle = mean_anomaly.copy()
    count = 0
    going = True
    while going:
        if count == history.shape[0]:
            longer = np.empty((2 * count, 3, n))
            longer[:count] = history
            history = longer
        history[count, 0] = angle
        largest = _improve(eccentricity, mean_anomaly, angle, history[count, 1], history[count, 2])
        count += 1
        going = largest > TOLERANCE
    total = 0.0
    g = np.empty_like(angle)
    for i in range(n):
        total += math.sin(angle[i])
        g[i] = math.cos(angle[i]) / n
    by_eccentricity = 0.0
    for t in range(count - 1, -1, -1):
        angles, sine, cosine = history[t]
        for i in range(n):
            slope = 1.0 - eccentricity * cosine[i]
            step = (angles[i] - eccentricity * sine[i] - mean_anomaly[i]) / slope
            # The angle after it is angle - excess / slope; the excess has the slope as derivative.
            by_eccentricity += g[i] * (sine[i] - step * cosine[i]) / slope
            g[i] = g[i] * step * eccentricity * sine[i] / slope
    return total / n, by_eccentricity
