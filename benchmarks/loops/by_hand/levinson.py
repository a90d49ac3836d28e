"""Levinson and Durbin's recursion."""

import math

import numpy as np
from numba import njit


@njit
def forward(correlation, weights):
    """The loss."""
    order = correlation.size - 1
    predictor = np.zeros(order + 1)
    before = np.zeros(order + 1)
    predictor[0] = before[0] = 1.0
    error = correlation[0]
    for m in range(1, order + 1):
        rest = correlation[m]
        for j in range(1, m):
            rest += predictor[j] * correlation[m - j]
        reflection = -rest / error
        predictor, before = before, predictor
        for j in range(1, m):
            predictor[j] = before[j] + reflection * before[m - j]
        predictor[m] = reflection
        error *= 1.0 - reflection * reflection
    total = 0.0
    for j in range(order + 1):
        total += predictor[j] * weights[j]
    return total + math.log(error)


@njit
def gradient(correlation, weights):
    """The loss and its gradient by the correlations. Keeps the predictor of each order."""
    order = correlation.size - 1
    predictors = np.zeros((order + 1, order + 1))
    errors = np.empty(order + 1)
    predictors[0, 0] = 1.0
    errors[0] = correlation[0]
    for m in range(1, order + 1):
        before = predictors[m - 1]
        predictor = predictors[m]
        predictor[0] = 1.0
        rest = correlation[m]
        for j in range(1, m):
            rest += before[j] * correlation[m - j]
        reflection = -rest / errors[m - 1]
        for j in range(1, m):
            predictor[j] = before[j] + reflection * before[m - j]
        predictor[m] = reflection
        errors[m] = errors[m - 1] * (1.0 - reflection * reflection)
    total = 0.0
    for j in range(order + 1):
        total += predictors[order, j] * weights[j]
    value = total + math.log(errors[order])

    by_correlation = np.zeros(order + 1)
    g_predictor = weights.copy()
    g_before = np.zeros(order + 1)
    g_error = 1.0 / errors[order]
    for m in range(order, 0, -1):
        before = predictors[m - 1]
        reflection = predictors[m, m]
        error = errors[m - 1]
        g_reflection = g_predictor[m] - 2.0 * g_error * error * reflection
        g_error *= 1.0 - reflection * reflection
        for j in range(1, m):
            g_reflection += g_predictor[j] * before[m - j]
        for j in range(1, m):
            g_before[j] = g_predictor[j] + reflection * g_predictor[m - j]
        g_rest = -g_reflection / error
        g_error -= g_reflection * reflection / error
        by_correlation[m] += g_rest
        for j in range(1, m):
            g_before[j] += g_rest * correlation[m - j]
            by_correlation[m - j] += g_rest * before[j]
        g_predictor, g_before = g_before, g_predictor
    by_correlation[0] += g_error
    return value, by_correlation
