"""Logistic growth up to a threshold. The number of iterations is not known before."""

import numpy as np
from numba import njit

ENOUGH = 0.9


@njit
def forward(population, rate):
    """The loss."""
    consumed = 0.0
    while population < ENOUGH:
        consumed += rate * population
        population += rate * population * (1.0 - population)
    return consumed + population


@njit
def gradient(population, rate):
    """The loss and its derivatives by start and rate. Keeps the population of each iteration."""
    history = np.empty(1024)
    count = 0
    consumed = 0.0
    while population < ENOUGH:
        if count == history.size:
            longer = np.empty(2 * count)
            longer[:count] = history
            history = longer
        history[count] = population
        count += 1
        consumed += rate * population
        population += rate * population * (1.0 - population)
    by_population = 1.0
    by_rate = 0.0
    for i in range(count - 1, -1, -1):
        before = history[i]
        by_rate += by_population * before * (1.0 - before) + before
        by_population = by_population * (1.0 + rate * (1.0 - 2.0 * before)) + rate
    return consumed + population, by_population, by_rate
